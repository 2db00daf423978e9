"""SPEC.toml: the cells that follow from it, and what is said to one that cannot be run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from stillsight.agents.benchmark.benchmark_config import BenchmarkConfig
from stillsight.agents.benchmark.command import benchmark
from stillsight.agents.benchmark.grid.cell import Cell
from stillsight.agents.benchmark.grid.parse import parse_spec, read_spec
from stillsight.agents.benchmark.grid.pins import pins
from stillsight.agents.benchmark.grid.spec import Spec
from stillsight.agents.benchmark.running import reference
from stillsight.agents.benchmark.running.results import Results
from stillsight.agents.errors import RunError
from stillsight.agents.runs.progress import ProgressDisplay
from stillsight.agents.training.config import RlConfig
from stillsight.agents.training.seeds import TUNING
from stillsight.agents.training.settings import overrides
from stillsight.encoders.errors import EncoderError
from stillsight.encoders.mode import Mode
from stillsight.encoders.supervised.cifar_config import CifarConfig
from stillsight.envs import EnvError
from stillsight.envs.options import EnvOptions

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
    return list(dict.fromkeys(cell.arm for cell in spec.all_cells()))


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
    configs = [_config(cell) for cell in parse_spec(ORCHARD).all_cells()]
    rl = [config for config in configs if isinstance(config, RlConfig)]
    assert len(rl) == len(configs)
    assert {(config.head, config.compress, config.steps, config.threads, config.engine) for config in rl} == {
        (512, 32, 2_000, 1, "folded")
    }


def test_cells_come_seed_by_seed() -> None:
    spec = parse_spec(ORCHARD)
    told = [(cell.seed, cell.role, cell.tuned) for cell in spec.all_cells()]
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


def test_each_rate_is_the_one_that_is_learned_at() -> None:
    """A shared encoder_lr, which older versions took, stood in for the one rate that is the flag's default."""
    text = ORCHARD.replace("steps", "encoder_lr = 0.5\nsteps")
    told = [(cell.tuned, _config(cell).encoder_lr) for cell in parse_spec(text, check=False).cells() if cell.tuned]
    assert told == [(0.1, 0.1), (0.1, 0.1), (1.0, 1.0), (1.0, 1.0)]
    others = {_config(cell).encoder_lr for cell in parse_spec(text, check=False).cells() if cell.role == "scratch"}
    assert others == {0.5}, "an arm without rates has the shared one"


def test_keys_are_known_before_anything_runs() -> None:
    spec = parse_spec(ORCHARD)
    assert spec.expected() == [cell.key for cell in spec.all_cells()]
    assert spec.reported() == [cell.key for cell in spec.all_cells() if cell.tuned is None]
    assert (len(set(spec.expected())), len(set(spec.reported()))) == (16, 12)


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
    one, other = parse_spec(ORCHARD).reported(), parse_spec(ORCHARD.replace(before, after)).reported()
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
    bare = ORCHARD.replace("rates = [0.1, 1.0]\n", "")  # which would be of nothing
    text = bare + 'controls = ["random"]\n[[encoder]]\nencoder = "impala"\ncontrols = []\n'
    with pytest.raises(EncoderError, match="impala has no pretrained weights"):
        parse_spec(text)
    assert "retina layer2 unfrozen from layer2" not in _arms(parse_spec(bare + 'controls = ["random"]\n'))


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


