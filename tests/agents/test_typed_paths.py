"""What a user is told to type can be pasted, whatever a folder is called: a shell reads the very path out of it."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from stillsight.agents import RlConfig, rl
from stillsight.agents.cli import main
from stillsight.agents.doctor.run_check import check_run
from stillsight.agents.errors import RunError, TrainingFault
from stillsight.agents.exchange.exchange_config import ExportConfig
from stillsight.agents.runs.folder import Run
from stillsight.agents.runs.plots import PlotConfig
from stillsight.agents.runs.reader import IMPORTED, check_resumable, read_config
from stillsight.agents.runs.trust import read_run
from stillsight.agents.seeing.encode_config import EncodeConfig
from stillsight.agents.training import callbacks
from stillsight.agents.training.continuing.ancestor import ancestor_file
from stillsight.agents.training.summary import closing
from stillsight.encoders.errors import EncoderError, as_typed
from stillsight.encoders.supervised.cifar_config import CifarConfig
from stillsight.encoders.supervised.data.image_folder import read as read_images
from stillsight.encoders.system.plain_file import NotPlainError, check_kind

Tiny = Callable[..., RlConfig]
AWKWARD = "crash é x's"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A finished run in a folder whose name a shell would tear apart."""
    return Path(shutil.copytree(trained, tmp_path / AWKWARD))


def typed(said: str, before: str) -> str:
    """The word that a shell reads behind the last `before` in a sentence, whose own commas and stops go."""
    words = shlex.shlex(said[said.rindex(before) + len(before) :], posix=True, punctuation_chars=False)
    words.whitespace_split = True
    word = words.get_token()
    assert word is not None
    return word.rstrip(".,;")


def refused(call: Callable[[], object]) -> str:
    with pytest.raises((RunError, EncoderError)) as caught:
        call()
    return str(caught.value)


def summary_advice(run: Path) -> str:
    return next(outcome.advice for outcome in check_run(run) if outcome.check == "summary.json")


@pytest.mark.parametrize("path", ["plain", "a b", "é", "it's", "$(x) `y`", "-rf", "a\nb", "~", "*"])
def test_a_path_is_one_word_and_no_flag(path: str) -> None:
    (word,) = shlex.split(as_typed(Path(path)))
    assert Path(word) == Path(path)
    assert not word.startswith("-")


def test_a_path_without_anything_odd_stands_as_it_is() -> None:
    assert as_typed(Path("results/runs/orchard-ppo")) == "results/runs/orchard-ppo"


def test_a_finished_run_is_recorded_and_gone_on_with_as_it_is_told(run: Path) -> None:
    said = refused(lambda: RlConfig(resume=run).check_given({"resume"}))
    assert typed(said, "stillsight record ") == str(run)
    assert typed(said, "--resume ") == str(run)
    assert said.endswith(" --steps 192")
    again = shlex.split(said[said.rindex("--resume ") :])
    assert main(["rl", *again]) == 0, "what was pasted runs"


def test_every_sentence_about_a_run_quotes_its_folder(run: Path) -> None:
    said = refused(lambda: RlConfig(resume=run, algo="dqn").check_given({"resume", "algo"}))
    assert typed(said, "begin a new run with its policy: --from ") == str(run)
    said = refused(lambda: read_run(run).expect(CifarConfig))
    assert typed(said, "stillsight rl --resume ") == str(run)
    assert typed(Run(run, "rl", RlConfig(), resumed=True).advice(), "stillsight rl --resume ") == str(run)
    result = {
        **dict.fromkeys(("encoder_sha256_before", "encoder_sha256_after"), "0"),
        **dict.fromkeys(("return_mean", "return_std", "env_steps_per_s", "wall_seconds"), 0.0),
        **dict.fromkeys(("return_episodes", "images_encoded_per_env_step", "peak_memory_bytes"), 0),
    }
    assert shlex.split(closing(result, run, " --trust robo:Crash-v0")["video"]) == [
        *("stillsight", "record", str(run), "--trust", "robo:Crash-v0")
    ]
    assert Path(closing(result, run)["folder"]) == run, "which is no command"


