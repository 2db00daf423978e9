"""Arms: what a benchmark compares, each encoder at its taps with the controls without which that would say little."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stillsight.agents.benchmark.grid.cell import FINETUNED, ROLES, Track
from stillsight.agents.benchmark.grid.keys import ARM_KEYS, ENCODER_KEYS, check_names
from stillsight.agents.errors import RunError
from stillsight.agents.training import algorithms
from stillsight.encoders.taps.tap import stages_of
from stillsight.encoders.zoo.registry import ENCODERS, spec

CONTROLS = ROLES[1:]
"""The controls by name. random: the same network with random weights, frozen. scratch: a network trained from random
weights; for agents that of Mnih et al. 2015. finetune: pretrained and trained as a whole. unfreeze: pretrained, only
its last stage trained. warm-start: finetune that begins from the head fitted to frozen features (data sets only)."""
RATES = (0.03, 0.3)
"""Rates of an encoder that is trained on from pretrained weights, as multiples of the head's, tuned over by default."""


@dataclass(frozen=True)
class ArmSpec:
    """One thing that is compared with others.

    Attributes:
        name: as tables show it.
        role: one of `ROLES`.
        flags: of the command.
        rates: of the encoder, as multiples of the head's; several are tuned over.
        chosen: those of the flags that no table gives and the grid does.
        table: the [[encoder]] or [[arm]] that asks for it; empty of one that the grid adds for all.
    """

    name: str
    role: str
    flags: Mapping[str, Any] = field(default_factory=dict)
    rates: tuple[float, ...] = ()
    chosen: tuple[str, ...] = ()
    table: Mapping[str, Any] = field(default_factory=dict, repr=False)


def arms(record: Mapping[str, Any], track: Track, algo: str, size: int | None) -> list[ArmSpec]:
    """The arms that SPEC.toml asks for in one task.

    Args:
        record: the parsed file: `encoder` and `arm` tables, `controls`, `rates`.
        track: rl or cifar.
        algo: of the agent.
        size: side of the images in pixels, if known.

    Raises:
        RunError, EncoderError: unknown names; nothing to compare.
    """
    controls = _controls(record, CONTROLS)
    rates = tuple(float(rate) for rate in record.get("rates", RATES))
    compared: list[ArmSpec] = []
    for row in record.get("encoder", ()):
        if row.get("track", track) == track:
            compared += _of_encoder(row, track, _controls(row, controls), rates)
    asked = {control for row in record.get("encoder", ()) for control in _controls(row, ())}
    if track == "rl" and "scratch" in {*controls, *asked}:
        compared.append(_scratch(algo, size))
    compared += [_explicit(row) for row in record.get("arm", ()) if row.get("track", track) == track]
    if not compared:
        raise RunError(f'SPEC.toml has nothing to compare on the {track} track. Add: [[encoder]] encoder = "retina"')
    if len({arm.name for arm in compared}) != len(compared):
        raise RunError("Two arms have the same name. Give one of them another: name = ...")
    return compared


def _controls(record: Mapping[str, Any], default: Sequence[str]) -> tuple[str, ...]:
    controls = tuple(record.get("controls", default))
    check_names("control", controls, CONTROLS, "Controls are", "controls =")
    return controls


def _of_encoder(row: Mapping[str, Any], track: str, controls: Sequence[str], rates: tuple[float, ...]) -> list[ArmSpec]:
    if "encoder" not in row:
        raise RunError('An [[encoder]] has no name. Add, say: encoder = "retina"')
    name = str(row["encoder"])
    known = spec(name)
    first = None if known is None else known.tap if track == "cifar" else known.control[0]
    taps = list(row.get("taps", (first,)))
    if not taps:
        raise RunError("An [[encoder]] has taps = [], and no arm. Name a stage, or drop taps for the encoder's own.")
    base = {key: value for key, value in row.items() if key not in (*ENCODER_KEYS, "unfreeze")}
    placed: dict[str, Any] = {}
    if track == "rl" and "pooling" not in base and known is not None:  # as `stillsight rl` has it without a tap
        placed["pooling"] = known.control[1]
    label = str(row.get("label", name))

    def arm(role: str, tap: str | None, suffix: str, **flags: Any) -> ArmSpec:
        shown = " ".join(part for part in (label, tap if "taps" in row else None, suffix) if part)
        own = placed | ({"tap": tap} if tap else {}) | flags
        # Weights that are given for all arms are no others for those that start from random ones.
        chosen = tuple(name for name in own if name not in ("weights", "unfreeze"))
        return ArmSpec(shown, role, base | own, rates if role in FINETUNED else (), chosen, row)

    compared = [arm("frozen", tap, "frozen", mode="frozen") for tap in taps]
    tap = taps[0]
    bare = {"mode": "random", "weights": None}
    last = row.get("unfreeze", None if tap is None else stages_of(tap)[-1])
    if "random" in controls:  # one for each frozen arm: what random weights do at another tap says nothing of this one
        compared += [arm("random", each, "random", **bare) for each in taps]
    if "scratch" in controls and track == "cifar":
        compared.append(arm("scratch", tap, "scratch", **(bare | {"mode": "scratch"})))
    if "finetune" in controls:
        compared.append(arm("finetune", tap, "finetuned", mode="finetune"))
    if "unfreeze" in controls and last is not None:
        compared.append(arm("unfreeze", tap, f"unfrozen from {last}", mode="finetune", unfreeze=last))
    if "warm-start" in controls and track == "cifar":
        compared.append(arm("warm-start", tap, "probed, then finetuned", mode="finetune", warm_start=True))
    return compared


def _scratch(algo: str, size: int | None) -> ArmSpec:
    """The small network that agents are usually trained with, with random shifts where the algorithm allows them."""
    name = "nature" if size is None or size >= ENCODERS["nature"].stages["conv3"] else "impala"
    row = ENCODERS[name]
    flags: dict[str, Any] = {"encoder": name, "mode": "scratch", "tap": row.control[0], "pooling": row.control[1]}
    augmented = algorithms.spec(algo).off_policy
    if augmented:
        flags["augment"] = "shift"
    return ArmSpec(f"{name} scratch" + (", random shifts" if augmented else ""), "scratch", flags, chosen=tuple(flags))


def _explicit(row: Mapping[str, Any]) -> ArmSpec:
    if not {"name", "role"} <= set(row):
        raise RunError(f"An [[arm]] needs name and role, one of {', '.join(ROLES)}; this one has {sorted(row)}.")
    check_names("role", [str(row["role"])], ROLES, "Roles are", "role =")
    flags = {key: value for key, value in row.items() if key not in ARM_KEYS}
    rates = tuple(float(rate) for rate in row.get("rates", ()))
    return ArmSpec(str(row["name"]), str(row["role"]), flags, rates, table=row)
