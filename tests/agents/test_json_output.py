"""Under --json the standard output can be read by a program, whatever an environment prints."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from stillsight.agents.cli import COMMANDS, command_line
from stillsight.agents.command_line.json_output import only_json, print_json

LOUD = '''
import os
import subprocess

import gymnasium
import numpy as np

print("loud: imported")


class Loud(gymnasium.Env):
    """Says everything, by every way there is."""

    observation_space = gymnasium.spaces.Box(0, 255, (48, 48, 3), np.uint8)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        print("loud: by Python")
        os.write(1, b"loud: by C\\n")
        subprocess.run(["echo", "loud: by another program"])
        self.left = 20
        return self.observation_space.sample(), {}

    def step(self, action):
        self.left -= 1
        return self.observation_space.sample(), 1.0, self.left == 0, False, {}


gymnasium.register("Loud-v0", Loud)
'''
SAID = {"loud: imported", "loud: by Python", "loud: by C", "loud: by another program"}


def typed(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """What `stillsight WORDS` prints in `folder`, where loud.py lies."""
    (folder / "loud.py").write_text(LOUD)
    return subprocess.run([sys.executable, "-m", "stillsight", *words], cwd=folder, capture_output=True, text=True)


def loud(text: str) -> set[str]:
    """What of it stands in `text`; two processes may write into one line."""
    return {said for said in SAID if said in text}


MEASURE = ("throughput", "--envs", "loud:Loud-v0", "--n-envs", "2", "--rounds", "1", "--seconds", "0.2")


def test_an_environment_that_prints_does_not_spoil_the_json(tmp_path: Path) -> None:
    spoken = typed(tmp_path, *MEASURE, "--json")
    assert spoken.returncode == 0, spoken.stderr
    rows = json.loads(spoken.stdout)["rows"]
    assert {row["env"] for row in rows} == {"loud:Loud-v0"}
    assert loud(spoken.stderr) == SAID, "nothing is lost: it stands on the other stream"


def test_that_environment_would_have_spoilt_it(tmp_path: Path) -> None:
    spoken = typed(tmp_path, *MEASURE)
    assert spoken.returncode == 0, spoken.stderr
    assert loud(spoken.stdout) == SAID


def test_a_stream_without_a_descriptor_is_kept_too_and_given_back(capsys: pytest.CaptureFixture[str]) -> None:
    def break_down() -> None:
        with only_json():
            print("loud: by Python")
            print_json('{"mean": 1.5}')
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        break_down()
    print_json('{"later": 1}')
    print("as before")
    assert capsys.readouterr() == ('{"mean": 1.5}\n{"later": 1}\nas before\n', "loud: by Python\n")


def test_a_reader_that_is_gone_ends_the_command() -> None:
    code = "from stillsight.agents.cli import main; raise SystemExit(main(['doctor', '--json']))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        told = process.stderr.read().decode()
    assert process.returncode == 1
    assert told == "stillsight: stopped, since nobody reads what it prints any more.\n"


def test_json_is_printed_in_no_other_way() -> None:
    """A command that printed its JSON by itself would print it on the standard error."""
    speaking = [
        COMMANDS[name].function.partition(":")[0]
        for name in COMMANDS
        if any(flag.field == "json" for flag in command_line(name).flags)
    ]
    assert len(speaking) == 6
    agents = Path(__file__).parents[2] / "agents"
    for module in speaking:
        source = (agents / module.removeprefix("stillsight.agents.").replace(".", "/")).with_suffix(".py").read_text()
        assert "print_json(" in source, module
    others = {str(path.relative_to(agents)) for path in agents.rglob("*.py") if "print(to_json(" in path.read_text()}
    assert others == {"doctor/child.py"}, "a process of its own, whose output `ask` reads"