LEARNS = '[[arm]]\nname = "x"\nrole = "finetune"\nmode = "finetune"\n'
DATA = 'controls = ["random"]\n[[task]]\ndataset = "cifar10"\n[[encoder]]\nencoder = "retina"\n'


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (
            "seeds = 2",
            'seeds = "two"',
            'SPEC.toml has seeds = "two", a string, and it must be an integer or an array of '
            "integers. Type, say: seeds = 5",
        ),
        (
            "seeds = 2",
            'seeds = "3"',
            'SPEC.toml has seeds = "3", a string, and it must be an integer or an array of integers. Type: seeds = 3',
        ),
        (
            "seeds = 2",
            "seeds = true",
            "SPEC.toml has seeds = true, a boolean, and it must be an integer or an array of "
            "integers. Type, say: seeds = 5",
        ),
        (
            "seeds = 2",
            "seeds = [0, 1.5]",
            "SPEC.toml has seeds = 1.5, a float, and it must be an integer. Type, say: seeds = 5",
        ),
        (
            "seeds = 2",
            "seeds = " + "9" * 400,
            "SPEC.toml has seeds = " + "9" * 57 + "..., which counts nothing. Type, say: seeds = 5",
        ),
        (
            "seeds = 2",
            "seeds = 99999999999",
            "seeds = 99999999999 must be different numbers below 1000, or their count. Type, say: seeds = 5",
        ),
        (
            "seeds = 2",
            f"seeds = {10**30}",
            f"SPEC.toml has seeds = {10**30}, which counts nothing. Type, say: seeds = 5",
        ),
        (
            "seeds = 2",
            "seeds = [-1]",
            "seeds = [-1] must be different numbers below 1000, or their count. Type, say: seeds = 5",
        ),
        (
            "seeds = 2",
            "seeds = 2\nname = 3",
            'SPEC.toml has name = 3, an integer, and it must be a string. Type, say: name = "..."',
        ),
        ("seeds = 2", 'seeds = 2\nname = "//"', 'name = "//" names no folder. Type, say: name = "taps"'),
        (
            "seeds = 2",
            'seeds = 2\nalgos = "dqn"',
            'SPEC.toml has algos = "dqn", a string, and it must be an array of strings. Type: algos = ["dqn"]',
        ),
        (
            "seeds = 2",
            'seeds = 2\nalgos = ["ppo", "ppo"]',
            "algos = ['ppo', 'ppo'] must be different names. Type, say: algos = [\"ppo\"]",
        ),
        (
            "seeds = 2",
            "seeds = 2\nepisodes = 2024-01-01",
            "SPEC.toml has episodes = 2024-01-01, a date or a time, and it must be an integer. Type, say: episodes = 5",
        ),
        (
            "seeds = 2",
            "seeds = 2\ntuning_seeds = 0",
            "tuning_seeds = 0 must be a number from 1 to 1000. Type, say: tuning_seeds = 2",
        ),
        ("seeds = 2", "seeds = 2\nvideos = -1", "videos = -1 is no number of episodes. Type a number from 0."),
        ("[0.1, 1.0]", "[0.1, nan]", "SPEC.toml has rates = nan, which counts nothing. Type, say: rates = 0.5"),
        (
            "[0.1, 1.0]",
            "[0.1, 0.1]",
            "rates = [0.1, 0.1] of retina layer2 unfrozen from layer2 must be different numbers "
            "above 0. Type, say: rates = [0.1, 1.0]",
        ),
        ("[[task]]", "[task]", "[task] is one table, and task is a list of them. Type [[task]]."),
        ("[[task]]", "[[rl]]\n[[task]]", "rl = [{}] is no table. Type [rl], and its keys below it."),
        ("seeds = 2", "seeds = 2\narm = 3", "arm = 3 is no list of tables. Type [[arm]], and its keys below it."),
        (
            "2_000",
            '2_000\nthreshold = "4.0"',
            '[[task]] has threshold = "4.0", a string, and it must be a number. Type: threshold = 4.0',
        ),
        ("2_000", "2e3", "[[task]] has steps = 2000.0, a float, and it must be an integer. Type: steps = 2000"),
        ("2_000", "true", "[[task]] has steps = true, a boolean, and it must be an integer. Type, say: steps = 5"),
        (
            "2_000",
            "2_000\nclip_rewards = 1",
            "[[task]] has clip_rewards = 1, an integer, and it must be true or false. Type, say: clip_rewards = true",
        ),
        (
            "2_000",
            '2_000\nset = "gamma=0.9"',
            '[[task]] has set = "gamma=0.9", a string, and it must be an array of strings. Type: set = ["gamma=0.9"]',
        ),
        (
            "2_000",
            '2_000\nengine = "fold"',
            '[[task]] has engine = "fold", and it may be "auto", "eager", "folded", '
            '"compiled", "onnx", "graph". Type: engine = "folded"',
        ),
        (
            "2_000",
            "2_000\nlow = 2\nhigh = 1.0",
            "stillsight/Orchard-v0 has low = 2 and high = 1, which orders nothing. Type "
            "a high score above the low one.",
        ),
        (
            '["layer2", "layer3"]',
            "[]",
            "An [[encoder]] has taps = [], and no arm. Name a stage, or drop taps for the encoder's own.",
        ),
        ("taps", 'track = "RL"\ntaps', '[[encoder]] has track = "RL", and it may be "rl", "cifar". Type: track = "rl"'),
    ],
)
def test_types_are_checked_before_anything_runs(before: str, after: str, told: str) -> None:
    """Each is one sentence: what was found, what is allowed, what to type."""
    assert ORCHARD.count(before) >= 1
    for check in (True, False) if " has " in told and "SPEC.toml has" in told else (True,):
        with pytest.raises(RunError) as caught:
            parse_spec(ORCHARD.replace(before, after, 1), check=check)
        assert str(caught.value) == told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            '[rl]\nalgo = "dqn"\n' + ORCHARD[ORCHARD.index("[[") :],
            '[rl] has algo, and algorithms stand at the top. Type: algos = ["dqn"]',
        ),
        (ORCHARD.replace("steps", 'algo = "dqn"\nsteps'), "[[task]] has algo, and algorithms"),
        (ORCHARD + LEARNS + 'algo = "dqn"', "[[arm]] has algo, and algorithms"),
        (
            ORCHARD + '[rl]\nenv = "CartPole-v1"',
            '[rl] has env, and tasks have tables of their own. Type: [[task]] and below it env = "CartPole-v1"',
        ),
        (ORCHARD + LEARNS + 'env = "CartPole-v1"', "[[arm]] has env, and tasks have"),
        (DATA + '[cifar]\ndataset = "cifar100"', "[cifar] has dataset, and tasks have"),
        (
            ORCHARD + '[rl]\ntap = "layer3"',
            "[rl] has tap, and the grid chooses that of retina layer2 frozen itself. Type it "
            "in [[encoder]] or [[arm]], there as taps = [...].",
        ),
        (
            ORCHARD + '[rl]\nmode = "finetune"',
            "[rl] has mode, and the grid chooses that of retina layer2 frozen itself",
        ),
        (
            ORCHARD + '[rl]\npooling = "grid2"',
            "[rl] has pooling, and the grid chooses that of retina layer2 frozen itself",
        ),
        (
            ORCHARD + '[rl]\nencoder = "resnet18"',
            "[rl] has encoder, and the grid chooses that of nature scratch itself",
        ),
        (
            ORCHARD.replace('"scratch", ', "") + '[rl]\nencoder = "resnet18"',
            "[rl] has encoder, which has no effect: everything below it has its own. Drop it.",
        ),
        (ORCHARD + "[rl]\nsteps = 5", "[rl] has steps, which has no effect: everything below it has its own. Drop it."),
        (ORCHARD.replace("steps", 'mode = "random"\nsteps'), "[[task]] has mode, and the grid chooses"),
        (ORCHARD.replace("taps", 'mode = "random"\ntaps'), '[[encoder]] has mode = "random", and its arms are frozen'),
        (
            ORCHARD.replace('taps = ["layer2", "layer3"]', 'tap = "layer3"'),
            '[[encoder]] has tap, and may have several. Type: taps = ["layer3"]',
        ),
        (ORCHARD.replace("taps", 'adapt = "lora"\ntaps'), "[[encoder]] has adapt, and its frozen arms do not learn"),
        (
            ORCHARD.replace("taps", "wings = 2\ntaps"),
            "There is no setting named 'wings'. Did you mean 'weights'? Type: [[encoder]] weights. [[encoder]] may "
            "have: taps, label, track, controls, encoder, mode, tap, pooling, resolution, unfreeze, adapt, batchnorm, "
            "lora_rank, weights, weights_folder, seed, device, precision, threads.",
        ),
        (ORCHARD.replace("taps", "seed = 3\ntaps"), "[[encoder]] has seed = 3, and the grid's seeds stand at the top"),
        (ORCHARD + "[rl]\nseed = 3", "[rl] has seed = 3, and the grid's seeds stand at the top"),
        (ORCHARD + '[rl]\nout = "x"', "[rl] has out, and the grid places its runs"),
        (ORCHARD.replace(', "unfreeze"', ""), "rates has no effect, because no [[encoder]] has an arm that learns"),
        (
            ORCHARD.replace("[0.1, 1.0]", "[0.1]\ntuning_seeds = 3"),
            "tuning_seeds has no effect, because no arm has several",
        ),
        (
            ORCHARD.replace('"unfreeze"', '"warm-start", "unfreeze"'),
            'SPEC.toml has the control "warm-start", which data',
        ),
        (
            ORCHARD.replace("taps", 'controls = ["finetune"]\nunfreeze = "layer1"\ntaps'),
            '[[encoder]] has unfreeze = "layer1"',
        ),
        (ORCHARD + "[cifar]\nepochs = 2", "[cifar] has no effect, because no [[task]] has dataset"),
        (DATA + "[rl]", "[rl] has no effect, because no [[task]] has env"),
        (ORCHARD.replace("taps", 'track = "cifar"\ntaps'), '[[encoder]] has track = "cifar", and no [[task]] is of it'),
        ("episodes = 3\n" + DATA, "episodes has no effect, because every [[task]] is a data set"),
        (DATA.replace("[[encoder]]", "high = 1.0\n[[encoder]]"), "A [[task]] with a dataset has high"),
        (DATA + 'controls = ["scratch"]', "controls has no effect, because every [[encoder]] has its own"),
        (
            ORCHARD + '[[arm]]\nname = "x"\nrole = "random"\n',
            '[[arm]] x has role = "random" and mode = "frozen", and would '
            'be compared as what it is not. Type: mode = "random", or another role.',
        ),
        (
            ORCHARD + LEARNS.replace('"finetune"\nmode', '"frozen"\nmode'),
            '[[arm]] x has role = "frozen" and mode = "finetune"',
        ),
        (ORCHARD + LEARNS + "rates = [0.1, 1.0]\nencoder_lr = 0.5", "[[arm]] x has rates and encoder_lr"),
        (
            ORCHARD + "[rl]\nencoder_lr = 0.5",
            "[rl] has encoder_lr, and retina layer2 unfrozen from layer2 has rates, which say the same. Type rates = "
            "[...] in its place, or type encoder_lr in an [[arm]] without rates.",
        ),
        (
            ORCHARD.replace("steps", "encoder_lr = 0.5\nsteps"),
            "[[task]] has encoder_lr, and retina layer2 unfrozen from layer2 has rates",
        ),
        (
            DATA.replace('"random"', '"finetune"') + "[cifar]\nencoder_lr = 0.5",
            "[cifar] has encoder_lr, and retina finetuned has rates",
        ),
        (
            ORCHARD + '[[arm]]\nname = "x"\nrole = "frozen"\nrates = [1.0]',
            "[[arm]] x has rates, and its encoder does not",
        ),
        (
            ORCHARD + LEARNS + "max_episode_steps = 20",
            "[[arm]] x has max_episode_steps, which makes another task of it, and arms of one task are compared. Type "
            "it in [rl] or [[task]]: max_episode_steps = 20",
        ),
        (ORCHARD + LEARNS + "eval_max_steps = 20", "[[arm]] x has eval_max_steps, which makes another task"),
        (ORCHARD + LEARNS + "frame_skip = 8", "[[arm]] x has frame_skip, which makes another task"),
        (ORCHARD + LEARNS + "steps = 8_000", "[[arm]] x has steps, which makes another task"),
        (
            ORCHARD + LEARNS + 'env_set = ["fruits=9"]',
            "[[arm]] x has env_set, which makes another task of it, and arms of one task are compared. Type it in [rl] "
            'or [[task]]: env_set = ["fruits=9"]',
        ),
        (
            DATA + LEARNS + "shots = 5",
            "[[arm]] x has shots, which makes another task of it, and arms of one task are compared. Type it in "
            "[cifar] or [[task]]: shots = 5",
        ),
        (
            ORCHARD + LEARNS + 'shift = "noise"',
            "[[arm]] x would be evaluated under noise, and the others of stillsight/Orchard-v0 under none. Type what "
            'it is evaluated under beside what it is trained under: eval_shift = "none"',
        ),
        (
            ORCHARD.replace("steps", 'shift = "noise"\nsteps') + LEARNS + "shift_strength = 0.9",
            "[[arm]] x would be evaluated under noise:0.9, and the others of stillsight/Orchard-v0 under noise. ",
        ),
        (
            ORCHARD.replace("steps", 'label = "A b"\nsteps')
            + ORCHARD[ORCHARD.index("[[task") : ORCHARD.index("[[enc")].replace("steps", 'label = "a-b"\nsteps'),
            "Two cells have the name a-b__",
        ),
    ],
)
def test_a_key_has_an_effect_or_is_refused(text: str, told: str) -> None:
    """An arm of another game would be compared with the others, and normalised by the random play of theirs."""
    with pytest.raises(RunError) as caught:
        parse_spec(text)
    assert str(caught.value).startswith(told)


