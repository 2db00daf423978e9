"""Files that somebody else may have laid: no pipe is waited for, no device read, and no link is written through."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from stillsight.encoders.errors import DamagedFileError
from stillsight.encoders.system.plain_file import NotPlainError, below, check_kind, open_plain, read_plain

pytestmark = pytest.mark.usefixtures("ends")


@pytest.mark.parametrize("mode", ["rb", "r+b", "a+b"])
def test_only_plain_files_are_opened(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "file"
    os.mkfifo(path)
    with pytest.raises(NotPlainError, match=f"^{path} cannot be opened: it is no file but a pipe, and .* Remove it"):
        open_plain(path, mode)  # type: ignore[call-overload]
    path.unlink()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        with pytest.raises(NotPlainError, match="it is no file but a socket"):
            open_plain(path, mode)  # type: ignore[call-overload]
    path.unlink()
    with pytest.raises(NotPlainError, match="it is no file but a device"):
        open_plain(Path("/dev/zero"), mode)  # type: ignore[call-overload]
    with pytest.raises(IsADirectoryError):
        open_plain(tmp_path, mode)  # type: ignore[call-overload]


def test_a_link_is_read_and_never_written(tmp_path: Path) -> None:
    diary, path = tmp_path / "diary.txt", tmp_path / "file"
    diary.write_text("kept")
    path.symlink_to(diary)
    with open_plain(path) as file:
        assert file.read() == b"kept"
    with pytest.raises(NotPlainError, match="it is no file but a link"):
        open_plain(path, "r+b")
    with pytest.raises(NotPlainError, match="it is no file but a link"):
        open_plain(path, "a+b")
    diary.unlink()  # a link that dangles would have the file made that it names
    with pytest.raises(NotPlainError, match="it is no file but a link"):
        open_plain(path, "r+b")
    with pytest.raises(FileNotFoundError):
        open_plain(path)
    assert not diary.exists()


def test_a_file_is_made_written_and_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(FileNotFoundError):
        open_plain(path)
    with open_plain(path, "a+b") as file:
        file.write(b"abc")
    with open_plain(path, "r+b") as file:
        file.write(b"x")
    assert path.read_bytes() == b"xbc", "nothing is cut off"
    assert read_plain(path, 3) == b"xbc"
    with pytest.raises(DamagedFileError, match="it has more than 2 bytes"):
        read_plain(path, 2)


def test_what_is_written_lies_below(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    (tmp_path / "typed").symlink_to(folder)
    assert below(tmp_path / "typed", "a", "b", what="cache") == tmp_path / "typed" / "a" / "b"
    (folder / "a").symlink_to(tmp_path)
    with pytest.raises(NotPlainError, match=f"^{folder}/a is a link to {tmp_path}, and .* link inside a cache. Remove"):
        below(folder, "a", "b", what="cache")
    os.mkfifo(folder / "pipe")
    with pytest.raises(NotPlainError, match=f"{folder}/pipe is no place in {folder} that .*: it is no file but a pipe"):
        below(folder, "pipe", what="cache")
    for part in ("..", "/etc"):
        with pytest.raises(NotPlainError, match="it leads out of it"):
            below(folder, part, what="cache")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    check_kind(tmp_path / "file", folder=False, what="run folder")
    check_kind(tmp_path / "missing", folder=False, what="run folder")
    with pytest.raises(NotPlainError, match=r"it is a file, and a run folder has a folder there\. Move it away: mv"):
        check_kind(tmp_path / "file", folder=True, what="run folder")
    with pytest.raises(NotPlainError, match="it is a folder, and a run folder has a file there"):
        check_kind(tmp_path, folder=False, what="run folder")
