"""Runs commands of stillsight in forked copies of one process that has imported everything: a run begins at once.

It reads a request a line from its standard input, forks, and answers with the process's id and then its exit code. The
copy is what `stillsight WORDS` is: its own session, its own output files, its traceback if there is one.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import sys
from typing import Any

HEAVY = (
    "training.learn",
    "training.cifar",
    "playing.play",
    "playing.predict",
    "playing.video",
    "benchmark.command",
    "runs.plots",
    "listing",
)
"""Modules of agents that the commands import late."""


def served() -> dict[str, Any]:
    """In each copy: the request that it is to do. The server itself ends with its standard input."""
    for line in sys.stdin:
        request: dict[str, Any] = json.loads(line)
        process = os.fork()
        if process == 0:
            return request
        print(json.dumps({"process": process}), flush=True)
        _, status, used = os.wait4(process, 0)
        cpu = used.ru_utime + used.ru_stime
        print(json.dumps({"code": os.waitstatus_to_exitcode(status), "cpu": cpu}), flush=True)
    os._exit(0)


def become(request: dict[str, Any]) -> list[str]:
    """Make this process the one that was asked for, and return its words."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    out = os.open(request["out"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    error = os.open(request["error"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number, file in enumerate((nothing, out, error)):
        os.dup2(file, number)
        os.close(file)
    os.environ.update(request.get("environment", {}))
    os.chdir(request["folder"])
    if (most := request.get("memory")) is not None:
        with open("/proc/self/statm") as pages:
            size = int(pages.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (size + most, size + most))
    if (most := request.get("seconds")) is not None:
        resource.setrlimit(resource.RLIMIT_CPU, (most, most + 1))
    words: list[str] = request["words"]
    sys.argv = ["stillsight", *words]
    return words


def program(cli: Any, words: list[str]) -> int:
    """Run the text of a program as if it were a command, so that its errors are told as a command's are."""
    sys.argv = words[1:]

    def run(name: str, rest: list[str]) -> int:  # noqa: ARG001 - the signature of what it replaces
        exec(compile(words[1], "program", "exec"), {"__name__": "__main__"})
        return 0

    cli._run = run
    code: int = cli.main(["program"])
    return code


if __name__ == "__main__":
    from stillsight.agents import cli

    for module in HEAVY:
        importlib.import_module(f"stillsight.agents.{module}")
    gc.collect()
    gc.freeze()  # a collection in a copy would copy every page that it looks at
    print(json.dumps({"ready": True}), flush=True)
    request = served()
    words = become(request)
    code = program(cli, words) if words[0] == "-c" else cli.main(words)
    if request.get("hasty"):  # to free everything that was imported takes longer than most of what is asked for
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
