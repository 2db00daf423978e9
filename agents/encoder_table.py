"""`stillsight list encoders`: the encoders there are, what they cost, and where their weights are on this machine."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from stillsight import encoders
from stillsight.agents.columns import Columns
from stillsight.agents.errors import RunError
from stillsight.agents.runs.trust import import_from_here
from stillsight.encoders.errors import EncoderError, printable, say_once
from stillsight.encoders.taps.tap import poolings
from stillsight.encoders.weights import licences
from stillsight.encoders.weights.published import Place, Source, locate, missing_folder, source_of
from stillsight.encoders.zoo.encoder_spec import EncoderSpec
from stillsight.encoders.zoo.registry import ENCODERS, installed, matching, passed_over, spec

WIDTH = 100
"""Characters of a line, where the output is no terminal; facts about one encoder are broken there in any case."""
HERE = "here"
"""Word of a filter that stands for encoders whose weights are on this machine."""
MOST_MEASURED = 40
"""Encoders that are built to be counted at a time; each takes some tenths of a second."""

NUMBERS = ("stages", "dims", "px", "M params", "MFLOPs", "reduction", "smallest px")
"""Columns of numbers."""
SPARE = ("family", "stages", "licence", "px", "in cifar")
"""Columns that are left out where there is no room, the first one first; of one encoder all is shown."""

EXPLAINED = (
    "MFLOPs: millions of multiply-adds (a multiplication and its addition count once) of convolutions, matrix products "
    "and attention, for one image, up to that stage."
)


@dataclass(frozen=True)
class Shown:
    """What is printed: a table, and sentences before and after it."""

    table: Columns
    before: str = ""
    after: str = ""


def show_encoders(words: Sequence[str] = (), resolution: int | None = None, *, accept: bool = False) -> Shown:
    """The list of encoders, of those that match `words`, or all that is known of one.

    Args:
        words: the name of an encoder, or what `chosen` takes; none for the registry.
        resolution: side in pixels at which costs are counted; each network's own by default.
        accept: the user accepts the licence of the weights of the one that `words` names.

    Raises:
        RunError: a flag has no effect, or no encoder matches all words.
        EncoderError: nothing matches, with the nearest name; images of this size do not fit the one that is shown.
    """
    if told := missing_folder():
        say_once(told)
    if not words:
        if resolution is not None or accept:
            flag = "--accept-license" if accept else f"--resolution {resolution}"
            raise RunError(
                f"{flag} is for encoders that are named. Type, say: stillsight list encoders resnet18 {flag}"
            )
        return Shown(_overview(list(ENCODERS.values())), after=_others() + OVERVIEW)
    import_from_here(list(words))
    names = chosen(words)
    typed = " ".join(words)
    if accept and len(names) > 1:
        raise RunError(
            f"--accept-license is for one encoder, and {len(names)} match {typed!r}. Type, say: stillsight list "
            f"encoders {names[0]} --accept-license"
        )
    if len(names) > MOST_MEASURED and not all(name in ENCODERS for name in names):  # each would have to be built
        table = _table("encoder")
        for name in names:
            table.add(name)
        return Shown(table, after=_too_many(len(names), typed))
    rows = [spec(name) for name in names]
    if len(rows) == 1:
        return _details(rows[0], resolution, accept)
    if len(rows) > MOST_MEASURED:
        return Shown(_overview(rows), after=_too_many(len(rows), typed))
    return Shown(_costs(rows, resolution), after=EXPLAINED.replace("that stage", "the tap of cifar"))


def chosen(words: Sequence[str]) -> list[str]:
    """The encoders that have every one of `words` in their name, family, summary or licence; `HERE` among them stands
    for weights on this machine. torchvision's, timm's and somebody's own are found by one word, their name.

    Raises:
        RunError: none has them all.
        EncoderError: the one word names none, with the nearest name.
    """
    if len(words) == 1 and words[0] != HERE:
        licensed = [name for name, row in ENCODERS.items() if words[0].lower() in _licence_name(row).lower()]
        found = matching(words[0])
        if words[0] in (*ENCODERS, *installed()) or not licensed:
            return found or [spec(words[0]).name]
        return [*dict.fromkeys(name for name in (*ENCODERS, *found) if name in (*found, *licensed))]
    parts = [word.lower() for word in words if word != HERE]
    rows = [row for row in ENCODERS.values() if all(part in _said(row) for part in parts)]
    names = [row.name for row in rows if HERE not in words or _is_here(row)]
    if not names:
        raise RunError(
            f"No encoder of the list matches all of {' '.join(words)!r}. Words are parts of names, families, summaries "
            f"and licences, and {HERE} is for weights on this machine. Type fewer, say: stillsight list encoders "
            f"{words[0]}"
        )
    return names


def _said(row: EncoderSpec) -> str:
    """What the words of a filter are looked for in."""
    return f"{row.name} {row.family} {row.summary} {_licence_name(row)}".lower()


def _is_here(row: EncoderSpec) -> bool:
    return _place(row)[0] is not None


OVERVIEW = (
    "All about one, or what some cost: stillsight list encoders resnet18, or parts of names, families and licences; "
    "here among them stands for weights on this machine. Your own: --encoder module:function."
)


def _others() -> str:
    """What installed packages bring; it is not imported for a list."""
    brought = installed()
    lines = [f"Brought by installed packages: {', '.join(sorted(brought))}."] if brought else []
    return "".join(f"{line}\n" for line in [*lines, *passed_over()])


def _too_many(count: int, words: str) -> str:
    return f"{count} match {words!r}. What they cost is shown of up to {MOST_MEASURED}: type more of the name."


def _overview(rows: list[EncoderSpec]) -> Columns:
    """What can be said without building a network, and without torch."""
    table = _table("encoder", "family", "stages", "in rl", "in cifar", "licence", "weights")
    for row in rows:
        taps = [str(len(row.stages)), " ".join(row.control), f"{row.tap} {row.pooling}"]
        table.add(row.name, row.family, *taps, _licence(row), _weights(row))
    return table


def _costs(rows: list[EncoderSpec], resolution: int | None) -> Columns:
    table = _table("encoder", "family", "tap", "dims", "stages", "px", "M params", "MFLOPs", "licence", "weights")
    for row in rows:
        end = [_licence(row), _weights(row)]
        try:
            cost = _measure(row, resolution)
        except EncoderError:
            table.add(row.name, row.family, row.tap, "", str(len(row.stages)), "", "", "", *end)
            continue
        tap = cost.stages.get(row.tap)
        numbers = [str(tap.dims), f"{tap.parameters / 1e6:.2f}", f"{tap.multiply_adds / 1e6:,.0f}"] if tap else [""] * 3
        dims, parameters, flops = numbers
        table.add(row.name, row.family, row.tap, dims, str(len(row.stages)), str(cost.side), parameters, flops, *end)
    return table


def _details(row: EncoderSpec, resolution: int | None, accept: bool) -> Shown:
    """All that is known of one encoder."""
    if accept and not row.accept:
        raise RunError(f"--accept-license has no effect: nobody must accept a licence for {row.name}. Drop it.")
    if accept:
        licences.accept(row)
    cost = _measure(row, resolution)
    recipe, side = cost.backbone.preprocessing, cost.side
    facts = {
        "licence": _licence_told(row),
        "weights": "; ".join(_weights_told(row)),
        "in rl": _use(cost, *row.control),
        "in cifar": _use(cost, row.tap, row.pooling),
        "poolings": poolings(class_token=cost.backbone.has_class_token),
        "recipe": f"mean {_three(recipe.mean)}, std {_three(recipe.std)}, {recipe.interpolation}"
        + (f", made for {recipe.size} px" if recipe.size else "")
        + (f"; sides are multiples of {row.multiple} px" if row.multiple > 1 else ""),
        "parameters": _parameters(cost),
    }
    width = max(map(len, facts))
    family = f"({row.family})" if row.family and row.family.lower() not in row.summary.lower() else ""
    head = " ".join(filter(None, [row.name, family, row.summary]))
    lines = textwrap.wrap(head, WIDTH)
    for name, text in facts.items():
        first, *more = textwrap.wrap(text, WIDTH - width - 4, break_long_words=False, break_on_hyphens=False)
        lines += [f"  {name:{width}}  {first}", *(f"{'':{width + 4}}{line}" for line in more)]
    lines += ["", f"at {side} px:"]
    table = _table("stage", "dims", "gives", "reduction", "smallest px", "M params", "MFLOPs")
    for name, least in row.stages.items():
        one = cost.stages.get(name)
        if one is None:
            table.add(name, "", "needs larger images", "", str(least), "", "")
            continue
        gives = " x ".join(map(str, one.shape))
        reduction = f"{side / one.shape[1]:g}" if len(one.shape) == 3 else "tokens" if len(one.shape) == 2 else ""
        counts = [f"{one.parameters / 1e6:.2f}", f"{one.multiply_adds / 1e6:,.0f}"]
        table.add(name, str(one.dims), gives, reduction, str(least), *counts)
    return Shown(table, before="\n".join(map(printable, lines)), after=EXPLAINED)


def _measure(row: EncoderSpec, resolution: int | None) -> encoders.Cost:
    """What an encoder costs; torch comes with it, which a list of names does without."""
    return encoders.measure(row.name, resolution)


def _parameters(cost: encoders.Cost) -> str:
    """How many a network has, and whether more of them than its stages hold: its classifier's."""
    stages = list(cost.stages.values())
    whole = f"{cost.parameters / 1e6:.2f} M"
    if len(stages) < len(cost.backbone.stages):  # images are too small for the rest
        return whole
    behind = cost.parameters - stages[-1].parameters
    if not behind:
        return f"{whole}, all of them in its stages"
    return f"{whole}, those behind the last stage included, {behind / 1e6:.2f} M"


