"""`make faults`: kill, refuse, damage, crowd and soak stillsight, and write down what it made of it."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path

from beside import beside
from children import ROOT
from jobs import JOBS
from kills import kills
from mutations import mutations
from page import publish
from record import Record
from soak import SETTINGS, soak
from writes import FROM, writes

from stillsight.agents.runs.machine import machine

COUNTS = {"kills": 200, "writes": 1_033, "mutations": 10_000, "beside": 10}
"""Trials of each part, as they are published."""
PARTS = (*COUNTS, "soak")


def arguments() -> argparse.Namespace:
    """What was typed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--count", type=int, help="trials of each part; by default " + str(COUNTS))
    parser.add_argument("--minutes", type=float, default=60.0, help="of each long training")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "runs" / "faults", help="rows and work")
    parser.add_argument("--publish", type=Path, help="folder of reliability.md; that of --out by default")
    parser.add_argument("--seed", type=int, default=0, help="of all choices")
    parser.add_argument("--only", nargs="+", help="jobs of kills and writes, or algorithms of soak, by name")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="children side by side, of writes, mutations and soak"
    )
    found = parser.parse_args()
    if unknown := [part for part in found.parts if part not in PARTS]:
        parser.error(f"there is no part named {unknown[0]!r}; parts are {', '.join(PARTS)}")
    known = {*JOBS, *FROM, *SETTINGS}
    if unknown := [name for name in found.only or () if name not in known]:
        parser.error(f"there is no job named {unknown[0]!r}; jobs are {'; '.join(sorted(known))}")
    return found


def main() -> int:
    """Run the parts, each going on where it was stopped; 1 if there was a fault."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's `&` ignores it, and children inherit that
    asked = arguments()
    work, parts = asked.out.absolute(), asked.parts or PARTS
    here = {
        **machine(),
        "command": f'make faults FAULTS_FLAGS="{" ".join(sys.argv[1:])}"'.replace(' FAULTS_FLAGS=""', ""),
    }
    records = {name: Record(work / f"{name}.jsonl", here["commit"]) for name in PARTS}
    with (work / "machine.jsonl").open("a") as file:
        file.write(json.dumps(here) + "\n")

    def chosen(names: tuple[str, ...]) -> list[str]:
        return [name for name in names if name in (asked.only or names)]

    def count(part: str) -> int:
        return int(asked.count or COUNTS[part])

    for part in parts:
        place = work / "work" / part
        if part == "kills":
            kills(records[part], place, count(part), asked.seed, chosen(tuple(JOBS)))
        elif part == "writes":
            writes(records[part], place, count(part), asked.seed, chosen((*JOBS, *FROM)), asked.jobs)
        elif part == "mutations":
            mutations(records[part], place, count(part), asked.seed, asked.jobs)
        elif part == "beside":
            beside(records[part], place, count(part), asked.seed)
        else:
            soak(records[part], place, asked.minutes, chosen(tuple(SETTINGS)), asked.jobs)
    folder = (asked.publish or work).absolute()
    faults = publish(records, work / "machine.jsonl", folder)
    print(f"{folder / 'reliability.md'}: {faults or 'no'} faults")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
