"""A folder is written whole or not at all, wherever it lies."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from ppr_dist.data.prepare.config import PrepareConfig
from ppr_dist.data.prepare.folder import PREFIX, new_folder
from ppr_dist.data.prepare.pipeline import prepare
from ppr_dist.errors import UserError
from tests.click_logs import make_log, save

WRITE = """
import os, signal, sys
from pathlib import Path
from ppr_dist.data.prepare.folder import new_folder
with new_folder(Path(sys.argv[1]), overwrite=True, marker="m") as folder:
    (folder / "part").write_text(sys.argv[2])
    (folder / "m").write_text("")
    if sys.argv[2] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
"""


def write(out: Path, text: str, *, overwrite: bool = False) -> None:
    with new_folder(out, overwrite=overwrite, marker="m") as folder:
        (folder / "part").write_text(text)
        (folder / "m").write_text("")


def in_a_process(out: Path, text: str, before: Sequence[str] = ()) -> int:
    return subprocess.run([*before, sys.executable, "-c", WRITE, str(out), text], timeout=60, check=False).returncode


def held(out: Path) -> dict[str, str]:
    return {p.name: p.read_text() for p in out.iterdir()}


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    for name, target in (("link", "disk"), ("dangling", "later/data")):
        (tmp_path / name).symlink_to(target)
        write(tmp_path / name, "1")
        write(tmp_path / name, "2", overwrite=True)
        assert (tmp_path / name).is_symlink()
        assert held(tmp_path / target) == {"part": "2", "m": ""}


def test_a_mount_point_is_written(tmp_path: Path) -> None:
    out = tmp_path / "mounted"
    out.mkdir()
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "lost+found").mkdir()
    inside = ["unshare", "-rm", "sh", "-c", 'mount --bind "$0" "$1" && shift && exec "$@"', str(tmp_path / "disk")]
    if subprocess.run([*inside, str(out), "true"], capture_output=True, check=False).returncode:
        pytest.skip("no right to mount here")
    for text in ("1", "2"):
        assert in_a_process(out, text, [*inside, str(out)]) == 0
        assert (tmp_path / "disk" / "part").read_text() == text
    assert sorted(p.name for p in (tmp_path / "disk").iterdir()) == ["lost+found", "m", "part"]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    out = tmp_path / "data"
    assert in_a_process(out, "killed") == -signal.SIGKILL
    assert [p.name.startswith(PREFIX) for p in out.iterdir()] == [True]
    write(out, "1")
    assert held(out) == {"part": "1", "m": ""}
    assert in_a_process(out, "killed") == -signal.SIGKILL
    assert (out / "part").read_text() == "1"
    write(out, "2", overwrite=True)
    assert held(out) == {"part": "2", "m": ""}


def test_others_at_work_are_named(tmp_path: Path) -> None:
    for host, pid in ((socket.gethostname(), os.getpid()), ("elsewhere-3", 1)):
        other = tmp_path / f"{host}" / f"{PREFIX}{host}-{pid}-x"
        other.mkdir(parents=True)
        with pytest.raises(UserError, match=f"{other}: another process is writing here"):
            write(other.parent, "1", overwrite=True)
        assert [*other.parent.iterdir()] == [other]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    def fail(out: Path) -> None:
        with new_folder(out, overwrite=True, marker="m") as folder:
            (folder / "part").write_text("2")
            raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=r"data: cannot be written: .*No space left"):
        fail(tmp_path / "data")
    assert [*tmp_path.iterdir()] == []
    write(tmp_path / "data", "1")
    with pytest.raises(UserError, match="No space left"):
        fail(tmp_path / "data")
    assert held(tmp_path / "data") == {"part": "1", "m": ""}


@pytest.mark.parametrize(
    ("out", "pattern"),
    [
        ("file", "file: is a file; --out names a folder"),
        ("file/data", "file/data: cannot be written: .*Not a directory"),
        ("/proc/none/data", "/proc/none/data: cannot be written"),
        ("x" * 300, "cannot be written: .*File name too long"),
    ],
)
def test_what_cannot_be_written_is_one_line_before_the_work(tmp_path: Path, out: str, pattern: str) -> None:
    interactions, _ = save(tmp_path, make_log(users=5)[0])
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=pattern) as refused:
        prepare(interactions, None, tmp_path / out, PrepareConfig())
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match=r"data: cannot be written: .*file"):
        prepare(interactions, None, tmp_path / "data", PrepareConfig(temp_dir=str(tmp_path / "file")))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "interactions.parquet"]


def test_spills_in_the_folder_written(tmp_path: Path) -> None:
    interactions, _ = save(tmp_path, make_log(users=5)[0])
    out = tmp_path / "data"
    prepare(interactions, None, out, PrepareConfig(temp_dir=str(out)))
    assert not [p for p in out.iterdir() if p.name.startswith(".")]
