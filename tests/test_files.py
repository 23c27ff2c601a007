"""Writing files: a reader sees all of a line or nothing, whatever a kill or a full disk left before."""

from __future__ import annotations

import errno
import io
from pathlib import Path
from typing import Any

import pytest

from fewslice.errors import DiskError
from fewslice.files import append_line, is_unfinished, making_folder, write_atomic


def test_lines_are_appended(tmp_path: Path) -> None:
    for number in range(3):
        append_line(tmp_path / "log", {"n": number})
    assert (tmp_path / "log").read_text() == '{"n": 0}\n{"n": 1}\n{"n": 2}\n'


def test_a_cut_line_does_not_spoil_the_next(tmp_path: Path) -> None:
    (tmp_path / "log").write_text('{"n": 0}\n{"n": ')
    append_line(tmp_path / "log", {"n": 2})
    assert (tmp_path / "log").read_text() == '{"n": 0}\n{"n": \n{"n": 2}\n'


class _Filling(io.FileIO):
    """A file on a disk with room for five more bytes."""

    def write(self, data: Any) -> int:
        if len(data) > 5:
            return super().write(data[:5])
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_no_part_of_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append_line(tmp_path / "log", {"n": 0})
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", lambda self, mode, buffering=-1: _Filling(self, "a+"))
        with pytest.raises(DiskError, match="disk is full"):
            append_line(tmp_path / "log", {"n": 1})
    assert (tmp_path / "log").read_text() == '{"n": 0}\n'


def test_atomic_writing_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomic(tmp_path / "file", "old")
    with monkeypatch.context() as patched:

        def refuse(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        patched.setattr("os.fsync", refuse)
        with pytest.raises(DiskError, match="disk is full"):
            write_atomic(tmp_path / "file", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"


def test_a_folder_appears_whole_under_its_own_name(tmp_path: Path) -> None:
    path = tmp_path / "above" / "OUT.ome.zarr"
    with making_folder(path) as place:
        assert place.name == path.name and not path.exists()
        place.mkdir()
        (place / "file").write_text("all of it")
        assert [is_unfinished(p) for p in path.parent.iterdir()] == [True], "a kill here leaves what is known as such"
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert (path / "file").read_text() == "all of it"


@pytest.mark.parametrize(
    ("error", "raised"), [(OSError(errno.ENOSPC, "No space left on device"), DiskError), (KeyError("k"), KeyError)]
)
def test_a_folder_that_fails_leaves_nothing(error: Exception, raised: type[Exception], tmp_path: Path) -> None:
    with pytest.raises(raised), making_folder(tmp_path / "OUT") as place:
        place.mkdir()
        (place / "file").write_text("half")
        raise error
    assert not list(tmp_path.iterdir())
