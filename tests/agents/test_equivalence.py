"""Cached and in-policy are one algorithm: the same actions and the same updates, where rounding cannot decide.

Both run in double precision. They then differ by less than 1e-12 in any weight, and every fault that is planted here by
more than 1e-4: a bound in between tells them apart on any processor. In single precision there is no such bound: the
order of a sum, which differs between batches and between processors, moves weights by 1e-4 too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from stable_baselines3.common.callbacks import BaseCallback
from torch import Tensor

from stillsight.agents import RlConfig
from stillsight.agents.features.encoder_rate import optimizers
from stillsight.agents.training.algorithms import ALGORITHMS
from stillsight.agents.training.build import Agent, make_agent
from stillsight.encoders.building import build as build_encoder
from stillsight.encoders.device import seed_everything
from stillsight.encoders.learned import Learned

Tiny = Callable[..., RlConfig]
Fault = Callable[[Agent], None]

BOUND = 1e-10
"""Largest difference of a weight or an action that rounding may make; it makes 2e-13."""

FAULT = 1e4 * BOUND
"""Smallest difference of the weights by which a planted fault must show; the least of them makes 3e-6."""

MOVED = 1e-4
"""How far training must have moved some weight: where nothing moves, everything is equal."""

N_ENVS = 2

CUTS: dict[str, dict[str, Any]] = {
    "frozen": {},
    "cut_after_the_stem": {"mode": "finetune", "tap": "layer1", "unfreeze": "layer1"},
    "cut_after_layer1": {"mode": "finetune", "tap": "layer2", "unfreeze": "layer2"},
}
STEPS = {"frozen": 256, "cut_after_the_stem": 96, "cut_after_layer1": 128}
FEWER = 64
"""Steps of TRPO where the encoder learns: a product with its Hessian is two backward passes."""

pytestmark = pytest.mark.usefixtures("double_precision")


@dataclass(frozen=True)
class Trained:
    """What a training has left.

    Attributes:
        actions: that it took, `[steps, n_envs, ...]`.
        weights: parameters and buffers of the policy by name.
        images: that the encoder saw.
        updates: as SB3 counts them.
    """

    actions: np.ndarray
    weights: dict[str, Tensor]
    images: int
    updates: int


class Recorder(BaseCallback):
    """Keeps every action that training took."""

    def __init__(self) -> None:
        super().__init__()
        self.actions: list[np.ndarray] = []

    def _on_step(self) -> bool:
        self.actions.append(np.array(self.locals["actions"]))
        return True


def train(config: RlConfig, steps: int, fault: Fault | None = None) -> Trained:
    torch.set_num_threads(1)
    seed_everything(config.seed)
    agent = make_agent(config.resolved(), build_encoder(config, pinned=True), n_envs=N_ENVS)
    if fault is not None:
        fault(agent)
    before = {name: tensor.clone() for name, tensor in agent.model.policy.state_dict().items()}
    recorder = Recorder()
    agent.model.learn(steps, recorder)
    agent.venv.close()
    weights = dict(agent.model.policy.state_dict())
    assert max(float((tensor - before[name]).abs().max()) for name, tensor in weights.items()) > MOVED
    return Trained(np.stack(recorder.actions), weights, agent.encoder.counter.images, agent.model._n_updates)


def difference(one: Trained, other: Trained) -> tuple[float, str]:
    """The largest difference of a weight, and its name."""
    assert one.weights.keys() == other.weights.keys()
    return max((float((tensor - other.weights[name]).abs().max()), name) for name, tensor in one.weights.items())


def assert_same(one: Trained, other: Trained) -> None:
    assert one.updates == other.updates > 0
    np.testing.assert_allclose(one.actions, other.actions, atol=BOUND, rtol=0)  # whole numbers are equal, or 1 apart
    largest, name = difference(one, other)
    assert largest <= BOUND, name


@pytest.fixture(scope="module", autouse=True)
def _imported(tiny: Tiny) -> None:
    """Runs in single precision, so that all that is imported late is there before the precision is another."""
    for row in ALGORITHMS.values():
        row.load_class()
    for algo in ("ppo", "sac"):
        train(tiny(algo, **CUTS["cut_after_the_stem"]), 40)
        train(tiny(algo, **robot(algo, "two cameras and a state")), 40)


@dataclass(frozen=True, kw_only=True)
class PreciseConfig(RlConfig):
    """A run whose replay memory keeps features in double precision, which nobody but a test can ask for."""

    replay_dtype: Literal["float16", "float32", "float64"] = "float64"  # type: ignore[assignment]


@pytest.fixture(scope="module")
def precise(tiny: Tiny, retina_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """`tiny`, with nothing in it that is kept in less than double precision: worker processes, which would be taken
    where a busy machine makes them pay, know nothing of it."""
    path = tmp_path_factory.mktemp("weights") / "retina64.safetensors"
    state = load_file(retina_file)
    save_file({name: t.double() if t.is_floating_point() else t for name, t in state.items()}, path)

    def make(algo: str = "ppo", **changes: Any) -> RlConfig:
        config = tiny(algo, workers="off", **changes)
        chosen = {field.name: getattr(config, field.name) for field in fields(config) if field.init}
        return PreciseConfig(
            **chosen | {"replay_dtype": "float64", "weights": path if config.mode.pretrained else None}
        )

    return make


def in_policy(precise: Tiny, algo: str, **changes: Any) -> RlConfig:
    """The reference: stages as their author wrote them, run inside the policy."""
    return precise(algo, in_policy=True, engine="eager", **changes)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("algo", ALGORITHMS)
def test_the_cached_path_is_the_in_policy_path(precise: Tiny, algo: str, cut: str) -> None:
    steps, changes = STEPS[cut], CUTS[cut]
    if algo == "trpo" and cut != "frozen":
        steps, changes = FEWER, {**changes, "set": (*precise(algo).set, "sub_sampling_factor=2")}
    assert_one_algorithm(precise, algo, steps, changes)


@pytest.mark.parametrize("adapt", ["norm", "lora"])
@pytest.mark.parametrize("algo", ["ppo", "dqn", "td3"])
def test_it_is_where_only_some_of_the_trained_part_learns(precise: Tiny, algo: str, adapt: str) -> None:
    changes = {**CUTS["cut_after_layer1"], "adapt": adapt, "encoder_lr": 0.5}
    assert_one_algorithm(precise, algo, STEPS["cut_after_layer1"], changes)


@pytest.mark.parametrize(
    ("algo", "changes"),
    [
        ("ppo", {"tap": "stem,layer1", "pooling": "grid2,global", "fusion": "stack+difference"}),
        ("ppo", {**CUTS["cut_after_layer1"], "tap": "layer1,layer2", "pooling": "grid2,attention2"}),
        ("dqn", {"pooling": "attention2", "fusion": "difference"}),
        ("sac", {"tap": "stem,layer1", "pooling": "conv2,attention1", "fusion": "stack+difference"}),
    ],
    ids=["two taps", "a cut between two taps", "attention", "two poolings that learn"],
)
def test_it_is_with_several_taps_poolings_that_learn_and_differences(
    precise: Tiny, algo: str, changes: dict[str, Any]
) -> None:
    assert_one_algorithm(precise, algo, 96, changes)


PARTS: dict[str, dict[str, Any]] = {
    "an image and a state": {"pixels": ("image",), "state": ("on",)},
    "two cameras": {"pixels": ("image", "wrist")},
    "two cameras and a state": {"pixels": ("image", "wrist"), "state": ("joints",)},
}


def robot(algo: str, parts: str, **changes: Any) -> dict[str, Any]:
    """Changes of a configuration to an arm that is seen through these parts."""
    env = "RobotArm-v0" if algo in ("sac", "td3", "tqc") else "Robot-v0"
    return {"env": f"robot_world:{env}", **PARTS[parts], **changes}


@pytest.mark.parametrize("parts", ["an image and a state", "two cameras"])
@pytest.mark.parametrize("algo", ALGORITHMS)
def test_it_is_with_several_images_and_with_a_state(precise: Tiny, algo: str, parts: str) -> None:
    assert_one_algorithm(precise, algo, 96, robot(algo, parts))


@pytest.mark.parametrize(
    ("algo", "changes"),
    [
        ("ppo", CUTS["cut_after_layer1"]),
        ("dqn", {"fusion": "stack+difference", "tap": "stem,layer1", "pooling": "grid2,global"}),
        ("sac", CUTS["cut_after_layer1"]),
        ("a2c", {"frame_stack": 1}),
        ("recurrent_ppo", {"mode": "finetune", "tap": "layer1", "unfreeze": "layer1"}),
    ],
    ids=["a cut", "differences of two taps", "a cut, off policy", "single frames", "a cut, recurrent"],
)
def test_it_is_with_all_of_them_and_an_encoder_that_learns(precise: Tiny, algo: str, changes: dict[str, Any]) -> None:
    assert_one_algorithm(precise, algo, 96, robot(algo, "two cameras and a state", **changes))


def assert_one_algorithm(precise: Tiny, algo: str, steps: int, changes: dict[str, Any]) -> None:
    cached = train(precise(algo, **changes), steps)
    reference = train(in_policy(precise, algo, **changes), steps)
    assert cached.images < reference.images / (3 if changes.get("frame_stack", 3) > 1 else 1.5), (
        "or both ran the same way and nothing was compared"
    )
    if cached.actions.dtype.kind == "i":
        assert len(np.unique(cached.actions)) == 3
    assert_same(cached, reference)


def the_newest_frame_is_missing(agent: Agent) -> None:
    step_wait = agent.venv.step_wait

    def faulty() -> Any:
        observations, *rest = step_wait()
        return np.concatenate([observations[:, :1], observations[:, :-1]], axis=1), *rest

    agent.venv.step_wait = faulty


def the_last_stack_of_an_episode_is_one_late(agent: Agent) -> None:
    step_wait = agent.venv.step_wait

    def faulty() -> Any:
        observations, rewards, dones, infos = step_wait()
        for info in infos:
            if "terminal_observation" in info:
                stack = info["terminal_observation"]
                info["terminal_observation"] = np.concatenate([stack[:1], stack[:-1]])
        return observations, rewards, dones, infos

    agent.venv.step_wait = faulty


def stacks_go_on_where_an_episode_begins(agent: Agent) -> None:
    step_wait, reset = agent.venv.step_wait, agent.venv.reset
    window: list[np.ndarray] = []

    def faulty_reset() -> Any:
        window[:] = [reset()]
        return window[0].copy()

    def faulty() -> Any:
        observations, *rest = step_wait()
        window[0] = np.concatenate([window[0][:, 1:], observations[:, -1:]], axis=1)
        return window[0].copy(), *rest

    agent.venv.reset, agent.venv.step_wait = faulty_reset, faulty


def memory_gives_the_stack_before(agent: Agent) -> None:
    model: Any = agent.model
    memory = getattr(model, "replay_buffer", None) or model.rollout_buffer
    get_samples = memory._get_samples

    def faulty(*args: Any, **kwargs: Any) -> Any:
        samples = get_samples(*args, **kwargs)
        stacks = samples.observations
        return samples._replace(observations=torch.cat([stacks[:, :1], stacks[:, :-1]], 1))

    memory._get_samples = faulty


def frames_come_from_the_other_environment(agent: Agent) -> None:
    encode = agent.venv.encode

    def faulty(pixels: np.ndarray) -> np.ndarray:
        frames = encode(pixels)
        return np.concatenate([frames[:N_ENVS][::-1], frames[N_ENVS:]])

    agent.venv.encode = faulty


def the_last_frame_of_an_episode_is_the_first_of_the_next(agent: Agent) -> None:
    encode = agent.venv.encode

    def faulty(pixels: np.ndarray) -> np.ndarray:
        frames = encode(pixels)
        return np.concatenate([frames[:N_ENVS], frames[: len(frames) - N_ENVS]])

    agent.venv.encode = faulty


def _forget(agent: Agent, count: int | None) -> None:
    """Take the first `count` parameters of the encoder out of every optimizer, None for all of them."""
    policy = agent.model.policy
    parts = [module for module in policy.modules() if isinstance(module, Learned)]
    forgotten = {id(parameter) for part in parts for parameter in list(part.parameters())[:count]}
    assert forgotten
    for optimizer in optimizers(policy).values():
        for group in optimizer.param_groups:
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in forgotten]


def no_optimizer_has_the_encoder(agent: Agent) -> None:
    _forget(agent, None)


def no_optimizer_has_one_of_its_weights(agent: Agent) -> None:
    _forget(agent, 1)


def target_networks_keep_the_encoder_that_they_began_with(agent: Agent) -> None:
    policy: Any = agent.model.policy
    targets = [module for name, module in policy.named_modules() if "target" in name and isinstance(module, Learned)]
    assert targets
    begun = [{name: tensor.clone() for name, tensor in target.state_dict().items()} for target in targets]
    learn = agent.model.train

    def faulty(*args: Any, **kwargs: Any) -> None:
        for target, state in zip(targets, begun, strict=True):
            target.load_state_dict(state)
        learn(*args, **kwargs)

    agent.model.train = faulty


FAULTS = [
    the_newest_frame_is_missing,
    the_last_stack_of_an_episode_is_one_late,
    stacks_go_on_where_an_episode_begins,
    memory_gives_the_stack_before,
    frames_come_from_the_other_environment,
    the_last_frame_of_an_episode_is_the_first_of_the_next,
    no_optimizer_has_the_encoder,
    no_optimizer_has_one_of_its_weights,
]
FAULT_STEPS = 96
PLANTED = [(algo, fault) for algo in ("ppo", "dqn", "sac") for fault in (None, *FAULTS)]
PLANTED += [(algo, target_networks_keep_the_encoder_that_they_began_with) for algo in ("dqn", "sac")]


@pytest.fixture(scope="module")
def references() -> dict[str, Trained]:
    """What the in-policy path gives, by algorithm: all faults are compared with one."""
    return {}


@pytest.mark.parametrize(
    ("algo", "fault"), PLANTED, ids=[f"{algo}-{fault.__name__ if fault else 'no_fault'}" for algo, fault in PLANTED]
)
def test_the_check_sees_a_planted_fault(
    precise: Tiny, references: dict[str, Trained], algo: str, fault: Fault | None
) -> None:
    cut = CUTS["cut_after_layer1"]
    if algo not in references:
        references[algo] = train(in_policy(precise, algo, **cut), FAULT_STEPS)
    cached = train(precise(algo, **cut), FAULT_STEPS, fault)
    if fault is None:
        assert_same(cached, references[algo])
        return
    with pytest.raises(AssertionError):
        assert_same(cached, references[algo])
    assert difference(cached, references[algo])[0] > FAULT


def the_cameras_change_places(agent: Agent) -> None:
    row: Any = agent.venv.row
    join = row.join
    row.join = lambda seen, state: join(np.roll(seen.reshape(len(seen), row.images, -1), 1, axis=1), state)


def the_state_is_that_of_the_step_before(agent: Agent) -> None:
    row: Any = agent.venv.row
    join, last = row.join, [np.zeros((0, 0))]

    def faulty(seen: np.ndarray, state: np.ndarray) -> np.ndarray:
        before, last[0] = last[0], state.copy()
        return join(seen, before if before.shape == state.shape else state)

    row.join = faulty


def the_state_is_that_of_the_other_environment(agent: Agent) -> None:
    row: Any = agent.venv.row
    join = row.join
    row.join = lambda seen, state: join(seen, np.roll(state, 1, axis=0))


def memory_keeps_the_state_in_half_precision(agent: Agent) -> None:
    row: Any = agent.venv.row
    join = row.join
    row.join = lambda seen, state: join(seen, state.astype(np.float16))


@pytest.mark.parametrize("algo", ["ppo", "sac"])
@pytest.mark.parametrize(
    "fault",
    [
        the_cameras_change_places,
        the_state_is_that_of_the_step_before,
        the_state_is_that_of_the_other_environment,
        memory_keeps_the_state_in_half_precision,
    ],
)
def test_the_check_sees_a_planted_fault_of_parts(
    precise: Tiny, references: dict[str, Trained], algo: str, fault: Fault
) -> None:
    changes, name = robot(algo, "two cameras and a state"), f"{algo}, parts"
    if name not in references:
        references[name] = train(in_policy(precise, algo, **changes), FAULT_STEPS)
    cached = train(precise(algo, **changes), FAULT_STEPS, fault)
    with pytest.raises(AssertionError):
        assert_same(cached, references[name])
    assert difference(cached, references[name])[0] > FAULT


def test_another_seed_is_another_run(precise: Tiny) -> None:
    one, other = train(precise("ppo"), 64), train(precise("ppo", seed=1), 64)
    assert (one.actions != other.actions).any()
    with pytest.raises(AssertionError):
        assert_same(one, other)


def test_what_is_compared_is_kept_in_double_precision(precise: Tiny) -> None:
    for algo in ("ppo", "sac"):
        config = precise(algo, **CUTS["cut_after_layer1"]).resolved()
        agent = make_agent(config, build_encoder(config, pinned=True), n_envs=N_ENVS)
        model: Any = agent.model
        memory = vars(getattr(model, "replay_buffer", None) or model.rollout_buffer).values()
        kept = [value.dtype for value in memory if isinstance(value, np.ndarray)]
        kept += [agent.venv.observation_space.dtype, np.asarray(agent.venv.reset()).dtype]
        assert np.dtype("float64") in kept
        assert not {np.dtype("float16"), np.dtype("float32")} & set(kept)
        tensors = [*model.policy.state_dict().values(), *agent.encoder.frozen.state().values()]
        assert {str(tensor.dtype) for tensor in tensors} == {"torch.float64", "torch.int64"}
        agent.venv.close()


def test_a_stack_in_the_policy_repeats_the_first_frame_too(precise: Tiny) -> None:
    # Zeros in front of an episode, as SB3's VecFrameStack puts them, would be black images, or features of zero.
    config, reference = precise(), in_policy(precise, "ppo")
    cached = make_agent(config.resolved(), build_encoder(config, pinned=True), n_envs=N_ENVS)
    inside = make_agent(reference.resolved(), build_encoder(reference, pinned=True), n_envs=N_ENVS)
    features: object = cached.venv.reset()
    pixels: object = inside.venv.reset()
    for step in range(50):
        assert isinstance(pixels, np.ndarray)
        with torch.no_grad():
            expected = inside.encoder(torch.from_numpy(pixels).flatten(0, 1)).unflatten(0, pixels.shape[:2])
        assert isinstance(features, np.ndarray)
        np.testing.assert_allclose(features, expected.numpy(), atol=BOUND, rtol=0)
        features, pixels = (agent.venv.step(np.full(N_ENVS, step % 3))[0] for agent in (cached, inside))
