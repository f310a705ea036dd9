"""Pictures as PNG and SVG, from what experiments kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

FIGURES: dict[str, Callable[[dict[str, Any], Path], None]] = {}