ONCE = "with --mode frozen, in which a head is fitted to features that are encoded once"
NO_ARM = ", and it reaches no arm that takes it. Drop it, or add one."
OWN = '[[arm]]\nname = "x"\nrole = "frozen"\n'
STATE = '[[arm]]\nname = "blind"\nrole = "frozen"\npixels = ["off"]\nstate = ["on"]\n'
SEEING = OWN + 'pooling = "grid4"\nhead = 64\n'


@pytest.mark.parametrize(
    "line",
    ["epochs = 5", "lr = 0.1", "batch = 9", "mixup = 1.0", "patience = 2", "crop = 2", "tta = true", "epochs = 30"],
)
@pytest.mark.parametrize("table", ["[cifar]", "[[task]]"])
def test_a_flag_of_training_needs_an_arm_that_trains(table: str, line: str) -> None:
    """Cells would have other keys by it, and run again to the same numbers."""
    text = f"{DATA}[cifar]\n{line}" if table == "[cifar]" else DATA.replace('"cifar10"', f'"cifar10"\n{line}')
    with pytest.raises(RunError) as caught:
        parse_spec(text)
    assert str(caught.value) == f"{table} has {line.split()[0]}, which has no effect {ONCE}{NO_ARM}"
    taken = parse_spec(text.replace('"random"', '"random", "scratch"'))
    name, value = line.split(" = ")
    assert {str(getattr(_config(cell), name)).lower() for cell in taken.cells()} == {value}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            DATA + "[cifar]\nencoder_lr = 0.5",
            "[cifar] has encoder_lr, which has no effect with --mode frozen, in which the encoder does not learn"
            + NO_ARM,
        ),
        (
            DATA + "[cifar]\nskip_broken = 0.1",
            "[cifar] has skip_broken, which has no effect with --dataset cifar10, which has no broken files" + NO_ARM,
        ),
        (
            ORCHARD + '[rl]\nreplay_dtype = "float32"',
            "[rl] has replay_dtype, which has no effect with --algo ppo, which has no replay memory" + NO_ARM,
        ),
        (
            ORCHARD.replace("steps", 'from_checkpoint = "last"\nsteps'),
            "[[task]] has from_checkpoint, which has no effect without --from, which names the run that it is of"
            + NO_ARM,
        ),
        (
            'controls = []\n[[task]]\nenv = "stillsight/Orchard-v0"\nengine = "eager"\n' + LEARNS,
            "[[task]] has engine, which has no effect where all of the encoder learns, as --mode finetune has it: none "
            "of it is run beforehand" + NO_ARM,
        ),
        (
            DATA + 'batchnorm = "frozen"',
            "[[encoder]] retina has batchnorm, which has no effect with --mode frozen, in which the encoder does not "
            "learn, and none of its controls takes it. Drop it, or add one that does.",
        ),
        (
            DATA + 'label = "eyes"\nweights = "a.pth"\nweights_folder = "b"',
            "[[encoder]] eyes has weights_folder, which has no effect beside --weights, which says where they are, and "
            "none of its controls takes it. Drop it, or add one that does.",
        ),
        (
            DATA.replace('"random"', '"scratch"') + OWN + "epochs = 5",
            f"[[arm]] x has epochs, which has no effect {ONCE}. Drop it.",
        ),
        (
            DATA.replace('"random"', '"scratch"')
            + OWN.replace("frozen", "scratch")
            + 'mode = "scratch"\nrefit = false',
            "[[arm]] x has refit, which has no effect with --mode scratch, which learns from the training images "
            "alone. Drop it.",
        ),
        (
            ORCHARD + OWN + 'replay_dtype = "float32"',
            "[[arm]] x has replay_dtype, which has no effect with --algo ppo, which has no replay memory. Drop it.",
        ),
        (
            ORCHARD + STATE + "head = 64",
            "[[arm]] blind has head, which has no effect with --pixels off, where no image is seen. Drop it.",
        ),
        (
            ORCHARD + STATE + 'pooling = "grid4"\n' + SEEING.replace("grid4", "grid2"),
            "[[arm]] blind has pooling, which has no effect with --pixels off",
        ),
    ],
)
def test_a_flag_that_the_command_refuses_is_refused_where_no_arm_takes_it(text: str, told: str) -> None:
    with pytest.raises(RunError) as caught:
        parse_spec(text)
    assert str(caught.value).startswith(told)


