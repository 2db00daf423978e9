"""Cells on a real Ray cluster of this machine, with a node that is lost in the middle."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stillsight.agents.benchmark.command import missing
from stillsight.agents.benchmark.grid.cell import Cell
from stillsight.agents.benchmark.grid.parse import parse_spec
from stillsight.agents.benchmark.running.ray_cluster import run_ray
from stillsight.agents.benchmark.running.results import Results
from stillsight.agents.errors import RunError

ray = pytest.importorskip("ray")

GRID = """
seeds = 3
episodes = 1
controls = []
[rl]
steps = 64
n_envs = 2
eval_every = 0
eval_episodes = 1
standardise = 8
head = 8
max_episode_steps = 20
set = ["n_steps=16", "batch_size=16", "n_epochs=1"]
[[task]]
env = "stillsight/Orchard-v0"
[[encoder]]
encoder = "retina"
taps = ["stem"]
"""


class Counted(Results):
    """Results that remember what was written."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.written: list[str] = []

    def write(self, cell: Cell) -> None:
        self.written.append(cell.key)
        super().write(cell)


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head without CPUs, and two nodes of one CPU each, which die when they are told to."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_health_check_period_ms", "200")
    monkeypatch.setenv("RAY_health_check_failure_threshold", "2")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    found = [cluster.add_node(num_cpus=1) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False)
    yield found
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.slow
def test_the_cells_of_a_lost_node_run_again_and_every_cell_ends_once(tmp_path: Path, nodes: Any) -> None:
    first, _ = nodes
    results = Counted(tmp_path)
    cells = missing(parse_spec(GRID), results)
    assert len(cells) == 3
    ended = run_ray(cells, results, tmp_path / "runs")
    lost = _kill_when_busy(tmp_path, first)
    done = list(ended)
    assert lost.wait() == 0  # it was killed while it worked
    assert sorted(results.written) == sorted(cell.key for cell in cells)
    assert [cell.error for cell in done] == [None] * 3
    assert len([node for node in ray.nodes() if node["Alive"]]) == 2  # the head and the node that is left


def _kill_when_busy(folder: Path, node: Any) -> subprocess.Popen[bytes]:
    """Kill a node, its workers with it, as soon as two cells are being trained, from a process of its own."""
    (raylet,) = (one.process.pid for one in node.all_processes["raylet"])
    program = f"""
import os, pathlib, signal, sys, time
runs = pathlib.Path({str(folder / "runs")!r})
until = time.monotonic() + 200
while len(list(runs.glob("*/config.json"))) < 2:
    if time.monotonic() > until:
        sys.exit(1)
    time.sleep(0.02)
children = [
    int(path.name) for path in pathlib.Path("/proc").glob("[0-9]*")
    if (path / "stat").exists() and (path / "stat").read_text().rpartition(")")[2].split()[1] == "{raylet}"
]
for process in [{raylet}, *children]:
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        pass
"""
    return subprocess.Popen([sys.executable, "-c", program])


@pytest.mark.usefixtures("nodes")
def test_a_cell_that_fails_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    results = Counted(tmp_path)
    good, bad, *_ = missing(parse_spec(GRID), results)
    work = bad.planned_work()
    bad = replace(bad, work=replace(work, config=replace(work.config, env="stillsight/Orchid-v0")))
    ended = {cell.key: cell for cell in run_ray([good, bad], results, tmp_path / "runs", count=1)}
    assert (ended[good.key].state, ended[good.key].error) == ("done", None)
    assert ended[bad.key].state == "failed"
    assert "No environment is called 'stillsight/Orchid-v0'" in str(ended[bad.key].error)


def test_without_ray_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RunError, match=r'pip install "stillsight\[ray\]"'):
        list(run_ray([], Results(tmp_path), tmp_path))


def test_an_address_where_no_cluster_is(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"No Ray cluster answers at 127\.0\.0\.1:1"):
        list(run_ray([], Results(tmp_path), tmp_path, "127.0.0.1:1"))
