"""Contrasts: the pairs of arms that are compared, what sets the two apart, and which question they answer by that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal, NamedTuple

from stillsight.agents.benchmark.analysis.setting import Arm
from stillsight.agents.benchmark.grid.cell import FINETUNED
from stillsight.agents.training.config import MAX_STEPS
from stillsight.encoders.supervised.cifar_config import AUGMENTATION, TRAINING

Question = Literal["scratch", "pretraining", "encoder", "tap", "settings", "training"]
"""What a comparison may answer: frozen against scratch; against random weights; two encoders, two taps, two other
settings, all frozen; trained on against frozen."""

Apart = Mapping[str, tuple[object, object]]
"""Name of a pin -> its values in one arm and the other, which differ; None where an arm has no such pin."""

HASHES = ("weights_sha256", "encoder_sha256")
"""Pins that follow from others: the weights that were loaded, and those of the part that is run."""

LEARNING = ("mode", "unfreeze", "adapt", "batchnorm", "lora_rank", "encoder_lr", "warm_start")
"""Pins that say whether and how an encoder learns."""

SCORED = (
    *("env", "env_version", "env_set", "frame_skip", "max_episode_steps", "eval_max_steps", "stochastic_eval"),
    *("shift", "shift_strength", "eval_shift", "pixels", "state", "steps", "from_sha256"),
    *("dataset", "dataset_sha256", "shots", "fraction", "validation", "refit", "test_images"),
)
"""Pins that say what is played, seen and scored, from where and for how long: no question is about them."""

SEEN = ("pixels", "state")
"""Those of them that say what is seen."""

IMPLIED: Mapping[str, object] = {
    "pixels": [],
    "state": [],
    "eval_shift": None,
    "eval_max_steps": MAX_STEPS,
    "standardise_features": True,
}
"""What an arm had whose cells have no such pin, for they were made before it was a flag: all had it then. Evaluations
that ended by themselves are the same with a limit."""


class Rule(NamedTuple):
    """What two arms must be to answer a question.

    Attributes:
        question: that they answer.
        ones, other: roles of the one and of the other.
        may_differ: pins that may be apart; None: all but `SCORED`.
        must_differ: a pin that has to be apart, if any.
    """

    question: Question
    ones: tuple[str, ...]
    other: str
    may_differ: frozenset[str] | None
    must_differ: str | None = None

    @property
    def symmetric(self) -> bool:
        """Whether both arms have one role, so that neither is the control of the other."""
        return self.other in self.ones

    @property
    def one_encoder(self) -> bool:
        """Whether the question is of arms of one encoder."""
        return self.may_differ is not None and "encoder" not in self.may_differ

    def excess(self, apart: Apart) -> Apart:
        """Those of the pins apart that stand in the way of an answer."""
        if self.may_differ is None:
            return {name: values for name, values in apart.items() if name in SCORED}
        return {name: values for name, values in apart.items() if name not in self.may_differ}

    def answered_by(self, apart: Apart) -> bool:
        """Whether arms of its roles that are `apart` answer the question."""
        return not self.excess(apart) and (self.must_differ is None or self.must_differ in apart)


SCRATCH = Rule("scratch", ("frozen",), "scratch", None)
"""Scratch is another agent, with a network and a rate of its own; so all may differ but what is `SCORED`."""
PRETRAINING = Rule("pretraining", ("frozen",), "random", frozenset({*LEARNING, *HASHES, *TRAINING}))
ENCODER = Rule(
    "encoder",
    ("frozen",),
    "frozen",
    frozenset({"encoder", "encoder_version", "tap", *HASHES, *TRAINING}),
    "encoder",
)
"""Stages of two networks have different names, so each is tapped at its own."""
TAP = Rule("tap", ("frozen",), "frozen", frozenset({"tap", "encoder_sha256", *TRAINING}), "tap")
TRAINED_ON = Rule(
    "training", FINETUNED, "frozen", frozenset({*LEARNING, "encoder_sha256", "tap", *TRAINING, *AUGMENTATION})
)
"""Who does not train an encoder on may tap it elsewhere instead, and fits a head without epochs (`TRAINING`)."""

CONTROLLED = (SCRATCH, PRETRAINING, TRAINED_ON)
"""The rules whose other arm is a control of the one."""


class Contrast(NamedTuple):
    """Two arms that are compared.

    Attributes:
        one, other: the arms.
        question: that they answer.
        apart: what they differ in.
    """

    one: Arm
    other: Arm
    question: Question
    apart: Apart

    @property
    def labels(self) -> tuple[str, str]:
        """Those of the arms."""
        return self.one.label, self.other.label


@dataclass(frozen=True)
class Uncontrolled:
    """An arm that no control was made like, so that a question has no answer for it.

    Attributes:
        arm: its label.
        nearest: the control of the same encoder that differs from it in the least; None if there is none.
        differs: what that one differs in, and may not, and its value -> that of the arm.
    """

    arm: str
    nearest: str | None = None
    differs: Apart = field(default_factory=dict)


def contrasts(arms: Sequence[Arm]) -> list[Contrast]:
    """Who is compared with whom.

    Frozen arms with scratch, with random weights, and with each other; encoders that learn on, with the same encoder
    frozen. A control that is apart from its arm in what its question is not about is no control, and not compared.
    Two frozen arms always are: what they are apart in says which question they answer.
    """
    of_role = {role: [arm for arm in arms if arm.role == role] for role in ("frozen", "scratch", "random")}
    frozen = of_role["frozen"]
    found = [
        _controlled(rule, one, other)
        for rule in (SCRATCH, PRETRAINING)
        for one in frozen
        for other in of_role[rule.other]
    ]
    found += [_frozen(one, other) for one, other in combinations(frozen, 2)]
    found += [_controlled(TRAINED_ON, one, other) for one in arms if one.role in FINETUNED for other in frozen]
    return [contrast for contrast in found if contrast is not None]


def uncontrolled(arms: Sequence[Arm]) -> dict[Question, tuple[Uncontrolled, ...]]:
    """The arms without a control that is made like them, by question; none where no arm has the control's role."""
    found: dict[Question, tuple[Uncontrolled, ...]] = {}
    for rule in CONTROLLED:
        controls = [arm for arm in arms if arm.role == rule.other]
        alone = [_alone(rule, arm, controls) for arm in arms if arm.role in rule.ones] if controls else []
        if named := tuple(one for one in alone if one is not None):
            found[rule.question] = named
    return found