@pytest.mark.parametrize(
    "text",
    [
        ORCHARD.replace("seeds = 2", 'seeds = 2\nalgos = ["ppo", "dqn"]') + '[rl]\nreplay_dtype = "float32"',
        ORCHARD.replace("seeds = 2", 'seeds = 2\nalgos = ["ppo", "dqn"]') + OWN + 'replay_dtype = "float32"',
        ORCHARD + '[rl]\nengine = "eager"',
        DATA.replace('"random"', '"finetune"') + 'batchnorm = "frozen"',
        DATA + "[cifar]\ncrop = 0",
        DATA + "[cifar]\nrefit = false",
        DATA.replace('"random"', '"warm-start"').replace("[[encoder]]", "refit = true\n[[encoder]]"),
    ],
)
def test_a_flag_that_one_arm_takes_is_taken(text: str) -> None:
    assert parse_spec(text).cells()


def test_an_arm_that_sees_nothing_may_name_the_eyes_that_it_is_compared_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pins would be apart in the pooling, too, and the state's share could not be told."""
    monkeypatch.setattr(RlConfig, "check", lambda _: None)  # Orchard has no state
    configs = {
        cell.arm: _config(cell)
        for cell in parse_spec(ORCHARD + STATE + 'pooling = "grid4"\nhead = 64\n' + SEEING).cells()
    }
    blind, seeing = (configs[name] for name in ("blind", "x"))
    assert isinstance(blind, RlConfig)
    assert replace(blind, pixels=(), state=()) == seeing