def _use(cost: encoders.Cost, tap: str, pooling: str) -> str:
    """Tap and pooling, and how many numbers they make of a frame."""
    if tap not in cost.stages:
        return f"{tap}, {pooling}: needs larger images than {cost.side} px"
    try:
        return f"{tap}, {pooling}: {cost.features(tap, pooling):,} numbers a frame at {cost.side} px"
    except EncoderError:
        return f"{tap}, {pooling}: needs larger images than {cost.side} px"


def _three(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)


def _licence_name(row: EncoderSpec) -> str:
    """The licence of the weights in a word or two."""
    source = source_of(row)
    return row.licence or (source.SHORT if source is not None else "-" if row.from_scratch else "its author's")


def _licence(row: EncoderSpec) -> str:
    told = _licence_name(row)
    return f"{told}, to be accepted" if row.accept and licences.accepted(row) is None else told


def _licence_told(row: EncoderSpec) -> str:
    source = source_of(row)
    told = row.licence or (source.LICENCE if source is not None else "none needed" if row.from_scratch else "")
    if not row.accept:
        return told or "not stated by its author: yours to check"
    date = licences.accepted(row)
    if date is not None:
        return f"{told}; you accepted it on {date[:10]}"
    return f"{told}; to be accepted once: stillsight list encoders {row.name} --accept-license"


