"""Searching folders: what is a picture by its name, what is passed over, and links that go round."""

from __future__ import annotations

from pathlib import Path

import pytest

from stillsight.encoders import EncoderError
from stillsight.encoders.supervised.data import search


def test_folders_are_searched_through_and_through(tmp_path: Path) -> None:
    for name in ("b.png", "a/deep/c.JPG", "a/d.webp", "a/notes.txt", "odd.data"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found, passed = search.find([tmp_path / "odd.data", tmp_path])
    expected = ["odd.data", "a/d.webp", "a/deep/c.JPG", "b.png"]
    assert [str(path.relative_to(tmp_path)) for path in found] == expected, (
        "what is named itself may be called anything"
    )
    assert dict(passed.endings) == {".txt": 1, ".data": 1}


def test_places_without_pictures_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"^There is no file or folder gone\. Give picture files"):
        search.find([Path("gone")])
    (tmp_path / "notes.txt").touch()
    passed = r"1 files that are no pictures by their ending \(\.txt 1\)"
    words = rf"holds no pictures\. Looked for: \.apng, .*\.webp; passed over were {passed}\. Give a folder"
    with pytest.raises(EncoderError, match=words):
        search.find([tmp_path])
