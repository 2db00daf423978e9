"""Settings: what `--set` takes beside the arguments of SB3's classes, the hidden layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from stillsight.agents import RlConfig, rl
from stillsight.agents.errors import RunError
from stillsight.agents.training.algorithms import spec
from stillsight.agents.training.build import make_agent
from stillsight.agents.training.settings import net_arch, settings
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
