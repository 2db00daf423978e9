"""Zips of stock Stable-Baselines3: exported, played and trained on without stillsight, and imported again."""

from __future__ import annotations

import base64
import dataclasses
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import DQN, PPO, SAC

from stillsight.agents import RlConfig, load, rl
from stillsight.agents.cli import main
from stillsight.agents.doctor.run_check import check_run
from stillsight.agents.exchange import sb3_import, sb3_model, sb3_zip
from stillsight.agents.runs import checkpoint

STOCK = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "stillsight":
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Absent())

import gymnasium as gym
import numpy as np
import PACKAGE
from stable_baselines3.common.vec_env import DummyVecEnv

path, frames_file, actions_file = sys.argv[1:4]
played = np.load(frames_file)


class Film(gym.Env):
    def __init__(self):
        self.observation_space = gym.spaces.Box(0, 255, played["frames"].shape[1:], np.uint8)
        self.action_space = model.action_space
        self.at = 0

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        return played["frames"][self.at % len(played["frames"])], {}

    def step(self, action):
        self.at += 1
        last = self.at % len(played["frames"])
        return played["frames"][last], 0.0, bool(played["began"][last]), False, {}


model = PACKAGE.CLASS.load(path)


def made():
    env = Film()
    stack = model.observation_space.shape
    return env if len(stack) == 3 else gym.wrappers.FrameStackObservation(env, stack[0])

venv = DummyVecEnv([made])
observation, state, began, actions = venv.reset(), None, np.ones(1, bool), []
for _ in range(len(played["frames"])):
    action, state = model.predict(observation, state, episode_start=began, deterministic=True)
    actions.append(action[0])
    observation, _, began, _ = venv.step(action)
np.save(actions_file, np.array(actions))
if len(sys.argv) > 4:
    model = PACKAGE.CLASS.load(path, env=venv, **(dict(buffer_size=300) if hasattr(model, "buffer_size") else {}))
    model.learn(64)
    model.save(sys.argv[4])
assert not any(name.partition(".")[0] == "stillsight" for name in sys.modules)
"""
CLASSES = {
    "ppo": "stable_baselines3.PPO",
    "dqn": "stable_baselines3.DQN",
    "sac": "stable_baselines3.SAC",
    "recurrent_ppo": "sb3_contrib.RecurrentPPO",
}
STEPS, EPISODE = 100, 30


def stock(folder: Path, algo: str, agent: Path, frames: np.ndarray, save: Path | None = None) -> np.ndarray:
    """The actions that a program without stillsight takes on `frames`, a new episode every `EPISODE` of them."""
    package, _, name = CLASSES[algo].partition(".")
    np.savez(folder / "frames.npz", frames=frames, began=np.arange(len(frames)) % EPISODE == 0)
    (folder / "stock.py").write_text(STOCK.replace("PACKAGE", package).replace("CLASS", name))
    words = ["stock.py", agent, "frames.npz", "actions.npy", *([save] if save else [])]
    done = subprocess.run([sys.executable, "-I", *map(str, words)], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    actions: np.ndarray = np.load(folder / "actions.npy")
    return actions


def played(run: Path, frames: np.ndarray) -> np.ndarray:
    """The actions of the run's player on the same frames."""
    player = load(run, device="cpu")
    return np.array(
        [player.predict(frame[None], began=[index % EPISODE == 0])[0] for index, frame in enumerate(frames)]
    )


def seen(run: Path) -> np.ndarray:
    """Frames of noise under light of changing colour, uint8 `[STEPS, 3, H, W]`."""
    size = load(run, device="cpu").known.pixels
    generator = np.random.default_rng(3)
    light = generator.random((STEPS, 3, 1, 1))
    return (generator.integers(0, 256, (STEPS, *size)) * light).astype(np.uint8)


LAST_LAYERS = ("action_net.", "q_net.q_net.", "q_net_target.q_net.", "actor.mu.")


def decided(run: Path) -> Path:
    """The run with a last layer that tells frames apart, as that of an agent that has hardly learned does not."""
    for path in (run / "checkpoints").glob("best.safetensors"):
        tree = checkpoint.load(path)
        for name, tensor in tree["policy"].items():
            if name.startswith(LAST_LAYERS):
                spread = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0))
                tree["policy"][name] = spread if name.endswith("weight") else torch.zeros_like(tensor)
        checkpoint.save(path, tree)
    return run