def _weights(row: EncoderSpec) -> str:
    """Where the weights are, or how they come here, in a word or two."""
    source = source_of(row)
    if source is None:
        if row.weights is None:
            return "from scratch" if row.from_scratch else "--weights"
        return "its function" if row.weights == "function" else "its file"
    place, damaged = _place(row)
    if damaged:
        return "damaged"
    if place is not None:
        return place.kind
    return "pip install" if source.remedy else "download"


def _weights_told(row: EncoderSpec) -> list[str]:
    source = source_of(row)
    if source is None:
        if row.weights is None:
            return ["none: it is trained from scratch" if row.from_scratch else f"{row.withdrawn}: --weights FILE"]
        return [f"from {row.weights}"]
    place, damaged = _place(row)
    if place is not None:
        beside = ([f"from {source.to_be_had}"] if source.address else []) + ([place.note] if place.note else [])
        return [f"{place.path} ({place.kind})", *beside]
    told = damaged or f"{source.file or 'its file'} is not on this machine"
    return [told, _to_have(source)]


def _to_have(source: Source) -> str:
    if source.remedy:
        return f"type: {source.remedy}"
    return f"downloaded when it is first used from {source.address}, or put it into {source.cache} or --weights-folder"


def _place(row: EncoderSpec) -> tuple[Place | None, str]:
    """Where the weights are, and what is wrong with the package that should hold them."""
    try:
        return locate(row), ""
    except EncoderError as error:
        return None, str(error)


def _table(*columns: str) -> Columns:
    return Columns(*columns, right=NUMBERS, spare=SPARE, whole=("weights",))
