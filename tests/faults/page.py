"""The page of what the harness found, written from its rows: nothing in it is written by hand."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from record import Record

Rows = list[dict[str, Any]]


def summarise(records: Mapping[str, Record], machines: Path) -> dict[str, Any]:
    """Every count that the page has, as JSON knows it.

    Args:
        records: the rows of each part.
        machines: a JSON-lines file of what ran them.
    """
    parts = {name: list(record.rows.values()) for name, record in records.items() if record.rows}
    told: dict[str, Any] = {name: SUMMARIES[name](rows) for name, rows in parts.items()}
    for name, rows in parts.items():
        told[name]["commits"] = dict(Counter(row["commit"] for row in rows))
    ran = [json.loads(line) for line in machines.read_text().splitlines()]
    used = {commit for part in told.values() for commit in part["commits"]}
    return {"machines": [row for row in ran if row["commit"] in used], "parts": told}


def _faulty(rows: Rows) -> list[dict[str, Any]]:
    """Kinds of faults, how often each, and the trial that shows it first."""
    kinds: dict[str, list[str]] = {}
    for row in rows:
        for fault in row["faults"]:
            kinds.setdefault(_kind(fault), []).append(row["trial"])
    ordered = sorted(kinds.items(), key=lambda pair: -len(pair[1]))
    return [{"fault": fault, "times": len(trials), "first": trials[0]} for fault, trials in ordered]


def _kind(fault: str) -> str:
    """A fault without the names and numbers of its trial."""
    words = [word for word in fault.split() if not word.startswith("/")]
    return re.sub(r"\.tmp\w+|[0-9a-f]{8,}|\d[\d.,e+-]*", "N", " ".join(words))[:160]


def _kills(rows: Rows) -> dict[str, Any]:
    jobs: dict[str, Any] = {}
    for row in rows:
        job = jobs.setdefault(row["job"], Counter())
        job["runs"] += 1
        job["killed"] += row["killed"]
        job["killed twice"] += bool(row.get("twice"))
        job["ended"] += row["ends"]
        job["without a fault"] += not row["faults"]
        job["equal"] += row["ends"] and row["equal"]
        job["equal was promised"] += row["promised"]
    differing = Counter(_kind(name.removeprefix("differs: ")) for row in rows for name in row["unequal"])
    return {
        "jobs": {name: dict(job) for name, job in jobs.items()},
        "differing": dict(differing),
        "faults": _faulty(rows),
    }


def _writes(rows: Rows) -> dict[str, Any]:
    jobs: dict[str, Any] = {}
    places: dict[str, set[str]] = {}
    for row in rows:
        job = jobs.setdefault(row["job"], Counter())
        job["refused"] += 1
        places.setdefault(row["job"], set()).add(row["trial"].rsplit(" from then on", 1)[0].rsplit(" ", 1)[0])
        job[f"exit code {row['code']}"] += 1
        job["without a fault"] += not row["faults"]
    for name, job in jobs.items():
        job["writes"] = len(places[name])
    errors = Counter(row["error"] + (" from then on" if row["lasting"] else "") for row in rows)
    return {"jobs": {name: dict(job) for name, job in jobs.items()}, "errors": dict(errors), "faults": _faulty(rows)}


def _mutations(rows: Rows) -> dict[str, Any]:
    kinds: dict[str, Any] = {}
    for row in rows:
        kind = kinds.setdefault(row["kind"], Counter())
        kind["mutants"] += 1
        kind[row["outcome"]] += 1
        kind["faults"] += bool(row["faults"])
    named = [{**row, "faults": [f"{row['kind']}: {fault}" for fault in row["faults"]]} for row in rows]
    return {"kinds": {name: dict(kind) for name, kind in sorted(kinds.items())}, "faults": _faulty(named)}


def _beside(rows: Rows) -> dict[str, Any]:
    cases: dict[str, Any] = {}
    for row in rows:
        case = cases.setdefault(row["case"], Counter())
        case["times"] += 1
        case["without a fault"] += not row["faults"]
    return {"cases": {name: dict(case) for name, case in cases.items()}, "faults": _faulty(rows)}


def _soak(rows: Rows) -> dict[str, Any]:
    runs = [{**row, "samples": len(next(iter(row["samples"].values()), ()))} for row in rows]
    return {"runs": runs, "faults": _faulty(rows)}


SUMMARIES: dict[str, Callable[[Rows], dict[str, Any]]] = {
    "kills": _kills,
    "writes": _writes,
    "mutations": _mutations,
    "beside": _beside,
    "soak": _soak,
}
TITLES = {
    "kills": "Killed, and gone on with",
    "writes": "Writes that are refused",
    "mutations": "Damaged and hostile files",
    "beside": "Two at once",
    "soak": "Long trainings",
}
ABOUT = {
    "kills": """
Small runs of each kind are killed with SIGKILL, half of them at a file operation and half at any moment, a quarter of
them again while they are gone on with. A run is without a fault when what is typed next brings it to its end, each row
stands in its log once, no process and no file is left over, and nothing shows a traceback. It is equal when
checkpoints, rows and summary are those of a run to which nothing happened, to the bit, times left out.
""",
    "writes": """
Every write of each command fails once (of those that repeat on one file, the first and the last; "write" is each file
operation, opening, renaming and flushing too), with each error in turn: ENOSPC, EIO, EACCES, EMFILE, and ENOSPC from
then on. After that, as far as the count reaches, each fails with the others. "writes" counts places, "refused" trials.
A command is without a fault when it ends with exit code 1 or 2 and a sentence, or with 0 and all that it
should have written; when nothing shows a traceback; and when it goes on afterwards to the end.
""",
    "mutations": """
