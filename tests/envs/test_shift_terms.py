"""A shift is written in one way, with its strength and a path, and each slip is a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillsight.envs import SHIFTS, EnvError, EnvOptions, make_env, resolve
from stillsight.envs.registry import check_shift, shifts_of
from stillsight.envs.shifts.rows import SCENES, SUITE_SHIFTS
from stillsight.envs.shifts.terms import Term, spelled_out, terms, written

ORCHARD = "stillsight/Orchard-v0"
ALL = {**SHIFTS, **SUITE_SHIFTS}


def test_strengths_are_a_rows_own_those_given_beside_or_those_in_the_text() -> None:
    assert terms("noise") == (Term("noise", 0.5),)
    assert terms("background") == (Term("background", 1.0),)
    assert terms("noise", 0.25) == (Term("noise", 0.25),)
    assert terms("camera+colours:0.3+background:0.7@my films/a+b@c", 0.1) == (
        Term("camera", 0.1),
        Term("colours", 0.3),
        Term("background", 0.7, "my films/a+b@c"),
    )


@given(
    asked=st.lists(st.sampled_from(sorted(ALL)), min_size=1, max_size=4, unique=True),
    strengths=st.lists(st.floats(0.0, 1.0), min_size=4, max_size=4),
    path=st.text(min_size=1, max_size=20),
    with_path=st.booleans(),
)
def test_what_is_written_is_read_again(asked: list[str], strengths: list[float], path: str, with_path: bool) -> None:
    several = [Term(name, strength) for name, strength in zip(asked, strengths, strict=False)]
    if with_path and ALL[asked[-1]].pictures:
        several[-1] = several[-1]._replace(path=path)
    assert terms("+".join(map(str, several))) == tuple(several)
    assert terms(*written(several)) == tuple(several)
    assert spelled_out("+".join(map(str, several))) == "+".join(map(str, several))


def test_a_record_says_one_shift_as_it_always_has_and_several_with_their_strengths() -> None:
    one = EnvOptions(shift="noise:0.8")
    assert (one.shift, one.shift_strength) == ("noise", 0.8)
    several = EnvOptions(shift="noise+blur:0.25")
    assert (several.shift, several.shift_strength) == ("noise:0.5+blur:0.25", None)
    assert several == EnvOptions(shift="noise+blur:0.25", shift_strength=0.5)
    pictures = EnvOptions(shift="overlay:0.3@photos")
    assert (pictures.shift, pictures.shift_strength) == ("overlay@photos", 0.3)
    assert several.look == "noise of strength 0.5 and blur of strength 0.25"
    assert EnvOptions().look == ""
    old = EnvOptions(shift="hue", shift_strength=0.2)
    assert old.merge(shift="noise:0.8").shift_strength == 0.8, "the text's own strength takes that one's place"
    assert old.through("blur:0.1").shift_strength == 0.1
    assert spelled_out("none") == "none"


@pytest.mark.parametrize(
    ("shift", "strength", "sentence"),
    [
        (
            "nois",
            None,
            r"No shift is called 'nois'\. Did you mean 'noise'\?.*; of some suites alone: domain, ",
        ),
        ("noise:much", None, r"has the strength 'much', which is no number\. Write it as NAME:STRENGTH"),
        ("noise:2", None, r"strength of 2 was asked for; it is 0 \(nothing changes\) to 1\. Try 0\.5\."),
        ("noise:0.5", 0.4, r"says its strength, and another, 0\.4, was given beside it"),
        ("noise+noise", None, "names noise twice"),
        (
            "noise@photos",
            None,
            r"The shift noise shows no pictures of yours; these do: overlay, background, sky\. ",
        ),
        ("overlay@", None, "names no path. Type a file or a folder after the @"),
        ("", None, "--shift '' names no shift. Name one or several"),
        ("noise+", None, r"--shift 'noise\+' names a shift and none. Name"),
        ("none", None, "--shift 'none' names no shift.*or drop it"),
        ("none+noise", None, r"--shift 'none\+noise' names a shift and none"),
    ],
)
def test_slips_are_sentences(shift: str, strength: float | None, sentence: str) -> None:
    with pytest.raises(EnvError, match=sentence):
        EnvOptions(shift=shift, shift_strength=strength)


def test_a_shift_that_a_suite_cannot_give_is_refused_before_anything_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(shifts_of(ORCHARD)) == list(SHIFTS)
    monkeypatch.setattr("gymnasium.make", None)
    with pytest.raises(EnvError, match=r"stillsight/Orchard-v0 cannot give the shift 'camera'.*stillsight look still"):
        make_env(ORCHARD, resolve(ORCHARD).options.merge(shift="noise+camera"))


def test_pictures_that_are_not_there_are_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gymnasium.make", None)
    with pytest.raises(EnvError, match=r"There is no .*gone\.png\. Type an image, a film, or a folder"):
        make_env(ORCHARD, resolve(ORCHARD).options.merge(shift=f"overlay@{tmp_path}/gone.png"))
    check_shift(ORCHARD, f"overlay@{tmp_path}")


def test_every_name_that_a_suite_gives_is_a_row() -> None:
    assert set(SCENES) == set(SUITE_SHIFTS) | {"background"}
    for name, row in SUITE_SHIFTS.items():
        assert row.summary, name
        assert not row.entry_point
