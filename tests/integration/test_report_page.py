"""The report's page: what it holds, and how it behaves in a real browser."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from ppr_dist import report
from ppr_dist.errors import UserError
from ppr_dist.page import chart, series
from ppr_dist.tracking.panels import SECTIONS
from ppr_dist.tracking.part_names import PARTS, REST

LOOKS = [("light", 1280), ("light", 360), ("dark", 1280), ("dark", 360)]
HOSTILE = "a<script>alert(1)</script>&run"


def record(step: int, scale: float) -> dict[str, Any]:
    values = {name: scale * (1 + 1 / step) for panels in SECTIONS.values() for panel in panels for name in panel.keys}
    ranks = {f"rank/{r}/{n}": scale + r for r in (0, 1) for n in ("users_per_s", "data_wait_share", "host_gb")}
    ranks |= {"loss/softmax": scale, "loss/bpr": scale}
    return {"step": step, "epoch": 0, **values, **ranks, "mfu": None, "gpu_gb": None, "peak_gpu_gb": None}


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two runs' folders, as runs leave them; the second one's name is no harmless word."""
    folders = [tmp_path / "first", tmp_path / HOSTILE.replace("/", "|")]
    for number, folder in enumerate(folders):
        folder.mkdir()
        lines = [record(step, 100.0 * (number + 1)) for step in range(1, 600)]
        lines[300] |= {"loss": float("nan"), "grad_norm": float("inf")}
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        config = {"model": {"dim": 64 + number, "max_length": 50}, "train": {"lr": 0.001, "objectives": ["softmax"]}}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        (folder / "run.json").write_text(json.dumps({"stage": "pretrain", "method": None, "data": "/data/shop"}))
        item = {
            "name": "item",
            "rows": 5000,
            "columns": 64,
            "dtype": "fp32",
            "sharding_type": "row_wise",
            "shards": [1],
        }
        (folder / "plan.json").write_text(json.dumps({"world_size": 2, "tables": [item | {"shards": [1]}]}))
        (folder / "environment.json").write_text(json.dumps({"device": "CPU", "versions": {"torch": "2.13.0"}}))
        figures = {"auc": 0.7, "hit@5": 0.4, "hit@10": 0.5, "ndcg@5": 0.3, "ndcg@10": 0.4 + number / 10}
        said = {"method": "pre-train", "task": "few-shot", "protocol": "full", "step": 599, "instances": 9, "data": "f"}
        alike = {"passport": {"split": "tune-test", "seeds": {"tune": number}}}
        (folder / "evaluations.jsonl").write_text(json.dumps({**said, **alike, **figures}) + "\n")
    return folders


def page(runs: list[Path], tmp_path: Path) -> str:
    report.main(["--runs", *map(str, runs), "--html", str(tmp_path / "pages" / "out.html")])
    return (tmp_path / "pages" / "out.html").read_text()


