"""The recipe's flags: what is left open is filled in, and what cannot work is one sentence."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillsight.encoders import EncoderError
from stillsight.encoders.supervised.training.recipe import Recipe


@pytest.mark.parametrize(
    ("optimizer", "pretrained", "lr", "decay"),
    [("sgd", False, 0.2, 5e-4), ("sgd", True, 0.02, 5e-4), ("adamw", False, 2e-3, 0.05), ("adamw", True, 2e-4, 0.05)],
)
def test_rate_and_decay_follow_from_optimizer_and_weights(
    optimizer: Any, pretrained: bool, lr: float, decay: float
) -> None:
    found = Recipe(optimizer=optimizer).resolved(pretrained)
    assert (found.lr, found.weight_decay) == (lr, decay)
    given = Recipe(optimizer=optimizer, lr=0.5, weight_decay=0.0).resolved(pretrained)
    assert (given.lr, given.weight_decay) == (0.5, 0.0), "what was asked for stays, a zero too"


@pytest.mark.parametrize(("optimizer", "rate"), [("sgd", 0.01), ("adamw", 1e-4)])
def test_a_head_that_fits_is_trained_on_from_with_care(optimizer: Any, rate: float) -> None:
    found = Recipe(optimizer=optimizer).resolved(True, warm=True)
    assert (found.lr, found.clip) == (pytest.approx(rate), 1.0)
    assert Recipe(optimizer=optimizer).resolved(True).clip == 0.0
    given = Recipe(optimizer=optimizer, lr=0.5, clip=0.0).resolved(True, warm=True)
    assert (given.lr, given.clip) == (0.5, 0.0)


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("epochs", 0, "--epochs 0 is out of range. Allowed: whole numbers from 1. Type, say: --epochs 30."),
        ("batch", 0, "--batch 0 is out of range. Allowed: whole numbers from 1."),
        ("accumulate", 0, "--accumulate 0 is out of range."),
        ("lr", 0.0, "--lr 0 is out of range. Allowed: numbers above 0. Type, say: --lr 0.02."),
        ("lr", float("nan"), "--lr nan is out of range."),
        ("encoder_lr", 0.0, "--encoder-lr 0 is out of range. Allowed: multiples above 0. Type, say: --encoder-lr 0.1."),
        ("layer_decay", 1.1, "--layer-decay 1.1 is out of range. Allowed: factors above 0, up to 1."),
        ("weight_decay", -1.0, "--weight-decay -1 is out of range. Allowed: numbers from 0."),
        ("warmup", 1.0, "--warmup 1 is out of range. Allowed: 0 to less than 1."),
        ("label_smoothing", 1.0, "--label-smoothing 1 is out of range."),
        ("dropout", 1.0, "--dropout 1 is out of range."),
        ("ema", 1.0, "--ema 1 is out of range. Allowed: 0 to less than 1. Type, say: --ema 0.999."),
        ("patience", -1, "--patience -1 is out of range."),
        ("crop", -1, "--crop -1 is out of range."),
        ("rotation", 181.0, "--rotation 181 is out of range. Allowed: 0 to 180 degrees."),
        ("randaugment", 31, "--randaugment 31 is out of range. Allowed: 0 to 30. Type, say: --randaugment 9."),
        ("erasing", 1.5, "--erasing 1.5 is out of range. Allowed: 0 to 1."),
        ("mixup", -0.1, "--mixup -0.1 is out of range."),
        ("cutmix", float("inf"), "--cutmix inf is out of range."),
        ("save_every", -1, "--save-every -1 is out of range."),
    ],
)
def test_numbers_that_cannot_work_are_one_sentence(flag: str, value: float, words: str) -> None:
    Recipe().check_recipe(32)
    changes: dict[str, Any] = {flag: value}
    with pytest.raises(EncoderError) as caught:
        Recipe(**changes).check_recipe()
    assert str(caught.value).startswith(words)


def test_an_image_is_not_shifted_beyond_its_mirror_image() -> None:
    Recipe(crop=31).check_recipe(32)
    Recipe(crop=32).check_recipe()
    with pytest.raises(EncoderError, match=r"^--crop 32 shifts images of 32 px .* below 32, say --crop 4\.$"):
        Recipe(crop=32).check_recipe(32)


def test_a_batch_that_leaves_a_remainder_is_one_sentence() -> None:
    with pytest.raises(EncoderError) as caught:
        Recipe(batch=250, accumulate=4).check_recipe()
    assert str(caught.value) == ("--batch 250 does not fall into equal parts for --accumulate 4. Type --batch 248.")
    with pytest.raises(EncoderError, match=r"--batch 256 .* for 3 processes with --accumulate 1\. Type --batch 255\."):
        Recipe(batch=256).check_shares(3)


@given(batch=st.integers(1, 600), accumulate=st.integers(1, 9), processes=st.integers(1, 9))
def test_the_batch_that_is_advised_is_allowed(batch: int, accumulate: int, processes: int) -> None:
    recipe = Recipe(batch=batch, accumulate=accumulate)
    try:
        recipe.check_shares(processes)
    except EncoderError as error:
        advised = int(str(error).rsplit(" ", 1)[1].rstrip("."))
        Recipe(batch=advised, accumulate=accumulate).check_shares(processes)
        assert abs(advised - batch) < accumulate * processes
    else:
        assert batch % (accumulate * processes) == 0


def test_flags_are_checked_without_torch() -> None:
    modules = [
        "stillsight.encoders.supervised.cifar_config",
        "stillsight.encoders.supervised.recorder",
        "stillsight.encoders.supervised.training.distributed",
        "stillsight.encoders.supervised.training.recipe",
        "stillsight.agents.measure.cifar_throughput_config",
        "stillsight.agents.playing.predict_config",
    ]
    code = f"import sys, {', '.join(modules)}; print(*{{'torch', 'torchvision', 'sklearn'}} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "\n"