def export(run: Path, path: Path, *words: str) -> None:
    assert main(["export", str(run), "--sb3", str(path), *words]) == 0


@pytest.mark.parametrize(
    ("algo", "changes"),
    [
        ("ppo", {}),
        pytest.param(
            *("ppo", {"frame_stack": 1, "encoder": "resnet18", "mode": "random", "size": 40}), marks=pytest.mark.slow
        ),
        ("dqn", {"mode": "finetune", "unfreeze": "layer1", "adapt": "lora"}),
        ("sac", {"mode": "scratch", "encoder": "nature", "tap": "conv3", "pooling": "flatten", "size": 40}),
        pytest.param("recurrent_ppo", {}, marks=pytest.mark.slow),
        pytest.param(
            *("ppo", {"tap": "stem,layer1", "pooling": "attention2,conv3", "fusion": "stack+difference"}),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_stock_sb3_plays_an_exported_agent_as_the_run_does(
    algo: str, changes: dict[str, object], tiny: Callable[..., RlConfig], tmp_path: Path
) -> None:
    run, agent = tmp_path / "run", tmp_path / "agent.zip"
    rl(tiny(algo, out=run, **changes))
    export(decided(run), agent)
    frames = seen(run)
    expected, given = played(run, frames), stock(tmp_path, algo, agent, frames)
    assert given.shape == expected.shape
    assert len(np.unique(expected.round(5), axis=0)) > 1, "one action always would show nothing"
    if algo == "sac":
        np.testing.assert_allclose(given, expected, atol=1e-4)
    else:
        np.testing.assert_array_equal(given, expected)


def test_how_an_agent_explores_goes_there_and_back(tiny: Callable[..., RlConfig], tmp_path: Path) -> None:
    run, agent, later = (tmp_path / name for name in ("run", "agent.zip", "later.zip"))
    falling = ("exploration_initial_eps=0.9", "exploration_final_eps=0.3", "exploration_fraction=1.0")
    rl(tiny("dqn", out=run, eval_every=48, set=(*tiny("dqn").set, *falling)))
    kept = checkpoint.load(run / "checkpoints/best.safetensors")["exploration_rate"]
    assert 0.29 < kept < 0.9
    export(run, agent)
    model = DQN.load(agent, device="cpu")
    assert model.exploration_rate == kept
    model.exploration_rate = 0.125  # as after any time under stock SB3
    model.save(later)
    for path, rate in ((agent, kept), (later, 0.125)):
        again = tmp_path / f"again-{path.stem}"
        assert main(["import", str(path), "--out", str(again), "--trust"]) == 0
        assert load(again, device="cpu").model.exploration_rate == rate  # type: ignore[attr-defined]


def test_what_stock_sb3_has_trained_on_is_imported_and_plays_alike(
    tiny: Callable[..., RlConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, agent, later, again = (tmp_path / name for name in ("run", "agent.zip", "later.zip", "again"))
    rl(tiny("ppo", out=run, mode="finetune", unfreeze="layer1"))
    export(run, agent)
    frames = seen(run)
    stock(tmp_path, "ppo", agent, frames, save=later)
    capsys.readouterr()
    assert main(["import", str(later), "--out", str(again)]) == 2
    assert "Nothing was unpickled. Type --trust if you made it" in capsys.readouterr().err
    assert not again.exists()
    assert main(["import", str(later), "--out", str(again), "--trust"]) == 0
    assert f"--trust: running the pickles in {later}." in capsys.readouterr().err
    afresh, elsewhere = tmp_path / "afresh", tmp_path / "elsewhere"
    elsewhere.mkdir()
    words = ["-m", "stillsight", "import", str(later), "--out", str(afresh), "--trust"]
    done = subprocess.run([sys.executable, "-P", *words], cwd=elsewhere, capture_output=True, text=True)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert (afresh / "checkpoints/best.safetensors").is_file()
    np.testing.assert_array_equal(played(again, frames), stock(tmp_path, "ppo", later, frames))
    before, after = (checkpoint.load(folder / "checkpoints/best.safetensors") for folder in (run, again))
    name = "features_extractor.learned.steps.0.conv1.weight"
    assert not torch.equal(before["policy"][name], after["policy"][name]), "stock SB3 trains what the run trained"
    assert before["frozen_sha256"] == after["frozen_sha256"]
    assert after["step"] == 64, "which SB3 counts anew"


def test_an_export_comes_back_without_unpickling_anything(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    agent, again, marker = tmp_path / "agent.zip", tmp_path / "again", tmp_path / "marker"
    export(trained, agent)
    plant(agent, marker)
    assert main(["import", str(agent), "--out", str(again)]) == 0
    assert not marker.exists()
    frames = seen(trained)
    np.testing.assert_array_equal(played(again, frames), played(trained, frames))
    assert main(["evaluate", str(again), "--episodes", "1", "--random-episodes", "0"]) == 0
    assert json.loads((again / "imported.json").read_text())["kind"] == "stillsight export"
    capsys.readouterr()
    assert main(["rl", "--resume", str(again)]) == 2
    assert "it holds a policy and no state of learning" in capsys.readouterr().err
    assert all(outcome.state == "ok" for outcome in check_run(again))


class Code:
    """Pickles as code that writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.marker,)


def plant(agent: Path, marker: Path) -> None:
    """Put code into what SB3 unpickles of a zip."""
    with zipfile.ZipFile(agent) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    data = json.loads(contents["data"])
    data["learning_rate"] = {":type:": "", ":serialized:": base64.b64encode(cloudpickle.dumps(Code(marker))).decode()}
    with zipfile.ZipFile(agent, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, json.dumps(data) if name == "data" else content)


class Screen(gym.Env[np.ndarray, int]):
    """Images of one shape."""

    def __init__(self, shape: tuple[int, ...] = (40, 40, 3)) -> None:
        self.observation_space, self.action_space = gym.spaces.Box(0, 255, shape, np.uint8), gym.spaces.Discrete(3)


@pytest.fixture
def nature(tmp_path: Path) -> Path:
    """What stock SB3 saves of an agent on images."""
    PPO("CnnPolicy", Screen(), n_steps=8, batch_size=8, device="cpu").save(tmp_path / "nature.zip")
    return tmp_path / "nature.zip"


def test_pickles_of_stock_sb3_run_only_where_they_are_trusted(
    nature: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    marker = tmp_path / "marker"
    plant(nature, marker)
    assert main(["import", str(nature), "--out", str(tmp_path / "run")]) == 2
    assert "Nothing was unpickled" in capsys.readouterr().err
    assert not marker.exists()
    assert main(["import", str(nature), "--out", str(tmp_path / "run"), "--trust"]) == 2
    assert marker.exists(), "the marker shows what it is to show"


def test_a_policy_that_a_run_folder_cannot_hold_is_refused_by_name(
    nature: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import", str(nature), "--out", str(tmp_path / "run"), "--trust"]) == 2
    told = capsys.readouterr().err
    assert "The ActorCriticCnnPolicy in" in told
    assert "NatureCNN mixes the channels of all frames" in told
    assert "stillsight rl --mode scratch --encoder nature" in told
    vector = tmp_path / "vector.zip"
    PPO("MlpPolicy", gym.make("CartPole-v1"), n_steps=8, batch_size=8, device="cpu").save(vector)
    assert main(["import", str(vector), "--out", str(tmp_path / "run"), "--trust"]) == 2
    assert "an agent of stillsight sees RGB images" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_actor_with_eyes_of_its_own_is_refused(
    tiny: Callable[..., RlConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, agent, later = tmp_path / "run", tmp_path / "agent.zip", tmp_path / "later.zip"
    rl(tiny("sac", out=run, mode="scratch", encoder="nature", tap="conv3", pooling="flatten", size=40))
    export(run, agent)
    stock(tmp_path, "sac", agent, seen(run)[:40], save=later)
    assert main(["import", str(later), "--out", str(tmp_path / "again"), "--trust"]) == 2
    assert "the actor sees with another encoder than the critic" in capsys.readouterr().err


def test_a_pooling_that_learns_comes_back_where_actor_and_critic_share_it(
    tiny: Callable[..., RlConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, agent = tmp_path / "run", tmp_path / "agent.zip"
    rl(tiny("sac", out=run, steps=48, pooling="attention2"))
    export(run, agent)
    model = SAC.load(agent, device="cpu")
    model.save(tmp_path / "saved.zip")
    assert main(["import", str(tmp_path / "saved.zip"), "--out", str(tmp_path / "again"), "--trust"]) == 0
    frames = seen(run)[:20]
    np.testing.assert_allclose(played(tmp_path / "again", frames), played(run, frames))

    policy = model.policy.state_dict()
    (name,) = [name for name in policy if name.startswith("actor.") and "learned" in name][:1]
    model.policy.load_state_dict(policy | {name: policy[name] + 1})
    model.save(tmp_path / "apart.zip")
    assert main(["import", str(tmp_path / "apart.zip"), "--out", str(tmp_path / "apart"), "--trust"]) == 2
    assert "or pools otherwise: plain SB3 has trained two that drift apart" in capsys.readouterr().err
    assert not (tmp_path / "apart").exists()


def test_what_the_run_cannot_take_over_is_refused_before_anything_is_written(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    export(trained, tmp_path / "agent.zip")
    PPO.load(tmp_path / "agent.zip", device="cpu").save(tmp_path / "saved.zip")
    original = sb3_import._renamed

    def renamed(policy: Any, path: Path) -> dict[str, torch.Tensor]:
        return {name: tensor for name, tensor in original(policy, path).items() if not name.startswith("action_net")}

    monkeypatch.setattr(sb3_import, "_renamed", renamed)
    assert main(["import", str(tmp_path / "saved.zip"), "--out", str(tmp_path / "again"), "--trust"]) == 2
    assert "does not fit this agent (policy has no action_net." in capsys.readouterr().err
    assert not (tmp_path / "again").exists()


def test_nothing_is_overwritten_unless_told(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = tmp_path / "agent.zip"
    agent.write_text("mine")
    assert main(["export", str(trained), "--sb3", str(agent)]) == 2
    assert f"{agent} is already there. Type another file, or --overwrite" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(torch.export, "export", lambda *_, **__: 1 / 0)
        assert main(["export", str(trained), "--sb3", str(agent), "--overwrite"]) == 2
        assert "cannot be written as a program of its own (torch.export: division by zero)" in capsys.readouterr().err
    assert agent.read_text() == "mine"
    export(trained, agent, "--overwrite")
    assert [path.name for path in tmp_path.iterdir() if path.name != "trained"] == ["agent.zip"]
    told = capsys.readouterr().out
    assert 'model = PPO.load("agent.zip")' in told
    assert "FrameStackObservation(env, 3)" in told
    with zipfile.ZipFile(agent) as archive:
        assert archive.read("README.txt").decode() in told
    assert main(["import", str(agent), "--out", str(trained)]) == 2
    assert "already exists, and nothing is written over it" in capsys.readouterr().err


def test_what_a_run_asks_for_is_imported_only_where_it_is_trusted(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = trained / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "encoder": "os:getcwd"}))
    words = ["export", str(trained), "--sb3", str(tmp_path / "agent.zip")]
    assert main(words) == 2
    assert "asks for the encoder os:getcwd, whose code would be imported" in capsys.readouterr().err
    assert main([*words, "--trust", "os:getcwd"]) == 2
    assert "asks for" not in capsys.readouterr().err, "it is called, and returns no network"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "export needs the file to write. Type, say: --sb3 agent.zip"),
        (["--sb3", "agent.pt"], "is no zip by its name"),
        (["--sb3", "folder.zip"], "is a folder. Type a file"),
    ],
)
def test_where_to_is_asked_before_anything_else(
    words: list[str],
    told: str,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.zip").mkdir()
    assert main(["export", str(trained), *words]) == 2
    assert told in capsys.readouterr().err


def test_an_encoder_that_computes_something_else_when_exported_is_refused(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        sb3_model, "_frozen_program", lambda *_: sb3_model._program(Doubled(), (torch.zeros(2, 3, 16, 16),), "x")
    )
    assert main(["export", str(trained), "--sb3", str(tmp_path / "agent.zip")]) == 2
    assert "computes something else than the run's" in capsys.readouterr().err
    assert not (tmp_path / "agent.zip").exists()


class Doubled(torch.nn.Module):
    """Features of the right shape, and no more."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return 2.0 * pixels.flatten(1)[:, :256]


def test_a_zip_bomb_is_not_expanded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data", bytes(sb3_zip.LEAST + 1))
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("expanded"))
    assert main(["import", str(bomb), "--out", str(tmp_path / "run"), "--trust"]) == 2
    assert "would expand to 67,108,865 in 1 files" in capsys.readouterr().err
    with zipfile.ZipFile(bomb, "w") as archive:
        for number in range(sb3_zip.ENTRIES + 1):
            archive.writestr(str(number), "")
    assert main(["import", str(bomb), "--out", str(tmp_path / "run"), "--trust"]) == 2
    assert "in 1,001 files; allowed are" in capsys.readouterr().err
    monkeypatch.setattr(sb3_zip, "available_memory", lambda: 10)
    with zipfile.ZipFile(bomb, "w") as archive:
        archive.writestr("data", bytes(11))
    assert main(["import", str(bomb), "--out", str(tmp_path / "run"), "--trust"]) == 2
    assert "would expand to 11 bytes, and 10 of memory are free" in capsys.readouterr().err


def not_finite(folder: Path) -> bytes:
    """A checkpoint whose hash is right and whose policy is NaN."""
    path = folder / "nan.safetensors"
    checkpoint.save(path, {"policy": {"a": torch.tensor([torch.nan])}, "step": 1, "frozen_sha256": ""})
    return path.read_bytes()


def changed(run: dict[str, Any], **values: object) -> dict[str, str]:
    """The record of an exported run with other values in its configuration."""
    return {sb3_zip.RUN_FILE: json.dumps({**run, "config": {**run["config"], **values}})}


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
@pytest.mark.parametrize("name", [sb3_zip.RUN_FILE, sb3_zip.POLICY_FILE])
def test_damage_in_a_compressed_zip_is_laid_to_the_zip(
    method: int, name: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    agent, packed, out = tmp_path / "agent.zip", tmp_path / "packed.zip", tmp_path / "out"
    export(trained, agent)
    with zipfile.ZipFile(agent) as archive, zipfile.ZipFile(packed, "w", method) as other:
        for one in archive.namelist():
            other.writestr(one, archive.read(one))
        entry = other.getinfo(name)
    content = bytearray(packed.read_bytes())
    begin = entry.header_offset + 30 + len(name) + 20  # behind the local header, and what lzma says of itself
    content[begin : begin + entry.compress_size // 2] = b"\xff" * (entry.compress_size // 2)
    packed.write_bytes(content)
    capsys.readouterr()
    assert main(["import", str(packed), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert f"{packed} is no zip, or a damaged one (" in error, error
    assert len(error.splitlines()) == 1
    assert not out.exists()


def test_code_that_an_export_asks_for_is_allowed_by_the_switch_and_named_after(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    agent, bad, out = tmp_path / "agent.zip", tmp_path / "bad.zip", tmp_path / "out"
    export(trained, agent)
    with zipfile.ZipFile(agent) as archive:
        whole = {name: archive.read(name) for name in archive.namelist()}
    run = json.loads(whole[sb3_zip.RUN_FILE])
    with zipfile.ZipFile(bad, "w") as other:
        for name, text in {**whole, **changed(run, encoder="os:getcwd")}.items():
            other.writestr(name, text)
    assert main(["import", str(bad), "--out", str(out), "--trust"]) == 0
    assert f"stillsight evaluate {out} --trust os:getcwd" in capsys.readouterr().out
    assert main(["evaluate", str(out)]) == 2
    assert "asks for the encoder os:getcwd" in capsys.readouterr().err


def test_damaged_zips_are_one_sentence(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    agent, out = tmp_path / "agent.zip", tmp_path / "out"
    assert main(["import", str(agent), "--out", str(out)]) == 2
    assert f"There is no file {agent}. Give the zip" in capsys.readouterr().err
    export(trained, agent)
    with zipfile.ZipFile(agent) as archive:
        whole = {name: archive.read(name) for name in archive.namelist()}
    run = json.loads(whole[sb3_zip.RUN_FILE])
    damages = {
        "is no zip, or a damaged one": None,
        "run.json in": {sb3_zip.RUN_FILE: b"{"},
        "Expected object, got array": {sb3_zip.RUN_FILE: b"[]"},
        "has more than 1,048,576 bytes": {sb3_zip.RUN_FILE: b" " * (sb3_zip.RECORD + 1)},
        "exported by another version (format 9": {sb3_zip.RUN_FILE: json.dumps({**run, "format": 9})},
        "Object missing required field": {sb3_zip.RUN_FILE: json.dumps({"format": 1, "config": run["config"]})},
        "fields that this version does not know: wings": {
            sb3_zip.RUN_FILE: json.dumps({**run, "config": {**run["config"], "wings": 2}})
        },
        "steps": {sb3_zip.RUN_FILE: json.dumps({**run, "config": {**run["config"], "steps": "x"}})},
        "recursion": {sb3_zip.RUN_FILE: b"[" * 500_000},
        "Expected object, got array - at config": {sb3_zip.RUN_FILE: json.dumps({**run, "config": []})},
        "Expected int, got str - at step": {sb3_zip.RUN_FILE: json.dumps({**run, "step": "x"})},
        "Expected int >= 0 - at step": {sb3_zip.RUN_FILE: json.dumps({**run, "step": -5})},
        f"its step is {run['step']}, and the run's record says another": {
            sb3_zip.RUN_FILE: json.dumps({**run, "step": 95})
        },
        "--steps -5 is too small": changed(run, steps=-5),
        "its command is 'cifar'": changed(run, command="cifar"),
        "asks for the encoder os:system, whose code would be imported. A file does not decide that: look at what it "
        "is, and to allow it type --trust.": changed(run, encoder="os:system"),
        "Expected str, got array - at env": changed(run, env=["a"]),
        "Expected object, got int - at spaces": {sb3_zip.RUN_FILE: json.dumps({**run, "spaces": 3})},
        "are NaN or infinite, which training saves never": {sb3_zip.POLICY_FILE: not_finite(tmp_path)},
        f"{sb3_zip.POLICY_FILE} in {tmp_path / 'bad.zip'} is damaged or incomplete": {
            sb3_zip.POLICY_FILE: whole[sb3_zip.POLICY_FILE][:1000]
        },
    }
    for told, change in damages.items():
        bad = tmp_path / "bad.zip"
        if change is None:
            bad.write_bytes(agent.read_bytes()[:5000])
        else:
            with zipfile.ZipFile(bad, "w") as archive:
                for name, content in {**whole, **change}.items():
                    archive.writestr(name, content)
        capsys.readouterr()
        assert main(["import", str(bad), "--out", str(out)]) == 2, told
        error = capsys.readouterr().err
        assert told in error, error
        assert len(error.splitlines()) == 1
        assert not out.exists()
        assert not list(tmp_path.glob(".*")), "nothing is left behind"


def test_programs_follow_the_policy_to_another_device(tiny: Callable[..., RlConfig], tmp_path: Path) -> None:
    rl(tiny("ppo", out=tmp_path / "run", pooling="softmax"))  # which makes coordinates anew in every forward pass
    export(tmp_path / "run", tmp_path / "agent.zip")
    model = PPO.load(tmp_path / "agent.zip", device="cpu")
    policy = model.policy.to("meta")
    answer = policy.features_extractor(torch.zeros((2, *model.observation_space.shape), device="meta"))
    assert (answer.device.type, tuple(answer.shape)) == ("meta", (2, 16))


def test_an_export_says_nothing_of_where_it_was_made(trained: Path, tmp_path: Path) -> None:
    """Neither the run's folder nor what it was resumed from goes along."""
    export(trained, tmp_path / "agent.zip")
    with zipfile.ZipFile(tmp_path / "agent.zip") as archive:
        config = json.loads(archive.read(sb3_zip.RUN_FILE))["config"]
    assert (config["out"], config["resume"]) == (None, None)
    assert set(config) - {"command"} == {field.name for field in dataclasses.fields(RlConfig)}
    shutil.rmtree(trained)
    assert main(["import", str(tmp_path / "agent.zip"), "--out", str(tmp_path / "again")]) == 0
