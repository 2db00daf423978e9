"""Names that installed packages give their encoders: none takes another's without a word."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stillsight.encoders import EncoderError, errors
from stillsight.encoders.zoo import registry

NETWORK = """
from torch import nn
from stillsight.encoders import Backbone, Preprocessing

def eye():
    model = nn.Sequential(nn.Conv2d(3, 5, 3))
    return Backbone(model=model, stages={"one": model[0]}, preprocessing=Preprocessing(), tap="one")
"""
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """`install("some-eyes", hawk="some_eyes:eye")`: a distribution with entry points, as pip leaves it."""
    errors.say_once.cache_clear()

    def make(package: str, **points: str) -> None:
        folder = tmp_path / package
        info = folder / f"{package.replace('-', '_')}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = "\n".join(f"{name.replace('__', '/')} = {path}" for name, path in points.items())
        (info / "entry_points.txt").write_text(f"[{registry.GROUP}]\n{lines}\n")
        (folder / f"{package.replace('-', '_')}.py").write_text(NETWORK)
        monkeypatch.syspath_prepend(folder)

    yield make
    for name in ("some_eyes", "other_eyes"):
        sys.modules.pop(name, None)
    errors.say_once.cache_clear()


def test_a_name_that_two_packages_bring_is_refused_with_both(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("some-eyes", hawk="some_eyes:eye", owl="some_eyes:eye")
    install("other-eyes", hawk="other_eyes:eye")
    sentence = (
        "some-eyes and other-eyes, which are installed, each bring an encoder named 'hawk'. Type the one you mean: "
        "--encoder some_eyes:eye (some-eyes) or --encoder other_eyes:eye (other-eyes)."
    )
    alike = {sentence, sentence.replace("some", "*").replace("other", "some").replace("*", "other")}
    with pytest.raises(EncoderError) as refused:
        registry.spec("hawk")
    assert str(refused.value) in alike
    assert not {"some_eyes", "other_eyes"} & set(sys.modules), "nothing of theirs is imported for that"
    assert registry.installed() == {"owl": "some_eyes:eye"}
    assert "hawk" not in registry.names()
    assert registry.passed_over() == [str(refused.value)]
    assert registry.spec("owl").name == "owl"
    assert registry.spec("other_eyes:eye").own
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "owner"),
    [("retina", "stillsight's own"), ("vgg11", "torchvision's"), ("timm/resnet18", "timm's")],
)
def test_a_name_that_is_taken_stays_what_it_is_and_says_so(
    install: Install, capsys: pytest.CaptureFixture[str], name: str, owner: str
) -> None:
    install("some-eyes", **{name.replace("/", "__"): "some_eyes:eye"})
    if name == "timm/resnet18":
        pytest.importorskip("timm")
    assert not registry.spec(name).own
    told = (
        f"some-eyes brings an encoder named {name!r} too, and that name stays {owner}. For theirs type: --encoder "
        "some_eyes:eye (some-eyes)."
    )
    assert capsys.readouterr().err == f"stillsight: {told}\n"
    registry.spec(name)
    assert not capsys.readouterr().err, "it is said once"
    assert registry.passed_over() == [told]
    assert registry.installed() == {}


def test_two_packages_that_bring_the_very_same_are_one(install: Install) -> None:
    """As where a package was given another name."""
    install("some-eyes", hawk="some_eyes:eye")
    install("other-eyes", hawk="some_eyes:eye")
    assert registry.installed() == {"hawk": "some_eyes:eye"}
    assert registry.passed_over() == []
