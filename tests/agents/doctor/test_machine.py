"""The doctor on this machine: each check passes here, and fails when the world around it is broken."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from stillsight.agents.cli import main
from stillsight.agents.doctor import accelerator, capacity, checkup, installation, mp4, rendering, weights_found
from stillsight.agents.doctor.child import ask
from stillsight.agents.doctor.outcome import Outcome


def one(outcomes: list[Outcome], check: str) -> Outcome:
    (found,) = [outcome for outcome in outcomes if outcome.check == check]
    return found


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`packages(name="version")` and `packages(module="source")`: what Python finds before all that is installed."""
    place = tmp_path / "packages"
    place.mkdir()
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(place), *filter(None, [os.environ.get("PYTHONPATH")])]))

    def put(**named: str) -> None:
        for name, content in named.items():
            if content[0].isdigit():
                told = place / f"{name}-{content}.dist-info"
                told.mkdir()
                (told / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {content}\n")
            else:
                (place / f"{name}.py").write_text(content)

    return put


def test_an_old_python_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert installation.python()[0].state == "ok"
    monkeypatch.setattr(sys, "version_info", (3, 10, 4))
    assert str(installation.python()[0]).startswith(
        "WRONG  python: 3.10.4, and stillsight needs 3.11. Type: python3.11"
    )


def test_a_requirement_in_another_version_is_named(packages: Callable[..., None]) -> None:
    (fine,) = installation.requirements()
    assert (fine.check, fine.state) == ("packages", "ok")
    packages(numpy="1.20", gymnasium="2.0")
    found = {outcome.check: outcome for outcome in installation.requirements()}
    assert set(found) == {"numpy", "gymnasium"}
    assert found["numpy"].state == "wrong"
    assert found["numpy"].found.startswith("1.20, and stillsight 0.1.0 needs >=1.26")
    assert found["numpy"].advice == 'pip install "numpy>=1.26"'


def test_torch_and_torchvision_of_other_releases_are_named(packages: Callable[..., None]) -> None:
    assert installation.pair()[0].state == "ok"
    packages(torch="2.11.0")
    (found,) = installation.pair()
    assert found.state == "wrong"
    assert "torch 2.11.0 and torchvision" in found.found
    assert found.advice.startswith('pip install "torch')


def test_a_torchvision_whose_operators_are_missing_is_named(packages: Callable[..., None]) -> None:
    assert accelerator.operators().state == "ok"
    packages(torchvision="raise RuntimeError('operator torchvision::nms does not exist')")
    found = one(ask("stillsight.agents.doctor.accelerator", check="torch"), "operators")
    assert found.state == "wrong"
    assert "(operator torchvision::nms does not exist)" in found.found


def test_torch_and_torchvision_for_other_processors_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = installation.importlib.metadata.version
    builds = {"torch": real("torch").partition("+")[0] + "+cu126", "torchvision": "0.29.1+cpu"}
    monkeypatch.setattr(installation.importlib.metadata, "version", lambda name: builds.get(name) or real(name))
    (found,) = installation.pair()
    assert found.state == "wrong"
    assert "are built for different processors" in found.found
    assert found.advice.endswith("--index-url https://download.pytorch.org/whl/cu126")


def test_a_missing_extra_is_a_note_with_what_to_type(packages: Callable[..., None]) -> None:
    packages(tensorboard="1.0")
    found = one(installation.extras(), "extra tensorboard")
    assert (found.state, found.found) == ("note", "tensorboard 1.0")
    assert found.advice == 'pip install "stillsight[tensorboard]"'
    assert "tensorboard" not in one(installation.extras(), "extras").found


def test_a_torch_that_cannot_be_imported_is_a_line_and_no_traceback(packages: Callable[..., None]) -> None:
    packages(torch="raise ImportError('libcudart.so.12: cannot open shared object file')")
    (found,) = ask("stillsight.agents.doctor.accelerator", check="torch")
    assert found.state == "wrong"
    assert "libcudart.so.12: cannot open shared object file" in found.found
    assert "pip install --force-reinstall" in found.advice


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import os; os.abort()", "it crashed with signal 6"),
        ("import time; time.sleep(60)", "it did not end within 3 s"),
        ("raise SystemExit", "it said nothing that can be read"),
    ],
)
def test_a_process_that_crashes_hangs_or_says_nothing_is_a_line(
    source: str, told: str, packages: Callable[..., None]
) -> None:
    packages(broken_check=source)
    (found,) = ask("broken_check", check="it", limit=3)
    assert (found.check, found.state, found.found) == ("it", "wrong", f"cannot be checked ({told})")


