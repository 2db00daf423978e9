"""Settings: what `--set` takes beside the arguments of SB3's classes, the hidden layers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from stillsight.agents import RlConfig, rl
from stillsight.agents.errors import RunError
from stillsight.agents.training.algorithms import ALGORITHMS, spec
from stillsight.agents.training.build import make_agent
from stillsight.agents.training.settings import OURS, net_arch, overrides, settings
from stillsight.encoders.building import build as build_encoder

Tiny = Callable[..., RlConfig]


def made(config: RlConfig) -> Any:
    """The policy of a run of `config`."""
    return make_agent(config, build_encoder(config), n_envs=2).model.policy


def widths(network: nn.Module) -> list[int]:
    """Units of the linear layers of `network`."""
    return [layer.out_features for layer in network.modules() if isinstance(layer, nn.Linear)]


def test_hidden_layers_behind_the_head_are_set_as_any_setting(tiny: Tiny) -> None:
    policy = made(tiny("sac", set=("net_arch={'pi': [7], 'qf': [9, 8]}",)).resolved())
    assert widths(policy.actor.latent_pi) == [7]
    assert [widths(q) for q in policy.critic.q_networks] == [[9, 8, 1]] * 2
    ppo = made(tiny("ppo", set=("net_arch=[6]",)).resolved())
    assert (widths(ppo.mlp_extractor.policy_net), widths(ppo.mlp_extractor.value_net)) == ([6], [6])


def test_sac_has_both_layers_behind_the_head_and_a_run_that_does_not_say_has_one(tiny: Tiny) -> None:
    config = tiny("sac").resolved()
    assert "net_arch=[256, 256]" in config.set
    assert widths(made(config).critic.q_networks[0]) == [256, 256, 1]
    before = replace(config, set=tuple(one for one in config.set if not one.startswith("net_arch")))
    assert widths(made(before).critic.q_networks[0]) == [256, 1], "as it was made before they were a setting"
    assert net_arch(spec("ppo"), settings(spec("ppo"), "stillsight/Orchard-v0", {})) == []
    assert net_arch(spec("stable_baselines3:PPO"), {}) is None, "a third party's class has its own"


@pytest.mark.parametrize("value", ["256", "[0]", "[2.5]", "[True]", "{'pi': 3}", "wide", "[70000]"])
def test_what_are_no_widths_is_a_sentence(tiny: Tiny, value: str) -> None:
    with pytest.raises(RunError, match=r"--set net_arch takes the widths .* Type, say: --set net_arch=\[256,256\], or"):
        made(tiny("ppo", set=(f"net_arch={value}",)).resolved())


def test_a_run_with_layers_of_its_own_goes_on_and_names_nothing_to_trust(tiny: Tiny, tmp_path: Path) -> None:
    chosen = (*tiny("sac").set, "net_arch={'pi': [7], 'qf': [9, 8]}")
    rl(tiny("sac", set=chosen, steps=48, out=tmp_path / "run"))
    rl(RlConfig(resume=tmp_path / "run", steps=64))


@pytest.mark.parametrize(
    ("typed", "value"),
    [("false", False), ("TRUE", True), ("None", None), ("none", None), ("[1,2]", [1, 2]), ("lin_1e-3", "lin_1e-3")],
)
def test_words_of_truth_are_no_texts(typed: str, value: object) -> None:
    """The failure it prevents: "false" is a text, which Python takes for true."""
    for flag in ("--set", "--env-set"):
        assert overrides((f"x={typed}",), flag) == {"x": value}


@pytest.mark.parametrize(
    ("algo", "typed", "told"),
    [
        ("ppo", "normalize_advantage=no", "True or False. Type, say: --set normalize_advantage=True."),
        ("ppo", "ent_coef=lin_0.01", "a number. Type, say: --set ent_coef=0.0."),
        ("ppo", "n_epochs=4.0", "a whole number. Type, say: --set n_epochs=10."),
        ("ppo", "target_kl=abc", "a number or None."),
        ("ppo", "learning_rate=true", "a number or lin_NUMBER."),
        ("td3", "action_noise=normal", "a number or None."),
        ("dqn", "train_freq=abc", "a whole number or a list"),
    ],
)
def test_values_of_another_kind_than_the_class_asks_for_are_refused(algo: str, typed: str, told: str) -> None:
    """The failure it prevents: SB3 looks at them in its first update, with a traceback, or goes on with another."""
    with pytest.raises(RunError) as refused:
        settings(spec(algo), "stillsight/Orchard-v0", overrides((typed,), "--set"))
    assert str(refused.value).startswith(f"--set {typed.replace('true', 'True')} is nothing that {algo} takes there: ")
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("algo", "typed"),
    [
        ("ppo", "clip_range=lin_0.1"),
        ("ppo", "gamma=1"),
        ("ppo", "target_kl=none"),
        ("sac", "ent_coef=auto_0.1"),
        ("sac", "gradient_steps=-1"),
        ("td3", "action_noise=0.1"),
        ("dqn", "train_freq=[1,'episode']"),
    ],
)
def test_values_of_any_kind_that_it_asks_for_are_taken(algo: str, typed: str) -> None:
    name = typed.partition("=")[0]
    chosen = overrides((typed,), "--set")
    assert settings(spec(algo), "stillsight/Orchard-v0", chosen)[name] == chosen[name]


@pytest.mark.parametrize("name", ["replay_buffer_class", "replay_buffer_kwargs", "rollout_buffer_class"])
def test_memories_are_no_settings(name: str) -> None:
    """They would be recorded, and replaced by ours without a word."""
    with pytest.raises(RunError, match=f"There is no setting named '{name}'"):
        settings(spec("dqn" if "replay" in name else "ppo"), "stillsight/Orchard-v0", {name: "abc"})


@pytest.mark.parametrize(
    ("algo", "typed", "told"),
    [
        ("ppo", "n_epochs=0", "a number from 1."),
        ("ppo", "gamma=2", "a number from 0 to 1."),
        ("ppo", "gae_lambda=-0.1", "a number from 0 to 1."),
        ("ppo", "clip_range=-0.2", "a number above 0."),
        ("ppo", "clip_range=lin_-0.2", "a number above 0."),
        ("ppo", "max_grad_norm=-1", "a number above 0."),
        ("ppo", "ent_coef=-1000", "a number from 0."),
        ("dqn", "exploration_final_eps=4", "a number from 0 to 1."),
        ("dqn", "buffer_size=0", "a number from 1."),
        ("dqn", "train_freq=0", "a number from 1."),
        ("dqn", "train_freq=[0,'episode']", "a number from 1."),
        ("sac", "gradient_steps=-2", "a number from -1."),
    ],
)
def test_numbers_out_of_range_are_refused(algo: str, typed: str, told: str) -> None:
    """The failure it prevents: SB3 takes them, and a gradient norm of -1 learns away from what is rewarded."""
    with pytest.raises(RunError) as refused:
        settings(spec(algo), "stillsight/Orchard-v0", overrides((typed,), "--set"))
    assert str(refused.value) == f"--set {typed.replace('[0,', '[0, ')} is out of range. Type {told}"


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_defaults_of_every_class_and_preset_are_in_range(name: str) -> None:
    row = spec(name)
    parameters = inspect.signature(row.load_class()).parameters
    defaults = {one: parameters[one].default for one in parameters if parameters[one].default is not inspect._empty}
    known = {one: value for one, value in defaults.items() if one not in OURS}
    settings(row, "stillsight/Orchard-v0", {**known, **row.preset})


def test_episodes_of_several_environments_are_refused_before_sb3_fails_with_them(tiny: Tiny) -> None:
    config = tiny("dqn")
    kept = tuple(one for one in config.set if not one.startswith("train_freq"))
    with pytest.raises(RunError, match=r"counts the episodes of one environment, and these are 2\. Type --n-envs 1"):
        made(replace(config, set=(*kept, "train_freq=[1,'episode']")).resolved())


def test_what_derives_from_a_known_algorithm_has_its_traits_and_settings_of_its_own() -> None:
    """The failure it prevents: a variant of SAC that is compared with SAC behind another head."""
    known, derived = spec("sac"), spec("stable_baselines3:SAC")
    traits = ("actions", "policy", "activation", "encoder_loss")
    assert [getattr(derived, one) for one in traits] == [getattr(known, one) for one in traits]
    assert (derived.preset, derived.net_arch, derived.n_envs, derived.extra) == ({}, None, 1, None)


def test_the_presets_of_ppo_and_recurrent_ppo_are_one() -> None:
    assert spec("recurrent_ppo").source == "the preset of ppo"
    assert spec("recurrent_ppo").preset == spec("ppo").preset