def test_arms_of_classifiers_learn_from_the_same_labels() -> None:
    text = DATA.replace('"random"', '"random", "scratch"')
    assert {(cell.role, _config(cell).refit) for cell in parse_spec(text).cells()} == {  # type: ignore[union-attr]
        ("frozen", False),
        ("random", False),
        ("scratch", False),
    }
    asked = parse_spec(text + "[cifar]\nrefit = true")
    assert {_config(cell).refit for cell in asked.cells()} == {True}  # type: ignore[union-attr]


def test_cells_of_before_heads_had_a_choice_are_those_that_are_refitted() -> None:
    """Their keys and pins say nothing of it. Others have other keys and pins, and are never pooled with them."""
    refitted, fitted, same = (
        parse_spec(DATA + more).expected()[0] for more in ("[cifar]\nrefit = true", "", "[cifar]\nrefit = false")
    )
    assert refitted == "cifar10__linear__retina-frozen__seed0__a51de976", "as it was"
    assert refitted != fitted == same
    summary = {"weights_sha256": "a", "encoder_sha256_before": "b", "encoder_sha256_after": "b"}
    assert "refit" not in pins(CifarConfig(), summary)
    assert pins(CifarConfig(refit=False), summary) == {**pins(CifarConfig(), summary), "refit": False}


