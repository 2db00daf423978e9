"""A `module:function` that returns a `Backbone`: importing it, calling it, and what it tells of its network."""

from __future__ import annotations

import functools
import importlib
import inspect
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from stillsight.encoders.backbone import Backbone
from stillsight.encoders.errors import EncoderError, file_for_module, in_brackets, out_of_memory, say_once
from stillsight.encoders.zoo.contract.contract import check
from stillsight.encoders.zoo.contract.stages import probe, sides
from stillsight.encoders.zoo.encoder_spec import EncoderSpec

SPATIAL = 8
"""Reduction of the stage at which agents look by default: maps of an eighth of the image's side, as PIE-G (Yuan et al.
2022) reads a ResNet after layer2."""
GRID = 6
"""Largest grid that agents pool such a map to by default, as for the registry's own networks."""
TOKEN_GRID, TOKEN_SIDE = 4, 64
"""The same of tokens, and the side in pixels of images of which such a grid is to be had."""

_SIZES = "stillsight.encoders.zoo.smallest:sizes_of_theirs"  # which imports torch


def load(path: str) -> Callable[..., Any]:
    """Import `module:function`.

    Raises:
        EncoderError: the module cannot be imported, or has no such function.
    """
    module, _, name = path.partition(":")
    if slip := file_for_module(path, "--encoder"):
        raise EncoderError(slip)
    try:
        loaded = getattr(importlib.import_module(module), name)
    except (ImportError, ValueError, TypeError) as error:  # the last two: an empty or a relative module name
        raise EncoderError(
            f"The encoder {path!r} cannot be imported: {error}. Give --encoder module:function with a module of the "
            "current folder or an installed one. The current folder serves what is typed; a run folder or a SPEC.toml "
            f"that names it is opened with --trust {path}."
        ) from error
    except AttributeError as error:
        raise EncoderError(
            f"The module {module!r} has no function {name!r}. Give --encoder module:function."
        ) from error
    if not callable(loaded):
        raise EncoderError(f"{path} is {type(loaded).__name__}, not a function. Give --encoder module:function.")
    called: Callable[..., Any] = loaded
    return called


def takes_pretrained(path: str) -> bool:
    """Whether the function has an argument `pretrained`, by which it is told if its weights are wanted."""
    try:
        return "pretrained" in inspect.signature(load(path)).parameters
    except ValueError:  # a builtin without a signature
        return False


def call(path: str, arguments: Mapping[str, Any], *, pretrained: bool = False) -> Backbone:
    """Call the function of `path` and return its network.

    Args:
        path: `module:function`.
        arguments: of the function.
        pretrained: added to them where the function takes it.

    Raises:
        EncoderError: it cannot be imported, raises something, or returns something else.
    """
    told = {"pretrained": pretrained} if takes_pretrained(path) else {}
    function = load(path)
    if lacking := _lacking(function, {**arguments, **told}):
        raise EncoderError(
            f"{path} wants {lacking}, and is called without it. Give it a default, or type another: --encoder "
            "module:function."
        )
    try:
        returned = function(**arguments, **told)
    except EncoderError:
        raise
    except Exception as error:  # whatever a third party's function says
        if out_of_memory(error):
            raise
        raise EncoderError(f"{path} raised {in_brackets(error)}{_line(error, function)}. Mend what it met.") from error
    if not isinstance(returned, Backbone):
        raise EncoderError(
            f"{path} returned {type(returned).__name__}; it must return stillsight.encoders.Backbone(model, stages, "
            "...)."
        )
    return returned


def _line(error: BaseException, function: Callable[..., Any]) -> str:
    """Say where in the file of `function` an error came from, as ", in FILE, line N"; "" where it has no file."""
    try:
        file = inspect.getfile(function)
    except TypeError:
        return ""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f", in {file}, line {lines[-1]}" if lines else ""


def _lacking(function: Callable[..., Any], given: Mapping[str, Any]) -> str:
    """The arguments that a function needs and is not given, as they would be named; "" for none, or where nobody
    knows."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return ""
    needed = [
        one.name
        for one in parameters
        if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD) and one.name not in given
    ]
    return ", ".join(needed)


def describe(path: str) -> EncoderSpec:
    """The record of a third party's encoder: what its `Backbone` says, and for what it leaves open what is measured.

    Raises:
        EncoderError: see `call`; the default tap is none of the stages.
    """
    return _described(path, load(path))


@functools.cache
def _described(path: str, loaded: Callable[..., Any]) -> EncoderSpec:
    """See `describe`; a function is asked once, and another one under the same path again."""
    import torch

    del loaded

    with torch.random.fork_rng(devices=[]):
        backbone = call(path, {})
        check(path, backbone)
        measured = load(_SIZES)(backbone)
    brings_weights = backbone.pretrained or takes_pretrained(path)
    record = EncoderSpec(
        name=path,
        builder=path,
        stages=measured.least,
        tap=backbone.tap,
        pooling=backbone.pooling,
        control=backbone.control or _measured_control(path, backbone),
        weights=backbone.weights or ("function" if brings_weights else None),
        licence=backbone.licence,
        own=True,
        multiple=measured.multiple,
        fixed=measured.fixed,
    )
    record.check_tap(record.tap)
    record.check_tap(record.control[0])
    return record


def _measured_control(path: str, backbone: Backbone) -> tuple[str, str]:
    """See `control`; where nothing can be measured, that is said."""
    measured = control(backbone)
    if measured is None:
        tried = " or ".join(map(str, sides(backbone)))
        say_once(
            f"no image of {tried} px passes through all stages of {path}, so where agents should look is not measured: "
            f"they take its author's --tap {backbone.tap} --pooling {backbone.pooling}, or what you type. "
            "Backbone(control=(TAP, POOLING)) says it for good."
        )
    return measured or (backbone.tap, backbone.pooling)


def control(backbone: Backbone) -> tuple[str, str] | None:
    """Tap and pooling for agents: the last stage that keeps places an eighth of the image apart, on a grid; of tokens,
    whose places stay as they are, the middle one of those that have as many. None where no image gets through."""
    probed = probe(backbone)
    if probed is None:
        return None
    side, outputs = probed
    spatial = {
        stage: output.shape[2]
        for stage, output in outputs.items()
        if output.dim() == 4 and output.shape[2] == output.shape[3] and output.shape[2] * SPATIAL >= side
    }
    if spatial:
        stage = list(spatial)[-1]
        return stage, f"grid{min(GRID, spatial[stage])}"
    tokens = {stage: output.shape[1] - backbone.class_tokens for stage, output in outputs.items() if output.dim() == 3}
    places = next(iter(tokens.values()), 0)
    alike = [stage for stage, count in tokens.items() if count == places]
    if places < 4 or round(places**0.5) ** 2 != places:
        return backbone.tap, backbone.pooling
    rows = round(places**0.5) * TOKEN_SIDE // side
    return alike[(len(alike) - 2) // 2], f"grid{max(1, min(TOKEN_GRID, rows))}"
