"""What a piece of work takes of the machine: processor seconds, and joules where the machine counts them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from stillsight.encoders.system.processor_time import processor_seconds

COUNTER = Path("/sys/class/powercap/intel-rapl:0")
"""Linux's counter of the first processor package (RAPL), in microjoules; it wraps round at max_energy_range_uj."""


@contextlib.contextmanager
def meter(counter: Path = COUNTER) -> Iterator[dict[str, float | None]]:
    """Fill a dict, when the block ends, with `cpu_seconds` and `energy_joules`.

    The seconds are those of this process and of all that work for it, and None where they cannot be known. The joules
    are those of the whole processor package, other processes' work included, and None where no counter can be read.
    Graphics cards are not counted.
    """
    spent: dict[str, float | None] = {}
    before, joules = processor_seconds(), _read(counter / "energy_uj")
    yield spent
    seconds = processor_seconds()
    spent["cpu_seconds"] = None if before is None or seconds is None else max(0.0, seconds - before)
    after, size = _read(counter / "energy_uj"), _read(counter / "max_energy_range_uj")
    known = joules is not None and after is not None and size is not None
    spent["energy_joules"] = (after - joules) % size / 1e6 if known else None  # type: ignore[operator]


def _read(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
