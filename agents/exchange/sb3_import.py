"""`stillsight import`: a run folder from a zip of Stable-Baselines3."""

from __future__ import annotations

import io
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.save_util import json_to_data
from torch import Tensor

from stillsight.agents.errors import CheckpointError, RunError
from stillsight.agents.exchange.exchange_config import ImportConfig
from stillsight.agents.exchange.sb3_export import facts
from stillsight.agents.exchange.sb3_zip import AGAIN, POLICY_FILE, bounded, content, extract, parsed, read_run
from stillsight.agents.playing.player import unlearned
from stillsight.agents.runs import checkpoint, schema
from stillsight.agents.runs.machine import machine
from stillsight.agents.runs.reader import IMPORTED, RUNS
from stillsight.agents.runs.records import plain
from stillsight.agents.runs.spaces import SPACES_FILE, Spaces
from stillsight.agents.runs.trust import Trust, flags, read_record, values_of
from stillsight.agents.training.config import RlConfig
from stillsight.agents.training.state.exploration import EXPLORATION
from stillsight.agents.training.state.finite import check_finite
from stillsight.agents.training.state.fit import check_learned
from stillsight.encoders.atomic import to_json, write_atomically
from stillsight.encoders.building import build
from stillsight.encoders.errors import EncoderError, MemoryShortError, as_typed, first_line, out_of_memory
from stillsight.encoders.mode import Mode
from stillsight.encoders.weights.file_hash import file_hash


def import_(path: Path, config: ImportConfig) -> Path:
    """Make a run folder of the zip at `path`, say what can be done with it, and return it.

    A zip as `export` wrote it is read without its pickles; one that stock SB3 has saved since then, or from the
    beginning, is unpickled, and only where it is trusted.

    Raises:
        RunError: no such zip, a damaged or oversized one, one that must be trusted and is not, a policy that a run
            folder cannot hold, or a folder that is there already.
    """
    folder = config.out or RUNS / path.stem
    if folder.exists():
        raise RunError(f"{folder} already exists, and nothing is written over it. Choose another: --out FOLDER.")
    with bounded(path) as archive:
        run = read_run(archive, path)
        kind = "stillsight export" if run is not None else "stable-baselines3"
        if run is None and not config.trust:
            raise RunError(
                f"{path} was saved by Stable-Baselines3, which keeps pickles in it, and unpickling runs whatever code "
                "its author put there. Nothing was unpickled. Type --trust if you made it, or trust whoever did."
            )
        try:
            with tempfile.TemporaryDirectory() as scratch:
                stored = Path(scratch) / "policy.safetensors"
                if run is None:
                    run, tree = _unpickled(archive, path)
                else:
                    with stored.open("wb") as file:
                        extract(archive, POLICY_FILE, path, file)
                    try:
                        tree = checkpoint.load(stored)
                    except CheckpointError as error:
                        told = str(error).replace(str(stored), f"{POLICY_FILE} in {path}")
                        raise CheckpointError(f"{told} {AGAIN}") from error
                    except MemoryShortError as error:
                        raise MemoryShortError(f"{POLICY_FILE} in {path}", error.reason) from error
            made = _checked(run, tree, path, Trust(all=config.trust))
            if kind != "stillsight export":
                _check_learned(run, made, tree, path)
            _write(folder, made, run["spaces"], tree, {"from": str(path), "sha256": file_hash(path), "kind": kind})
        except OSError as error:
            raise RunError(f"The run folder {folder} cannot be made ({error}). Choose another: --out.") from error
    print(f"{folder}: the policy of {path}. Play it: stillsight evaluate {as_typed(folder)}{flags(made)}")
    return folder


def _checked(run: schema.ExportRecord, tree: Mapping[str, Any], path: Path, trust: Trust) -> RlConfig:
    """The configuration of a run that came in the zip at `path`, as that of a run folder is checked where it is opened.

    Raises:
        RunError: it is none, asks for what nobody allowed, or is of another run than the policy `tree`.
        EncoderError: a number in it is out of range.
    """
    where = f"The run's record in {path}"
    if (command := run["config"].get("command")) != "rl":
        schema.refuse(where, f"its command is {command!a:.60}, and only runs of rl hold an agent", AGAIN)
    _, config = read_record(run["config"], where, AGAIN)
    assert isinstance(config, RlConfig)
    trust.check(values_of(config), where)
    config.check_ranges()
    Spaces.from_json(run["spaces"], where, AGAIN)
    held = path / POLICY_FILE
    check_finite(tree, held)
    checkpoint.facts(tree, schema.AgentFacts, held)
    differing = [name for name, value in facts(run).items() if tree.get(name, value) != value]
    if differing:
        schema.refuse(
            held, f"its {differing[0]} is {tree[differing[0]]!r:.60}, and the run's record says another", AGAIN
        )
    return replace(config, out=None, resume=None)


