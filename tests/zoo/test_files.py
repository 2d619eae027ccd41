"""Files and folders that appear whole or not at all, and git's hash of a file."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.zoo.spiking_fixtures import refuses
from zoo.errors import ZooError
from zoo.files import git_blob, replaced_file, replaced_folder


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with replaced_file(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old" and temporary.parent == tmp_path
    assert path.read_text() == "new"
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left")])
def test_on_an_error_the_old_file_stays(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    expected = ZooError if isinstance(error, OSError) else KeyboardInterrupt
    with (
        pytest.raises(expected, match="No space left.*: go elsewhere$|^$"),
        replaced_file(path, advice="go elsewhere") as temporary,
    ):
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_the_temporary_file_is_where_it_was_asked_for(tmp_path: Path) -> None:
    (tmp_path / "refs").mkdir()
    path = tmp_path / "refs" / "main"
    with (
        replaced_file(path, place=tmp_path, prefix=".ref-") as one,
        replaced_file(path, place=tmp_path, prefix=".ref-") as two,
    ):
        assert one != two
        assert one.parent == tmp_path and one.name.startswith(".ref-")
        one.write_text("1")
        two.write_text("2")
    assert path.read_text() == "1"


def test_a_file_below_no_folder_is_refused(tmp_path: Path) -> None:
    with (
        refuses(ZooError, "could not be written"),
        replaced_file(tmp_path / "none" / "a") as temporary,
    ):
        temporary.write_text("x")


def test_on_an_error_the_old_folder_stays(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "old").touch()
    with pytest.raises(KeyboardInterrupt), replaced_folder(folder) as temporary:
        (temporary / "new").touch()
        raise KeyboardInterrupt
    assert [entry.name for entry in folder.iterdir()] == ["old"]
    with replaced_folder(folder) as temporary:
        (temporary / "new").touch()
    assert [entry.name for entry in folder.iterdir()] == ["new"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_the_hash_is_git_s(tmp_path: Path) -> None:
    data = b"a spike\n" * 3
    assert git_blob(len(data), data).hexdigest() == "8d345992f9cb343c9b36f637a7673e02f706eec9"
    parts = git_blob(len(data))
    parts.update(data)
    assert parts.hexdigest() == git_blob(len(data), data).hexdigest()
