"""What draws without a screen is tried, chosen and said; where nothing does, a sentence says what to install."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

from stillsight.envs import EnvError
from stillsight.envs.adapters import rendering
from stillsight.envs.adapters.rendering import CHOICE, TRIED, WAYS, Way, objection, prepare

WORKS, FAILS = "pass", "raise OSError('libX.so.1: cannot open shared object file')"


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing was chosen, and nothing is kept."""
    for name in (CHOICE, TRIED, "PYGLET_HEADLESS", "DISPLAY"):
        monkeypatch.setenv(name, "x")  # so that what is set in between is taken back
        monkeypatch.delenv(name)
    monkeypatch.setattr(rendering, "import_module", lambda _: None)
    monkeypatch.delitem(sys.modules, "dm_control._render", raising=False)  # which another test may have imported
    objection.cache_clear()
    yield
    objection.cache_clear()


def ways(monkeypatch: pytest.MonkeyPatch, **programs: str) -> None:
    """What each way does when it is tried."""
    monkeypatch.setattr(rendering, "WAYS", {name: Way(program, f"get {name}") for name, program in programs.items()})


def test_the_first_that_works_is_chosen_said_once_and_known_to_workers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ways(monkeypatch, egl=FAILS, osmesa=WORKS, glfw=FAILS)
    prepare("mujoco", "Ant-v5")
    assert (os.environ[CHOICE], os.environ[TRIED]) == ("osmesa", "osmesa")
    assert capsys.readouterr().err == "stillsight: MuJoCo draws by osmesa here (as if MUJOCO_GL=osmesa were typed).\n"
    objection.cache_clear()
    ways(monkeypatch, egl=WORKS, osmesa=FAILS, glfw=FAILS)  # as a worker is told: it tries nothing again
    prepare("mujoco", "Ant-v5")
    assert (os.environ[CHOICE], capsys.readouterr().err) == ("osmesa", "")


def test_where_nothing_draws_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    ways(monkeypatch, egl=FAILS, osmesa="import os; os.abort()", glfw="assert False, 'GLFW finds no display'")
    with pytest.raises(EnvError) as caught:
        prepare("mujoco", "Ant-v5")
    assert str(caught.value) == (
        "Ant-v5 is drawn by MuJoCo, and nothing draws here (egl: libX.so.1: cannot open shared object file; osmesa: it "
        "crashed with signal 6; glfw: GLFW finds no display). Type one of these: get egl | get osmesa | get glfw"
    )
    assert CHOICE not in os.environ
    prepare(None, "CartPole-v1")  # which may not draw by it at all


def test_a_way_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "LIMIT", 0.5)
    ways(monkeypatch, egl="import time; time.sleep(60)")
    assert objection("egl") == "it did not end within 0.5 s"


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("ogl", "MUJOCO_GL is 'ogl', by which nothing draws. It takes egl, osmesa. Type: unset MUJOCO_GL"),
        (
            "osmesa",
            "Ant-v5 cannot draw by MUJOCO_GL=osmesa here (libX.so.1: cannot open shared object file). Type: get "
            "osmesa; or: unset MUJOCO_GL",
        ),
    ],
)
def test_a_choice_that_does_not_draw_is_refused(value: str, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ways(monkeypatch, egl=WORKS, osmesa=FAILS)
    monkeypatch.setenv(CHOICE, value)
    with pytest.raises(EnvError) as caught:
        prepare("mujoco", "Ant-v5")
    assert str(caught.value) == f"{sentence}, and what works here is chosen."


def test_a_choice_that_draws_is_kept(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    ways(monkeypatch, egl=WORKS, osmesa=WORKS)
    monkeypatch.setenv(CHOICE, "OSMesa")
    prepare("mujoco", "Ant-v5")
    assert (os.environ[CHOICE], capsys.readouterr().err) == ("osmesa", "")


def test_a_library_that_has_settled_on_what_does_not_draw_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    ways(monkeypatch, egl=WORKS, osmesa=WORKS, glfw=FAILS)
    settled = ModuleType("dm_control._render")
    settled.BACKEND = "glfw"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dm_control._render", settled)
    with pytest.raises(EnvError, match=r"settled on glfw, where egl works\. Import it later, or type MUJOCO_GL=egl"):
        prepare("mujoco", "Ant-v5")
    settled.BACKEND = "osmesa"  # type: ignore[attr-defined]
    prepare("mujoco", "Ant-v5")  # which draws as well


def test_pyglet_draws_by_egl_where_there_is_no_display(monkeypatch: pytest.MonkeyPatch) -> None:
    ways(monkeypatch, egl=WORKS)
    prepare("opengl", "MiniWorld")
    assert os.environ["PYGLET_HEADLESS"] == "1"
    objection.cache_clear()
    ways(monkeypatch, egl=FAILS)
    with pytest.raises(
        EnvError, match=r"MiniWorld cannot draw here: there is no display, and EGL does not work \(libX"
    ):
        prepare("opengl", "MiniWorld")
    monkeypatch.setenv("DISPLAY", ":0")
    prepare("opengl", "MiniWorld")


def test_triton_is_imported_before_anything_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    ways(monkeypatch, egl=WORKS)
    imported: list[str] = []
    monkeypatch.setattr(rendering, "import_module", imported.append)
    monkeypatch.setattr(rendering, "find_spec", lambda _: object())
    prepare("mujoco", "Ant-v5")
    assert imported == ["triton"]


def test_the_ways_are_those_that_mujoco_takes() -> None:
    assert list(WAYS) == ["egl", "osmesa", "glfw"]
    for way in WAYS.values():
        compile(way.program, "way", "exec")
