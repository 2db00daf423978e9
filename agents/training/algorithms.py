"""The algorithms by name: rows with presets for pixels. The classes are Stable-Baselines3's own, unchanged."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from stillsight.agents.errors import RunError
from stillsight.encoders.errors import file_for_module, unknown
from stillsight.envs.spec import Actions

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

    from stillsight.agents.features.activation import Activation


@dataclass(frozen=True, kw_only=True)
class AlgorithmSpec:
    """One row of the registry.

    Attributes:
        name: what `--algo` takes.
        cls: `module:Class`, imported when needed.
        actions: the kinds of action spaces it acts in; empty for a third party's class of which nothing is known, whose
            own check decides.
        policy: SB3's name of the policy; our features extractor goes into it in every case.
        net_arch: hidden layers behind the head, of runs whose settings do not name them; None for those of the class.
        activation: at the end of the head, see `activation.activation`.
        n_envs: environments side by side by default.
        preset: keyword arguments of the class. Strings "lin_x" are a rate that falls linearly from x to 0.
        source: where the preset comes from.
        encoder_loss: which loss trains the encoder, where it learns; of third parties' classes see
            `summary.encoder_loss`.
        extra: the extra that brings `cls`.
    """

    name: str
    cls: str
    actions: tuple[Actions, ...]
    policy: str = "MlpPolicy"
    net_arch: tuple[int, ...] | None = ()
    activation: Activation = "relu"
    n_envs: int = 1
    preset: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    encoder_loss: str = "as its class has it"
    extra: str | None = None

    def load_class(self) -> type[BaseAlgorithm]:
        """Import the class.

        Raises:
            RunError: the module is missing, has no such class, or it is no SB3 algorithm, or one whose policy has no
                place for an encoder.
        """
        module, _, name = self.cls.partition(":")
        if slip := file_for_module(self.cls, "--algo"):
            raise RunError(slip)
        try:
            cls = getattr(importlib.import_module(module), name)
        except ImportError as error:
            advice = f'Run: pip install "stillsight[{self.extra}]"' if self.extra else "Install it first."
            raise RunError(f"{self.name} comes from {module}, which cannot be imported ({error}). {advice}") from error
        except AttributeError as error:
            raise RunError(f"The module {module!r} has no class {name!r}. Type --algo module:Class.") from error
        from stable_baselines3.common.base_class import BaseAlgorithm

        if not (inspect.isclass(cls) and issubclass(cls, BaseAlgorithm)):
            raise RunError(f"{self.cls} is no Stable-Baselines3 algorithm. Type --algo ppo, or module:Class of one.")
        self._check_policy(cls)
        return cls

    def _check_policy(self, cls: type[BaseAlgorithm]) -> None:
        """Refuse a class whose policy takes observations as they are (ARS): no features extractor can go into it."""
        policy = cls.policy_aliases.get(self.policy)
        if policy is None:
            return
        parameters = inspect.signature(policy).parameters.values()
        if not any(one.name == "features_extractor_class" or one.kind is one.VAR_KEYWORD for one in parameters):
            raise RunError(
                f"The policy of {self.cls} has no place for a features extractor, so its agents cannot look through an "
                f"encoder. Allowed are {', '.join(ALGORITHMS)}, and classes whose policies take "
                "features_extractor_class. Type, say: --algo ppo."
            )

    @property
    def off_policy(self) -> bool:
        """Whether the class learns from a replay memory, and may so be shown what it did not see; imports it."""
        from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

        return issubclass(self.load_class(), OffPolicyAlgorithm)

    @property
    def draws(self) -> bool:
        """Whether its agents act otherwise where they are not asked for the most likely action: by their policy, or by
        a `predict` of the class's own (DQN's). Those with TD3's policy, as DDPG's are, do not; imports it."""
        from stable_baselines3.common.base_class import BaseAlgorithm
        from stable_baselines3.td3.policies import TD3Policy

        cls = self.load_class()
        policy = cls.policy_aliases.get(self.policy)
        own = cls.predict is not BaseAlgorithm.predict
        return own or policy is None or policy._predict is not TD3Policy._predict

    @property
    def natural_gradient(self) -> bool:
        """Whether the step that trains the encoder knows no learning rate (TRPO, what derives from it); imports it."""
        return any(cls.__name__ == "TRPO" for cls in self.load_class().__mro__)


DRAWS_NOTHING = "whose policy draws no actions: its noise is that of training alone"
"""Of an algorithm that does not draw, see `AlgorithmSpec.draws`: what makes a flag that asks for it idle."""
_EVERY: tuple[Actions, ...] = ("discrete", "multi-discrete", "multi-binary", "continuous")
ATARI = "rl-baselines3-zoo's Atari preset"
"""How the source of a preset begins that is made for games of discrete actions."""
_POLICY_AND_VALUE = "policy and value losses together"
CRITIC = "the critic's temporal difference alone; the actor looks through the critic's eyes"
"""What trains the encoder wherever there are an actor and a critic, see `features.critic`; of any class."""

_PPO = {
    "n_steps": 128,
    "batch_size": 256,
    "n_epochs": 4,
    "learning_rate": "lin_2.5e-4",
    "clip_range": "lin_0.1",
    "ent_coef": 0.01,
    "vf_coef": 0.5,
}

_DQN = {
    "buffer_size": 100_000,
    "learning_starts": 5_000,
    "batch_size": 32,
    "learning_rate": 1e-4,
    "target_update_interval": 1_000,
    "train_freq": 4,
    "gradient_steps": 1,
    "exploration_fraction": 0.1,
    "exploration_final_eps": 0.01,
}

_SAC = {
    "buffer_size": 100_000,
    "learning_starts": 1_000,
    "batch_size": 256,
    "learning_rate": 3e-4,
    "net_arch": [256, 256],
}
_TRUNK = "both layers behind a head that ends in LayerNorm and tanh (SAC-AE, Yarats et al. 2019)"

_ROWS = [
    AlgorithmSpec(
        name="ppo",
        cls="stable_baselines3:PPO",
        actions=_EVERY,
        n_envs=8,
        preset=_PPO,
        source=ATARI,
        encoder_loss=_POLICY_AND_VALUE,
    ),
    AlgorithmSpec(
        name="a2c",
        cls="stable_baselines3:A2C",
        actions=_EVERY,
        n_envs=16,
        preset={"n_steps": 5, "learning_rate": 7e-4, "ent_coef": 0.01, "vf_coef": 0.25},
        source=f"{ATARI}, with SB3's default rate and its default RMSprop, where the zoo has TensorFlow's",
        encoder_loss=_POLICY_AND_VALUE,
    ),
    AlgorithmSpec(
        name="dqn",
        cls="stable_baselines3:DQN",
        actions=("discrete",),
        preset=_DQN,
        source=f"{ATARI}, but learning begins after 5,000 steps in place of its 100,000",
        encoder_loss="the temporal difference",
    ),
    AlgorithmSpec(
        name="sac",
        cls="stable_baselines3:SAC",
        actions=("continuous",),
        net_arch=(256,),
        activation="tanh",
        preset=_SAC,
        source=f"SB3's defaults (Haarnoja et al. 2018), {_TRUNK}, a smaller buffer, 1,000 steps before it learns",
        encoder_loss=CRITIC,
    ),
    AlgorithmSpec(
        name="td3",
        cls="stable_baselines3:TD3",
        actions=("continuous",),
        net_arch=(256,),
        activation="tanh",
        preset={**_SAC, "action_noise": 0.1},
        source=f"SB3's defaults (Fujimoto et al. 2018), {_TRUNK}, narrower layers, a smaller buffer and rate, 1,000 "
        "steps before it learns",
        encoder_loss=CRITIC,
    ),
    AlgorithmSpec(
        name="qrdqn",
        cls="sb3_contrib:QRDQN",
        actions=("discrete",),
        preset=_DQN,
        source="the preset of dqn",
        encoder_loss="the quantile regression of the temporal difference",
        extra="contrib",
    ),
    AlgorithmSpec(
        name="tqc",
        cls="sb3_contrib:TQC",
        actions=("continuous",),
        net_arch=(256,),
        activation="tanh",
        preset=_SAC,
        source="the preset of sac",
        encoder_loss=CRITIC,
        extra="contrib",
    ),
    AlgorithmSpec(
        name="trpo",
        cls="sb3_contrib:TRPO",
        actions=_EVERY,
        n_envs=8,
        preset={"n_steps": 128, "batch_size": 128, "cg_max_steps": 15},
        source="sb3-contrib's defaults (Schulman et al. 2015) with the rollouts of ppo",
        encoder_loss="the policy's objective alone, by the natural-gradient step",
        extra="contrib",
    ),
    AlgorithmSpec(
        name="recurrent_ppo",
        cls="sb3_contrib:RecurrentPPO",
        # sb3-contrib 2.9 keeps bits as bytes, of which the loss of MultiBinary actions cannot be taken.
        actions=("discrete", "multi-discrete", "continuous"),
        policy="MlpLstmPolicy",
        n_envs=8,
        preset=_PPO,
        source="the preset of ppo",
        encoder_loss=_POLICY_AND_VALUE,
        extra="contrib",
    ),
]

ALGORITHMS: dict[str, AlgorithmSpec] = {row.name: row for row in _ROWS}


def spec(name: str) -> AlgorithmSpec:
    """The row of `name`; for `module:Class` a row without a preset.

    A third party's class is imported for that: what of it derives from a known one is known of it too.

    Raises:
        RunError: no such algorithm, with the nearest name; see `AlgorithmSpec.load_class`.
    """
    if name in ALGORITHMS:
        return ALGORITHMS[name]
    if ":" not in name:
        allowed = "Any other SB3 algorithm goes in as --algo module:Class. Known"
        raise RunError(unknown("algorithm", name, ALGORITHMS, allowed, "--algo"))
    row = AlgorithmSpec(
        name=name,
        cls=name,
        actions=(),
        net_arch=None,
        policy="MlpLstmPolicy" if "Recurrent" in name else "MlpPolicy",
        source="the class's own defaults",
        extra="contrib" if name.startswith("sb3_contrib:") else None,
    )
    bases = {f"{cls.__module__.partition('.')[0]}:{cls.__name__}" for cls in row.load_class().__mro__}
    base = next((known for known in _ROWS if known.cls in bases), None)
    # Only what is set is the class's own: traits of a known algorithm are those of what derives from it.
    own = {name: getattr(row, name) for name in ("name", "cls", "net_arch", "n_envs", "preset", "source", "extra")}
    return row if base is None else replace(base, **own)


def check_actions(row: AlgorithmSpec, actions: Actions, env: str) -> None:
    """Raise `RunError` if `row` cannot act in an environment whose actions are of this kind."""
    if row.actions and actions != "unknown" and actions not in row.actions:
        able = [other.name for other in ALGORITHMS.values() if actions in other.actions]
        raise RunError(
            f"{row.name} needs {' or '.join(row.actions)} actions, and {env} has {actions} ones. "
            f"Allowed here: {', '.join(able)}. Type, say: --algo {able[0]}."
        )