def test_modules_in_the_current_folder_take_nobody_s_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit('the wrong torch')")
    monkeypatch.chdir(tmp_path)
    assert {outcome.check for outcome in ask("stillsight.agents.doctor.accelerator", check="x")} == {
        *("gpu", "operators", "processor")
    }


def test_a_gpu_that_torch_cannot_use_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if accelerator.torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert accelerator.gpu().state == "ok"
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    found = accelerator.gpu()
    assert (found.state, found.advice) == ("wrong", "nvidia-smi")
    monkeypatch.setattr(accelerator.torch.version, "cuda", None)
    assert "is built without CUDA" in accelerator.gpu().found


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("no kernel image is available\nmore"), "no kernel image is available"),
        (AssertionError(), "AssertionError"),  # of a sum that comes out wrong
    ],
)
def test_a_gpu_that_does_not_compute_is_named(error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = accelerator.torch.cuda
    monkeypatch.setattr(cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda, "device_count", lambda: 1)
    monkeypatch.setattr(cuda, "get_device_name", lambda _: "A card")

    def broken(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(accelerator.torch, "ones", broken)
    found = accelerator.gpu()
    assert (found.state, found.found) == ("wrong", f"A card does not compute ({reason})")


def test_threads_that_are_held_back_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr(accelerator.torch, "get_num_threads", lambda: 1)
    found = accelerator.processor()
    assert (found.state, found.advice) == ("note", "unset OMP_NUM_THREADS")
    monkeypatch.setattr(accelerator.torch, "get_num_threads", lambda: 4)
    assert accelerator.processor().state == "ok"


def test_weights_are_found_and_damaged_ones_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "none"))
    monkeypatch.setenv("STILLSIGHT_WEIGHTS", str(tmp_path))
    shipped = one(weights_found.weights(), "weights of retina")
    assert shipped.state == "ok"
    assert shipped.found.startswith("shipped, ")
    assert "resnet18 (resnet18-f37072fd.pth)" in one(weights_found.weights(), "other weights").found
    (tmp_path / "resnet18-f37072fd.pth").write_bytes(b"half of it")
    damaged = one(weights_found.weights(), "weights of resnet18")
    assert (damaged.state, damaged.advice) == ("wrong", f"rm -- {tmp_path / 'resnet18-f37072fd.pth'}")
    assert "and it should be f37072fd" in damaged.found
    assert "resnet18 (" not in one(weights_found.weights(), "other weights").found
    monkeypatch.setenv("STILLSIGHT_WEIGHTS", str(tmp_path / "gone"))
    assert one(weights_found.weights(), "weights").found.endswith("and there is no such folder")


def test_a_film_is_written_and_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    assert mp4.video() == Outcome("video", "ok", "h264 is written and read back, 8 frames")
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", shutil.which("false") or "/bin/false")
    broken = mp4.video()
    assert broken.state == "wrong"
    assert broken.advice.startswith("unset IMAGEIO_FFMPEG_EXE, which is ")


MUJOCO = """
import os, time
way = os.environ["MUJOCO_GL"]
if way == "osmesa":
    os.abort()
if way == "glfw":
    time.sleep(60)
if "NO_EGL" in os.environ:
    raise ImportError("no EGL here")

class Anything:
    def __getattr__(self, name):
        return self
    def __call__(self, *_):
        return self
    def __gt__(self, other):
        return True

def __getattr__(name):
    return Anything()
"""


