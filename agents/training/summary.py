"""What a run says of itself: the card before it, summary.json after it, the closing lines."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Box
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import nn

from stillsight.agents.buffers.row import RowSpace
from stillsight.agents.features.critic import follows_critic
from stillsight.agents.features.encoder_rate import optimizers
from stillsight.agents.features.extractor import EncoderExtractor, canonical
from stillsight.agents.features.head import Head
from stillsight.agents.training.algorithms import ATARI, CRITIC, spec
from stillsight.agents.training.episodes import earned, share_successful
from stillsight.agents.training.presets import preset
from stillsight.agents.training.settings import FALLING, arguments, overrides, settings
from stillsight.agents.training.state.rollout_length import least_share, rollout_steps
from stillsight.encoders import device as devices
from stillsight.encoders.engines.engine import Engine
from stillsight.encoders.errors import as_typed
from stillsight.encoders.taps.learned_pooling import pooling_parameters
from stillsight.envs.registry import resolve
from stillsight.envs.suites.suite import ROBOT_PPO
from stillsight.envs.vec_state import vec_objection
from stillsight.envs.wrappers.layout import Layout

if TYPE_CHECKING:
    from stillsight.agents.training.build import Agent
    from stillsight.agents.training.checkpointing import Savepoints
    from stillsight.agents.training.config import RlConfig
    from stillsight.agents.training.episodes import Episode


def trainable(agent: Agent) -> int:
    """Number of parameters that some optimizer of the model changes."""
    groups = [group for optimizer in optimizers(agent.model.policy).values() for group in optimizer.param_groups]
    return sum(parameter.numel() for group in groups for parameter in group["params"] if parameter.requires_grad)


def buffer_bytes(model: BaseAlgorithm) -> int:
    """Memory of the rollout or replay buffer once it is full, in bytes."""
    buffer = getattr(model, "replay_buffer", None) or getattr(model, "rollout_buffer", None)
    return sum(value.nbytes for value in vars(buffer).values() if isinstance(value, np.ndarray)) if buffer else 0


def card(agent: Agent) -> dict[str, str]:
    """What is about to happen, for people."""
    config, encoder, model = agent.config, agent.encoder, agent.model
    options, layout = config.env_options().to_json(), agent.venv.layout
    usual = resolve(config.env).options.to_json()
    source = encoder.provenance
    where = "inside the policy, at every look" if config.in_policy else "once per new frame, before the buffer"
    cut = {None: f"frozen, run {where}", "all": "trained from the first stage on"}.get(
        encoder.unfreeze, f"trained from {encoder.unfreeze} on; what lies before runs {where}"
    )
    seen_through = {
        "encoder": f"{encoder.name} to {encoder.tap}, pooling {encoder.pooling}{_pooled(agent)}; {cut}",
        **({"encoder learns": _learning(agent)} if config.mode.trained else {}),
        "weights": f"{source.kind}: {source.name} {source.sha256[:12]}",
        "licence": source.licence,
    }
    if not layout.images:
        seen_through = {"encoder": "none is run, for no image is seen"}
    return {
        "env": f"{config.env} x {agent.venv.num_envs}, {_shown(layout)}, "
        + ", ".join(
            f"{name} {_typed(value)}{STAR * (value != usual[name] and name != 'step_timeout')}"
            for name, value in options.items()
            if value
        ),
        "sees": str(agent.venv.get_attr("seen", 0)[0]),
        **({"text": f"{', '.join(layout.texts)}: known, and unused by this agent"} if layout.texts else {}),
        **(_shifts(config) if layout.images else {}),
        "steps": _steps(config.steps, model),
        "evaluations": _evaluations(config, model),
        "actions": str(model.action_space),
        **seen_through,
        "observation": _observation(agent.venv.observation_space),
        "head": _heads(canonical(model.policy)),
        "settings": _settings(config),
        "preset": _preset(config, model),
        "learns": f"{trainable(agent):,} parameters",
        "buffer": f"{buffer_bytes(agent.model) / 1e6:,.1f} MB",
        "device": f"{model.device}, encoder on {encoder.frozen.device}",
        **({"engine": _engine(encoder.frozen.engine)} if len(encoder.frozen.steps) else {}),
    }


STAR = "*"
"""Behind what is otherwise than in the presets."""


def _shifts(config: RlConfig) -> dict[str, str]:
    """What the agent learns and is tested through, which may be another; nothing where all is shown as it is."""
    learns, tested = config.env_options().look, config.eval_options().look
    if not learns and not tested:
        return {}
    plain = "the game as it is"
    return {"shift": f"trains through {learns or plain}; is evaluated through {tested or plain}"}


def _settings(config: RlConfig) -> str:
    """The algorithm's settings, those that are no preset's with a star."""
    usual = settings(spec(config.algo), config.env, {})
    told = [
        f"{name}={value!r}{STAR * (name not in usual or usual[name] != value)}"
        for name, value in overrides(config.set, "--set").items()
    ]
    row, known = spec(config.algo), preset(config.env, config.algo)
    for flag, value, default in (
        ("n_envs", config.n_envs, known.n_envs or row.n_envs),
        ("frame_stack", config.frame_stack, known.frame_stack),
    ):
        if value is not None:
            told.append(f"{flag}={value}{STAR * (value != default)}")
    return ", ".join(told)


def _preset(config: RlConfig, model: BaseAlgorithm) -> str:
    """Where the settings come from, what they are not made for, and what the stars mean."""
    known, row = preset(config.env, config.algo), spec(config.algo)
    sources = [source for source in (known.source, row.source) if source]
    if isinstance(model.action_space, Box) and not known.source and row.source.startswith(ATARI):
        usual = " ".join(f"{name}={value}" for name, value in ROBOT_PPO.settings.items())
        taken = f", say: --n-envs 1 --set {usual}" if config.algo == "ppo" else ""
        sources[0] += f", made for games of discrete actions; continuous ones are usually learned otherwise{taken}"
    return f"{'; on top of '.join(sources)}. {STAR}: changed by you"


def begins(agent: Agent, savepoints: Savepoints, changed: Mapping[str, tuple[Any, Any]]) -> dict[str, str]:
    """Where a run begins that does not begin with nothing, and whether its games can go on once it was stopped.

    Args:
        agent: restored.
        savepoints: of the run.
        changed: field -> (before, now) of flags that a resumed run changes.
    """
    rows: dict[str, str] = {}
    config, resumption = agent.config, savepoints.resumption
    if (origin := savepoints.ancestor) is not None:
        rows["policy"] = (
            f"begins with that of {origin['run']} ({origin['checkpoint']}, step {origin['step']:,}, "
            f"sha256 {origin['sha256'][:12]}): head, policy, values{' and encoder' if config.mode.trained else ''}. "
            "New are optimizer, counters, schedules, exploration and replay memory"
        )
    if resumption is None:
        reason = vec_objection(agent.venv.venv)
        rows["resuming"] = (
            "episodes would go on where they stood: on one CPU to the bit"
            if reason is None
            else f"episodes would begin anew: {reason}"
        )
        return rows
    told = [f"{name} {before} before, {now} now" for name, (before, now) in changed.items()]
    rows["resumed"] = "; ".join([f"at step {resumption.step:,} of {config.steps:,}", *told])
    rows["episodes"] = "go on where they stood" if resumption.games is None else f"begin anew: {resumption.games}"
    if resumption.best is not None:
        rows["best agent"] = resumption.best
    if "steps" in changed and resumption.step:
        rows["schedules"] = _schedules(agent, resumption.step, changed["steps"][0])
    return rows


def _schedules(agent: Agent, done: int, before: int) -> str:
    """How rates and exploration go on in a run whose length was changed, in words: at which the next update is made, or
    the next action drawn, and at which the last ones were."""
    config, model = agent.config, agent.model
    rollout = rollout_steps(model)
    rollout = model.n_envs if rollout == inf else int(rollout)
    starts = getattr(model, "learning_starts", 0)
    # SB3 counts a rollout as done before it learns from it.
    update = done + rollout * (max(0, starts - done) // rollout + 1)
    told = []
    for setting, text in overrides(config.set, "--set").items():
        if isinstance(text, str) and text.startswith(FALLING):
            stood = arguments({setting: text}, agent.venv, least=least_share(model, before))[setting]
            here, there = getattr(model, setting)(1.0 - update / config.steps), stood(1.0 - done / before)
            told.append(f"{setting} goes on at {here:.3g}, where it stood at {there:.3g}")
    exploration = getattr(model, "exploration_schedule", None)
    if exploration is not None:
        here = exploration(1.0 - (done + model.n_envs) / config.steps)
        told.append(f"exploration goes on at {here:.3g}, where it stood at {exploration(1.0 - done / before):.3g}")
    if not told:
        return "all are constant"
    learning = " The encoder's rate and that of its additions follow." if config.mode.trained else ""
    return f"follow the new length, {config.steps:,} steps: {'; '.join(told)}.{learning}"


def whole_steps(steps: int, model: BaseAlgorithm) -> int:
    """How many env steps a run of `steps` makes: whole rollouts, where the algorithm learns from these."""
    if not isinstance(model, OnPolicyAlgorithm):
        return steps
    rollout = model.n_steps * model.n_envs
    return -(-steps // rollout) * rollout


def _steps(steps: int, model: BaseAlgorithm) -> str:
    """How many steps there will be, and what that is too few for."""
    whole = whole_steps(steps, model)
    if isinstance(model, OnPolicyAlgorithm) and whole > steps:
        told = f"{whole:,}, not {steps:,}: an update takes {model.n_envs} x {model.n_steps} (--n-envs, --set n_steps)"
        return f"{told}; the agent learns once, at their end" if whole == model.n_steps * model.n_envs else told
    starts = getattr(model, "learning_starts", 0)
    if starts >= steps:
        return (
            f"{steps:,}: NOTHING WILL BE LEARNED, for {type(model).__name__} begins to learn after {starts:,}. Type "
            f"more --steps, or --set learning_starts={steps // 10}"
        )
    return f"{steps:,}"


def _evaluations(config: RlConfig, model: BaseAlgorithm) -> str:
    """When the agent is evaluated, how long an episode may go on, and which evaluations learning cannot show in."""
    limit = f" of at most {config.eval_max_steps:,} steps" if config.eval_max_steps else ""
    episodes = f"{config.eval_episodes} episode{'s' * (config.eval_episodes != 1)}{limit}"
    every = config.eval_every or 0
    if not 0 < every < config.steps:
        return f"{episodes} when it has learned all"
    told = f"{episodes} every {every:,} steps and when it has learned all"
    rollout = model.n_steps * model.n_envs if isinstance(model, OnPolicyAlgorithm) else 0
    first = rollout or getattr(model, "learning_starts", 0)
    early = 0 if model.num_timesteps else min(first, config.steps - 1) // every
    if early:
        ones = "first" if early == 1 else f"first {early}"
        told += f"; the {ones} before it learns anything, which begins after step {first:,}"
    if every < rollout:
        told += f". It learns every {rollout:,} steps, and is the same in between. Type --eval-every {rollout}"
    return told


def _engine(engine: Engine) -> str:
    dropped = "".join(f"; not {name}: {why}" for name, why in engine.dropped.items())
    return f"{engine}{dropped}"


def encoder_loss(agent: Agent) -> str:
    """Which loss trains the encoder, in words: by what its policy became, for a class of anybody's says it nowhere."""
    return CRITIC if follows_critic(agent.model.policy) else spec(agent.config.algo).encoder_loss


