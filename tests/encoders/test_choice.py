"""The flags refuse what cannot work, each with one sentence, before anything is imported or fetched."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from stillsight.encoders import ENCODERS, EncoderError, Mode, names
from stillsight.encoders.building import build as build_encoder
from stillsight.encoders.config import EncoderConfig
from stillsight.encoders.supervised.cifar_config import CifarConfig

FILE = Path("eyes.safetensors")


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("mode", list(Mode))
def test_every_encoder_is_accepted_in_every_mode_that_it_has_weights_for(name: str, mode: Mode) -> None:
    accept = mode.pretrained and ENCODERS[name].accept
    choice = EncoderConfig(encoder=name, mode=mode, accept_license=accept)
    side = -(-96 // ENCODERS[name].multiple) * ENCODERS[name].multiple
    if mode.pretrained and ENCODERS[name].weights is None:
        with pytest.raises(EncoderError) as caught:
            choice.check_encoder(side)
        message = f"{name} has no pretrained weights. Type --mode scratch or --mode random, or give --weights FILE."
        if name.startswith("mvp"):
            message = (
                f"{name}: the addresses of its published weights are gone. Give --weights FILE, or type --mode scratch "
                "or --mode random."
            )
        assert str(caught.value) == message
        EncoderConfig(encoder=name, mode=mode, weights=FILE).check_encoder(side)
    else:
        choice.check_encoder(side)
        choice.for_control().check_encoder(side)


@pytest.mark.parametrize("mode", [Mode.FROZEN, Mode.RANDOM])
def test_unfreezing_is_refused_where_nothing_is_trained(mode: Mode) -> None:
    with pytest.raises(EncoderError) as caught:
        EncoderConfig(mode=mode, unfreeze="layer3").check_encoder()
    assert str(caught.value) == (
        f"--unfreeze layer3 trains a part of the encoder, and --mode {mode.value} trains none. "
        "Type --mode finetune, or drop --unfreeze."
    )


@pytest.mark.parametrize("mode", [Mode.FINETUNE, Mode.SCRATCH])
def test_unfreezing_is_accepted_where_something_is_trained(mode: Mode) -> None:
    EncoderConfig(mode=mode, unfreeze="layer3").check_encoder()


@pytest.mark.parametrize("mode", [Mode.RANDOM, Mode.SCRATCH])
def test_weights_are_refused_where_the_start_is_random(mode: Mode) -> None:
    with pytest.raises(EncoderError) as caught:
        EncoderConfig(mode=mode, weights=FILE).check_encoder()
    assert str(caught.value) == (
        f"--mode {mode.value} starts from random weights, so --weights has no use. Drop one of them."
    )


def test_small_images_are_refused_unless_they_are_resized() -> None:
    with pytest.raises(EncoderError, match="resnet18 needs images of at least 32 px to reach layer4, and these have"):
        EncoderConfig(encoder="resnet18").check_encoder(31)
    EncoderConfig(encoder="resnet18").check_encoder(None)
    EncoderConfig(encoder="resnet18", resolution=32).check_encoder(31)
    EncoderConfig(encoder="resnet18", tap="layer3").check_encoder(31)
    with pytest.raises(EncoderError, match=r"these have 16 px\. Give larger images \(--resolution\)"):
        EncoderConfig(encoder="resnet18", resolution=16).check_encoder(100)
    with pytest.raises(EncoderError, match="Add --resolution 80"):
        EncoderConfig(encoder="vit_b_16").check_encoder(84)


@pytest.mark.parametrize("resolution", [0, -32])
def test_a_resolution_that_is_no_size_is_refused(resolution: int) -> None:
    with pytest.raises(EncoderError):
        EncoderConfig(resolution=resolution).check_encoder(64)


@pytest.mark.parametrize(
    ("mode", "options", "said"),
    [
        (
            "finetune",
            {"adapt": "norms"},
            "no value named 'norms'. Did you mean 'norm'? Type: --adapt norm. --adapt takes",
        ),
        ("finetune", {"adapt": "Lora"}, "no value named 'Lora'. Did you mean 'lora'?"),
        ("finetune", {"batchnorm": "Train"}, "no value named 'Train'. Did you mean 'train'? Type: --batchnorm train."),
        ("finetune", {"batchnorm": ""}, "no value named ''. --batchnorm takes one of: frozen, train."),
        ("frozen", {"precision": "bfloat16"}, "--precision takes one of: auto, float32, bf16."),
        ("frozen", {"precision": None}, "no value named 'None'. --precision takes one of: auto, float32, bf16."),
        ("finetune", {"adapt": "lora", "lora_rank": 0}, "--lora-rank 0 adds nothing."),
        ("finetune", {"lora_rank": 4}, "--lora-rank 4 has no use with --adapt all."),
        ("frozen", {"resolution": 0}, "--resolution 0 is no size."),
        ("frozen", {"resolution": -3}, "--resolution -3 is no size."),
        ("frozen", {"seed": -1}, "--seed -1 is out of range."),
        (
            "frozen",
            {"unfreeze": "layer2"},
            "--unfreeze layer2 trains a part of the encoder, and --mode frozen trains none",
        ),
        ("random", {"adapt": "norm"}, "--adapt norm says how the encoder learns, and with --mode random it does not."),
        ("random", {"batchnorm": "train"}, "--batchnorm train says how the encoder learns"),
        ("random", {"weights": "/nowhere.pth"}, "--mode random starts from random weights, so --weights has no use."),
    ],
)
def test_what_is_built_in_python_is_checked_like_what_is_typed(mode: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(EncoderError, match=re.escape(said)):
        build_encoder("retina", mode, device="cpu", **options)
    with pytest.raises(EncoderError, match=re.escape(said)):
        EncoderConfig(mode=mode, **options).check_encoder()  # type: ignore[arg-type]


def test_a_run_takes_no_word_that_its_flags_do_not() -> None:
    with pytest.raises(EncoderError, match=r"no value named 'liner'\. Did you mean 'linear'"):
        CifarConfig(head="liner")  # type: ignore[arg-type]
    with pytest.raises(EncoderError, match=r"--save-dtype takes one of: float32, float16\."):
        CifarConfig(save_dtype="bf16")  # type: ignore[arg-type]
    assert CifarConfig(head="knn", batchnorm=None).batchnorm is None


def test_names_are_checked_with_the_nearest_one() -> None:
    with pytest.raises(EncoderError, match="Type: --encoder resnet18"):
        EncoderConfig(encoder="resnet81").check_encoder()
    with pytest.raises(EncoderError, match="Type: --tap layer3"):
        EncoderConfig(tap="layr3").check_encoder()


def test_a_slip_in_unfreeze_is_refused_before_any_download() -> None:
    with pytest.raises(EncoderError, match=r"no stage named 'layr3'.* Type: --unfreeze layer3"):
        EncoderConfig(encoder="resnet18", mode=Mode.FINETUNE, unfreeze="layr3").check_encoder()
    with pytest.raises(EncoderError, match="Up to the tap layer2, resnet18 can be unfrozen from: stem, layer1, layer2"):
        EncoderConfig(encoder="resnet18", mode=Mode.FINETUNE, tap="layer2", unfreeze="layer3").check_encoder()
    EncoderConfig(encoder="resnet18", mode=Mode.FINETUNE, unfreeze="all").check_encoder()


def test_a_slip_in_pooling_is_refused_before_any_download() -> None:
    with pytest.raises(EncoderError, match=r"no pooling named 'gird4'.* Type, say: --pooling grid4"):
        EncoderConfig(encoder="resnet18", pooling="gird4").check_encoder()


def test_a_third_partys_encoder_is_checked_like_any_other() -> None:
    with pytest.raises(EncoderError, match=r"'my_module:function' cannot be imported: No module named 'my_module'"):
        EncoderConfig(encoder="my_module:function", mode=Mode.SCRATCH).check_encoder(3)
    own = "stillsight.encoders.zoo.scratch:impala"
    EncoderConfig(encoder=own, mode=Mode.SCRATCH, tap="block2", unfreeze="block1").check_encoder(64)
    with pytest.raises(EncoderError, match=r"no stage named 'block9'"):
        EncoderConfig(encoder=own, mode=Mode.SCRATCH, tap="block9").check_encoder(64)
    with pytest.raises(EncoderError, match=r"says of no pretrained weights"):
        EncoderConfig(encoder=own).check_encoder()


def test_agents_read_an_earlier_stage_unless_one_was_chosen() -> None:
    row = ENCODERS["resnet18"]
    plain = EncoderConfig(encoder="resnet18").for_control()
    assert (plain.tap, plain.pooling) == row.control
    tap, pooling = row.control
    tapped = EncoderConfig(encoder="resnet18", tap="layer4").for_control()
    assert (tapped.tap, tapped.pooling) == ("layer4", pooling), "another stage keeps places apart, too"
    pooled = EncoderConfig(encoder="resnet18", pooling="global").for_control()
    assert (pooled.tap, pooled.pooling) == (tap, "global"), "another pooling is of the same stage"
    chosen = EncoderConfig(encoder="resnet18", tap="layer4", pooling="global")
    assert chosen.for_control() == chosen


@pytest.mark.parametrize(
    ("mode", "pretrained", "trained"),
    [("frozen", True, False), ("random", False, False), ("finetune", True, True), ("scratch", False, True)],
)
def test_two_switches_make_four_modes(mode: str, pretrained: bool, trained: bool) -> None:
    assert (Mode(mode).pretrained, Mode(mode).trained) == (pretrained, trained)
    assert f"{Mode(mode)}" == mode


def test_the_choice_is_what_is_built() -> None:
    choice = EncoderConfig(
        mode=Mode.SCRATCH, tap="layer2", pooling="grid2", resolution=24, unfreeze="layer1", seed=3, device="cpu",
        precision="float32",
    )  # fmt: skip
    encoder = build_encoder(choice, pinned=False)
    found = (encoder.tap, encoder.pooling, encoder.resolution, encoder.unfreeze, encoder.frozen.precision)
    assert found == ("layer2", "grid2", 24, "layer1", "float32")
    assert encoder.provenance.name == "seed 3"
    assert not encoder.learned.pinned
    assert encoder.sha256() == build_encoder(choice, pinned=True).sha256()