def test_an_arm_may_be_trained_under_another_shift_than_it_is_evaluated_under() -> None:
    spec = parse_spec(ORCHARD + LEARNS + 'shift = "noise"\neval_shift = "none"')
    shifts = {(cell.arm, _config(cell).shift, _config(cell).eval_shift) for cell in spec.cells(lambda _: 0.0)}  # type: ignore[union-attr]
    assert ("x", "noise", "none") in shifts
    assert ("nature scratch", None, None) in shifts


def test_keys_that_reach_an_arm_are_taken() -> None:
    """What is refused for a grid's own arms is a default for arms of one's own."""
    text = 'controls = []\n[rl]\nsteps = 64\ntap = "stem"\nmode = "random"\n[[task]]\nenv = "stillsight/Orchard-v0"\n'
    text += '[[arm]]\nname = "x"\nrole = "random"\n'
    (config,) = {replace(_config(cell), seed=0) for cell in parse_spec(text).cells()}
    assert (config.tap, config.mode) == ("stem", Mode.RANDOM)
    asked = ORCHARD.replace('"scratch", ', "").replace("taps", 'controls = ["scratch", "unfreeze"]\ntaps')
    assert "nature scratch" in _arms(parse_spec(asked)), "an encoder asks for it, and the top does not"


def test_an_encoder_at_its_own_tap_is_pooled_as_the_command_does() -> None:
    """`stillsight rl --encoder retina` keeps places apart; a grid without taps must not compare something else."""
    text = 'controls = ["random"]\n[[task]]\nenv = "stillsight/Orchard-v0"\n[[encoder]]\nencoder = "retina"\n'
    alone = RlConfig().resolved()
    for cell in parse_spec(text).cells():
        config = _config(cell)
        assert (config.tap, config.pooling) == (alone.tap, alone.pooling) == ("layer2", "grid6")
    assert {_config(cell).pooling for cell in parse_spec(text + 'pooling = "global"').cells()} == {"global"}