class Outline(HTMLParser):
    """Tags with their attributes, and what stands in table cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        self.inside = tag in ("th", "td")
        if self.inside:
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.rows[-1][-1] += data


def test_the_page_holds_everything_and_needs_nothing(runs: list[Path], tmp_path: Path) -> None:
    text = page(runs, tmp_path)
    outline = Outline(text)
    names = [name for name, _ in outline.tags]
    assert "http" not in re.sub(r'http-equiv|xmlns="[^"]*"', "", text)
    assert not {"img", "iframe", "object", "embed"} & set(names)
    assert all(attributes["href"][:1] in ("#", "d") for n, attributes in outline.tags if n in ("a", "link"))  # type: ignore[index]
    assert not any("src" in attributes for _, attributes in outline.tags)
    assert "alert(1)</script>" not in text
    # Every panel that has figures: all but MFU, the GPU, and two of the ranks'.
    with_figures = {panel.title for panels in SECTIONS.values() for panel in panels if not panel.stacked}
    with_figures -= {"MFU, of the card's bfloat16 peak", "GPU, fullest rank"}
    with_figures -= {"Targets of each rank", "History tokens of each rank"}
    shown = {a["aria-label"].split(",")[0] for n, a in outline.tags if n == "svg" and a.get("tabindex")}  # type: ignore[union-attr]
    assert shown == {title.split(",")[0] for title in with_figures}
    assert all(a.get("aria-label") for n, a in outline.tags if n == "svg" and a.get("role") == "img")
    assert names.count("table") == names.count("caption")
    ids = [attributes["id"] for _, attributes in outline.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for n, a in outline.tags if n == "a"} <= set(ids)  # type: ignore[index]


def test_what_differs_is_marked(runs: list[Path], tmp_path: Path) -> None:
    text = page(runs, tmp_path)
    assert ["model.dim ≠", "64", "65"] in Outline(text).rows
    assert ["model.max_length", "50", "50"] in Outline(text).rows
    assert text.count('class="differs"') == 1
    assert next(row for row in Outline(text).rows if "few-shot" in row)[3:6] == ["few-shot", "9", "0.7000"]
    of_step = {row[0]: row for row in Outline(text).rows if row[2].endswith(" %")}
    assert list(of_step) == [*PARTS, REST, "sum"]
    # All parts of these runs are alike.
    assert of_step[PARTS[0]][2] == f"{100 / (len(PARTS) + 1):.1f} %"
    assert 'class="differs"' not in page(runs[:1], tmp_path)


def test_runs_without_records_or_of_before_make_a_page(runs: list[Path], tmp_path: Path) -> None:
    for name in ("metrics.jsonl", "environment.json", "evaluations.jsonl", "plan.json"):
        (runs[0] / name).unlink()
    assert "None of these runs was evaluated yet" in page(runs[:1], tmp_path)
    assert "few-shot" in page(runs, tmp_path)


def test_what_cannot_be_shown_is_said(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gone: no such folder"):
        report.main(["--runs", str(tmp_path / "gone"), "--out", str(tmp_path / "out")])
    with pytest.raises(UserError, match="not a run"):
        report.main(["--runs", str(tmp_path), "--html", str(tmp_path / "out.html")])
    with pytest.raises(UserError, match="is a folder; --html takes a file"):
        report.main(["--runs", str(runs[0]), "--html", str(tmp_path)])
    with pytest.raises(UserError, match="--html FILE, --out FOLDER, or both"):
        report.main(["--runs", str(runs[0])])
    assert not (tmp_path / "out.html").exists()


def test_a_long_curve_is_means_of_neighbours() -> None:
    thin = series.thinned([(step, float(step)) for step in range(1, 1001)])
    assert len(thin) == 200
    assert thin[0] == (5, 3.0)
    assert series.thinned([(1, 2.0), (2, 4.0)]) == [(1, 2.0), (2, 4.0)]


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0, 1, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (1.011, 1.029, ["1.010", "1.015", "1.020", "1.025", "1.030"]),
        (0, 79_000, ["0", "20,000", "40,000", "60,000", "80,000"]),
        (5, 5, ["2", "3", "4", "5", "6", "7", "8"]),
    ],
)
def test_ticks_are_round_and_apart(low: float, high: float, labels: list[str]) -> None:
    assert chart.tick_labels(chart.ticks(low, high)) == labels


# In a browser ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    names = ("chromium", "chromium-browser", "google-chrome")
    with sync_api.sync_playwright() as playwright:
        installed = next(filter(None, map(shutil.which, names)), playwright.chromium.executable_path)
        if not Path(installed).exists():
            pytest.skip("no Chromium is installed (apt-get install chromium, or playwright install chromium)")
        chromium = playwright.chromium.launch(executable_path=installed, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def test_in_a_browser(runs: list[Path], tmp_path: Path, browser: Any) -> None:
    page(runs, tmp_path)
    backgrounds, said = set(), list[str]()
    for scheme, width in LOOKS:
        with browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme) as tab:
            tab.on("console", lambda message: said.append(message.text))
            tab.on("pageerror", lambda error: said.append(str(error)))
            tab.on("request", lambda request: said.append(request.url))
            tab.goto((tmp_path / "pages" / "out.html").as_uri())
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
            backgrounds.add((scheme, tab.evaluate("getComputedStyle(document.body).backgroundColor")))
            assert contrast(tab, "body") > 7
            assert contrast(tab, "caption") > 4.5
            if width == 1280:
                keyboard(tab)
    assert len({colour for _, colour in backgrounds}) == 2
    # Nothing but the file itself was asked for, and nothing went wrong.
    assert set(said) <= {(tmp_path / "pages" / "out.html").as_uri(), "data:,"}


def keyboard(tab: Any) -> None:
    """Everything that does something is reached by Tab, in the order of the page, and works by keys alone."""
    reachable = "a[href], input, summary, [tabindex='0']"
    visible = "e => e.getClientRects().length && !e.closest('details:not([open]) > :not(summary)')"
    wanted = tab.evaluate(f'[...document.querySelectorAll("{reachable}")].filter({visible}).length')
    seen = []
    for _ in range(wanted):
        tab.keyboard.press("Tab")
        seen.append(tab.evaluate(f'[...document.querySelectorAll("{reachable}")].indexOf(document.activeElement)'))
    assert len(seen) > 40
    assert seen == sorted(set(seen))
    assert seen[0] >= 0
    svg, out = tab.locator(".chart svg[tabindex]").first, tab.locator(".chart output").first
    svg.focus()
    tab.keyboard.press("Home")
    first = out.text_content()
    assert re.match(r"step \d+: first ", first)
    tab.keyboard.press("ArrowRight")
    assert out.text_content() != first
    box = tab.locator("[data-show='0']")
    box.focus()
    tab.keyboard.press("Space")
    assert tab.locator("g[data-run='0']").first.is_hidden()
    assert tab.locator("g[data-run='1']").first.evaluate("e => e.style.display") == ""
    svg.focus()
    tab.keyboard.press("End")
    assert re.match(r"step 599: a", out.text_content())
    tab.locator("#only").focus()
    tab.keyboard.press("Space")
    assert tab.locator("tr.same").first.is_hidden()
    assert tab.locator("tr.differs").first.is_visible()


def contrast(tab: Any, selector: str) -> float:
    """Ratio of WCAG 2.1 between an element's text and the page."""
    colours = tab.evaluate(
        "s => [getComputedStyle(document.querySelector(s)).color, getComputedStyle(document.body).backgroundColor]",
        selector,
    )

    def luminance(colour: str) -> float:
        parts = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted(map(luminance, colours), reverse=True)
    return (light + 0.05) / (dark + 0.05)