def _check_learned(run: schema.ExportRecord, config: RlConfig, tree: Mapping[str, Any], path: Path) -> None:
    """Refuse a policy that SB3 has saved and that an agent of the run could not take over.

    The agent is built with random weights: those of the run need not lie here, and sizes do not depend on them.

    Raises:
        CheckpointError: what does not fit.
    """
    mode = Mode.SCRATCH if config.mode.trained else Mode.RANDOM
    bare = replace(config, mode=mode, weights=None, device="cpu", engine="eager")
    try:
        model = unlearned(bare, build(bare), Spaces.from_json(run["spaces"]))
    except EncoderError:  # of somebody's own network that is none without its weights: whoever plays it is told
        return
    check_learned(model, tree, path)


def _write(
    folder: Path, config: RlConfig, spaces: Mapping[str, Any], tree: Mapping[str, Any], origin: Mapping[str, Any]
) -> None:
    """Write the run folder, all of it or nothing."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
    try:
        partial.chmod(0o755)
        write_atomically(partial / "config.json", to_json({"command": "rl", **plain(config)}, indent=2) + "\n")
        write_atomically(partial / SPACES_FILE, to_json(Spaces.from_json(spaces).to_json(), indent=2) + "\n")
        write_atomically(partial / "machine.json", to_json({"sessions": [machine()]}, indent=2) + "\n")
        write_atomically(partial / IMPORTED, to_json(dict(origin), indent=2) + "\n")
        checkpoint.save(partial / "checkpoints" / "best.safetensors", tree)
        (partial / "done").touch()
        os.rename(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _unpickled(archive: zipfile.ZipFile, path: Path) -> tuple[schema.ExportRecord, dict[str, Any]]:
    """The run's record and what the policy learned, from what SB3 itself saved: the one place that runs pickles.

    Raises:
        RunError: the zip cannot be read, or holds a policy that a run folder cannot hold.
    """
    print(f"stillsight: --trust: running the pickles in {path}.", file=sys.stderr)
    try:
        data = json_to_data(content(archive, "data", path).decode())
        policy = torch.load(io.BytesIO(content(archive, "policy.pth", path)), map_location="cpu", weights_only=True)
    except RunError:
        raise
    except Exception as error:  # whatever a pickle raises
        if out_of_memory(error):
            raise MemoryShortError(path, "memory has no room for what is in it") from error
        reason = first_line(error)
        raise RunError(
            f"{path} is damaged, or was saved by other versions of its packages ({reason}). Save it again with these."
        ) from error
    kwargs = data.get("policy_kwargs") or {}
    eyes = kwargs.get("features_extractor_kwargs") or {}
    if getattr(kwargs.get("features_extractor_class"), "__name__", "") != "PixelFeatures" or not eyes.get("run"):
        raise RunError(_objection(path, data))
    where = f"The run's record in {path}"
    run = parsed(str(eyes["run"]).encode(), where)
    run["step"] = schema.convert(data.get("num_timesteps", 0), schema.Step, where, AGAIN)
    explores = {name: data[name] for name in (EXPLORATION,) if name in data}
    return run, {"policy": _renamed(policy, path), **explores, **facts(run)}


def _renamed(policy: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """What a stock policy around `PixelFeatures` learned, under the names of the run's own policy.

    Raises:
        RunError: its actor has come to see with other eyes than its critic.
    """
    state = {name.replace("features_extractor.trained.", "features_extractor."): t for name, t in policy.items()}
    for actor, critic in (("actor.", "critic."), ("actor_target.", "critic_target.")):
        seen = f"{actor}features_extractor.learned."
        for name in [name for name in state if name.startswith(seen)]:
            leader = state.get(name.replace(actor, critic, 1))
            if leader is None or not torch.equal(state.pop(name), leader):
                raise RunError(
                    f"In {path} the actor sees with another encoder than the critic, or pools otherwise: plain SB3 "
                    "has trained two that drift apart, and in a run folder there is one for both. Train it on with "
                    "`stillsight rl` instead, or with a frozen encoder and a pooling that does not learn: these stay "
                    "one."
                )
    return state


def _objection(path: Path, data: Mapping[str, Any]) -> str:
    """Why a policy of stock SB3 cannot become a run folder, in words."""
    kwargs = data.get("policy_kwargs") or {}
    policy = getattr(data.get("policy_class"), "__name__", "policy")
    eyes = getattr(kwargs.get("features_extractor_class"), "__name__", "")
    shape = list(getattr(data.get("observation_space"), "shape", None) or [])
    images = len(shape) == 3 and getattr(data["observation_space"], "dtype", None) == "uint8"
    if not images:
        why = f"It sees {data.get('observation_space')}, and an agent of stillsight sees RGB images, uint8 [3, H, W]."
    elif eyes:
        why = f"It sees through a {eyes} of its own, of whose code nothing is known here."
    else:
        why = (
            "Its NatureCNN mixes the channels of all frames in its first convolution and ends in a plain linear layer; "
            "an agent of stillsight encodes each RGB frame for itself, and a LayerNorm stands before its head. No "
            "weights make the two equal."
        )
    return (
        f"The {policy} in {path} cannot be kept in a run folder. {why} Allowed are zips of `stillsight export`, before "
        "and after SB3 trained them on. Play this one with SB3; to compare it, train: stillsight rl --mode "
        "scratch --encoder nature."
    )
