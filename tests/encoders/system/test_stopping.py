"""Ctrl-C and SIGTERM: one exception, at once or at a safe point; a second signal leaves at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from stillsight.encoders.system import stopping
from stillsight.encoders.system.stopping import Stop, answering

SIGNALS = [(signal.SIGINT, "Ctrl-C", 130), (signal.SIGTERM, "SIGTERM", 143)]


@pytest.mark.parametrize(("number", "name", "code"), SIGNALS)
def test_a_signal_is_an_exception_that_no_except_exception_swallows(number: int, name: str, code: int) -> None:
    def work() -> None:
        with answering():
            try:
                signal.raise_signal(number)
                time.sleep(1)
            except Exception:
                pytest.fail("swallowed")

    before = signal.getsignal(number)
    with pytest.raises(Stop) as caught:
        work()
    assert (str(caught.value), caught.value.code) == (f"stopped by {name}.", code)
    assert signal.getsignal(number) is before
    assert stopping.asked() is None
    stopping.check()  # nothing is left to answer


@pytest.mark.parametrize(("number", "name", "code"), SIGNALS)
def test_where_something_is_to_be_saved_it_waits_for_a_safe_point(
    number: int, name: str, code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    done = []

    def work() -> None:
        with answering(), answering(deferred=True):
            stopping.check()
            signal.raise_signal(number)
            done.append("the step")
            assert stopping.asked() == number
            assert 0 < stopping.waited() < 1
            stopping.check()
            done.append("past the safe point")

    with pytest.raises(Stop) as caught:
        work()
    assert done == ["the step"]
    assert caught.value.code == code
    assert capfd.readouterr().err == (
        f"\nstillsight: {name}: stopping at the next safe point; once more leaves at once.\n"
    )


def test_an_echo_is_no_second_signal() -> None:
    """As `timeout` sends it: to the process, and to its group."""
    with answering(deferred=True):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Stop):
            stopping.check()


def test_a_library_that_sets_its_own_handler_is_overruled_at_the_next_safe_point() -> None:
    with answering(deferred=True):
        signal.signal(signal.SIGTERM, lambda *_: None)
        stopping.check()
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Stop):
            stopping.check()


def test_what_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with answering():
            stopping.check()
            signal.raise_signal(signal.SIGINT)
            assert stopping.asked() is None
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_change_nothing() -> None:
    seen = []

    def work() -> None:
        with answering(deferred=True):
            stopping.check()
            seen.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


TWICE = """
import time
from stillsight.encoders.system.stopping import answering

with answering(deferred=True):
    print("there", flush=True)
    while True:
        time.sleep(0.01)
"""


@pytest.mark.parametrize(("number", "name", "code"), SIGNALS)
def test_a_second_signal_leaves_at_once(number: int, name: str, code: int) -> None:
    process = subprocess.Popen([sys.executable, "-c", TWICE], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(number)
    time.sleep(stopping.ECHO + 0.2)
    assert process.poll() is None, f"{name} waits for a safe point that does not come"
    process.send_signal(number)
    assert process.wait(5) == code
