# SPDX-License-Identifier: Apache-2.0
"""Jobs that several processes do: whatever befalls one of them, the call ends and says what it was."""

import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from flashwam.system.workers import done_by_processes, worker_context

both = partial(done_by_processes, processes=2, what="counting", context=worker_context())


class OddError(Exception):
    """Needs two arguments, and is pickled with one, as some packages' are."""

    def __init__(self, first, second):
        super().__init__(f"{first} {second}")


def square(number):
    if number == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if number == "odd":
        raise OddError("no", "luck")
    if isinstance(number, Path):
        number.write_text(str(os.getpid()))
        time.sleep(600)
    return number**2


def refuse():
    raise ConnectionError("all sessions are taken")


def test_results_come_as_they_are_done():
    assert sorted(both(square, [1, 2, 3])) == [1, 4, 9]
    assert list(both(square, [])) == []


@pytest.mark.parametrize(
    ("jobs", "begin", "error", "said"),
    [
        ([1, 2], refuse, ConnectionError, "all sessions are taken"),
        (["die", 2], None, RuntimeError, "a counting process died, .*run again with fewer processes"),
        (["odd"], None, RuntimeError, "OddError: no luck"),
    ],
)
def test_the_call_ends_where_a_process_cannot_go_on(jobs, begin, error, said):
    with pytest.raises(error, match=said):
        list(both(square, jobs, begin=begin))


def test_processes_that_are_at_work_end_with_the_call(tmp_path):
    file = tmp_path / "process"
    done = both(square, [1, file])
    assert next(done) == 1
    while not (file.is_file() and file.read_text()):
        time.sleep(0.01)
    done.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int(file.read_text()), 0)