def _learning(agent: Agent) -> str:
    config = agent.config
    what = {
        "all": "every weight",
        "norm": "scales and shifts of normalisation layers",
        "lora": f"additions of rank {config.lora_rank}",
    }[config.adapt]
    rate = "" if config.encoder_lr == 1.0 else f", at {config.encoder_lr:g} times the learning rate"
    return f"{what}, BatchNorm statistics {config.batchnorm}; from {encoder_loss(agent)}{rate}"


def _pooled(agent: Agent) -> str:
    """How many parameters the pooling learns with, in words; nothing where it learns none."""
    learned = canonical(agent.model.policy).learned
    pooling = pooling_parameters(learned)
    count = sum(parameter.numel() for parameter in learned.parameters() if id(parameter) in pooling)
    return f" ({count:,} parameters, which learn with the policy)" if count else ""


def _shown(layout: Layout) -> str:
    """What an environment shows, in words."""
    return f"pixels {layout.pixels}" if layout.plain else str(layout)


def _typed(value: object) -> object:
    """The value of an option as it is typed."""
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else value


def _observation(space: Space[Any]) -> str:
    """What the policy gets, in words."""
    shape = space.shape
    assert shape is not None
    if not isinstance(space, RowSpace):
        return f"{shape[0]} frames of {shape[1:]} {space.dtype}"
    parts = [f"{space.images} x {space.part}"] if space.images else []
    parts += [f"{space.state} numbers of the state"] if space.state else []
    return f"{shape[0]} frames of {' and '.join(parts)}, {shape[1]} {space.dtype} in a row"


