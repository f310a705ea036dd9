"""Several commands one after the other in one process, as a notebook would call them."""

from __future__ import annotations

import importlib
import json


def main(argv: list[str] | None = None) -> None:
    for module, *words in map(json.loads, argv or []):
        importlib.import_module(f"ppr_dist.{module}").main(words)
