"""What a piece of work takes of the machine: processor seconds, and joules where the machine counts them."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

COUNTER = Path("/sys/class/powercap/intel-rapl:0")
"""Linux's counter of the first processor package (RAPL), in microjoules; it wraps round at max_energy_range_uj."""


@contextlib.contextmanager
def meter(counter: Path = COUNTER) -> Iterator[dict[str, float | None]]:
    """Fill a dict, when the block ends, with `cpu_seconds` of this process and its children, and `energy_joules`.

    The joules are those of the whole processor package, other processes' work included, and None where no counter can
    be read. Graphics cards are not counted.
    """
    spent: dict[str, float | None] = {}
    before, joules = _seconds(), _read(counter / "energy_uj")
    yield spent
    spent["cpu_seconds"] = _seconds() - before
    after, size = _read(counter / "energy_uj"), _read(counter / "max_energy_range_uj")
    known = joules is not None and after is not None and size is not None
    spent["energy_joules"] = (after - joules) % size / 1e6 if known else None  # type: ignore[operator]


def _seconds() -> float:
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def _read(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
