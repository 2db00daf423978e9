"""Fitting weights to a network: found in their file wherever they lie, checked one by one before any is copied."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stillsight.encoders.backbone import Backbone
from stillsight.encoders.encoder import up_to
from stillsight.encoders.errors import EncoderError
from stillsight.encoders.weights import packages
from stillsight.encoders.weights.former_names import names_today, renamed
from stillsight.encoders.weights.weights_file import state_dicts

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""What floating-point parameters may be filled from. Narrower formats need scales, which no state_dict has."""

MATCHED = "its tensors matched in their order"
"""What is said of weights whose names are others than the network's."""

_NUMBERED = re.compile(r"(.+[._])\d+", re.ASCII)
"""The path of a layer that has only a number, or a number behind a word and a line; what stands before the number."""

FORMER = "its layers under their former names"
"""What is said of weights whose names the network had before."""


class _State(NamedTuple):
    """A dict of tensors in a file.

    Attributes:
        wrapper: the keys that lead to it, "" for the file's own top.
        tensors: by name; by today's, where the file has one that the network had before.
        how: what is said of these.
    """

    wrapper: str
    tensors: Mapping[str, Tensor]
    how: str


@dataclass(frozen=True)
class Place:
    """Where in a file the weights of a network were found.

    Attributes:
        wrapper: the keys that lead to the state_dict, "" for the file's own top.
        prefix: what stands before each official name.
        state: the tensors there, under the names that the file gives them, or today's for those.
        how: by what else than their names they were found.
    """

    wrapper: str
    prefix: str
    state: Mapping[str, Tensor]
    how: str = ""

    def __str__(self) -> str:
        said = [f"under {self.wrapper}"] if self.wrapper else []
        said += [f"without the prefix {self.prefix}"] if self.prefix else []
        return ", ".join([*said, *([self.how] if self.how else [])])


def load_into(
    backbone: Backbone, content: Mapping[str, Any], source: str, tap: str, name: str, *, by_order: bool = False
) -> str:
    """Copy weights into `backbone`, up to `tap`; heads and what lies behind the tap may be missing, or be in the file.

    Args:
        backbone: whose parameters and buffers are filled in place.
        content: what a file holds, see `weights_file.read`.
        source: what the file is called in messages.
        tap: last stage that will run.
        name: what the network is called in messages.
        by_order: where the file does not have the network's names, match its tensors in their order, see
            `packages.in_order`.

    Returns:
        Where in the file the weights were, in words; "" if they were what it holds, under their official names.

    Raises:
        EncoderError: tensors are missing, of other shapes or of another type, or not finite; the file holds layers that
            the network lacks; or its weights lie in none or in several places. Nothing was copied.
    """
    needed = _needed(backbone, tap, name)
    known = backbone.model.state_dict()
    states = _states(content, known)
    places = _places(needed, states, known)
    if not places and by_order:
        wrapper, state = next(state_dicts(content))
        matched = packages.in_order(state, backbone.model.state_dict(keep_vars=True), source, name)
        places = [Place(wrapper, "", matched, MATCHED)]
    if not places:
        raise _missing(backbone, needed, states, content, source, tap, name)
    if len(places) > 1 and not _alike(places, needed):
        raise EncoderError(
            f"{source} holds weights of {name} in {len(places)} places ({'; '.join(map(_where, places))}), and they "
            "differ. Save one of them alone: torch.save(state_dict, FILE)."
        )
    place = places[0]
    once = _once(needed, place.state.keys(), place.prefix)
    chosen = {key: place.state[place.prefix + key] for key in once if place.prefix + key in place.state}
    _check_layers(backbone, place, source, tap, name)
    _check_tensors(chosen, needed, source, name)
    _fill(backbone, chosen, source, name)
    return str(place)


def _fill(backbone: Backbone, chosen: Mapping[str, Tensor], source: str, name: str) -> None:
    """Let the network's own load_state_dict take the weights, and what it has of the others, so that its author's hooks
    run: they may compute something from what was loaded.

    Raises:
        EncoderError: it raises.
    """
    state = backbone.model.state_dict()  # with the versions of its layers, by which some read older files
    state.update(chosen)
    try:
        backbone.model.load_state_dict(state, strict=True)
    except Exception as error:  # whatever an author's hooks say
        said = (str(error).strip().splitlines() or [""])[-1].strip()[:200]
        raise EncoderError(
            f"load_state_dict of {name} does not take the weights in {source} ({type(error).__name__}: {said}). Let it "
            "take what its own state_dict() gives."
        ) from error


def _where(place: Place) -> str:
    return str(place) or "at its top"