def apart(one: Arm, other: Arm) -> dict[str, tuple[object, object]]:
    """Every pin that two arms have not in common; one that only one of them has is apart but for `IMPLIED`, and one of
    neither is not."""
    mine, theirs = (
        {**pins, **{name: value for name, value in IMPLIED.items() if name not in pins}}
        for pins in (arm.results[0].pins for arm in (one, other))
    )
    names = dict.fromkeys((*mine, *theirs))
    return {name: (mine.get(name), theirs.get(name)) for name in names if mine.get(name) != theirs.get(name)}


def told_apart(differs: Apart) -> Apart:
    """What two arms differ in, without the hashes that follow from the rest."""
    causes = {name: values for name, values in differs.items() if name not in HASHES}
    if "encoder" in causes:
        return causes
    weights = {name: values for name, values in differs.items() if name == HASHES[0]}
    return {**causes, **weights} or dict(differs)


def _controlled(rule: Rule, one: Arm, other: Arm) -> Contrast | None:
    differs = apart(one, other)
    return Contrast(one, other, rule.question, differs) if rule.answered_by(differs) else None


def _frozen(one: Arm, other: Arm) -> Contrast:
    differs = apart(one, other)
    question: Question = next((rule.question for rule in (ENCODER, TAP) if rule.answered_by(differs)), "settings")
    return Contrast(one, other, question, differs)


def _alone(rule: Rule, arm: Arm, controls: Sequence[Arm]) -> Uncontrolled | None:
    """None for an arm that has a control."""
    between = {control.label: apart(control, arm) for control in controls}
    if rule.one_encoder:
        between = {label: differs for label, differs in between.items() if "encoder" not in differs}
    excess = {label: rule.excess(differs) for label, differs in between.items()}
    nearest = min(excess, key=lambda label: len(excess[label]), default=None)
    if nearest is None:
        return Uncontrolled(arm.label)
    return Uncontrolled(arm.label, nearest, excess[nearest]) if excess[nearest] else None