Each file that is read is changed (bits, cuts, zeros, other types, missing and nested values, texts that name code,
planted pickles) and read in a process with limits of memory and time. Faults are: code that ran, tracebacks, hangs,
killed processes, and, where the file carries a hash, another answer without a word.
""",
    "beside": """
Commands that run at the same time on one folder.
""",
    "soak": """
A line is fitted to the means of twelve parts of the time, the first fifth left out. flat: the growth in an hour is
below what is allowed, with 95% confidence; not known: the time was too short to tell. The time of a step is processor
time of the process; beside other work a step takes more of it, so that a machine which comes to rest shows as
shrinking.
""",
}
COLUMNS = {
    "kills": ("runs", "killed", "killed twice", "ended", "without a fault", "equal", "equal was promised"),
    "writes": ("writes", "refused", "exit code 0", "exit code 1", "exit code 2", "without a fault"),
    "mutations": (
        "mutants", "same answer", "said, and gone on", "refused", "taken", "traceback", "hang", "killed", "code run",
        "faults",
    ),
    "beside": ("times", "without a fault"),
}  # fmt: skip
NAMES = {"kills": "jobs", "writes": "jobs", "mutations": "kinds", "beside": "cases"}


def render(told: Mapping[str, Any]) -> str:
    """The page."""
    ran = told["machines"][-1]
    versions = ", ".join(f"{name} {version}" for name, version in ran["versions"].items())
    days = sorted({row["date"][:10] for row in told["machines"]})
    lines = [
        "# Reliability\n",
        "Written by `make faults` (`tests/faults/`, whose README says what each part does); the same numbers are in "
        "`reliability.json`, and a row for each trial in `reliability/`.\n",
        f"{ran['cores']} cores, {ran['cpu']}, {ran['platform']}; Python {ran['python']}; {versions}; "
        f"{' to '.join(dict.fromkeys((days[0], days[-1])))}.\n",
    ]
    for name, title in TITLES.items():
        part = told["parts"].get(name)
        if part is None:
            continue
        lines += [f"## {title}", ABOUT[name]]
        lines += [f"Commits: {', '.join(f'{commit[:12]}{_dirty(commit)}' for commit in part['commits'])}.\n"]
        lines += _soaked(part["runs"]) if name == "soak" else _table(part[NAMES[name]], COLUMNS[name])
        if part.get("differing"):
            files = ", ".join(f"`{file}` {times}" for file, times in sorted(part["differing"].items()))
            lines.append(f"\nFiles that were not equal, and in how many runs: {files}.")
        lines += _list(part["faults"])
    return "\n".join(lines) + "\n"


def _table(rows: Mapping[str, Mapping[str, int]], columns: tuple[str, ...]) -> list[str]:
    used = [
        column for column in columns if any(row.get(column) for row in rows.values()) or column == "without a fault"
    ]
    lines = [f"| | {' | '.join(used)} |", "|---|" + "---:|" * len(used)]
    lines += [f"| {name} | {' | '.join(str(row.get(column, 0)) for column in used)} |" for name, row in rows.items()]
    if len(rows) > 1:
        sums = (str(sum(row.get(column, 0) for row in rows.values())) for column in used)
        lines.append(f"| **all** | {' | '.join(sums)} |")
    return lines


def _soaked(runs: Rows) -> list[str]:
    lines = [
        "| | minutes | samples | steps | memory, MB/h | handles/h | threads/h | processor time of a step, %/h |",
        "|---|---:|---:|---:|---|---|---|---|",
    ]
    for run in runs:
        fitted = run.get("fitted")
        if fitted is None:
            continue
        cells = []
        for name, scale in (("memory", 1e-6), ("handles", 1.0), ("threads", 1.0), ("step", 0.0)):
            line = fitted[name]
            factor = scale or 100 / line["mean"]
            cells.append(f"{factor * line['per_hour']:.2g} ± {factor * line['spread']:.2g}: {line['verdict']}")
        lines.append(
            f"| {run['algo']} | {run['minutes']:g} | {run['samples']} | {run['steps']:,.0f} | {' | '.join(cells)} |"
        )
    return lines


def _dirty(commit: str) -> str:
    return "+dirty" if commit.endswith("+dirty") else ""


def _list(faults: Rows) -> list[str]:
    if not faults:
        return ["\nFaults: none.\n"]
    return [
        "\nFaults:\n",
        *(f"- {fault['times']} times: {fault['fault']} (first: {fault['first']})" for fault in faults),
        "",
    ]


def publish(records: Mapping[str, Record], machines: Path, folder: Path) -> int:
    """Write reliability.md, reliability.json and the rows into `folder`, and return the number of faults.

    Args:
        records: the rows of each part.
        machines: a JSON-lines file of what ran them.
        folder: where to.
    """
    told = summarise(records, machines)
    rows = folder / "reliability"
    rows.mkdir(parents=True, exist_ok=True)
    work = str(machines.parent)
    for name in told["parts"]:
        lines = records[name].path.read_text().replace(work, "WORK")
        (rows / f"{name}.jsonl.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))
    (folder / "reliability.json").write_text(json.dumps(told, indent=1).replace(work, "WORK") + "\n")
    (folder / "reliability.md").write_text(render(told).replace(work, "WORK"))
    return sum(fault["times"] for part in told["parts"].values() for fault in part["faults"])
