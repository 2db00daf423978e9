"""What the tests of all folders share: the real data beside the checkout, and the rule that it may not be skipped."""

from __future__ import annotations

import os
import resource
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("STILLSIGHT_SHARED", ROOT.parent / "shared"))
REQUIRED = "STILLSIGHT_REQUIRE_REAL_DATA"

# Choices of engines are kept in the user's cache folder; tests and the processes that they start have one of their own.
_CACHE = tempfile.TemporaryDirectory(prefix="stillsight-cache-")
os.environ["XDG_CACHE_HOME"] = _CACHE.name

# Where tests are started in the background of a script, Ctrl-C is ignored, by each process that they start as well, and
# those that are to be stopped by it would go on for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Environments of tests, for the processes that tests start too: `--env robot_world:Robot-v0`.
WORLDS = str(ROOT / "tests" / "worlds")
sys.path.append(WORLDS)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), WORLDS]))

# Tables fold to it, and the workers of pytest-xdist have one of 80.
os.environ.pop("COLUMNS", None)

# Tests compare numbers and run beside each other; more threads would make them neither exact nor faster.
torch.set_num_threads(1)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what only a GPU can show where there is none."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("there is no CUDA GPU here; `make gpu` runs it where there is one")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """The CPU, and a GPU where there is one: what is tested is written once, and has run before it meets a GPU."""
    return torch.device(request.param)


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with real weights and data; tests that ask for it are skipped where it is absent."""
    if not (SHARED / "weights").is_dir():
        if os.environ.get(REQUIRED):
            pytest.fail(f"{REQUIRED} is set, and the real weights and data are not there")
        pytest.skip("the real weights and data (../shared) are not here")
    return SHARED


@pytest.fixture
def double_precision(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compute in float64 wherever code of ours, of Stable-Baselines3 or of torch's layers asks for float32.

    Kernels sum in an order that depends on the processor, on the batch and on the layout. In single precision that
    moves a weight by 1e-4 within a few updates, as far as many a fault would; in double precision by less than 1e-12,
    so two paths that are meant to be one can be compared with a bound that only rounding stays below.

    Weights come from files of float64 (safetensors looks float32 up in torch by its name).
    """
    np.testing.assert_equal(0, 0)  # which numpy imports when it is first used,
    np.unique([0])  # as it does what this asks
    known = set(sys.modules)
    for owner, single, double in (
        (torch, "float32", torch.float64),
        (torch, "float", torch.float64),
        (np, "float32", np.float64),
        (torch.Tensor, "float", torch.Tensor.double),
    ):
        monkeypatch.setattr(owner, single, double)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)
    harmless = {*sys.stdlib_module_names, "_pytest"}
    late = sorted(name for name in set(sys.modules) - known if name.partition(".")[0] not in harmless)
    assert not late, "imported here, these hold float64 for float32 from now on; import them before"


@pytest.fixture
def ends() -> Iterator[None]:
    """End a test that waits for a pipe, or reads a device without an end, before it takes the machine's time or memory:
    an alarm interrupts the system's call, and memory ends at 4 GiB more than now."""

    def stop(*_: object) -> None:
        raise TimeoutError("it waits for something that never comes")

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 4 * 2**30, hard))
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(120)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say plainly whether the real-data tests ran."""
    skipped = _of_real_data(terminalreporter, "skipped")
    ran = [report for report in _of_real_data(terminalreporter, "passed") if report.when == "call"]
    terminalreporter.write_line(f"real-data tests: {len(ran)} ran, {len(skipped)} skipped")


def _of_real_data(reporter: pytest.TerminalReporter, outcome: str) -> list[pytest.TestReport]:
    """The reports of tests; a module that skips itself has one that is of none."""
    reports = [report for report in reporter.getreports(outcome) if isinstance(report, pytest.TestReport)]
    return [report for report in reports if "real_data" in report.keywords]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a session that had to run the real-data tests and skipped one of them."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if not os.environ.get(REQUIRED) or reporter is None:
        return
    if _of_real_data(reporter, "skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
