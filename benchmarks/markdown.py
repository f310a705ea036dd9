"""How results are written down."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.hardware import hardware
from benchmarks.statistics import Comparison


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table."""
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]


def gain(each: Comparison) -> str:
    """A gain in percent with its 95 % interval."""
    if each.gain != each.gain:
        return "not defined"
    return f"{100 * each.gain:+.1f} % [{100 * each.gain_low:+.1f}, {100 * each.gain_high:+.1f}]"


def difference(each: Comparison) -> str:
    """A difference with its 95 % interval."""
    return f"{each.difference:+.4f} [{each.difference - each.reach:+.4f}, {each.difference + each.reach:+.4f}]"


def save(out: Path, name: str, lines: Sequence[str], kept: dict[str, Any]) -> Path:
    """Write ``OUT/NAME_HARDWARE_DATE`` as .md and, numbers rounded, as .json; return it without its suffix."""
    machine = hardware()
    gpu = "" if machine["gpu"] == "none" else f"{str(machine['gpu']).replace(' ', '-')}_"
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}_{gpu}cpu-{machine['cores']}core_{machine['date']}"
    path.with_suffix(".md").write_text("\n".join(lines) + "\n")
    rounded = json.loads(json.dumps(kept), parse_float=lambda x: float(f"{float(x):.10g}"))
    path.with_suffix(".json").write_text(json.dumps(rounded) + "\n")
    return path
