# SPDX-License-Identifier: Apache-2.0
"""On a machine with a GPU the tests compute on the CPU all the same, in every process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from devices import VARIABLE, hide_gpus, why_not_here

TESTS = Path(__file__).resolve().parent
# What a conftest does to its own process, and what a process that a test starts finds.
LOOK = (
    "import json, os, subprocess, sys, conftest, torch\n"
    "theirs = [sys.executable, '-c', 'import os; print(os.environ.get(\"CUDA_VISIBLE_DEVICES\"))']\n"
    "child = subprocess.run(theirs, capture_output=True, text=True).stdout.strip()\n"
    "print(json.dumps([os.environ.get('CUDA_VISIBLE_DEVICES'), child, torch.cuda._parse_visible_devices()]))"
)


def test_no_test_sees_a_gpu():
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    assert not torch.cuda.is_available()


@pytest.mark.parametrize(("device", "seen"), [(None, ""), ("", ""), ("cpu", ""), ("cuda", "0,1"), ("cuda:1", "0,1")])
def test_gpus_are_hidden_unless_they_are_asked_for(device, seen):
    environment = {"CUDA_VISIBLE_DEVICES": "0,1"} | ({} if device is None else {VARIABLE: device})
    hide_gpus(environment)
    assert environment["CUDA_VISIBLE_DEVICES"] == seen


def test_they_are_hidden_from_the_processes_that_tests_start():
    """Of a machine with two GPUs, whose user chose both."""
    environment = {key: value for key, value in os.environ.items() if key != VARIABLE}
    environment |= {"CUDA_VISIBLE_DEVICES": "0,1", "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
    done = subprocess.run([sys.executable, "-c", LOOK], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == ["", "", []]


@pytest.mark.parametrize(
    ("device", "gpu", "marked", "why"),
    [
        (None, False, True, "make test-gpu"),
        (None, True, True, "make test-gpu"),
        ("cuda", False, True, "no GPU"),
        ("cuda", True, True, None),
        ("cpu", False, True, None),
        (None, True, False, None),
        ("cpu", False, False, None),
        ("cuda", True, False, "on the CPU"),
    ],
)
def test_who_runs_where(device, gpu, marked, why):
    reason = why_not_here(device, gpu=gpu, marked=marked)
    assert reason is None if why is None else why in reason
