# SPDX-License-Identifier: Apache-2.0
"""A device that this machine lacks is refused by name, before anything is loaded for it."""

import re

import pytest
import torch
from tiny_models import save_tiny_student

from flashwam.cli import main
from flashwam.evaluation.libero_model import evaluate_model_on_libero
from flashwam.evaluation.policy import load_model
from flashwam.serve.direct import WamPipeline
from flashwam.serve.model import load_served
from flashwam.wam.devices import device_named

TOLD = "device must be one that torch finds here, cpu.*; got {!r}: flashwam info"
ABSENT = ("cuda", "cuda:0", "cuda:7", "meta", "nonsense", "", "cpu:3", "cuda:65536", "CPU", "mkldnn")


def test_the_cpu_is_there_by_its_names():
    for name in ("cpu", "cpu:0", torch.device("cpu"), torch.device("cpu", 0)):
        assert device_named(name).type == "cpu"


@pytest.mark.parametrize("name", ABSENT)
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(ValueError, match=TOLD.format(name)):
        device_named(name)


def test_the_names_of_several_gpus_are_told(monkeypatch):
    """As on a machine with three, which none of the tests' is."""
    told = {"is_available": True, "device_count": 3, "current_accelerator": torch.device("cuda")}
    for name, value in told.items():
        monkeypatch.setattr(torch.accelerator, name, lambda value=value: value)
    for name in ("cpu", "cuda", "cuda:0", "cuda:2"):
        assert device_named(name) == torch.device(name)
    with pytest.raises(ValueError, match="here, cpu or cuda or cuda:1 or cuda:2; got 'cuda:3'"):
        device_named("cuda:3")


def test_nothing_is_looked_for_on_its_account():
    for load in (load_model, load_served, WamPipeline.from_pretrained):
        with pytest.raises(ValueError, match="device must be"):
            load("lab/nowhere", device="cuda:7")
    with pytest.raises(ValueError, match="device must be"):
        evaluate_model_on_libero("lab/nowhere", suite="libero_10", device="cuda:7")


def test_a_command_says_so_in_a_sentence(tmp_path, capsys):
    student = save_tiny_student(tmp_path / "student")
    for words in (["serve", str(student)], ["evaluate", str(student), "--recordings"]):
        assert main([*words, "--device", "cuda"]) == 2
        assert re.match(f"error: {TOLD.format('cuda')}", capsys.readouterr().err)
