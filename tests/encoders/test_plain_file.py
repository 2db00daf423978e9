"""What is opened is a file: no link, no pipe and no device, and none that is larger than it may be."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from stillsight.encoders.errors import DamagedFileError
from stillsight.encoders.plain_file import check_plain, open_plain, read_plain

ODD = {
    "a link": (lambda path, target: path.symlink_to(target), r"is a link, to .*target, and no file"),
    "a dangling link": (lambda path, _: path.symlink_to("nowhere"), "is a link, to nowhere, and no file"),
    "a pipe": (lambda path, _: os.mkfifo(path), "is a pipe, a socket or a device, and no file"),
    "a device": (lambda path, _: path.symlink_to("/dev/zero"), "is a link, to /dev/zero, and no file"),
}


@pytest.mark.parametrize("mode", ["rb", "r+b", "a+b"])
def test_a_folder_is_what_the_system_says_of_it(tmp_path: Path, mode: Any) -> None:
    with pytest.raises(IsADirectoryError):
        open_plain(tmp_path, mode)
    with pytest.raises(DamagedFileError, match="is a folder, and no file"):
        check_plain(tmp_path)


@pytest.mark.parametrize("mode", ["rb", "r+b", "a+b"])
@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_file_is_neither_opened_nor_waited_for(tmp_path: Path, kind: str, mode: Any) -> None:
    make, told = ODD[kind]
    target, path = tmp_path / "target", tmp_path / "odd"
    target.write_text("mine")
    make(path, target)
    with pytest.raises(DamagedFileError, match=told):
        open_plain(path, mode)
    assert target.read_text() == "mine"
    assert not (tmp_path / "nowhere").exists()


def test_a_file_is_read_changed_and_added_to(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(FileNotFoundError):
        open_plain(path)
    with open_plain(path, "r+b") as file:
        file.write(b"one")
    with open_plain(path, "a+b") as file:
        file.write(b"two")
    with open_plain(path, "r+b") as file:
        file.write(b"ONE")
    assert read_plain(path, 6) == b"ONEtwo"
    with pytest.raises(DamagedFileError, match="has more than 5 bytes"):
        read_plain(path, 5)


def test_a_link_that_a_user_names_is_followed_to_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "file")
    check_plain(tmp_path / "link", followed=True)
    check_plain(tmp_path / "missing")
    (tmp_path / "zero").symlink_to("/dev/zero")
    with pytest.raises(DamagedFileError, match="is a pipe, a socket or a device"):
        check_plain(tmp_path / "zero", followed=True)
