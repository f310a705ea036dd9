"""Every relative link in the documents leads to a file of the repository, and every ``#section`` to a heading."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = (".", "docs", "launch", "sharding", "benchmarks/results")
DOCUMENTS = sorted(file for folder in FOLDERS for file in (ROOT / folder).glob("*.md"))


def name(file: Path) -> str:
    return str(file.relative_to(ROOT))


def links(text: str) -> list[str]:
    """Targets of ``[…](target)`` and ``![…](target)`` outside code, without those to other hosts."""
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.S)
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", prose) if "://" not in target]


def anchors(text: str) -> set[str]:
    """What GitHub names a document's headings: lower case, spaces as hyphens, no other punctuation."""
    headings = re.findall(r"^#+ +(.+?) *$", re.sub(r"```.*?```", "", text, flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_documents_are_there() -> None:
    assert {"README.md", "CONTRIBUTING.md", "docs/data.md", "launch/README.md"} <= set(map(name, DOCUMENTS))
    assert links((ROOT / "README.md").read_text())


@pytest.mark.parametrize("file", DOCUMENTS, ids=name)
def test_relative_links_resolve(file: Path) -> None:
    for target in links(file.read_text()):
        path, _, section = target.partition("#")
        found = (file.parent / path).resolve() if path else file
        assert found.exists(), target
        assert found.is_relative_to(ROOT), target
        if section:
            assert section in anchors(found.read_text()), target


def test_a_broken_link_would_be_seen() -> None:
    text = "# A title, twice\n[a](no/such.md) `[b](c)`\n```\n[d](e)\n```\n![f](g.png) [h](https://example.org/x)"
    assert links(text) == ["no/such.md", "g.png"]
    assert anchors(text) == {"a-title-twice"}
