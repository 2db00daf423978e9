"""Runs whose agents see several images and a state: trained, said, kept, played, filmed, gone on with and handed on."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.vec_env import VecEnv

from stillsight.agents import RlConfig, load, rl
from stillsight.agents.cli import main
from stillsight.agents.doctor.run_check import check_run
from stillsight.agents.errors import RunError
from stillsight.agents.features.standardise import Standardise, Statistics, gather_statistics
from stillsight.agents.features.state_head import STATE_UNITS, StateHead
from stillsight.agents.runs import checkpoint
from stillsight.agents.runs.spaces import SPACES_FILE, Spaces
from stillsight.agents.training import callbacks
from stillsight.agents.training.algorithms import ALGORITHMS
from stillsight.encoders.building import build
from stillsight.encoders.encoder import Encoder
from stillsight.envs import make_env, make_vec
from stillsight.envs.wrappers.layout import Image, Layout, Vector

Tiny = Callable[..., RlConfig]

BOTH = ("image", "wrist")
LAYOUT = Layout(
    images=(Image("image", (3, 16, 16)), Image("wrist", (3, 16, 16))),
    vectors=(Vector("joints", 3),),
    texts=("mission",),
    frames=3,
)


@pytest.fixture(scope="module")
def arm(tiny: Tiny) -> Tiny:
    """`tiny`, whose agent sees the two cameras of an arm and its joints."""

    def make(algo: str = "ppo", **changes: Any) -> RlConfig:
        env = "RobotArm-v0" if algo in ("sac", "td3", "tqc") else "Robot-v0"
        return tiny(algo, **{"env": f"robot_world:{env}", "pixels": BOTH, "state": ("on",), **changes})

    return make


@pytest.fixture(scope="module")
def run(arm: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished PPO run."""
    folder = tmp_path_factory.mktemp("parts") / "ppo"
    rl(arm(out=folder, steps=64))
    return folder


TRUST = ["--trust", "robot_world:Robot-v0"]


def opened(folder: Path) -> Any:
    return load(folder, trust=["robot_world:Robot-v0", "robot_world:RobotArm-v0"], device="cpu")


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_every_algorithm_learns_looks_once_at_each_frame_of_each_camera_and_plays(
    arm: Tiny, tmp_path: Path, algo: str
) -> None:
    result = rl(arm(algo, steps=96, out=tmp_path / algo))
    assert result["images_in_an_observation"] == 2
    ended = sum(1 for _ in (tmp_path / algo / "episodes.jsonl").open())
    # Each step brings a frame, each end another, and the first ones come from a reset.
    frames = result["env_steps"] + ended + 2
    assert abs(result["images_encoded_per_env_step"] * result["env_steps"] / 2 - frames) <= 2
    assert result["encoder_sha256_before"] == result["encoder_sha256_after"]
    player = opened(tmp_path / algo)
    env = make_env(player.config.env, player.config.env_options(), training=False)
    shown, _ = env.reset(seed=1)
    assert env.action_space.contains(player.predict(shown))


