"""JSON text as every program reads it: it has no NaN and no infinities."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def to_json(value: Any, indent: int | None = None) -> str:
    """`value` (dicts, lists, tuples, text, numbers, None) as JSON; a number that is not finite becomes null.

    Python's json would write NaN and Infinity, which JSON does not know: other programs refuse the file.

    Raises:
        TypeError: something in it is of another type.
    """
    return json.dumps(finite(value), indent=indent, allow_nan=False)


def finite(value: Any) -> Any:
    """`value` with None in the place of every number that is not finite."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
