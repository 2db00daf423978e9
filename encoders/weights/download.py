"""Download one file over HTTP: what came is kept under a name of its own, is gone on from, and checked when whole."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import sys
import time
import urllib.error
import urllib.request
from email.message import Message
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from stillsight.encoders.atomic import check_free, sync, sync_folder, to_json, write_atomically, writing

TRIES = 4
"""Connections that are made, each from where the one before broke off."""
PAUSE = 1.0
"""Seconds before the second of them; twice as long before each further one."""
PATIENCE = 30.0
"""Seconds for which a server may say nothing."""
BLOCK = 2**20
QUIET_SECONDS = 10.0
"""Where the output is no terminal (a log, CI), a line of progress is written at most this often."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


class DownloadError(Exception):
    """Why a file could not be downloaded, in words that a sentence can be made of."""


class RefusedError(DownloadError):
    """The server wants to know who asks, or does not give the file to whoever does (401, 403)."""


def download(address: str, path: Path, digits: str = "", token: str = "") -> str:
    """Download `address` to `path`, unless another process has done so meanwhile.

    Until it is whole it lies beside `path`, under its name with `.partial` behind it, and the next call goes on from
    there if the server still has the same file (HTTP's Range and If-Range). One process at a time downloads it; others
    wait for it. Progress stands on the standard error.

    Args:
        address: http or https.
        path: of the file; its folder is made.
        digits: what its sha256 must begin with; "" where nobody says. Hugging Face's servers say.
        token: sent to the address' own host alone, and not to where that sends us.

    Returns:
        What its sha256 begins with, as far as that was published.

    Raises:
        DownloadError: no connection, no such file, it broke off, or its hash is wrong. What came is kept, unless its
            hash is wrong.
        OSError: the folder cannot be written, or its disk is full.
    """
    import filelock

    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        print(f"stillsight: waiting for another process that downloads {path.name}.", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        return digits if path.is_file() else _checked(_Partial(path, address), digits, token)
    finally:
        lock.release()


def _checked(partial: _Partial, digits: str, token: str) -> str:
    """Bring a file, compare it with its hash, and give it its name; see `download`."""
    published = _fetch(partial, token)
    wanted = digits or published
    found = _sha256(partial.path)
    if not found.startswith(wanted):
        partial.drop()
        raise DownloadError(
            f"invalid hash value: its sha256 begins with {found[: max(8, len(digits))]}, and it should be "
            f"{wanted[: max(8, len(digits))]}"
        )
    partial.finish()
    return wanted


class _Partial:
    """A file that is not whole yet, and beside it what its server called this version of it.

    Args:
        path: of the whole file.
        address: where it is from.
    """

    def __init__(self, path: Path, address: str) -> None:
        self.whole, self.address = path, address
        self.path = path.with_name(f"{path.name}.partial")
        self._facts = path.with_name(f"{path.name}.partial.json")

    @property
    def size(self) -> int:
        """Bytes that are there."""
        return self.path.stat().st_size if self.path.is_file() else 0

    @property
    def version(self) -> str:
        """What the server called the version that these bytes are of (ETag); "" if that is not known."""
        try:
            facts = json.loads(self._facts.read_text())
            return str(facts["version"]) if facts["address"] == self.address else ""
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def begin(self, version: str) -> None:
        """Forget what is there: the bytes that come are the first ones, of `version`."""
        with writing(self.path):
            self.path.unlink(missing_ok=True)
        write_atomically(self._facts, to_json({"address": self.address, "version": version}))

    def finish(self) -> None:
        """Give the file its name."""
        with writing(self.whole):
            sync(self.path)
            os.replace(self.path, self.whole)
            self._facts.unlink(missing_ok=True)
            sync_folder(self.whole.parent)

    def drop(self) -> None:
        """Remove it: its bytes are wrong."""
        self.path.unlink(missing_ok=True)
        self._facts.unlink(missing_ok=True)


def _fetch(partial: _Partial, token: str) -> str:
    """Bring all bytes into `partial`, over as many connections as it takes; return the published sha256, or ""."""
    for left in reversed(range(TRIES)):
        try:
            return _connect(partial, token)
        except urllib.error.HTTPError as error:
            if error.code in (401, 403):
                raise RefusedError(f"HTTP Error {error.code}: {error.reason}") from error
            if error.code == 416:  # what lies here is no part of what lies there
                partial.drop()
            elif error.code < 500 and error.code not in (408, 429):
                raise DownloadError(f"HTTP Error {error.code}: {error.reason}") from error
            reason: Exception = error
        except urllib.error.URLError as error:
            if isinstance(error.reason, OSError) and not partial.size:
                raise DownloadError(str(error.reason)) from error
            reason = error
        except (TimeoutError, ConnectionError, http.client.HTTPException) as error:
            reason = error
        if left:
            time.sleep(PAUSE * 2 ** (TRIES - 1 - left))
    have = partial.size
    kept = f"; {have:,} bytes came and are kept, and the same command goes on from there" if have else ""
    raise DownloadError(f"{str(reason) or type(reason).__name__}{kept}") from reason


def _connect(partial: _Partial, token: str) -> str:
    """Bring what is lacking over one connection; return the sha256 that the server publishes, or ""."""
    have, version = partial.size, partial.version
    request = urllib.request.Request(
        partial.address, headers={"User-Agent": "stillsight", "Accept-Encoding": "identity"}
    )
    # Over a connection that others can read no token is sent, unless it ends on this machine.
    if token and (request.type == "https" or urlsplit(partial.address).hostname in ("127.0.0.1", "localhost")):
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    if have and version:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", version)
    redirects = _Redirects()
    with urllib.request.build_opener(redirects).open(request, timeout=PATIENCE) as answer:
        linked = redirects.linked.strip('"')
        begin, total = _range(answer.headers, answer.status, have)
        if begin == 0:
            # A weak validator promises no equal bytes, so nothing could be continued by it.
            etag = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
            partial.begin("" if etag.startswith("W/") else etag)
        if total is not None:
            check_free(partial.whole, total - begin)
        with writing(partial.whole):
            file = partial.path.open("ab")
        with file:
            _copy(answer, file, partial.whole, begin, total)
        if total is not None and partial.size != total:
            raise http.client.IncompleteRead(b"", total - partial.size)
    return linked if _SHA256.fullmatch(linked) else ""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Notes the hash that Hugging Face names where it sends us on to the server that has the file."""

    def __init__(self) -> None:
        self.linked = ""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """See the base class; from https nobody is sent to http."""
        self.linked = headers.get("X-Linked-Etag") or self.linked
        if req.type == "https" and urlsplit(newurl).scheme != "https":
            raise DownloadError(f"{req.host} sends us on to {newurl[:200]}, which is not encrypted")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _range(headers: Message, status: int, have: int) -> tuple[int, int | None]:
    """From which byte on the answer goes, and how many the whole file has, if the server says so.

    Raises:
        DownloadError: it goes on from somewhere else than where we are.
    """
    if status == 206:
        given = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range") or "")
        if given is None or int(given[1]) != have:
            raise DownloadError(f"the server answers with other bytes than asked for ({headers.get('Content-Range')})")
        return have, None if given[2] == "*" else int(given[2])
    length = headers.get("Content-Length") or ""
    return 0, int(length) if length.isdigit() else None


def _copy(answer: IO[bytes], file: IO[bytes], whole: Path, begin: int, total: int | None) -> None:
    """Append what comes to `file`, and say how far `whole` is."""
    name, terminal = whole.name, sys.stderr.isatty()
    done, told, began = begin, time.monotonic(), time.monotonic()
    while block := answer.read(BLOCK):
        with writing(whole):  # not around what is read, whose errors are the network's
            file.write(block)
        done += len(block)
        now = time.monotonic()
        if now - told >= (0.2 if terminal else QUIET_SECONDS):
            told = now
            _tell(name, done, total, (done - begin) / (now - began), terminal)
    if terminal:
        _tell(name, done, total, (done - begin) / max(1e-9, time.monotonic() - began), terminal)
        print(file=sys.stderr)
    elif total is None or done >= total:
        print(f"stillsight: {name}: {done / 1e6:,.1f} MB downloaded", file=sys.stderr, flush=True)


def _tell(name: str, done: int, total: int | None, rate: float, terminal: bool) -> None:
    share = f" of {total / 1e6:,.1f} MB ({done / max(1, total):.0%})" if total is not None else " MB"
    line = f"stillsight: {name}: {done / 1e6:,.1f}{share}, {rate / 1e6:,.1f} MB/s"
    print(f"\r{line}\x1b[K" if terminal else line, end="" if terminal else "\n", file=sys.stderr, flush=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
