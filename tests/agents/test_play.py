"""A run folder is an agent that acts on pixels, as its policy acted in training."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from stillsight.agents import Player, RlConfig, load, rl
from stillsight.agents.errors import CheckpointError, RunError
from stillsight.agents.features.acting import Actor
from stillsight.agents.playing.play import evaluate, returns
from stillsight.agents.playing.play_config import EvaluateConfig
from stillsight.agents.runs import checkpoint
from stillsight.agents.training.build import make_venv
from stillsight.encoders import EncoderError
from stillsight.encoders.zoo.retina import retina
from stillsight.envs import SHIFTS, EnvError, EnvOptions, make_env, make_vec

Tiny = Callable[..., RlConfig]

CLASSIFIER = {"command": "cifar", "dataset": "cifar10", "encoder": "retina", "mode": "frozen"}


def true_game(agent: Player, seed: int) -> Any:
    return make_env(agent.config.env, agent.config.env_options(), training=False, seed=seed)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"in_policy": True},
        {"mode": "finetune", "unfreeze": "layer1"},
        {"mode": "scratch"},
        {"algo": "dqn"},
        {"algo": "sac"},
        {"algo": "recurrent_ppo"},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())) or "cached",
)
def test_a_loaded_agent_acts_on_pixels_as_the_policy_does_on_its_observations(
    tiny: Tiny, tmp_path: Path, changes: dict[str, Any]
) -> None:
    chosen = {"algo": "ppo", **changes}
    rl(tiny(chosen.pop("algo"), steps=64, out=tmp_path / "run", **chosen))
    agent = load(tmp_path / "run", "last")
    twin = load(tmp_path / "run", "last")  # recurrent policies remember; each path has its own memory
    venv = make_venv(agent.config, agent.encoder, n_envs=1, training=False, seed=agent.config.seed)
    env = true_game(agent, agent.config.seed)
    observation, (pixels, _) = venv.reset(), env.reset(seed=agent.config.seed)
    memory: Any = None
    start = np.ones(1, bool)
    for _ in range(45):  # across two ends of episodes
        expected, memory = agent.model.predict(observation, memory, start, deterministic=True)
        action = twin.predict(pixels)
        if action.dtype == np.float32:
            np.testing.assert_allclose(action, expected[0], atol=1e-5)
        else:
            assert action == expected[0]
        observation, _, start, _ = venv.step(expected)  # type: ignore[assignment]
        pixels, _, terminated, truncated, _ = env.step(expected[0])
        assert start[0] == (terminated or truncated)
        if start[0]:
            pixels, _ = env.reset()
            twin.reset()


def test_best_and_last_are_the_files_of_that_name(trained: Path) -> None:
    tree = checkpoint.load(trained / "checkpoints" / "best.safetensors")
    for tensor in tree["policy"].values():
        tensor.zero_()
    checkpoint.save(trained / "checkpoints" / "best.safetensors", tree)
    best, last = load(trained, "best"), load(trained, "last")
    assert not any(tensor.any() for tensor in best.model.policy.state_dict().values())
    stored = checkpoint.load(trained / "checkpoints" / "last.safetensors")["parameters"]["policy"]
    assert all(torch.equal(tensor, stored[name]) for name, tensor in last.model.policy.state_dict().items())
    assert load(trained).model.policy.state_dict()["action_net.weight"].any() == torch.tensor(False)


def test_without_a_best_checkpoint_the_last_one_plays(trained: Path) -> None:
    (trained / "checkpoints" / "best.safetensors").unlink()
    stored = checkpoint.load(trained / "checkpoints" / "last.safetensors")["parameters"]["policy"]
    state = load(trained).model.policy.state_dict()
    assert all(torch.equal(tensor, stored[name]) for name, tensor in state.items())
    (trained / "checkpoints" / "last.safetensors").unlink()
    with pytest.raises(CheckpointError, match="There is no checkpoint"):
        load(trained)


def test_evaluate_gives_what_a_loop_by_hand_gives(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = evaluate(trained, EvaluateConfig(episodes=3, seed=77, random_episodes=2, device="cpu"))
    agent = load(trained, device="cpu")
    env = true_game(agent, 77)
    returns = []
    for index in range(3):
        pixels, _ = env.reset(seed=77 + index)
        agent.reset()
        total, over = 0.0, False
        while not over:
            pixels, reward, terminated, truncated, _ = env.step(int(agent.predict(pixels)))
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    assert result["returns"] == returns
    assert result["mean"] == pytest.approx(np.mean(returns))
    assert set(result) >= {"random", "oracle", "std", "deterministic", "checkpoint", "seed"}
    (line,) = (trained / "evaluations.jsonl").read_text().splitlines()
    assert json.loads(line)["returns"] == returns
    assert "over 3 episodes" in capsys.readouterr().out
    again = evaluate(trained, EvaluateConfig(episodes=3, seed=77, random_episodes=0, device="cpu"))
    assert again["returns"] == returns
    assert "random" not in again
    assert len((trained / "evaluations.jsonl").read_text().splitlines()) == 2


def test_returns_are_the_same_twice_and_are_those_of_the_shifted_game(trained: Path) -> None:
    agent = load(trained, device="cpu")
    seen: list[tuple[int, float]] = []
    scores = {shift: returns(agent, shift, episodes=3, seed=5) for shift in (None, *SHIFTS)}
    again = {shift: returns(agent, shift, episodes=3, seed=5, watch=lambda *it: seen.append(it)) for shift in scores}
    assert again == scores
    assert seen[:3] == list(enumerate(scores[None], 1))
    assert returns(agent, "none", episodes=3, seed=5) == scores[None]
    assert returns(agent, "noise", strength=0.0, episodes=3, seed=5) == scores[None]
    env = make_env(agent.config.env, agent.config.env_options().through("overlay", 1.0), training=False)
    total = []
    for seed in (5, 6, 7):
        pixels, _ = env.reset(seed=seed)
        agent.reset()
        total.append(0.0)
        over = False
        while not over:
            pixels, reward, terminated, truncated, _ = env.step(int(agent.predict(pixels)))
            total[-1], over = total[-1] + float(reward), terminated or truncated
    assert returns(agent, "overlay", strength=1.0, episodes=3, seed=5) == total


def test_an_agent_sees_the_shift_and_meets_the_same_episodes(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = load(trained, device="cpu")
    first: dict[str | None, Any] = {}
    for shift in (None, "occluder"):
        frames: list[Any] = []
        monkeypatch.setattr(Actor, "act", lambda _, pixels, frames=frames, **__: frames.append(pixels[0]) or [1])
        returns(agent, shift, strength=shift and 1.0, episodes=1, seed=5)
        first[shift] = frames[0]
    kept = (first[None] == first["occluder"]).all(axis=0)
    assert 0.7 <= kept.mean() <= 0.8, "a quarter is covered, and the rest is the same scene"


def test_evaluate_through_a_shift_says_so_and_writes_it_down(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = EvaluateConfig(episodes=2, seed=5, random_episodes=0, device="cpu", shift="blur", shift_strength=0.8)
    result = evaluate(trained, config)
    assert result["returns"] == returns(load(trained, device="cpu"), "blur", strength=0.8, episodes=2, seed=5)
    assert "over 2 episodes through blur of strength 0.8" in capsys.readouterr().out
    evaluate(trained, EvaluateConfig(episodes=1, seed=5, random_episodes=0, device="cpu"))
    one, other = map(json.loads, (trained / "evaluations.jsonl").read_text().splitlines())
    assert (one["shift"], one["shift_strength"]) == ("blur", 0.8)
    assert (other["shift"], other["shift_strength"]) == (None, None)


def test_a_shift_is_put_on_taken_off_or_left_as_the_run_had_it() -> None:
    options = EnvOptions(size=48, shift="hue", shift_strength=0.2)
    assert options.through(None) == options
    assert options.through("none") == EnvOptions(size=48)
    assert options.through("noise") == EnvOptions(size=48, shift="noise", shift_strength=0.5)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"shift": "nois"}, "No shift is called 'nois'. Did you mean 'noise'"),
        ({"shift": "blur", "shift_strength": -0.1}, "strength of -0.1 was asked for"),
        ({"shift_strength": 0.3}, "strength of 0.3 was given without a shift"),
        ({"shift": "none", "shift_strength": 0.3}, "strength of 0.3 was given without a shift"),
    ],
)
def test_a_shift_that_there_is_not_is_a_sentence_before_anything_is_loaded(
    trained: Path, wrong: dict[str, Any], sentence: str
) -> None:
    (trained / "checkpoints" / "best.safetensors").unlink()
    (trained / "checkpoints" / "last.safetensors").unlink()
    with pytest.raises(EnvError, match=sentence):
        evaluate(trained, EvaluateConfig(**wrong))


def test_a_shift_is_refused_where_the_run_sees_no_image() -> None:
    blind = RlConfig(env="CartPole-v1", pixels=("off",), state=("on",))
    told = "^--shift has no effect on a run of --pixels off, whose agent sees no image"
    with pytest.raises(EncoderError, match=told):
        EvaluateConfig(shift="noise").options(blind)
    assert EvaluateConfig().options(blind).shift is None


def test_car_racings_own_shift_is_an_argument_of_the_environment() -> None:
    options = RlConfig(env="CarRacing-v3", env_set=("domain_randomize=True",)).env_options()
    assert options.kwargs == (("domain_randomize", True),)


def test_a_shift_is_not_for_classifiers(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CLASSIFIER))
    with pytest.raises(RunError, match="--shift is for rl runs"):
        evaluate(tmp_path, EvaluateConfig(shift="hue"))


def test_reset_forgets_the_frames_of_the_last_episode(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = load(trained)
    pixels = make_vec("stillsight/Orchard-v0", 6, options=agent.config.env_options()).reset()
    assert isinstance(pixels, np.ndarray)
    stacks = []
    original = agent.model.predict

    def predict(observation: Any, *arguments: Any) -> Any:
        stacks.append(observation.copy())
        return original(observation, *arguments)

    monkeypatch.setattr(agent.model, "predict", predict)
    for frame in pixels[:4]:
        agent.predict(frame)
    agent.reset()
    agent.predict(pixels[5])
    features = agent.encode(pixels)
    np.testing.assert_allclose(stacks[0][0], features[[0, 0, 0]], atol=1e-5)
    np.testing.assert_allclose(stacks[3][0], features[[1, 2, 3]], atol=1e-5)
    np.testing.assert_allclose(stacks[4][0], features[[5, 5, 5]], atol=1e-5)


def test_a_finetuned_agent_needs_its_first_weights_no_more(tiny: Tiny, tmp_path: Path, retina_file: Path) -> None:
    weights = tmp_path / "mine.safetensors"
    weights.write_bytes(retina_file.read_bytes())
    result = rl(tiny("ppo", mode="finetune", weights=weights, steps=64, out=tmp_path / "run"))
    weights.unlink()
    assert load(tmp_path / "run", "last").sha256() == result["encoder_sha256_after"] != result["encoder_sha256_before"]


@pytest.mark.parametrize("changes", [{}, {"mode": "finetune", "unfreeze": "layer1"}], ids=["frozen", "partly"])
def test_weights_that_have_moved_are_named_anew(
    tiny: Tiny, tmp_path: Path, retina_file: Path, changes: dict[str, Any]
) -> None:
    weights = tmp_path / "mine.safetensors"
    weights.write_bytes(retina_file.read_bytes())
    result = rl(tiny("ppo", weights=weights, steps=32, out=tmp_path / "run", **changes))
    moved = weights.rename(tmp_path / "moved.safetensors")
    with pytest.raises(EncoderError, match=r"There is no file .*mine\.safetensors"):
        load(tmp_path / "run")
    assert load(tmp_path / "run", "last", weights=moved).sha256() == result["encoder_sha256_after"]
    save_file(retina().model.state_dict(), moved)
    with pytest.raises(RunError, match=r"was trained on frozen retina weights .* Say where the right ones are"):
        load(tmp_path / "run", weights=moved)


def test_a_random_encoder_is_made_again_from_its_seed(tiny: Tiny, tmp_path: Path) -> None:
    result = rl(tiny("ppo", mode="random", seed=9, steps=32, out=tmp_path / "run"))
    assert load(tmp_path / "run", seed=123).sha256() == result["encoder_sha256_after"]


def test_a_classifier_is_no_agent(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CLASSIFIER))
    with pytest.raises(RunError, match="is a cifar run, and only rl runs hold an agent"):
        load(tmp_path)


def test_a_checkpoint_of_another_agent_is_a_sentence(
    trained: Path, tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rl(tiny("ppo", head=8, steps=32, out=tmp_path / "run"))
    stranger = (tmp_path / "run" / "checkpoints" / "last.safetensors").read_bytes()
    (trained / "checkpoints" / "best.safetensors").write_bytes(stranger)
    with pytest.raises(CheckpointError, match="does not fit this agent"):
        load(trained, "best")
    capsys.readouterr()
    assert load(trained).checkpoint == "last"
    assert re.search(r"does not fit this agent .* Taken in its place: last \(step \d+\)\.", capsys.readouterr().err)
