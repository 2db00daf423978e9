"""Mutations: what damage, time and strangers do to a file."""

from __future__ import annotations

import copy
import io
import json
import random
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

PLANTED = (
    "planted:go",
    "planted:Evil-v0",
    "planted",
    "module://planted",
    "../../../planted.py",
    "/etc/passwd",
    "http.server:test",
    "os:system",
    "pytest:main",
    "$(python -c 'import planted')",
    "{0.__class__.__init__.__globals__}",
    "pickle:loads",
)
"""Texts by which a file may try to have code run; planted.py can be imported wherever they are read."""
ODD: tuple[Any, ...] = (
    None,
    True,
    "",
    "x" * 10_000,
    "\ud800",
    "ü\u0000",
    -1,
    0,
    2**63,
    99999999999,
    1e308,
    float("nan"),
    float("inf"),
    [],
    {},
    [[1], [2]],
    {"a": {"b": 1}},
)
"""Values of the wrong type, or out of every range."""


def mutant(content: bytes, kind: str, draw: random.Random) -> tuple[str, bytes]:
    """A mutant of a file, and what was done to it.

    Args:
        content: of the file.
        kind: json, lines, toml, safetensors, torch or bytes.
        draw: source of the choices.
    """
    structured = {
        "json": _json,
        "lines": _lines,
        "toml": _toml,
        "safetensors": _safetensors,
        "torch": _torch,
    }.get(kind)
    if structured is not None and draw.random() < 0.65:
        try:
            what, changed = structured(content, draw)
        except (ValueError, KeyError, IndexError):
            what, changed = "nothing", content
        if changed != content:
            return what, changed
    for _ in range(20):
        what, change = draw.choice(BYTES)
        changed = change(bytearray(content), draw)
        if changed != content:
            return what, changed
    return "emptied", b""


# Bytes ----------------------------------------------------------------------------------------------------------------


def _span(content: bytearray, draw: random.Random, most: int = 4096) -> tuple[int, int]:
    first = draw.randrange(len(content) + 1)
    return first, min(len(content), first + draw.randint(1, most))


def _flipped(content: bytearray, draw: random.Random) -> bytes:
    for _ in range(draw.choice((1, 1, 1, 3, 20))):
        if content:
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    return bytes(content)


def _cut(content: bytearray, draw: random.Random) -> bytes:
    return bytes(content[: draw.randrange(len(content) + 1)])


def _cut_a_little(content: bytearray, draw: random.Random) -> bytes:
    return bytes(content[: max(0, len(content) - draw.randint(1, 64))])


def _zero_tail(content: bytearray, draw: random.Random) -> bytes:
    first = draw.randrange(len(content) + 1)
    return bytes(content[:first]) + bytes(len(content) - first)


def _zeros(content: bytearray, draw: random.Random) -> bytes:
    first, last = _span(content, draw)
    content[first:last] = bytes(last - first)
    return bytes(content)


def _ones(content: bytearray, draw: random.Random) -> bytes:
    first, last = _span(content, draw)
    content[first:last] = b"\xff" * (last - first)
    return bytes(content)


def _removed(content: bytearray, draw: random.Random) -> bytes:
    first, last = _span(content, draw, 64)
    del content[first:last]
    return bytes(content)


def _inserted(content: bytearray, draw: random.Random) -> bytes:
    first = draw.randrange(len(content) + 1)
    content[first:first] = draw.randbytes(draw.randint(1, 64))
    return bytes(content)


def _doubled(content: bytearray, draw: random.Random) -> bytes:
    first, last = _span(content, draw, 512)
    content[last:last] = content[first:last]
    return bytes(content)


def _random(content: bytearray, draw: random.Random) -> bytes:
    return draw.randbytes(min(len(content) + 1, 65536))


def _not_text(content: bytearray, draw: random.Random) -> bytes:
    first = draw.randrange(len(content) + 1)
    content[first:first] = draw.choice((b"\xff\xfe", b"\x80", b"\xc3", b"\0", b"\xed\xa0\x80"))
    return bytes(content)


Change = Callable[[bytearray, random.Random], bytes]
BYTES: list[tuple[str, Change]] = [
    ("bits flipped", _flipped),
    ("cut", _cut),
    ("cut a little", _cut_a_little),
    ("zeros for a tail", _zero_tail),
    ("a span of zeros", _zeros),
    ("a span of ones", _ones),
    ("bytes removed", _removed),
    ("bytes inserted", _inserted),
    ("bytes doubled", _doubled),
    ("random bytes", _random),
    ("no text", _not_text),
    ("emptied", lambda _, __: b""),
]


# Structures -----------------------------------------------------------------------------------------------------------


def _places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield from _places(value, (*path, key))


def _changed(tree: Any, draw: random.Random) -> tuple[str, Any]:
    """A tree of JSON values with one of them otherwise."""
    places = list(_places(tree))
    if not places:
        return "another value", draw.choice(ODD)
    texts = [path for path in places if isinstance(_at(tree, path), str)]
    what = draw.choice(("planted", "planted", "odd", "odd", "removed", "added", "moved", "nested", "another number"))
    path = draw.choice(texts if what == "planted" and texts else places)
    parent, key = _at(tree, path[:-1]), path[-1]
    if what == "planted":
        parent[key] = draw.choice(PLANTED)
    elif what == "odd":
        parent[key] = draw.choice(ODD)
    elif what == "removed":
        del parent[key]
    elif what == "added":
        added = draw.choice(("planted", "__class__", "callable", "weights", "\u202e"))
        if isinstance(parent, dict):
            parent[added] = draw.choice((*ODD, *PLANTED))
        else:
            parent.append(draw.choice((*ODD, *PLANTED)))
    elif what == "moved":
        other = draw.choice(places)
        parent[key] = copy.deepcopy(_at(tree, other))
    elif what == "nested":
        value = parent[key]
        for _ in range(draw.choice((1, 5, 200))):
            value = [value]
        parent[key] = value
    elif isinstance(parent[key], bool) or not isinstance(parent[key], int | float):
        parent[key] = draw.choice(ODD)
    else:
        parent[key] = draw.choice((-parent[key], parent[key] * 1000, parent[key] + 1, parent[key] / 3, 10**12, 10**400))
    return f"{what} at {'/'.join(map(str, path[:4]))}", tree