def _needed(backbone: Backbone, tap: str, name: str) -> dict[str, Tensor]:
    """Parameters and buffers of the stages up to `tap`, under their official names."""
    kept = {id(t) for stage in up_to(backbone, tap, name).values() for t in stage.state_dict(keep_vars=True).values()}
    return {key: tensor for key, tensor in backbone.model.state_dict(keep_vars=True).items() if id(tensor) in kept}


def _once(needed: Mapping[str, Tensor], names: Collection[str], prefix: str = "") -> dict[str, Tensor]:
    """`needed` with one name for each tensor: where layers are shared, the one that the file has."""
    chosen: dict[int, str] = {}
    for key, tensor in needed.items():
        if id(tensor) not in chosen or prefix + chosen[id(tensor)] not in names:
            chosen[id(tensor)] = key
    return {key: needed[key] for key in needed if chosen[id(needed[key])] == key}


def _optional(key: str) -> bool:
    # Files from before torch 0.4.1 lack this counter, which does nothing in eval mode.
    return key.endswith("num_batches_tracked")


def _states(content: Mapping[str, Any], known: Collection[str]) -> list[_State]:
    """Every dict of tensors in what a file holds, with today's names.

    Args:
        content: of the file.
        known: all names of the network.
    """
    names = names_today(known)
    states = []
    for wrapper, tensors in state_dicts(content):
        today = renamed(tensors, names)
        states.append(_State(wrapper, today, "" if today.keys() == tensors.keys() else FORMER))
    return states


def _places(needed: Mapping[str, Tensor], states: Iterable[_State], known: Collection[str]) -> list[Place]:
    """Every place where all needed names exist under one prefix.

    Not those inside another one: of a ResNet's first layers, conv1 and bn1, each of its blocks has some of that name.

    Args:
        needed: by official name.
        states: of the file, see `_states`.
        known: all names of the network.
    """
    ends = [key for key in needed if not _optional(key)]
    if not ends:
        return [Place("", "", {})]
    places = []
    for wrapper, state, how in states:
        same = [key for key in ends if needed[key] is needed[ends[0]]]  # the first tensor, under all of its names
        prefixes = {
            key.removesuffix(end): None for end in same for key in state if key == end or key.endswith(f".{end}")
        }
        whole = [
            prefix
            for prefix in prefixes
            if all(prefix + key in state for key in _once(needed, state.keys(), prefix) if not _optional(key))
        ]
        places += [
            Place(wrapper, prefix, state, how)
            for prefix in whole
            if not any(prefix != outer and _inside(prefix, outer, known) for outer in whole)
        ]
    return places


def _inside(prefix: str, outer: str, known: Collection[str]) -> bool:
    """Whether what begins with `prefix` is a layer of the network that begins with `outer`."""
    layer = prefix.removeprefix(outer)
    return prefix.startswith(outer) and any(key.startswith(layer) for key in known)


def _alike(places: Sequence[Place], needed: Mapping[str, Tensor]) -> bool:
    """Whether all places hold the same weights."""
    first, *others = places
    return all(
        _equal(first.state[first.prefix + key], other.state[other.prefix + key])
        for other in others
        for key in needed
        if first.prefix + key in first.state and other.prefix + key in other.state
    )


def _equal(one: Tensor, other: Tensor) -> bool:
    return (
        one.dtype == other.dtype and one.shape == other.shape and one.layout == other.layout and torch.equal(one, other)
    )


def _missing(
    backbone: Backbone,
    needed: Mapping[str, Tensor],
    states: Iterable[_State],
    content: Mapping[str, Any],
    source: str,
    tap: str,
    name: str,
) -> EncoderError:
    """The sentence about weights that are not there, by the place that holds most of them."""
    best: tuple[list[str], str] | None = None
    for wrapper, state, how in states:
        first = next(iter(needed))
        prefixes = {key.removesuffix(first) for key in state if key.endswith(f".{first}")}
        # One that a few names have by chance is none: retina's layer2.conv1.weight ends like resnet18's conv1.weight.
        common = [prefix for prefix in prefixes if 2 * sum(key.startswith(prefix) for key in state) > len(state)]
        for prefix in ("", *common):
            missing = [key for key in needed if prefix + key not in state and not _optional(key)]
            if best is None or len(missing) < len(best[0]):
                best = missing, str(Place(wrapper, prefix, state, how))
    missing, where = best or (list(needed), "")
    reach = _reach(backbone, missing)
    if reach:
        advice = f"They are complete up to {reach}: type --tap {reach}."
    else:
        top = dict.fromkeys(str(key).split(".")[0] for key in content)
        advice = f"Are they weights of {name}? The file holds {some(top, 6)}."
    told = f"{source}, {where}," if where else source
    return EncoderError(f"The weights in {told} lack {some(missing)}, which {name} needs to reach {tap}. {advice}")


