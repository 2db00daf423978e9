"""SPEC.toml: the cells that follow from it, and what is said to one that cannot be run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from stillsight.agents.benchmark.benchmark_config import BenchmarkConfig
from stillsight.agents.benchmark.command import benchmark
from stillsight.agents.benchmark.grid.cell import Cell
from stillsight.agents.benchmark.grid.parse import parse_spec, read_spec
from stillsight.agents.benchmark.grid.spec import Spec
from stillsight.agents.errors import RunError
from stillsight.agents.training.config import RlConfig
from stillsight.agents.training.seeds import TUNING
from stillsight.agents.training.settings import overrides
from stillsight.encoders.errors import EncoderError
from stillsight.encoders.mode import Mode
from stillsight.encoders.supervised.cifar_config import CifarConfig
from stillsight.envs import EnvError

ORCHARD = """
seeds = 2
controls = ["random", "scratch", "unfreeze"]
rates = [0.1, 1.0]
[[task]]
env = "stillsight/Orchard-v0"
steps = 2_000
[[encoder]]
encoder = "retina"
taps = ["layer2", "layer3"]
"""


def _config(cell: Cell) -> RlConfig | CifarConfig:
    return cell.planned_work().config


def _arms(spec: Spec) -> list[str]:
    return list(dict.fromkeys(cell.arm for cell in spec.cells(lambda _: 0.0)))


def test_controls_are_in_the_grid_by_default() -> None:
    spec = parse_spec('[[task]]\nenv = "stillsight/Orchard-v0"\n[[encoder]]\nencoder = "retina"')
    assert [arm.role for arm in spec.arms["stillsight/Orchard-v0", "ppo"]] == [
        "frozen",
        "random",
        "finetune",
        "unfreeze",
        "scratch",
    ]
    assert spec.seeds == (0, 1, 2, 3, 4)


def test_every_arm_has_the_same_head_and_budget() -> None:
    configs = [_config(cell) for cell in parse_spec(ORCHARD).cells(lambda _: 0.0)]
    rl = [config for config in configs if isinstance(config, RlConfig)]
    assert len(rl) == len(configs)
    assert {(config.head, config.compress, config.steps, config.threads, config.engine) for config in rl} == {
        (512, 32, 2_000, 1, "folded")
    }


def test_cells_come_seed_by_seed() -> None:
    spec = parse_spec(ORCHARD)
    told = [(cell.seed, cell.role, cell.tuned) for cell in spec.cells(lambda _: 0.0)]
    tuning = [(seed, "unfreeze", rate) for rate in (0.1, 1.0) for seed in (TUNING, TUNING + 1)]
    row = ["frozen", "frozen", "random", "random", "unfreeze", "scratch"]
    assert told == [*tuning, *((seed, role, None) for seed in (0, 1) for role in row)]


def test_an_arm_that_is_tuned_waits_for_its_rate() -> None:
    spec = parse_spec(ORCHARD)
    early = spec.cells()
    assert [cell.tuned for cell in early if cell.role == "unfreeze"] == [0.1, 0.1, 1.0, 1.0]
    scores = {cell.key: float(cell.tuned == 1.0) for cell in early if cell.tuned}
    later = [cell for cell in spec.cells(scores.get) if cell.role == "unfreeze" and cell.tuned is None]
    assert [cell.seed for cell in later] == [0, 1]
    assert {_config(cell).encoder_lr for cell in later} == {1.0}
    low = {key: -score for key, score in scores.items()}
    chosen = [cell for cell in spec.cells(low.get) if cell.role == "unfreeze" and cell.tuned is None]
    assert {_config(cell).encoder_lr for cell in chosen} == {0.1}
    assert [cell.key for cell in later] == [cell.key for cell in chosen]  # known before the rate is


def test_keys_are_known_before_anything_runs() -> None:
    spec = parse_spec(ORCHARD)
    assert spec.expected() == [cell.key for cell in spec.cells(lambda _: 0.0) if cell.tuned is None]
    assert len(set(spec.expected())) == 12


def test_every_tap_has_a_random_arm_of_its_own() -> None:
    """At one tap alone, the verdict on the others would compare two things at once."""
    configs = [(cell.role, _config(cell)) for cell in parse_spec(ORCHARD).cells() if cell.seed == 0]
    made = {
        role: [replace(config, mode=Mode.FROZEN) for known, config in configs if known == role] for role, _ in configs
    }
    assert [config.tap for config in made["frozen"]] == ["layer2", "layer3"]
    assert made["random"] == made["frozen"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("2_000", "3_000"),
        ('["random"', '["random"'),
        ("[0.1, 1.0]", "[0.1, 0.5]"),
        ("seeds = 2", "seeds = 2\nepisodes = 3"),
    ],
)
def test_a_cell_has_another_key_when_what_it_runs_changes(before: str, after: str) -> None:
    one, other = parse_spec(ORCHARD).expected(), parse_spec(ORCHARD.replace(before, after)).expected()
    if before == after:
        assert one == other
    elif before.startswith("[0.1"):  # the arms that are tuned, and no other
        assert sum(a != b for a, b in zip(one, other, strict=True)) == 2
    else:
        assert not set(one) & set(other)


def test_an_algorithm_with_a_replay_memory_gets_random_shifts() -> None:
    text = ORCHARD.replace("seeds = 2", 'seeds = 2\nalgos = ["ppo", "dqn"]')
    scratch = {cell.algo: _config(cell) for cell in parse_spec(text).cells() if cell.role == "scratch"}
    assert {algo: config.augment for algo, config in scratch.items() if isinstance(config, RlConfig)} == {
        "ppo": "none",
        "dqn": "shift",
    }


def test_images_too_small_for_the_nature_network_get_the_other() -> None:
    assert "impala scratch" in _arms(parse_spec(ORCHARD.replace("steps", "size = 32\nsteps")))


def test_an_encoder_may_have_controls_of_its_own() -> None:
    text = ORCHARD + 'controls = ["random"]\n[[encoder]]\nencoder = "impala"\ncontrols = []\n'
    with pytest.raises(EncoderError, match="impala has no pretrained weights"):
        parse_spec(text)
    assert "retina layer2 unfrozen from layer2" not in _arms(parse_spec(ORCHARD + 'controls = ["random"]\n'))


def test_an_arm_of_ones_own() -> None:
    text = (
        ORCHARD + '[[arm]]\nname = "lora"\nrole = "finetune"\nencoder = "retina"\nmode = "finetune"\nadapt = "lora"\n'
    )
    (config,) = {_config(cell).adapt for cell in parse_spec(text).cells() if cell.arm == "lora"}
    assert config == "lora"


def test_settings_of_an_arm_are_added_to_those_of_its_task_and_win() -> None:
    text = (
        '[rl]\nsteps = 64\nset = ["gamma=0.9"]\n'
        '[[task]]\nenv = "stillsight/Orchard-v0"\nset = ["n_epochs=4", "learning_rate=1e-3"]\n'
        '[[arm]]\nname = "slow"\nrole = "frozen"\nset = ["learning_rate=1e-4"]\n'
        '[[arm]]\nname = "plain"\nrole = "frozen"\n'
    )
    cells = {cell.arm: _config(cell) for cell in parse_spec(text).cells() if cell.seed == 0}
    found = {name: overrides(config.set, "--set") for name, config in cells.items() if isinstance(config, RlConfig)}
    assert found["plain"] == {"gamma": 0.9, "n_epochs": 4, "learning_rate": 1e-3}
    assert found["slow"] == {"gamma": 0.9, "n_epochs": 4, "learning_rate": 1e-4}


def test_the_cifar_track() -> None:
    spec = parse_spec(
        """
        controls = ["random", "scratch", "warm-start"]
        rates = [0.1]
        [cifar]
        epochs = 2
        [[task]]
        dataset = "cifar10"
        shots = 5
        [[encoder]]
        encoder = "retina"
        resolution = 48
        """
    )
    cells = [cell for cell in spec.cells() if cell.seed == 0]
    assert [(cell.role, _config(cell).mode) for cell in cells] == [
        ("frozen", Mode.FROZEN),
        ("random", Mode.RANDOM),
        ("scratch", Mode.SCRATCH),
        ("warm-start", Mode.FINETUNE),
    ]
    assert {cell.task for cell in cells} == {"cifar10, 5 images a class"}
    assert {cell.algo for cell in cells} == {"linear"}
    for cell in cells:
        assert isinstance(_config(cell), CifarConfig)
        assert (_config(cell).resolution, _config(cell).shots, _config(cell).threads) == (48, 5, 1)
    assert _config(cells[3]).encoder_lr == 0.1


@pytest.mark.parametrize(
    ("text", "error", "told"),
    [
        ("seeds = 3", RunError, r"SPEC.toml has no task. Add, say"),
        ("sedes = 3\n" + ORCHARD, RunError, "no setting named 'sedes'. Did you mean 'seeds'"),
        (ORCHARD.replace("steps", "stpes"), RunError, "no setting named 'stpes'. Did you mean 'steps'"),
        (ORCHARD.replace("seeds = 2", "seeds = [1, 1]"), RunError, "must be different numbers below 1000"),
        (ORCHARD.replace("seeds = 2", "seeds = 0"), RunError, "must be different numbers below 1000"),
        (ORCHARD.replace("seeds = 2", "seeds = 2\nepisodes = 0"), RunError, "episodes = 0 plays nothing"),
        (ORCHARD.replace('"random"', '"randm"'), RunError, "no control named 'randm'. Did you mean 'random'"),
        (ORCHARD.replace("taps", "tabs"), RunError, "no setting named 'tabs'. Did you mean 'tap"),
        (ORCHARD.replace('encoder = "retina"', ""), RunError, "An \\[\\[encoder\\]\\] has no name"),
        (ORCHARD.replace('"retina"', '"retna"'), EncoderError, "no encoder named 'retna'"),
        (ORCHARD.replace('"layer3"', '"layer9"'), EncoderError, "no stage named 'layer9'"),
        (ORCHARD.replace("Orchard", "Orchrd"), EnvError, "No environment is called"),
        (ORCHARD.replace("seeds = 2", 'seeds = 2\nshifts = ["hues"]'), EnvError, "No shift is called 'hues'"),
        (ORCHARD + '[[arm]]\nname = "x"\n', RunError, "needs name and role"),
        (ORCHARD + '[[arm]]\nname = "x"\nrole = "frosen"\n', RunError, "no role named 'frosen'"),
        (
            ORCHARD + '[[arm]]\nname = "x"\nrole = "frozen"\ntpa = "stem"\n',
            RunError,
            "no setting named 'tpa'. Did you mean 'tap",
        ),
        (ORCHARD + '[[encoder]]\nencoder = "retina"\ntaps = ["layer2"]\n', RunError, "Two arms have the same name"),
        (ORCHARD + '[[task]]\nenv = "stillsight/Orchard-v0"\n', RunError, "Two tasks have the same name"),
        (ORCHARD + "[[task]]\nsteps = 3\n", RunError, "names either an env or a dataset"),
        ('controls = []\n[[task]]\nenv = "stillsight/Orchard-v0"', RunError, "nothing to compare on the rl track"),
    ],
)
def test_what_cannot_be_run_is_said_before_anything_runs(text: str, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        parse_spec(text)


def test_files_that_are_no_spec(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot be read"):
        read_spec(tmp_path / "SPEC.toml")
    (tmp_path / "SPEC.toml").write_text("seeds = ")
    with pytest.raises(RunError, match="is no TOML"):
        read_spec(tmp_path / "SPEC.toml")


def test_flags_stand_for_a_spec() -> None:
    config = BenchmarkConfig(
        env=("stillsight/Orchard-v0",), encoder=("retina",), tap=("layer2",), steps=64, seeds=3, shifts=("hue",)
    )
    spec = parse_spec(config.spec_text())
    assert (spec.name, len(spec.seeds), spec.shifts) == ("orchard-v0", 3, ("hue",))
    assert {_config(cell).steps for cell in spec.cells() if isinstance(_config(cell), RlConfig)} == {64}
    with pytest.raises(RunError, match="There is nothing to compare"):
        benchmark(None, BenchmarkConfig())
    with pytest.raises(RunError, match="--jobs 0 runs nothing"):
        benchmark(None, BenchmarkConfig(env=("stillsight/Orchard-v0",), jobs=0))
