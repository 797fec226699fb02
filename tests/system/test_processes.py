# SPDX-License-Identifier: Apache-2.0
"""A process of several ends with the status it was given, whatever its communication threads still do."""

import subprocess
import sys

import pytest

from flashwam.system.processes import end_process

# Two ranks in one process: a thread of the first is still busy with a finished collective when the script ends.
BUSY = """
import atexit, sys, time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
import torch, torch.distributed as dist
from flashwam.system.processes import end_process

atexit.register(print, "exit handlers ran")
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
store = dist.HashStore()
with ThreadPoolExecutor(2) as pool:
    first, second = pool.map(lambda rank: dist.ProcessGroupGloo(store, rank, 2, timedelta(seconds=60)), range(2))
work = first.allreduce([torch.ones(3)])
late = work.get_future().then(lambda done: [time.sleep(0.01) for _ in range(200)])
second.allreduce([torch.ones(3)]).wait()
print("written", end="")
"""


@pytest.mark.parametrize("status", [0, 2])
def test_a_busy_thread_does_not_turn_an_end_into_an_abort(status):
    done = subprocess.run(
        [sys.executable, "-c", f"{BUSY}\nend_process({status})"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == status, done.stderr[-2000:]
    assert done.stdout == "writtenexit handlers ran\n"


def test_a_process_alone_ends_as_any_other():
    with pytest.raises(SystemExit) as raised:
        end_process(130)
    assert raised.value.code == 130