def test_each_way_to_draw_is_tried_in_a_process_of_its_own(
    packages: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    packages(mujoco=MUJOCO)
    monkeypatch.setattr(rendering, "LIMIT", 3.0)
    found = {outcome.check: outcome for outcome in rendering.opengl()}
    assert str(found["rendering by egl"]) == "ok     rendering by egl: works: export MUJOCO_GL=egl"
    assert found["rendering by osmesa"].found == "does not work (it crashed with signal 6)"
    assert found["rendering by osmesa"].advice == "apt-get install libosmesa6"
    assert found["rendering by glfw"].found == "does not work (it did not end within 3 s)"
    assert "rendering" not in found
    monkeypatch.setenv("NO_EGL", "1")
    broken = one(rendering.opengl(), "rendering")
    assert (broken.state, broken.found) == ("wrong", "mujoco is installed, and nothing draws without a screen")


def test_without_mujoco_the_libraries_themselves_are_tried(
    packages: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mujoco", "dm_control"):
        monkeypatch.setitem(sys.modules, name, None)
    packages(ctypes="raise OSError('libX.so.1: cannot open shared object file')")
    states = {outcome.check: outcome.state for outcome in rendering.opengl()}
    assert states == dict.fromkeys(("rendering by egl", "rendering by osmesa", "rendering by glfw"), "note")


def test_a_pygame_that_does_not_draw_is_named(packages: Callable[..., None]) -> None:
    assert rendering.pygame()[0].state == "ok"
    packages(pygame="raise RuntimeError('no SDL')")
    (found,) = rendering.pygame()
    assert (found.state, found.found) == ("wrong", "does not draw (RuntimeError: no SDL)")


def test_little_room_on_a_disk_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    for free, state in ((10**11, "ok"), (5 * 10**9, "note"), (10**8, "wrong")):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: usage._replace(free=free))
        assert {outcome.state for outcome in capacity.disks()} == {state}
    assert "and make room" in capacity.disks()[0].advice


def test_a_disk_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    found = one(capacity.disks(), "disk for runs")
    assert (found.state, found.advice) == ("wrong", "--out FOLDER")
    assert found.found.endswith("cannot be written (Read-only file system)")


@pytest.mark.parametrize(
    ("limits", "state", "advice"),
    [((100, 4096), "wrong", "ulimit -n 4096"), ((1_000, -1), "note", "ulimit -n 65536"), ((-1, -1), "ok", "")],
)
def test_few_open_files_are_said(
    limits: tuple[int, int], state: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    (found,) = capacity.open_files()
    assert (found.state, found.advice) == (state, advice)


def test_little_memory_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = tmp_path / "meminfo"
    told.write_text("MemTotal: 2000000 kB\nMemAvailable: 1000000 kB\n")
    monkeypatch.setattr(capacity, "MEMORY", told)
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=64_000_000, total=64_000_000))
    monkeypatch.setattr(capacity, "SHARED", tmp_path)
    memory, shared = capacity.memory()
    assert (memory.state, memory.found) == ("note", "1.0 GB free, little for a replay memory")
    assert (shared.state, shared.advice) == ("note", "docker run --shm-size=1g ..., or --workers off")


def test_caches_are_weighed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert [str(outcome) for outcome in capacity.caches()] == ["ok     caches: empty"]
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "a.pth").write_bytes(bytes(2_500_000))
    assert [outcome.found for outcome in capacity.caches()] == [f"2.5 MB in {folder}"]


def test_the_doctor_looks_at_everything_and_needs_no_torch_for_that(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code = main(["doctor", "--json"])
    told = json.loads(capsys.readouterr().out)
    wrong = [row for row in told["checks"] if row["state"] == "wrong"]
    assert (code, told["ok"]) == (1 if wrong else 0, not wrong)
    named = {row["check"] for row in told["checks"]}
    for check in (
        "python",
        "packages",
        "gpu",
        "weights of retina",
        "video",
        "rendering by egl",
        "extras",
        "open files",
    ):
        assert check in named
    program = "import stillsight.agents.doctor.checkup, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
    monkeypatch.setattr(checkup, "CHECKS", {"it": lambda: [Outcome("it", "wrong", "is broken", "mend it")]})
    assert main(["doctor"]) == 1
    told_in_lines = capsys.readouterr().out
    assert told_in_lines == "WRONG  it: is broken. Type: mend it\n1 of these do not work; the lines say what to type.\n"
    monkeypatch.setattr(checkup, "CHECKS", {"it": lambda: [Outcome("it", "note", "is missing", "get it")]})
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.endswith("note   it: is missing. Type: get it\nThis machine is ready.\n")