def test_a_run_of_another_command_is_gone_on_with_as_it_is_told(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cifar", "--resume", str(run)]) == 2
    assert typed(capsys.readouterr().err, "Type: stillsight rl --resume ") == str(run)


def test_a_run_that_exists_is_continued_as_it_is_told(tiny: Tiny, run: Path) -> None:
    (run / "done").unlink()
    said = refused(lambda: rl(tiny("ppo", eval_every=32, out=run)))
    assert typed(said, "Continue it with --resume ") == str(run)


def test_the_doctor_tells_what_can_be_pasted(run: Path) -> None:
    (run / "done").unlink()
    assert shlex.split(summary_advice(run)) == ["stillsight", "rl", "--resume", str(run)]
    (run / "summary.json").unlink()
    assert shlex.split(summary_advice(run)) == ["stillsight", "rl", "--resume", str(run)]
    (run / "machine.json").unlink()
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1')
    told = {outcome.check: outcome.advice for outcome in check_run(run)}
    assert typed(told["machine.json"], "--resume ") == str(run)
    assert typed(told["metrics.jsonl"], "--resume ") == str(run)


def test_an_imported_run_and_one_that_was_not_begun(run: Path, tmp_path: Path) -> None:
    (run / IMPORTED).write_text("{}")
    said = refused(lambda: check_resumable(run))
    assert typed(said, "stillsight evaluate ") == str(run)
    assert typed(said, "stillsight rl --from ") == str(run)
    empty = tmp_path / "nothing é yet"
    empty.mkdir()
    assert typed(refused(lambda: read_config(empty)), "its flags and --out ") == str(empty)


def test_the_encoder_of_a_classifier_is_begun_with_as_it_is_told(tmp_path: Path) -> None:
    folder = tmp_path / AWKWARD
    folder.mkdir()
    (folder / "config.json").write_text('{"command": "cifar"}')
    assert typed(refused(lambda: ancestor_file(folder, "best")), "--weights ") == str(folder)


def test_a_run_that_left_the_numbers_is_gone_on_with_as_it_is_told(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = callbacks.Episodes._on_step

    def on_step(self: callbacks.Episodes) -> bool:
        if self.num_timesteps >= 80:
            self.locals["rewards"][:] = float("nan")
        return original(self)

    monkeypatch.setattr(callbacks.Episodes, "_on_step", on_step)
    with pytest.raises(TrainingFault) as fault:
        rl(tiny("ppo", steps=4_000, checkpoint_every=32, out=tmp_path / AWKWARD))
    assert typed(str(fault.value), "go on from there: --resume ") == str(tmp_path / AWKWARD)


def test_a_run_that_was_interrupted_is_gone_on_with_as_it_is_told(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = callbacks.Episodes._on_step

    def on_step(self: callbacks.Episodes) -> bool:
        if self.num_timesteps >= 80:
            raise KeyboardInterrupt
        return original(self)

    monkeypatch.setattr(callbacks.Episodes, "_on_step", on_step)
    said = refused(lambda: rl(tiny("ppo", checkpoint_every=32, out=tmp_path / AWKWARD)))
    assert typed(said, "with: stillsight rl --resume ") == str(tmp_path / AWKWARD)


def test_another_name_of_a_file_is_typed_as_it_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "pictures é of it"
    folder.mkdir()
    said = refused(lambda: ExportConfig(sb3=folder / "an agent").check())
    assert typed(said, "--sb3 ") == str(folder / "an agent.zip")
    assert typed(refused(PlotConfig(out=folder / "a.bmp").check), "--out ") == str(folder / "a.png")
    assert typed(refused(EncodeConfig(out=folder / "a b.csv").check), "--out ") == str(folder / "a b.npy")
    assert typed(refused(EncodeConfig(sheet=folder / "a b.jpg").check), "--sheet ") == str(folder / "a b.png")


def test_what_is_in_the_way_is_moved_as_it_is_told(tmp_path: Path) -> None:
    path = tmp_path / "é videos"
    path.write_text("")
    with pytest.raises(NotPlainError) as caught:
        check_kind(path, folder=True, what="run folder")
    command = str(caught.value).partition("Move it away: ")[2]
    assert shlex.split(command) == ["mv", str(path), f"{path}.old"]


def test_a_part_of_a_data_set_is_named_as_it_is_told(tmp_path: Path) -> None:
    inner = tmp_path / "all of é"
    for name in ("cats", "dogs"):
        (inner / name).mkdir(parents=True)
    assert typed(refused(lambda: read_images(tmp_path, None, 0.0, None)), "--dataset ") == str(inner)
