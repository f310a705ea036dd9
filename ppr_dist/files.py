"""Small files, written so that a crash leaves the old or the new, and read so that damage is one line."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import yaml

from ppr_dist.errors import UserError


def check_writable(run: Path) -> None:
    """Raise :class:`UserError` where the folder ``run``, or the one it would be made in, cannot be written."""
    there = run
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise UserError(f"{there} is a file; --run-dir takes a folder")
    place = there
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
        for place in there.glob("*.json*") if there == run else ():
            place.open("a").close()
    except OSError as error:
        raise UserError(f"{place}: cannot be written ({error.strerror})") from error


def replace(path: Path, text: str) -> None:
    """Make ``path`` hold ``text``: all at once, and untouched where it does already, as when a job is requeued."""
    if path.is_file() and path.read_text() == text:
        return
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Append a record to a file of JSON lines, in place of a last one that was cut off while written."""
    with path.open("ab+") as file:
        file.seek(0)
        text = file.read()
        file.truncate(text.rfind(b"\n") + 1)
        file.write(json.dumps(record).encode() + b"\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Records of a file of JSON lines that is appended to; a last one that was cut off while written does not count.

    Raises :class:`UserError` naming the line that is not JSON.
    """
    records: list[dict[str, Any]] = []
    if path.is_file():
        for number, line in enumerate(path.read_text(errors="replace").splitlines(keepends=True), start=1):
            try:
                if line.endswith("\n"):
                    records.append(json.loads(line))
            except ValueError as error:
                raise UserError(f"{path}: line {number} is not JSON") from error
    return records


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_single_keys(path: Path) -> None:
    """Raise :class:`UserError` naming key and line where a mapping of a YAML file has a key twice.

    YAML forbids it, and PyYAML keeps the last alone. What cannot be read is left to whoever parses the file.
    """
    try:
        nodes = [yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)]
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return
    for node in nodes:  # grows as it goes
        if isinstance(node, yaml.MappingNode):
            seen: set[Any] = set()
            for key, _ in node.value:
                if key.value in seen:
                    raise UserError(f"{key.value}: there twice, again in line {key.start_mark.line + 1}")
                seen.add(key.value)
            nodes += [value for _, value in node.value if value not in nodes]
        elif isinstance(node, yaml.SequenceNode):
            nodes += [value for value in node.value if value not in nodes]
