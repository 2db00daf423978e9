"""Poolings that learn, and several taps, in whole runs: trained by every algorithm, saved, played, gone on with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from stillsight.agents import EncodedVecEnv, EncoderExtractor, RlConfig, load, rl
from stillsight.agents.cli import main
from stillsight.agents.errors import RunError
from stillsight.agents.features.encoder_rate import FACTOR, optimizers
from stillsight.agents.features.extractor import canonical
from stillsight.agents.features.head import Head, merged
from stillsight.agents.features.standardise import Statistics
from stillsight.agents.runs import checkpoint
from stillsight.agents.runs.trust import open_run
from stillsight.agents.training.build import Agent, make_agent, prepare
from stillsight.agents.training.state import model_state as state
from stillsight.agents.training.summary import card, trainable
from stillsight.encoders import Backbone, Encoder, EncoderError, Preprocessing
from stillsight.encoders.building import build
from stillsight.encoders.encoder import Block
from stillsight.encoders.taps.learned_pooling import pooling_parameters
from stillsight.envs import make_vec
from stillsight.envs.wrappers.layout import Image, Layout

Tiny = Callable[..., RlConfig]
MIXED = {"tap": "stem,layer1", "pooling": "attention2,conv3", "fusion": "stack+difference"}
"""An early tap whose map is handed over beside the later one's."""


def made(config: RlConfig) -> Agent:
    config = config.resolved()
    return make_agent(config, build(config, pinned=True), n_envs=2)


def pooled(agent: Agent) -> dict[str, torch.Tensor]:
    return {name: t.detach().clone() for name, t in canonical(agent.model.policy).learned.pooling_state().items()}


@pytest.mark.parametrize(
    ("algo", "changes"),
    [
        ("ppo", {"pooling": "attention2"}),
        ("dqn", {"pooling": "conv3"}),
        ("sac", MIXED),
        ("trpo", {"pooling": "attention1"}),
        ("td3", {"pooling": "attention1"}),
    ],
)
@pytest.mark.parametrize("mode", ["frozen", "random"])
def test_every_algorithm_trains_the_pooling_and_nothing_of_the_encoder(
    tiny: Tiny, algo: str, changes: dict[str, Any], mode: str
) -> None:
    agent = made(tiny(algo, mode=mode, **changes))
    before, sha256 = pooled(agent), agent.sha256()
    # No initialiser of the policy reaches it: the first look, by which the head standardises, has seen it as it is.
    built = build(agent.config, pinned=True).learned.pooling_state()
    assert all(torch.equal(tensor, built[name]) for name, tensor in before.items())
    agent.model.learn(64)
    agent.venv.close()
    after = pooled(agent)
    assert all(not torch.equal(tensor, after[name]) for name, tensor in before.items()), algo
    assert agent.sha256() == sha256 == agent.encoder.sha256()
    assert agent.encoder.counter.images <= 64 + 12, "each frame is encoded once"
    learning = sum(tensor.numel() for tensor in after.values())
    words = card(agent)
    assert f"({learning:,} parameters, which learn with the policy); frozen" in words["encoder"]
    assert words["learns"] == f"{trainable(agent):,} parameters"
    assert trainable(agent) > learning


@pytest.mark.parametrize("algo", ["sac", "td3"])
def test_the_actor_looks_through_the_pooling_that_the_critic_trains(tiny: Tiny, algo: str) -> None:
    agent = made(tiny(algo, pooling="attention2"))
    policy: Any = agent.model.policy
    ids = pooling_parameters(policy.critic)
    assert ids
    held = {name: {id(p) for g in o.param_groups for p in g["params"]} for name, o in optimizers(policy).items()}
    assert ids <= held["critic.optimizer"]
    assert not ids & held["actor.optimizer"]
    assert not pooling_parameters(policy.actor)