def _reach(backbone: Backbone, missing: Iterable[str]) -> str | None:
    """The last of the stages before the first that lacks something."""
    named = backbone.model.state_dict(keep_vars=True)
    lacking = {id(named[key]) for key in missing}
    last = None
    for stage, module in backbone.stages.items():
        if any(id(tensor) in lacking for tensor in module.state_dict(keep_vars=True).values()):
            break
        last = stage
    return last


def _check_layers(backbone: Backbone, place: Place, source: str, tap: str, name: str) -> None:
    """Refuse weights of a deeper network: its file holds layers inside the stages up to the tap that this one lacks."""
    inside = {id(module) for stage in up_to(backbone, tap, name).values() for module in stage.modules()}
    roots: list[str] = []
    for path, module in backbone.model.named_modules():
        if id(module) in inside and not any(path.startswith(f"{root}.") for root in roots):
            roots.append(path)
    # Numbered layers that follow each other belong together: blocks.12 is of no transformer of 12, and neither is
    # encoder_layer_12. Names such as layer4 are left out: there are networks that end with layer3 of a longer one.
    rows = {found[1] for root in roots if (found := _NUMBERED.fullmatch(root)) is not None}
    known = set(backbone.model.state_dict())
    numbers = {layer for row in rows for key in known if (layer := _layer(key, row))}
    given = [key.removeprefix(place.prefix) for key in place.state if key.startswith(place.prefix)]
    strange = [
        key
        for key in given
        if (key not in known and any(key.startswith(f"{root}.") for root in roots))
        or any((layer := _layer(key, row)) and layer not in numbers for row in rows)
    ]
    if strange:
        raise EncoderError(
            f"The weights in {source} are of another network than {name}, which has no {some(strange)}. Give the "
            f"weights of {name} with --weights FILE, or another --encoder."
        )


def _layer(key: str, row: str) -> str:
    """Of blocks.12.norm1.weight in the row blocks., blocks.12; of layer_12.norm1.weight in the row layer_, layer_12;
    "" of what is in no such layer."""
    if not key.startswith(row):
        return ""
    number = key.removeprefix(row).partition(".")[0]
    return row + number if row.endswith(".") or number.isdigit() else ""


def _check_tensors(chosen: Mapping[str, Tensor], needed: Mapping[str, Tensor], source: str, name: str) -> None:
    """Refuse shapes, types and values that do not fit, in an order in which nothing large is made on the way."""
    wrong = [key for key, tensor in chosen.items() if tensor.shape != needed[key].shape]
    if wrong:
        key = wrong[0]
        raise EncoderError(
            f"The weights in {source} do not fit {name}: {some(wrong)} has shape {tuple(chosen[key].shape)}, and "
            f"{name} needs {tuple(needed[key].shape)}. Give the weights of {name} with --weights FILE, or another "
            "--encoder."
        )
    for key, tensor in chosen.items():
        floating = needed[key].is_floating_point()
        if tensor.is_meta:
            raise EncoderError(f"{key} in {source} has no values. Save weights that lie on a device.")
        if tensor.layout != torch.strided or tensor.is_quantized or floating != (tensor.dtype in FLOATS):
            kind = str(tensor.dtype).removeprefix("torch.") if tensor.layout == torch.strided else "sparse"
            wanted = "floating-point numbers" if floating else "integers"
            raise EncoderError(
                f"{key} in {source} is {kind}, and {name} needs {wanted}. "
                "Quantised weights must be multiplied by their scales first; save them as float32."
            )
    check_values(chosen, needed, f"{source} is damaged:")


def check_values(tensors: Mapping[str, Tensor], needed: Mapping[str, Tensor], told: str) -> None:
    """Refuse weights with values that are none, in the types in which they are kept.

    Args:
        tensors: by their names.
        needed: what they become, by the same names.
        told: how the sentence begins that says which.

    Raises:
        EncoderError: values that are not finite, or variances below 0.
    """
    floats = {key: tensor for key, tensor in tensors.items() if tensor.is_floating_point()}
    if broken := [key for key, tensor in floats.items() if not tensor.to(needed[key].dtype).isfinite().all()]:
        raise EncoderError(f"{told} {some(broken)} holds values that are not finite. Get the file again.")
    if negative := [key for key, tensor in floats.items() if key.endswith("running_var") and (tensor < 0).any()]:
        raise EncoderError(f"{told} {some(negative)} holds variances below 0. Get the file again.")


def some(names: Iterable[str], most: int = 2) -> str:
    """The first names, and how many more there are."""
    listed = list(names)
    rest = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + rest