def test_the_layout_stands_in_the_run_folder_and_on_the_card(
    arm: Tiny, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Spaces.read(run / SPACES_FILE).layout == LAYOUT
    record = json.loads((run / SPACES_FILE).read_text())
    assert "pixels" not in record
    assert record["layout"] == {
        "images": [{"key": "image", "shape": [3, 16, 16]}, {"key": "wrist", "shape": [3, 16, 16]}],
        "vectors": [{"key": "joints", "width": 3}],
        "texts": ["mission"],
        "frames": 3,
    }
    rl(arm(out=tmp_path / "run", steps=32))
    said = " ".join(capsys.readouterr().out.split())
    assert "images image 3x16x16, wrist 3x16x16; vectors joints [3]" in said
    assert "the numbers of joints (float64 [3])" in said
    assert "mission: known, and unused by this agent" in said
    width = re.search(r"3 frames of 2 x \((\d+),\) and 3 numbers of the state, (\d+) float32 in a row", said)
    assert width is not None
    assert int(width[2]) == 2 * int(width[1]) + 3
    assert "LayerNorm for each of 2 images" in said
    assert f"the state standardised, Linear to {STATE_UNITS}, joined behind" in said
    assert "of each of 2 cameras" in said
    assert all(outcome.state != "wrong" for outcome in check_run(run))


def test_a_run_of_one_image_records_what_it_always_did(trained: Path) -> None:
    record = json.loads((trained / SPACES_FILE).read_text())
    assert record == {"pixels": [3, 16, 16], "action": {"kind": "Discrete", "n": 3, "start": 0}}
    known = Spaces.read(trained / SPACES_FILE)
    assert known.layout == Layout(images=(Image("", (3, 16, 16)),))
    policy = checkpoint.load(trained / "checkpoints" / "best.safetensors")["policy"]
    assert not [name for name in policy if "state_head" in name]


def looked(venv: VecEnv, encoder: Encoder) -> Statistics:
    """What a first look at eight frames tells of the state."""
    found = gather_statistics(venv, encoder, encoder.learned, 8)
    assert found.features is None
    assert found.state is not None
    return found.state


def test_each_camera_and_each_number_is_standardised_for_itself(arm: Tiny) -> None:
    config = arm(pixels=BOTH, state=("joints",))
    encoder = build(config, pinned=True)
    found = gather_statistics(
        make_vec(config.env, 1, options=config.env_options(), seed=4), encoder, encoder.learned, 12
    )
    venv = make_vec(config.env, 1, options=config.env_options(), seed=4)
    shown = [venv.reset()]
    for _ in range(11):
        shown.append(venv.step(np.array([venv.action_space.sample()]))[0])
    rows = []
    for one in shown:
        assert isinstance(one, dict)
        with torch.no_grad():
            features = [encoder(torch.from_numpy(one[key]))[0] for key in BOTH]
        rows.append(torch.cat([*features, torch.from_numpy(one["joints"][0])]))
    expected = torch.stack(rows)
    mean, std = (torch.cat(both) for both in zip(*filter(None, found), strict=True))
    torch.testing.assert_close(mean, expected.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(std, expected.std(0, correction=0), rtol=1e-4, atol=1e-5)
    state_alone = gather_statistics(make_vec(config.env, 1, options=config.env_options(), seed=4), encoder, None, 12)
    assert state_alone.features is None
    assert state_alone.state is not None
    assert found.state is not None
    assert torch.equal(state_alone.state.mean, found.state.mean)
    assert torch.equal(state_alone.state.std, found.state.std)


def test_a_number_that_never_changes_is_divided_by_its_size_where_that_is_above_one(arm: Tiny) -> None:
    venv = make_vec("robot_world:Robot-v0", 1, options=arm(pixels=("off",)).env_options())
    still = venv.reset()
    venv.reset = lambda: still  # type: ignore[method-assign]
    venv.step_wait = lambda: (still, np.zeros(1), np.zeros(1, bool), [{}])  # type: ignore[method-assign]
    found = looked(venv, build(arm(), pinned=True))
    assert found.std.tolist() == [max(1.0, abs(one)) for one in found.mean.tolist()]
    assert max(found.std.tolist()) > 1.0


def test_a_goal_that_is_another_in_each_episode_is_standardised_over_several(arm: Tiny) -> None:
    """The failure it prevents: an episode longer than the first look has one goal, all others lie far from it by the
    measure of nothing, and were clipped to one of two numbers."""
    options = arm(pixels=("off",)).env_options()
    still = make_vec("robot_world:Robot-v0", 1, options=options).reset()

    def look(goals: list[float]) -> Statistics:
        venv, drawn = make_vec("robot_world:Robot-v0", 1, options=options), iter(goals)

        def shown(goal: float) -> dict[str, np.ndarray]:
            assert isinstance(still, dict)
            return still | {"joints": np.array([[goal, 0.5, 0.0]], np.float32)}

        venv.reset = lambda: shown(next(drawn))  # type: ignore[method-assign,assignment,return-value]
        venv.step_wait = lambda: (shown(goals[0]), np.zeros(1), np.zeros(1, bool), [{}])  # type: ignore[method-assign,assignment,return-value]
        return looked(venv, build(arm(), pinned=True))

    goals = [-72.0, *np.linspace(-180, 180, 16)]
    found = look(goals)
    assert found.mean[0].item() == pytest.approx(np.mean(goals), abs=1e-4)
    assert found.std[0].item() == pytest.approx(np.std(goals), rel=1e-5)
    head = StateHead(1, 3)
    head.standardise.take(look([-72.0] * 17))
    assert head.standardise.std.tolist() == [72.0, 1.0, 1.0], "by its size, where nothing more is known"
    goals_seen = head.standardise(torch.tensor([[-180.0, 0.5, 0.0], [0.0, 0.5, 0.0], [170.0, 0.5, 0.0]]))[:, 0]
    torch.testing.assert_close(goals_seen, torch.tensor([-1.5, 1.0, 242 / 72]))


def test_numbers_of_a_state_far_out_are_told_apart_and_features_are_clipped() -> None:
    far = torch.tensor([[-1e30, -50.0, -10.0, 3.0, 10.0, 11.0, 50.0, 1e30, float("inf")]]).T
    known = Statistics(torch.zeros(1), torch.full((1,), 0.5))
    numbers, features = Standardise(1, state=True), Standardise(1)
    for module in (numbers, features):
        module.take(known)
    scaled = numbers(far / 2)[:, 0]
    expected = [-10 - np.log1p(1e30), -10 - np.log1p(40), -10, 3, 10, 10 + np.log1p(1), 10 + np.log1p(40)]
    torch.testing.assert_close(scaled[:7], torch.tensor(expected, dtype=torch.float32))
    assert scaled.isfinite().all()
    assert (scaled.diff()[:-1] > 0).all()
    assert features(far / 2)[:, 0].tolist() == [-10, -10, -10, 3, 10, 10, 10, 10, 10]


def test_numbers_that_float32_cannot_tell_apart_are_warned_of(arm: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    venv = make_vec("robot_world:Robot-v0", 1, options=arm(pixels=("off",)).env_options())
    still = venv.reset()
    assert isinstance(still, dict)
    ticks = still | {"joints": np.array([[1e9, 0.5, 3.0]], np.float32)}
    venv.reset = lambda: ticks  # type: ignore[method-assign,assignment,return-value]
    venv.step_wait = lambda: (ticks, np.zeros(1), np.zeros(1, bool), [{}])  # type: ignore[method-assign,assignment,return-value]
    looked(venv, build(arm(), pinned=True))
    assert "warning: joints[0] did not change in the first look, and may move by less than" in capsys.readouterr().err


@pytest.mark.parametrize("changes", [{"pixels": ("wrist",)}, {"pixels": ("off",)}, {"pixels": BOTH, "state": ()}])
def test_fewer_parts_are_seen_where_fewer_are_named(arm: Tiny, tmp_path: Path, changes: dict[str, Any]) -> None:
    result = rl(arm(out=tmp_path / "run", steps=32, **changes))
    player = opened(tmp_path / "run")
    cameras = {("wrist",): 1, ("off",): 0, BOTH: 2}[changes["pixels"]]
    assert len(player.known.layout.images) == cameras
    assert player.known.layout.state == (0 if "state" in changes else 3)
    assert round(result["images_encoded_per_env_step"]) == cameras
    extractor = player.model.policy.features_extractor
    assert extractor.features_dim == 16 * bool(cameras) + STATE_UNITS * ("state" not in changes)


def test_a_policy_depends_on_every_part_that_it_sees(run: Path) -> None:
    player = opened(run)
    pixels = torch.full((1, 3, 2, 3, 16, 16), 128.0, requires_grad=True)
    state = torch.zeros((1, 3, 3), requires_grad=True)
    player.module(pixels, state).square().sum().backward()
    assert pixels.grad is not None
    assert state.grad is not None
    assert (pixels.grad.abs().sum((0, 1, 3, 4, 5)) > 0).all(), "of both cameras"
    assert (state.grad.abs().sum(0) > 0).all(), "of every number of every frame"
    with pytest.raises(RunError, match=r"sees a state, which comes as a second argument.*module\(pixels, state\)"):
        player.module(pixels)


def test_module_and_player_say_the_same(run: Path) -> None:
    player = opened(run)
    env = make_env(player.config.env, player.config.env_options(), training=False)
    shown, _ = env.reset(seed=5)
    action = player.predict(shown)
    pixels = torch.from_numpy(np.stack([shown[key] for key in BOTH]))[None, None].expand(1, 3, -1, -1, -1, -1)
    state = torch.from_numpy(shown["joints"])[None, None].expand(1, 3, -1)
    with torch.no_grad():
        assert int(player.module(pixels, state).argmax()) == action


def test_a_player_takes_one_environment_or_several_and_refuses_what_is_neither(run: Path) -> None:
    player = opened(run)
    env = make_env(player.config.env, player.config.env_options(), training=False)
    shown, _ = env.reset(seed=5)
    alone = player.predict(shown)
    player.reset()
    assert player.predict({key: np.stack([part, part]) for key, part in shown.items()}).tolist() == [alone, alone]
    for wrong, why in (
        (shown["image"], "is uint8, and no dict"),
        ({key: part for key, part in shown.items() if key != "wrist"}, "has no wrist"),
        ({**shown, "joints": np.zeros(4, np.float32)}, r"has a 'joints' that is float32 \[4\]"),
    ):
        with pytest.raises(
            RunError, match=rf"sees images image 3x16x16, wrist 3x16x16.* got an observation that {why}"
        ):
            player.predict(wrong)
    with pytest.raises(RunError, match=r"was playing 2 environments, and got frames of 1"):
        player.predict(shown)


def test_evaluate_record_and_export_go_on_from_such_a_run(run: Path, tmp_path: Path) -> None:
    few = ["--episodes", "1", "--device", "cpu"]
    assert not main(["evaluate", str(run), *few, "--random-episodes", "2", "--out", str(tmp_path), *TRUST])
    row = json.loads((tmp_path / "evaluations.jsonl").read_text())
    assert len(row["returns"]) == 1
    assert not main(["record", str(run), *few, "--out", str(tmp_path / "films"), *TRUST])
    facts = json.loads(next((tmp_path / "films").glob("*.json")).read_text())
    assert facts["frames"] == facts["length"] + 1


def test_a_run_that_was_stopped_goes_on_to_the_bit(arm: Tiny, tmp_path: Path, same: Callable[[Any, Any], bool]) -> None:
    original = callbacks.Episodes._on_step

    def on_step(self: callbacks.Episodes) -> bool:
        if self.num_timesteps >= 80:
            raise KeyboardInterrupt
        return original(self)

    for algo, changes in (("ppo", {}), ("sac", {}), ("td3", {"pixels": ("off",)})):
        whole, parts = tmp_path / f"{algo}-whole", tmp_path / f"{algo}-parts"
        rl(arm(algo, steps=128, checkpoint_every=64, out=whole, **changes))
        config = arm(algo, steps=128, checkpoint_every=64, out=parts, **changes)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(callbacks.Episodes, "_on_step", on_step)
            with pytest.raises(RunError, match=r"Stopped at step 80"):
                rl(config)
        rl(RlConfig(resume=parts, trust=(arm(algo).env,)))
        states = [checkpoint.load(folder / "checkpoints" / "last.safetensors") for folder in (whole, parts)]
        assert same(states[0]["parameters"], states[1]["parameters"]), algo


def test_a_new_run_begins_with_the_policy_of_one_that_sees_the_same(arm: Tiny, run: Path, tmp_path: Path) -> None:
    trust = ("robot_world:Robot-v0",)
    rl(arm(out=tmp_path / "next", steps=32, from_run=run, trust=trust, seed=1))
    for changes, told in (
        ({"pixels": ("image",)}, r"--pixels \['image', 'wrist'\] \(here \['image'\]\)"),
        ({"state": ()}, r"--state \['on'\] \(here \[\]\)"),
    ):
        with pytest.raises(RunError, match=told):
            rl(arm(out=tmp_path / "other", steps=32, from_run=run, trust=trust, **changes))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--pixels wrst", "observes no image 'wrst'. Did you mean 'wrist'?"),
        ("", "observes 2 images (image, wrist)"),
        ("--pixels image --state mission", "observes no numbers 'mission' beside its images"),
        ("--pixels image --state on joints", "--state on joints says on and names keys too"),
        ("--pixels off", "--pixels off leaves nothing to see"),
        ("--pixels off --state on --mode scratch", "--pixels off shows an encoder nothing"),
        ("--pixels off --state on --head 32", "--head has no effect with --pixels off"),
    ],
)
def test_flags_that_cannot_work_are_one_sentence(
    words: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = ["rl", "--env", "robot_world:Robot-v0", "--steps", "32", "--out", str(tmp_path / "run")]
    code = main([*begun, *([] if "--mode" in words else ["--mode", "random"]), *words.split()])
    error = " ".join(capsys.readouterr().err.split())
    assert code == 2
    assert sentence in error
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists() or not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"layout": None}, "it says neither pixels nor layout"),
        ({"pixels": [3, 16, 16]}, r"its pixels are \(3, 16, 16\), and its layout has images image"),
        ({"layout": {"images": []}}, "left without images and vectors"),
        ({"layout": {"images": [{"key": "a", "shape": [3, 9, 99_999]}]}}, "<= 4096"),
        ({"layout": {"images": [{"key": "a", "shape": [3, 9, 9]}] * 17}}, "length <= 16"),
        ({"layout": {"images": [{"key": "a", "shape": [3, 9, 9]}] * 2}}, "two parts of one key"),
        ({"layout": {"images": [], "vectors": [{"key": "a", "width": 10**9}]}}, "<= 100000"),
        ({"layout": {"images": [], "vectors": [{"key": "", "width": 2}]}}, "a part of its layout has no key"),
        ({"layout": {"images": [], "vectors": [{"key": "v", "width": 2}], "frames": 0}}, ">= 1"),
    ],
    ids=[
        *("nothing", "both", "empty", "huge", "too many", "one key", "wide", "no key", "no frames"),
    ],
)
def test_a_damaged_layout_is_refused_before_anything_is_made_of_it(run: Path, change: dict[str, Any], why: str) -> None:
    record = {**json.loads((run / SPACES_FILE).read_text()), **change}
    with pytest.raises(RunError, match=rf"spaces\.json is damaged \(.*{why}"):
        Spaces.from_json(record)