def test_several_taps_at_once_are_an_arm_and_its_last_stage_is_the_one_that_learns() -> None:
    text = 'seeds = 1\ncontrols = ["random", "unfreeze"]\nrates = [1.0]\n[rl]\nsteps = 64\n'
    text += '[[task]]\nenv = "stillsight/Orchard-v0"\n[[encoder]]\nencoder = "retina"\n'
    text += 'taps = ["layer1,layer2", "layer2"]\npooling = "grid4"\n'
    made = {cell.arm: _config(cell) for cell in parse_spec(text).cells()}
    assert {name: (config.tap, config.pooling, config.unfreeze) for name, config in made.items()} == {
        "retina layer1,layer2 frozen": ("layer1,layer2", "grid4", None),
        "retina layer2 frozen": ("layer2", "grid4", None),
        "retina layer1,layer2 random": ("layer1,layer2", "grid4", None),
        "retina layer2 random": ("layer2", "grid4", None),
        "retina layer1,layer2 unfrozen from layer2": ("layer1,layer2", "grid4", "layer2"),
    }
    with pytest.raises(EncoderError, match="names 2 poolings, and --tap layer2 1 stage"):
        parse_spec(text.replace('"grid4"', '"grid4,global"'))


def test_the_grid_of_taps_covers_what_the_defaults_rest_on() -> None:
    path = Path(__file__).resolve().parents[3] / "results" / "published" / "benchmark" / "taps" / "SPEC.toml"
    cells = parse_spec(path.read_text(), check=False).cells()
    configs = [_config(cell) for cell in cells]
    assert len(configs) == 2 * 5 * 14
    assert {config.pooling for config in configs} == {
        *("grid6", "global", "softmax", "flatten", "attention4", "conv32", "grid6,global")
    }
    assert {config.fusion for config in configs} == {"stack", "difference", "stack+difference"}
    assert sum("," in config.tap for config in configs) == 2 * 5 * 3
    for config in configs:
        replace(config, weights=None, mode=Mode.RANDOM).check()