@pytest.mark.parametrize(("algo", "changes"), [("ppo", {"pooling": "conv3"}), ("dqn", MIXED), ("sac", MIXED)])
def test_a_run_plays_and_goes_on_from_its_checkpoints(
    tiny: Tiny, tmp_path: Path, algo: str, changes: dict[str, Any]
) -> None:
    out = tmp_path / "run"
    result = rl(tiny(algo, out=out, steps=64, **changes))
    assert result["encoder_sha256_before"] == result["encoder_sha256_after"]
    assert 1.0 <= result["images_encoded_per_env_step"] <= 1.2
    assert (result["tap"], result["pooling"]) == (changes.get("tap", "layer1"), changes["pooling"])
    assert open_run(out).config.fusion == changes.get("fusion", "stack")
    player = load(out, "last", device="cpu")
    stored = checkpoint.load(out / "checkpoints" / "last.safetensors")["parameters"]["policy"]
    own = canonical(player.model.policy).learned.pooling_state()
    for tensor in own.values():
        assert any(tensor.shape == other.shape and torch.equal(tensor, other) for other in stored.values())
    frames = np.random.default_rng(0).integers(0, 256, (6, 2, *player.known.pixels), np.uint8)
    # The same policy as it is in memory after learning on for no step: the checkpoint put back into a fresh agent.
    twin = made(tiny(algo, seed=7, steps=64, **changes))
    state.restore_learned(twin.model, checkpoint.load(out / "checkpoints" / "last.safetensors"))
    stack = np.stack([twin.venv.encode(each) for each in frames], 1)
    expected = twin.model.predict(stack[:, -3:], deterministic=True)[0]
    for number, each in enumerate(frames):
        found = player.predict(each, began=np.array([number == 0] * 2))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    twin.venv.close()
    assert main(["rl", "--resume", str(out), "--steps", "128", "--device", "cpu"]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["env_steps"] >= 128
    assert summary["encoder_sha256_after"] == result["encoder_sha256_after"]
    later = canonical(load(out, "last", device="cpu").model.policy).learned.pooling_state()
    assert all(not torch.equal(tensor, own[name]) for name, tensor in later.items())


def test_a_stopped_run_goes_on_to_the_bit(tiny: Tiny, tmp_path: Path) -> None:
    agents = [made(tiny("ppo", **MIXED)) for _ in range(2)]
    agents[0].model.learn(64)
    checkpoint.save(tmp_path / "last.safetensors", state.capture(agents[0].model))
    state.restore(agents[1].model, checkpoint.load(tmp_path / "last.safetensors"))
    one, other = (agent.model.policy.state_dict() for agent in agents)
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    for agent in agents:
        agent.venv.close()


@pytest.mark.parametrize("adapt", ["norm", "lora"])
def test_a_pooling_learns_as_the_head_does_however_the_encoder_learns(tiny: Tiny, adapt: str) -> None:
    config = tiny("ppo", mode="finetune", unfreeze="layer1", adapt=adapt, encoder_lr=0.1, **MIXED)
    agent = made(config)
    ids = pooling_parameters(agent.model.policy)
    named = canonical(agent.model.policy).learned.pooling_state()
    assert {name for name, t in named.items() if id(t) in ids} == set(named)
    (optimizer,) = optimizers(agent.model.policy).values()
    rates = {id(p): group.get(FACTOR) for group in optimizer.param_groups for p in group["params"]}
    assert {rates[each] for each in ids} == {None}
    assert 0.1 in rates.values()
    before = pooled(agent)
    agent.model.learn(64)
    agent.venv.close()
    assert all(not torch.equal(tensor, before[name]) for name, tensor in pooled(agent).items())


# The head -------------------------------------------------------------------------------------------------------------


def test_taps_with_equally_many_places_share_a_convolution() -> None:
    assert merged([Block(32, 4), Block(8, 4), Block(5, 1), Block(7, 0)]) == [Block(40, 4), Block(5, 1), Block(7, 0)]
    torch.manual_seed(0)
    head = Head(2, [Block(8, 4), Block(4, 4), Block(6, 1), Block(7, 0)], 3, 5)
    assert [None if c is None else tuple(c.weight.shape) for c in head.convolutions] == [
        (3, 3, 1, 1),
        (3, 6, 1, 1),
        None,
    ]
    assert head.linear.in_features == 2 * (3 * 4 + 3 + 7)
    assert isinstance(head.norm, torch.nn.ModuleList)
    features = torch.randn(3, 2, 25) * torch.tensor([1.0] * 8 + [1e4] * 4 + [1e-2] * 6 + [1.0] * 7)
    normed = torch.cat(
        [norm(part) for norm, part in zip(head.norm, head.standardise(features).split([8, 4, 6, 7], 2), strict=True)], 2
    )
    grid = normed[..., :12].unflatten(2, (3, 4))  # channels first: two of the first tap, one of the second
    first, second = (c for c in head.convolutions if c is not None)
    assert first.bias is not None
    assert second.bias is not None
    small = torch.relu(torch.einsum("kc,nfcp->nfkp", first.weight.view(3, 3), grid) + first.bias[:, None]).flatten(2)
    flat = torch.relu(torch.einsum("kc,nfc->nfk", second.weight.view(3, 6), normed[..., 12:18]) + second.bias)
    expected = torch.relu(head.linear(torch.cat([small, flat, normed[..., 18:]], 2).flatten(1)))
    torch.testing.assert_close(head(features), expected)
    assert normed[..., 8:12].std().item() == pytest.approx(1, abs=0.3), "one tap does not drown the others"


def test_each_tap_is_standardised_by_its_own_scale() -> None:
    """The smallest deviation to divide by is a share of the mean one: over all taps it would be that of the largest."""
    torch.manual_seed(0)
    features = torch.cat([torch.randn(500, 4) * 1e-3, torch.randn(500, 4) * 1e3], 1)
    statistics = Statistics(features.mean(0), features.std(0, correction=0))
    head = Head(1, [Block(4, 1), Block(4, 1)], 2, 3)
    head.standardise.take(statistics)
    torch.testing.assert_close(head.standardise(features).std(0, correction=0), torch.ones(8), atol=1e-3, rtol=0)


def test_a_head_of_one_tap_has_the_names_that_its_checkpoints_always_had() -> None:
    names = set(Head(2, [Block(8, 4)], 3, 5).state_dict())
    assert names == {
        *("standardise.mean", "standardise.std", "norm.weight", "norm.bias"),
        *("compress.weight", "compress.bias", "linear.weight", "linear.bias"),
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--pooling conv8 --compress 4", "--compress has no effect with --pooling conv8, which leaves nothing to comp"),
        ("--pooling flatten --compress 4", "with --pooling flatten, whose features are no channels"),
        ("--tap layer1,layer2 --pooling conv8,flatten --compress 4", "with --pooling conv8,flatten, which leaves noth"),
        ("--tap layer1,layer2 --pooling grid2,grid2,cls", "names 3 poolings, and --tap layer1,layer2 2 stages"),
        ("--tap layer1 --pooling atention4", "if you meant that, --pooling attention4"),
        ("--tap layer3 --pooling grid30", "coarser than --pooling grid30"),
        ("--tap layer2,layer1", "in another order than that in which they run"),
    ],
)
def test_a_mistake_is_one_sentence(words: str, said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["rl", *words.split(), "--steps", "8", "--device", "cpu", "--out", str(tmp_path / "run")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert said in lines[-1]
    assert not any("Traceback" in line for line in lines)


# Images that are not square ------------------------------------------------------------------------------------------


class Wide(gym.Env[np.ndarray, np.int64]):
    """Noise of 16 x 32 px, with nothing to win."""

    observation_space = gym.spaces.Box(0, 255, (3, 16, 32), np.uint8)
    action_space = gym.spaces.Discrete(3)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        return self.noise(), {}

    def noise(self) -> np.ndarray:
        return self.np_random.integers(0, 256, (3, 16, 32), np.uint8)

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        del action
        return self.noise(), 0.0, False, False, {}


def tokens() -> Backbone:
    """A patch embedding of 4 px: 32 tokens of an image of 16 x 32, with a class token before them."""

    class Embed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 8, 4, 4)
            self.first = nn.Parameter(torch.zeros(1, 1, 8))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            patches = self.patches(images).flatten(2).transpose(1, 2)
            return torch.cat([self.first.expand(len(patches), -1, -1), patches], 1)

    model = nn.Sequential(Embed(), nn.LayerNorm(8))
    stages = {"embed": model[0], "norm": model[1]}
    return Backbone(model=model, stages=stages, preprocessing=Preprocessing(), tap="norm", class_tokens=1, multiple=4)


@pytest.mark.parametrize("pooling", ["grid2", "softmax", "conv2", "attention1"])
def test_a_policy_learns_from_tokens_of_images_that_are_not_square(pooling: str) -> None:
    encoder = Encoder(tokens(), pooling=pooling, precision="float32")
    venv = EncodedVecEnv(DummyVecEnv([Wide, Wide]), encoder, frame_stack=2)
    kwargs = {
        "features_extractor_class": EncoderExtractor,
        "features_extractor_kwargs": {"encoder": encoder, "features_dim": 8, "compress": 3},
        "normalize_images": False,
    }
    model = PPO("MlpPolicy", venv, n_steps=8, batch_size=16, n_epochs=1, policy_kwargs=kwargs, device="cpu", seed=0)
    model.learn(16)
    head = canonical(model.policy).head
    assert (
        head.linear.in_features == {"grid2": 2 * 3 * 4, "softmax": 6, "conv2": 2 * 2 * 4 * 8, "attention1": 6}[pooling]
    )


def test_both_sides_must_be_multiples_of_a_patch(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(RlConfig, "check_encoder", lambda _, side: seen.append(side))
    config = tiny()
    prepare(config, build(config, pinned=True), Layout(images=(Image("", (3, 16, 40)),)), 1)
    assert seen == [16, 40]


# As a library ---------------------------------------------------------------------------------------------------------


def test_a_pooling_that_no_policy_holds_is_warned_of(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny(**MIXED)
    encoder = build(config, pinned=True)
    venv = EncodedVecEnv(make_vec(config.env, 1, options=config.env_options()), encoder, frame_stack=2)
    with pytest.warns(UserWarning, match="retina is to learn in its pooling, and no policy holds"):
        venv.reset()
    kwargs = {
        "features_extractor_class": EncoderExtractor,
        "features_extractor_kwargs": {"encoder": encoder, "features_dim": 8},
        "normalize_images": False,
    }
    model = PPO("MlpPolicy", venv, n_steps=16, batch_size=16, n_epochs=1, policy_kwargs=kwargs, device="cpu")
    model.learn(16)
    # Stock saving holds the encoder by its recipe, and the stock loader finds out anew how an image is laid out.
    model.save(tmp_path / "model.zip")
    again = PPO.load(tmp_path / "model.zip", device="cpu")
    observation = venv.reset()
    one, other = (each.policy.predict_values(each.policy.obs_to_tensor(observation)[0]) for each in (model, again))
    torch.testing.assert_close(one, other)


def test_a_run_folder_from_before_means_what_it_meant(trained: Path) -> None:
    record = json.loads((trained / "config.json").read_text())
    assert record.pop("fusion") == "stack"
    (trained / "config.json").write_text(json.dumps(record))
    assert open_run(trained).config.fusion == "stack"
    assert load(trained, device="cpu").config.pooling == "grid2"
    (trained / "config.json").write_text(json.dumps({**record, "fusion": "flow"}))
    with pytest.raises(RunError, match=r"config\.json is damaged"):
        open_run(trained)
    (trained / "config.json").write_text(json.dumps({**record, "pooling": "grid4,grid99"}))
    with pytest.raises(EncoderError, match="There is no pooling named 'grid99'"):
        open_run(trained)
    for fusion in ("difference", "stack+difference"):
        (trained / "config.json").write_text(json.dumps({**record, "fusion": fusion, "tap": "stem,layer1"}))
        assert open_run(trained).config.fusion == fusion, "no word of these asks for anything"


def test_a_new_run_does_not_begin_with_a_policy_that_fuses_otherwise(tiny: Tiny, trained: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"it has --fusion stack \(here difference\)"):
        rl(tiny(from_run=trained, fusion="difference", standardise=0, out=tmp_path / "new"))
