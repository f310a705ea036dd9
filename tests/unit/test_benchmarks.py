"""Every benchmark can be imported and says what it takes; mypy checks what they call."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from pathlib import Path

import pytest

import benchmarks

OTHERS = {"faiss", "recbole", "rectools", "pytorch_lightning"}
"""What is compared with; each has an environment of its own."""
MODULES = sorted(m.name for m in pkgutil.walk_packages(benchmarks.__path__, "benchmarks.") if not m.ispkg)
ROOT = Path(benchmarks.__path__[0]).parent
COMMANDS = [name for name in MODULES if "ArgumentParser" in (ROOT / f"{name.replace('.', '/')}.py").read_text()]


@pytest.mark.parametrize("name", MODULES)
def test_can_be_imported(name: str) -> None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in OTHERS:
            raise
        pytest.skip(f"needs {error.name}")


@pytest.mark.parametrize("name", COMMANDS)
def test_says_what_it_takes(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as end:
        importlib.import_module(name).main()
    assert end.value.code == 0
    assert "usage:" in capsys.readouterr().out
