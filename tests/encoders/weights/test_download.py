"""A download ends with the whole right file, or with what came of it kept and a reason."""

from __future__ import annotations

import hashlib
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from stillsight.encoders.errors import DiskFault
from stillsight.encoders.weights import download as module
from stillsight.encoders.weights.download import DownloadError, RefusedError, download

CONTENT = bytes(range(256)) * 40
DIGITS = hashlib.sha256(CONTENT).hexdigest()[:8]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hub" / "eyes.pth"


def fetched(server: Any) -> list[str | None]:
    """The ranges that were asked for."""
    return [headers.get("Range") for _, headers in server.asked]


def left(path: Path) -> set[str]:
    """What lies beside `path`, without the lock."""
    return {other.name for other in path.parent.iterdir() if not other.name.endswith(".lock")}


def test_a_file_is_downloaded_with_a_line_of_progress(
    server: Any, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.files["/eyes.pth"] = CONTENT
    assert download(f"{server.address}/eyes.pth", path, DIGITS) == DIGITS
    assert path.read_bytes() == CONTENT
    assert left(path) == {"eyes.pth"}
    assert "eyes.pth: 0.0 MB downloaded" in capsys.readouterr().err


def test_progress_in_a_terminal_rewrites_one_line(
    server: Any, path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/eyes.pth"] = CONTENT
    monkeypatch.setattr(module.sys.stderr, "isatty", lambda: True)
    download(f"{server.address}/eyes.pth", path)
    written = capsys.readouterr().err
    assert written.startswith("\rstillsight: eyes.pth: 0.0 of 0.0 MB (100%)")
    assert written.endswith("\x1b[K\n")


def test_a_connection_that_breaks_off_is_made_again_from_there(server: Any, path: Path) -> None:
    server.files["/eyes.pth"] = CONTENT
    server.breaks = [3000, 2000]
    download(f"{server.address}/eyes.pth", path, DIGITS)
    assert fetched(server) == [None, "bytes=3000-", "bytes=5000-"]
    assert path.read_bytes() == CONTENT


def test_what_came_is_kept_and_the_next_call_goes_on_from_there(server: Any, path: Path) -> None:
    server.files["/eyes.pth"] = CONTENT
    server.breaks = [1000] * module.TRIES
    with pytest.raises(DownloadError, match=r"4,000 bytes came and are kept, and the same command goes on from there"):
        download(f"{server.address}/eyes.pth", path, DIGITS)
    assert left(path) == {"eyes.pth.partial", "eyes.pth.partial.json"}
    assert path.with_name("eyes.pth.partial").read_bytes() == CONTENT[:4000]
    server.asked.clear()
    download(f"{server.address}/eyes.pth", path, DIGITS)
    assert fetched(server) == ["bytes=4000-"]
    assert path.read_bytes() == CONTENT
    assert left(path) == {"eyes.pth"}


@pytest.mark.parametrize("reason", ["other version", "other address", "no ranges", "weak", "facts lost"])
def test_bytes_that_may_be_of_another_file_are_not_gone_on_from(server: Any, path: Path, reason: str) -> None:
    server.files["/eyes.pth"] = b"x" * 5000
    server.etags["/eyes.pth"] = 'W/"v1"' if reason == "weak" else '"v1"'
    server.breaks = [1000] * module.TRIES
    with pytest.raises(DownloadError):
        download(f"{server.address}/eyes.pth", path)
    address = f"{server.address}/eyes.pth"
    if reason == "other version":
        server.etags["/eyes.pth"] = '"v2"'
    elif reason == "other address":
        address = f"{server.address}/mirror.pth"
        server.files["/mirror.pth"] = CONTENT
    elif reason == "facts lost":
        path.with_name("eyes.pth.partial.json").write_text("no json")
    server.ranges = reason != "no ranges"
    server.files["/eyes.pth"] = CONTENT
    download(address, path)
    assert path.read_bytes() == CONTENT


def test_a_partial_file_that_is_longer_than_the_file_is_begun_anew(server: Any, path: Path) -> None:
    server.files["/eyes.pth"] = CONTENT
    server.breaks = [1000] * module.TRIES
    with pytest.raises(DownloadError):
        download(f"{server.address}/eyes.pth", path)
    path.with_name("eyes.pth.partial").write_bytes(b"y" * 99_999)
    download(f"{server.address}/eyes.pth", path)
    assert path.read_bytes() == CONTENT


def test_a_wrong_hash_is_refused_and_nothing_is_kept(server: Any, path: Path) -> None:
    server.files["/eyes.pth"] = CONTENT + b"!"
    with pytest.raises(DownloadError, match=rf"invalid hash value: its sha256 begins with \w{{8}}, and .* be {DIGITS}"):
        download(f"{server.address}/eyes.pth", path, DIGITS)
    assert left(path) == set()


def test_a_hash_that_the_hub_says_on_the_way_is_compared(server: Any, path: Path) -> None:
    server.files["/blob"] = CONTENT
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    server.redirects["/resolve"] = (f"{server.address}/blob", {"X-Linked-Etag": f'"{sha256}"'})
    assert download(f"{server.address}/resolve", path) == sha256
    path.unlink()
    server.files["/blob"] = CONTENT + b"!"
    with pytest.raises(DownloadError, match=f"invalid hash value.*{sha256[:8]}"):
        download(f"{server.address}/resolve", path)


def test_a_token_goes_to_the_address_itself_and_not_to_where_it_sends_us(server: Any, path: Path) -> None:
    server.files["/blob"] = CONTENT
    server.redirects["/resolve"] = (f"{server.address}/blob", {})
    download(f"{server.address}/resolve", path, token="secret")
    assert [headers.get("Authorization") for _, headers in server.asked] == ["Bearer secret", None]


@pytest.mark.parametrize(("status", "error"), [(401, RefusedError), (403, RefusedError), (404, DownloadError)])
def test_an_answer_that_will_not_change_is_asked_for_once(
    server: Any, path: Path, status: int, error: type[DownloadError]
) -> None:
    server.errors["/eyes.pth"] = status
    with pytest.raises(error, match=f"HTTP Error {status}"):
        download(f"{server.address}/eyes.pth", path)
    assert len(server.asked) == 1


def test_a_server_that_is_busy_is_asked_again(server: Any, path: Path) -> None:
    server.errors["/eyes.pth"] = 503
    with pytest.raises(DownloadError, match="HTTP Error 503"):
        download(f"{server.address}/eyes.pth", path)
    assert len(server.asked) == module.TRIES


def test_no_connection_is_a_reason_at_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(module.time, "sleep", lambda _: pytest.fail("it waited"))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(DownloadError, match="refused"):
            download(f"http://127.0.0.1:{closed.getsockname()[1]}/eyes.pth", path)


def test_a_full_disk_is_told_before_anything_is_written(
    server: Any, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/eyes.pth"] = CONTENT

    def full(file: Path, needed: int) -> None:
        assert (file, needed) == (path, len(CONTENT))
        raise DiskFault(28, "full", file)

    monkeypatch.setattr(module, "check_free", full)
    with pytest.raises(DiskFault, match=r"eyes\.pth cannot be written: its disk is full|full"):
        download(f"{server.address}/eyes.pth", path)
    assert not path.exists()


def test_two_at_once_download_it_once(server: Any, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.files["/eyes.pth"] = CONTENT * 200
    threads = [threading.Thread(target=download, args=(f"{server.address}/eyes.pth", path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.asked) == 1
    assert path.read_bytes() == CONTENT * 200
    assert capsys.readouterr().err.count("MB downloaded") == 1
