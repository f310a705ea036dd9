"""Environments of their own for what is compared with, made from locks."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path


def environment(lock: Path, work: Path) -> Path:
    """Make ``work/venv-NAME`` from NAME.txt, unless it is there; return its interpreter."""
    folder = work / f"venv-{lock.stem}"
    python, stamp = folder / "bin" / "python", folder / "lock.txt"
    if not stamp.is_file() or stamp.read_text() != lock.read_text():
        print(f"--- making {folder}", file=sys.stderr, flush=True)
        venv.create(folder, clear=True, with_pip=True)
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "-q", "install"]
        # torch, where there is one, with what its build (CPU or CUDA) asks for; the rest as locked, whatever the
        # packages' own limits say.
        for torch in (line for line in lock.read_text().splitlines() if line.startswith("torch==")):
            subprocess.run([*pip, torch], check=True, stdout=sys.stderr)
        subprocess.run([*pip, "--no-deps", "-r", str(lock)], check=True, stdout=sys.stderr)
        stamp.write_text(lock.read_text())
    return python
