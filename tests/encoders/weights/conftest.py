"""A machine without weights and with a server of its own, for the tests of where weights come from."""

from __future__ import annotations

import http.server
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from stillsight.encoders.weights import download


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` over loopback, as a good server does unless it is told otherwise, and keeps what it was asked.

    Attributes:
        files: path -> content.
        etags: path -> what it says of the version; '"v1"' by default.
        redirects: path -> where it sends on, and the headers with which it does.
        breaks: bytes after which the next connections break off, one each.
        ranges: whether it knows how to give a part.
        errors: path -> status.
        asked: the requests, as (path, headers).
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.etags: dict[str, str] = {}
        self.redirects: dict[str, tuple[str, dict[str, str]]] = {}
        self.breaks: list[int] = []
        self.ranges = True
        self.errors: dict[str, int] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []

    @property
    def address(self) -> str:
        """http://127.0.0.1:PORT."""
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append((self.path, dict(self.headers)))
        if self.path in self.server.errors:
            self.send_error(self.server.errors[self.path])
            return
        if self.path in self.server.redirects:
            where, headers = self.server.redirects[self.path]
            self.send_response(302)
            for name, value in {**headers, "Location": where, "Content-Length": "0"}.items():
                self.send_header(name, value)
            self.end_headers()
            return
        if self.path not in self.server.files:
            self.send_error(404)
            return
        content = self.server.files[self.path]
        etag = self.server.etags.get(self.path, '"v1"')
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        begin = int(asked[1]) if asked and self.server.ranges and self.headers.get("If-Range") == etag else 0
        if begin >= len(content) and begin:
            self.send_error(416)
            return
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - begin))
        self.send_header("ETag", etag)
        self.end_headers()
        sent = content[begin:]
        if self.server.breaks:
            sent = sent[: self.server.breaks.pop(0)]
            self.close_connection = True
        self.wfile.write(sent)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server, and no pauses between the connections to it."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "PAUSE", 0.0)
    served = Server()
    thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield served
    served.shutdown()
    served.server_close()
    thread.join()


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home folder without anything in it: no caches, no token, no accepted licences."""
    home = tmp_path / "home"
    home.mkdir()
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "HF_ENDPOINT", "TORCH_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("STILLSIGHT_WEIGHTS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(home / "cache" / "torch" / "hub"))
    yield home
    torch.hub.set_dir(before)