def _heads(extractor: EncoderExtractor) -> str:
    """The head, and the state's own layer."""
    parts = [] if extractor.head is None else [_head(extractor.head)]
    if extractor.state_head is not None:
        seen = "as it is" if extractor.state_head.standardise.leaves else "standardised"
        joined = ", joined behind" if parts else ""
        layer = f"Linear to {extractor.state_head.linear.out_features}{_end(extractor.state_head.activation)}"
        parts.append(f"the state {seen}, {layer}{joined}")
    return "; ".join(parts)


def _head(head: Head) -> str:
    shared = [layer for layer in head.convolutions if layer is not None]
    count = len(head.widths) // head.images
    each = [f"{count} taps"] * (count > 1) + [f"{head.images} images"] * (head.images > 1)
    taps = f" for each of {' of each of '.join(each)}" if each else ""
    convolution = f"1 x 1 convolution to {shared[0].out_channels}, " if shared else ""
    if len(shared) > 1:
        convolution = f"{len(shared)} 1 x 1 convolutions to {shared[0].out_channels} each, "
    fused = "" if head.fusion == "stack" else f"{head.fusion} of the frames, "
    seen = "features as they are" if head.standardise.leaves else "standardised features"
    return f"{seen}, LayerNorm{taps}, {convolution}{fused}Linear to {head.linear.out_features}{_end(head.activation)}"


