# SPDX-License-Identifier: Apache-2.0
"""Answers requests for trainings of several processes, all forks of this one, which has imported everything once.

A line of JSON asks: {"processes": N, "runs": [[FOLDER, STRATEGY], ...]}, one after the other; N null is one process
that knows of no others. The line that answers has the exit statuses of every training's processes.
"""

import importlib
import json
import os
import socket
import sys
import traceback

import torch
from distributed_run import NETWORKS, run_all

from flashwam.system.processes import end_process

SLOW = {
    "zero": ("deepspeed", "torch._inductor.compile_fx", "torch.utils.tensorboard"),
    **dict.fromkeys(NETWORKS, ("distributed_models",)),
}
"""Part of a training's name -> modules that it imports late: once here, not in every fork."""


def train_all(runs: list[list[str]], processes: int | None) -> list[list[int]]:
    """Exit statuses per training and process.

    As torchrun's they find each other through the environment; that a dead one ends the others is up to them.
    """
    for part, modules in SLOW.items():
        if any(part in strategy for _, strategy in runs):
            for module in modules:
                importlib.import_module(module)
    statuses = []
    for folder, strategy in runs:
        children = [_fork(folder, strategy, place) for place in _places(processes)]
        statuses.append([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
    return statuses


def _places(processes: int | None) -> list[dict[str, str]]:
    """The environment of every process of one training."""
    if processes is None:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    return [
        {**meeting, "WORLD_SIZE": str(processes), "RANK": str(rank), "LOCAL_RANK": str(rank)}
        for rank in range(processes)
    ]


def _fork(folder: str, strategy: str, place: dict[str, str]) -> int:
    child = os.fork()
    if child:
        return child
    os.environ |= place
    try:
        run_all([folder, strategy])
        end_process(0)
    except SystemExit as end:
        os._exit(int(end.code or 0))
    except BaseException:
        traceback.print_exc()
    os._exit(1)


if __name__ == "__main__":
    torch.set_num_threads(1)
    # Libraries print what they like: answers have a stream of their own.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        print(json.dumps(train_all(**json.loads(line))), file=answers, flush=True)