def _at(tree: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _text(tree: Any, **options: Any) -> bytes:
    return json.dumps(tree, **options).encode("utf-8", "surrogatepass")


def _json(content: bytes, draw: random.Random) -> tuple[str, bytes]:
    if draw.random() < 0.03:
        depth = draw.choice((1_000, 100_000))
        return "a bomb of brackets", b"[" * depth + b"]" * depth
    if draw.random() < 0.03:
        return "doubled keys", content.replace(b"{", b'{"command": "rl", "command": "planted:go", ', 1)
    what, tree = _changed(json.loads(content), draw)
    return what, _text(tree, indent=2)


def _lines(content: bytes, draw: random.Random) -> tuple[str, bytes]:
    lines = content.splitlines()
    row = draw.randrange(len(lines))
    what = draw.choice(("changed", "changed", "torn", "doubled", "glued", "empty"))
    if what == "changed":
        what, tree = _changed(json.loads(lines[row]), draw)
        lines[row] = _text(tree)
    elif what == "torn":
        lines[row] = lines[row][: draw.randrange(len(lines[row]) + 1)]
    elif what == "doubled":
        lines.insert(row, lines[row])
    elif what == "glued":
        lines[row] += lines[draw.randrange(len(lines))]
    else:
        lines.insert(row, b"")
    return what, b"\n".join(lines) + b"\n"


def _toml(content: bytes, draw: random.Random) -> tuple[str, bytes]:
    what, tree = _changed(tomllib.loads(content.decode()), draw)
    return what, "".join(_tables(tree)).encode("utf-8", "surrogatepass")


def _tables(tree: dict[str, Any]) -> Iterator[str]:
    """A tree as TOML: plain values first, then tables; what TOML does not know is left out."""
    for name, value in tree.items():
        if not _is_table(value):
            yield f"{json.dumps(name)} = {_value(value)}\n"
    for name, value in tree.items():
        if isinstance(value, dict):
            yield f"[{json.dumps(name)}]\n" + "".join(f"{json.dumps(k)} = {_value(v)}\n" for k, v in value.items())
        elif _is_table(value):
            for row in value:
                yield f"[[{json.dumps(name)}]]\n" + "".join(f"{json.dumps(k)} = {_value(v)}\n" for k, v in row.items())


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) or (
        isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)
    )


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    if value is None:
        return '""'
    if isinstance(value, float) and value - value != 0:
        return "nan" if value != value else "inf"
    return json.dumps(value)


def _safetensors(content: bytes, draw: random.Random) -> tuple[str, bytes]:
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), bytearray(content[8 + length :])
    if draw.random() < 0.4:  # the numbers themselves, with the header as it is
        what, change = draw.choice(BYTES[:7])
        data = bytearray(change(data, draw))
        if draw.random() < 0.3 and len(data) > 8:
            first = draw.randrange(len(data) - 4) // 4 * 4
            data[first : first + 4] = b"\x00\x00\xc0\x7f"
            what = "not a number among the numbers"
        return f"data: {what}", content[: 8 + length] + bytes(data)
    facts = header.get("__metadata__", {})
    nested = [name for name, text in facts.items() if text[:1] in "{["]
    if nested and draw.random() < 0.6:
        name = draw.choice(nested)
        what, tree = _changed(json.loads(facts[name]), draw)
        facts[name] = _text(tree).decode("utf-8", "replace")
        what = f"{name}: {what}"
    else:
        what, header = _changed(header, draw)
    text = _text(header)
    if draw.random() < 0.1:
        return "header of another length", draw.choice((2**62, len(text) * 2, 0)).to_bytes(8, "little") + text + data
    return f"header: {what}", len(text).to_bytes(8, "little") + text + bytes(data)


class _Planted:
    def __reduce__(self) -> tuple[Any, ...]:
        import planted

        return planted.go, ()


def _torch(content: bytes, draw: random.Random) -> tuple[str, bytes]:
    import pickle

    what = draw.choice(("a pickle", "a pickle in the archive", "a bomb", "an entry cut"))
    if what == "a pickle":
        return what, pickle.dumps({"weight": _Planted()}, protocol=draw.choice((0, 2, 4)))
    whole = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as new:
        names = old.namelist()
        chosen = draw.choice(names)
        for name in names:
            data = old.read(name)
            if what == "a pickle in the archive" and name.endswith("data.pkl"):
                data = pickle.dumps({"weight": _Planted()}, protocol=2)
            elif what == "an entry cut" and name == chosen:
                data = data[: len(data) // 2]
            elif what == "a bomb" and name == chosen and not name.endswith(".pkl"):
                data = bytes(300_000_000) if draw.random() < 0.1 else bytes(10_000_000)
            new.writestr(name, data)
    return what, whole.getvalue()