def test_a_report_reads_what_would_be_refused_today() -> None:
    text = ORCHARD + '[rl]\nalgo = "dqn"\nsteps = 5\n'
    cells = parse_spec(text, check=False).cells()
    assert {(cell.algo, getattr(_config(cell), "algo", None), cell.budget) for cell in cells} == {("ppo", "ppo", 2_000)}


def test_files_that_are_no_spec(tmp_path: Path) -> None:
    (tmp_path / "SPEC.toml").write_bytes(b'name = "\xff"')
    with pytest.raises(RunError, match="is no TOML: it is not written in UTF-8"):
        read_spec(tmp_path / "SPEC.toml")
    (tmp_path / "SPEC.toml").unlink()
    with pytest.raises(RunError, match="cannot be read"):
        read_spec(tmp_path / "SPEC.toml")
    (tmp_path / "SPEC.toml").write_text("seeds = ")
    with pytest.raises(RunError, match="is no TOML"):
        read_spec(tmp_path / "SPEC.toml")


def test_references_are_measured_again_when_the_game_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores are normalised by them: those of short episodes must not stand for those of long ones."""
    measured = []

    def play(env: str, episodes: int, _: int, *, options: EnvOptions, max_steps: int) -> dict[str, dict[str, float]]:
        measured.append((env, options.max_episode_steps, max_steps))
        return {"random": {"mean": float(options.max_episode_steps), "std": 0.0, "episodes": episodes}}

    monkeypatch.setattr(reference, "reference_returns", play)
    results, display = Results(tmp_path), ProgressDisplay()
    for steps in (20, 20, 30):
        text = ORCHARD.replace("steps =", f"max_episode_steps = {steps}\nsteps =")
        reference.measure_references(parse_spec(text), results, display)
    orchard = "stillsight/Orchard-v0"
    assert measured == [(orchard, 20, 10_000), (orchard, 30, 10_000)]
    capped = ORCHARD.replace("steps =", "max_episode_steps = 30\neval_max_steps = 8\nsteps =")
    reference.measure_references(parse_spec(capped), results, display)
    assert measured[2:] == [(orchard, 30, 8)], "episodes of references end where those of agents do"
    monkeypatch.setattr(reference, "env_version", lambda _: "another game")
    reference.measure_references(parse_spec(capped), results, display)
    assert measured[3:] == [(orchard, 30, 8)]
    old = {"stillsight/Orchard-v0": {"random": {"mean": 1.0, "std": 0.0, "episodes": 20}}}
    results.put("references.json", json.dumps(old))
    reference.measure_references(parse_spec(ORCHARD), results, display)
    assert len(measured) == 4, "what an older version measured stays"


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