def _end(activation: nn.Module) -> str:
    return "" if isinstance(activation, nn.ReLU) else ", LayerNorm and tanh"


def summary(agent: Agent, savepoints: Savepoints, episodes: list[Episode], *, deterministic: bool) -> dict[str, Any]:
    """The content of summary.json; `episodes` are those of the last evaluation."""
    returns = [round(episode.total, 6) for episode in episodes]
    encoder, model, config, ledger = agent.encoder, agent.model, agent.config, savepoints.ledger
    steps = model.num_timesteps
    return {
        "env": config.env,
        "algo": config.algo,
        "mode": config.mode.value,
        "seed": config.seed,
        "return_mean": np.mean(returns),
        "return_std": np.std(returns),
        "return_episodes": len(returns),
        "return_capped": sum(episode.capped for episode in episodes),
        "return_deterministic": deterministic,
        **({} if (rate := share_successful(episodes)) is None else {"success_rate": rate}),
        "best_return_mean": ledger.best,
        "env_steps": steps,
        "wall_seconds": ledger.seconds,
        "cpu_seconds": ledger.all_cpu_seconds,
        "env_steps_per_s": steps / ledger.seconds,
        "images_encoded_per_env_step": ledger.images / steps,
        **({} if agent.venv.layout.plain else {"images_in_an_observation": len(agent.venv.layout.images)}),
        "peak_memory_bytes": devices.peak_memory(model.device),
        "buffer_bytes": buffer_bytes(agent.model),
        "trainable_parameters": trainable(agent),
        "encoder": encoder.name,
        "tap": encoder.tap,
        "pooling": encoder.pooling,
        "fusion": config.fusion,
        "resolution": encoder.resolution,
        "unfreeze": encoder.unfreeze,
        "adapt": config.adapt if config.mode.trained else None,
        "batchnorm": config.batchnorm,
        "lora_rank": config.lora_rank if config.adapt == "lora" else None,
        "encoder_lr": config.encoder_lr if config.mode.trained else None,
        "encoder_loss": encoder_loss(agent) if config.mode.trained else None,
        "in_policy": config.in_policy,
        "vec_env": type(agent.venv.venv).__name__,
        "device": model.device.type,
        "computed_in": encoder.computed_in(encoder.frozen.device),
        "engine": encoder.frozen.engine.name if len(encoder.frozen.steps) else None,
        "engine_seconds_per_batch": encoder.frozen.engine.seconds,
        "weights_source": encoder.provenance.kind,
        "weights_name": encoder.provenance.name,
        "weights_sha256": encoder.provenance.sha256,
        "weights_licence": encoder.provenance.licence,
        "from": savepoints.ancestor,
        "encoder_sha256_before": ledger.encoder_sha256,
        "encoder_sha256_after": agent.sha256(),
    }


def closing(result: dict[str, Any], folder: Path, trust: str = "") -> dict[str, str]:
    """The lines that a person reads at the end of a run.

    Args:
        result: of the run.
        folder: of the run.
        trust: what must be typed so that the run is opened again, see `trust.flags`.
    """
    same = result["encoder_sha256_before"] == result["encoder_sha256_after"]
    return {
        "return": earned(
            result["return_mean"], result["return_std"], result["return_episodes"], result.get("success_rate")
        ),
        "speed": f"{result['env_steps_per_s']:,.0f} env steps/s over {result['wall_seconds']:,.0f} s of training",
        "images": f"{result['images_encoded_per_env_step']:.2f} encoded per env step{_of_cameras(result)}",
        "encoder": f"{'unchanged to the bit' if same else 'trained'}, sha256 {result['encoder_sha256_after'][:12]}",
        "memory": f"{result['peak_memory_bytes'] / 1e9:.2f} GB at most",
        "folder": str(folder),
        "video": f"stillsight record {as_typed(folder)}{trust}",
    }


def _of_cameras(result: Mapping[str, Any]) -> str:
    """Of how many cameras the images are, in words; "" of one."""
    cameras = result.get("images_in_an_observation", 1)
    if cameras < 2:
        return ""
    return f", {result['images_encoded_per_env_step'] / cameras:.2f} of each of {cameras} cameras"
