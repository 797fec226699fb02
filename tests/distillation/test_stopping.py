# SPDX-License-Identifier: Apache-2.0
"""A signal ends a training after the step at work, with a checkpoint; a second one ends it at once."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from distill_toys import ToySource
from test_checkpoint import run

from flashwam.distillation.stopping import Stopped, StopSignals
from flashwam.student import load_wam


class Signals(ToySource):
    """Sends its own process a signal in the third step."""

    def __init__(self, number: int, step: int = 2) -> None:
        super().__init__()
        self.number, self.step = number, step

    def batch(self, indices):
        if indices[0] == self.step * 2:
            os.kill(os.getpid(), self.number)
        return super().batch(indices)


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> dict[str, torch.Tensor]:
    return load_wam(run(tmp_path_factory.mktemp("whole")), trust=True)[0].state_dict()


@pytest.fixture(autouse=True)
def not_ignored():
    """A job that a shell started behind it ignores SIGINT, and so would the tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_at_the_next_step_and_the_run_ends_with_the_same_bits(tmp_path, number, expected):
    before = handlers()
    with pytest.raises(Stopped, match=r"stopped after step 3: .*step_000003 is saved") as stopped:
        run(tmp_path, source=Signals(number))
    assert stopped.value.status == 128 + number
    assert isinstance(stopped.value, KeyboardInterrupt)
    assert handlers() == before
    found = load_wam(run(tmp_path), trust=True)[0].state_dict()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    assert handlers() == before


def test_a_signal_in_the_last_step_lets_the_result_be_written(tmp_path):
    with pytest.raises(Stopped, match="the result is in"):
        run(tmp_path, source=Signals(signal.SIGTERM, step=5))
    assert (tmp_path / "student/flashwam.json").is_file()


def test_a_thread_trains_without_touching_signals(tmp_path):
    before, inside = handlers(), []

    class Looks(ToySource):
        def batch(self, indices):
            inside.append(handlers())
            return super().batch(indices)

    thread = threading.Thread(target=run, args=(tmp_path,), kwargs={"source": Looks()})
    thread.start()
    thread.join()
    assert inside
    assert all(seen == before for seen in inside)
    assert (tmp_path / "student").is_dir()


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            os.kill(os.getpid(), signal.SIGINT)
        assert not signals.received
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_at_once(second):
    """Even while nothing of Python runs."""
    script = (
        "import os, signal, sys\n"
        "from flashwam.distillation.stopping import StopSignals\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "with StopSignals():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        f"    os.kill(os.getpid(), {int(second)})\n"
        "    print('went on')\n"
    )
    paths = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert done.returncode == -second
    assert done.stdout == ""
