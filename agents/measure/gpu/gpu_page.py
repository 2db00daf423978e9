"""gpu.md: what the JSON files of a folder say, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from stillsight.agents.measure.encoder_speed import speed_cells

INDEX = "gpu.json"
"""The file that says what ran where, how each part ended, and in which file its numbers are."""

TITLES = {
    "tests": "Tests that need a GPU",
    "ppo": "PPO beside stock Stable-Baselines3 and the floor",
    "sac": "SAC beside stock Stable-Baselines3 and the floor",
    "dqn": "DQN beside stock Stable-Baselines3 and the floor",
    "encoders": "Encoders alone, images/s",
    "cifar-finetune": "Training a classifier beside a plain loop",
    "cifar-frozen": "Heads on frozen features beside a plain loop",
}
"""Part -> heading."""


def render(folder: Path) -> str:
    """The page of a folder that `stillsight gpu` has written, in Markdown."""
    index: dict[str, Any] = json.loads((folder / INDEX).read_text())
    return "\n".join(_lines(folder, index)).rstrip() + "\n"


def _lines(folder: Path, index: dict[str, Any]) -> Iterator[str]:
    machine = index["machine"]
    yield "# On a GPU\n"
    if index["small"]:
        yield "**Made with --small, a moment of each part to see whether it works: no number here is a measurement.**\n"
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    yield f"    {machine['command']}\n"
    yield f"{index['driver'] or ', '.join(machine['gpus']) or 'no GPU'}; {machine['cores']} cores of {machine['cpu']}."
    yield f"Python {machine['python']}, {versions}. Commit {machine['commit'] or 'unknown'}. {machine['date']}."
    yield f"{index.get('took', 0):.0f} s of {index['seconds']:.0f}.\n"
    rows = [
        [
            TITLES[name],
            part["said"],
            f"{part['seconds']:.0f} of {part['limit']:.0f} s",
            f"[{part['file']}]({part['file']})",
        ]
        for name, part in index["parts"].items()
    ]
    yield from _table(["part", "how it ended", "time", "numbers"], rows)
    for name, part in index["parts"].items():
        yield f"\n## {TITLES[name]}\n"
        result = json.loads((folder / part["file"]).read_text()).get(name) or {}
        if part["state"] != "done":
            yield f"**{part['said']}**\n"
        if result:
            yield from {"tests": _tests, "encoders": _encoders}.get(name, _cifar if "cifar" in name else _run)(result)
        else:
            yield "Nothing was measured."


def _tests(result: dict[str, Any]) -> Iterator[str]:
    yield ", ".join(f"{result[key]} {key}" for key in ("passed", "failed", "error", "skipped")) + ".\n"
    rows = [[row["test"], row["outcome"], f"{row['seconds']:.1f}", row["sentence"]] for row in result["tests"]]
    yield from _table(["test", "outcome", "s", ""], rows)


def _run(result: dict[str, Any]) -> Iterator[str]:
    run = result["run"]
    yield (
        f"{run['env']}, {run['encoder']} to {run['tap']}, {run['pooling']}, "
        f"{run['frame_stack'] or 'the preset number of'} frames in a stack."
    )
    arms = result.get("arms")
    if arms is None:  # it was stopped before its end: the rates of the rounds until then
        rows = [[name, _spread([row["env_steps_per_s"] for row in rows])] for name, rows in result["measured"].items()]
        yield "\n" + "\n".join(_table(["arm", "env steps/s, median (least .. most), rounds"], rows))
        return
    yield f"{result['seconds']:g} s a round, in turns; weights are random, which costs the same.\n"
    images = "images_encoded_per_env_step"
    rows = [
        [
            name,
            _spread([row["env_steps_per_s"] for row in arm["rounds"]]),
            f"{arm[images]:,.2f}" if images in arm else "",
            f"{arm['peak_memory_bytes'] / 1e6:,.0f} MB" if "peak_memory_bytes" in arm else "",
            arm.get("engine", ""),
        ]
        for name, arm in arms.items()
    ]
    head = ["arm", "env steps/s, median (least .. most), rounds", "images / step", "peak memory", "engine"]
    yield from _table(head, rows)
    for name, ratio in result["ratios"].items():
        yield f"\n**{name}: {ratio['median']:.3g}** ({ratio['least']:.3g} .. {ratio['most']:.3g})"
    for name, why in result["broken"].items():
        yield f"\n{name}: {why}"


def _encoders(result: dict[str, Any]) -> Iterator[str]:
    yield (
        f"Images are {result['images']}; weights are {result['weights']}; TF32 {'on' if result['tf32'] else 'off'}; "
        f"up to {result['rounds']} rounds of {result['seconds']:g} s, in turns within each block of the table.\n"
    )
    reached = [row for row in result["arms"] if "refused" in row or "images_per_s" in row]
    cells, notes = speed_cells(reached)
    yield from _table(["encoder", "tap", "px", "precision", "engine", "batch", "images/s", "least .. most"], cells)
    for number, sentence in enumerate(notes, 1):
        yield f"\n({number}) {sentence}"


def _cifar(result: dict[str, Any]) -> Iterator[str]:
    config = result["config"]
    arms = {name: arm["rounds"] for name, arm in result["arms"].items()} if "arms" in result else result["measured"]
    trained = config["mode"] in ("finetune", "scratch")
    side = config["resolution"] or config["side"]
    yield f"{config['encoder']} at {side} px, batches of {config['batch']}; images are"
    yield f"{result['images']}; " + (
        "all weights are trained, from random ones, which costs the same as from pretrained ones."
        if trained
        else f"{config['images']:,} images; plain: {config['epochs']} epochs. Weights are random, which costs the same."
    )
    unit = "images/s" if trained else "seconds"
    yield ""
    yield from _table(["arm", f"{unit}, median (least .. most), rounds"], [[n, _spread(v)] for n, v in arms.items()])
    for name, ratio in result.get("ratios", {}).items():
        yield f"\n{name}: {ratio['median']:.3g} ({ratio['least']:.3g} .. {ratio['most']:.3g})"


def _spread(values: Sequence[float]) -> str:
    """Median, range and number."""
    if not values:
        return "-"
    ordered = sorted(values)
    middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    return f"{middle:,.4g} ({ordered[0]:,.4g} .. {ordered[-1]:,.4g}), {len(ordered)}"


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    for row in (heading, ["---"] * len(heading), *rows):
        yield "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |"
