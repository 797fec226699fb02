# SPDX-License-Identifier: Apache-2.0
"""Trainings on the device: every method's first steps are the CPU's, with adapters too, and a resumed one goes on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import policy_toys
import pytest
import torch
from compared_models import foresight as foresight_policy
from comparing import CPU, training_on
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close
from waves import STREAMS, Waves, loop, make

from flashwam.core.batch import Batch
from flashwam.core.edm import EDMSchedule
from flashwam.core.noise import NoiseSchedule
from flashwam.core.streams import StreamSpec
from flashwam.distillation.methods import METHODS, make_method
from flashwam.distillation.methods.base import Method
from flashwam.distillation.setup import Setup, Source
from flashwam.distillation.trainer import train
from flashwam.pipeline.ready import set_precision
from flashwam.recipe.sections import LoopConfig, LoraConfig

WITHIN = 5e-3
"""Of losses and gradient norms over three steps, relative. Foresight learns from pictures, whose rounding is a step."""
LORA = LoraConfig(rank=4, alpha=8.0)
Built = tuple[LoopConfig, Method, Source]


def on_waves(name: str, **changes: Any) -> Built:
    """A method on LingBot-VA, with guidance and a teacher that is no copy of the student."""
    config = loop(name, steps=3, batch_size=4, diagnose_every=2, **changes)
    teacher = None if name == "flow_matching" else make(1)
    if config.lora is not None:
        student = teacher = make(1)
    else:
        student = make(0)
    set_precision(config, student, teacher)
    return config, make_method(config, STREAMS, student, teacher=teacher), Waves()


def foresight(folder: Path, **changes: Any) -> Built:
    """Decouplers of a tiny backbone, which look at the noise that its own rollouts start from."""
    streams = {
        "video": StreamSpec(name="video", schedule=NoiseSchedule(2.0), weight=0.0, teacher_steps=1),
        "action": StreamSpec(name="action", schedule=EDMSchedule(), teacher_steps=2),
    }
    policy = foresight_policy()
    from foresight_toys import Observations

    teacher = policy.backbone
    told = {name: {"shift": 2.0, "teacher_steps": 2} for name in teacher.streams}
    options = {"pool": 4, "rollout_batch": 4, "teacher_streams": told}
    config = loop("foresight", steps=3, batch_size=4, diagnose_every=2, options=options, **changes)
    method = make_method(config, streams, policy, teacher=teacher)
    windows = Observations(teacher.shapes, text=32, frames=2 * teacher.chunk_frames)
    return config, method, method.source(windows, Setup(data=folder, streams=streams, seed=0))


def masked_reconstruction(folder: Path, **changes: Any) -> Built:
    """A policy that learns beside a modality which it must do without."""
    options = {
        "auxiliary": policy_toys.AUX,
        "fusion_tokens": 2,
        "mask": {"auxiliary": 0.5, "primary": 0.25},
        "reconstruct": {"auxiliary": 0.1, "primary": 0.1},
        "trajectory": 0.5,
        "head_width": 16,
    }
    config = loop("masked_reconstruction", steps=3, batch_size=4, diagnose_every=2, options=options, **changes)
    torch.manual_seed(0)
    return config, make_method(config, policy_toys.specs(), policy_toys.policy()), policy_toys.PolicySource()


def pairs(folder: Path, **changes: Any) -> Built:
    """A student whose pairs its teacher draws on the device."""
    options = {"first_share": None, "steps": 2, "further_share": 0.5}
    config, method, source = on_waves("pairs", options=options, **changes)
    setup = Setup(data=folder, streams=STREAMS, seed=0, batch_size=config.batch_size, batches=config.steps)
    return config, method, method.source(source, setup)


BUILD: dict[str, Callable[..., Built]] = {
    "flow_matching": lambda folder, **changes: on_waves("flow_matching", **changes),
    "consistency": lambda folder, **changes: on_waves("consistency", **changes),
    "on_policy": lambda folder, **changes: on_waves("on_policy", **changes),
    "pairs": pairs,
    "distribution_matching": lambda folder, **changes: on_waves(
        "distribution_matching", options={"student_every": 1}, **changes
    ),
    "foresight": foresight,
    "masked_reconstruction": masked_reconstruction,
    "consistency with adapters": lambda folder, **changes: on_waves("consistency", lora=LORA, **changes),
}


def test_every_method_is_tried_here() -> None:
    assert set(METHODS) <= set(BUILD)


def trained(name: str, folder: Path, device: torch.device, **changes: Any) -> tuple[list[dict[str, float]], Method]:
    """The log of three steps, and the method afterwards; `changes` are made to the loop."""
    with training_on(device):
        config, method, source = BUILD[name](folder, **changes)
        train(method, source, config, run_dir=folder, seed=0)
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()], method


@pytest.mark.gpu
@pytest.mark.parametrize("name", BUILD)
def test_first_steps_are_the_cpus(name: str, tmp_path: Path, device: torch.device) -> None:
    expected, _ = trained(name, tmp_path / "cpu", CPU)
    got, method = trained(name, tmp_path / "device", device)
    roles = (method.roles.model, method.roles.teacher, method.roles.target)
    assert {p.device.type for role in roles if role is not None for p in role.parameters()} == {device.type}
    assert [line["step"] for line in got] == [1, 2, 3]
    for ours, theirs in zip(got, expected, strict=True):
        numbers = {key for key in theirs if key == "grad_norm" or key.endswith("loss")}
        assert numbers >= {"loss", "grad_norm"}
        assert theirs["grad_norm"] > 0
        for key in numbers:
            assert ours[key] == pytest.approx(theirs[key], rel=WITHIN, abs=1e-6), key


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["consistency", "consistency with adapters"])
def test_bfloat16_trains_as_the_cpu_does_in_float32(name: str, tmp_path: Path, device: torch.device) -> None:
    expected, _ = trained(name, tmp_path / "cpu", CPU)
    got, _ = trained(name, tmp_path / "device", device, precision="bf16")
    assert [line["loss"] for line in got] == pytest.approx([line["loss"] for line in expected], rel=0.1)


class Stops(Waves):
    """Is interrupted after the second step."""

    def batch(self, indices: list[int]) -> Batch:
        if indices[0] >= 2 * 4:
            raise KeyboardInterrupt
        return super().batch(indices)


@pytest.mark.gpu
@pytest.mark.parametrize("adapted", [False, True], ids=["whole", "adapters"])
def test_a_resumed_training_goes_on(adapted: bool, tmp_path: Path, device: torch.device) -> None:
    """To the weights of one that was not stopped, within 1e-5: a GPU may add gradients up in another order."""

    def weights(folder: str, *sources: Source) -> dict[str, Tensor]:
        with training_on(device):
            for source in sources:
                config, method, _ = on_waves("consistency", save_every=1, lora=LORA if adapted else None)
                if isinstance(source, Stops):
                    with pytest.raises(KeyboardInterrupt):
                        train(method, source, config, run_dir=tmp_path / folder, seed=0)
                else:
                    result = train(method, source, config, run_dir=tmp_path / folder, seed=0)
        return load_file(next((result / "transformer").glob("*.safetensors")))

    straight, resumed = weights("straight", Waves()), weights("resumed", Stops(), Waves())
    begun = make(1 if adapted else 0).transformer.state_dict()
    assert max(float((straight[key] - begun[key]).abs().max()) for key in straight) > 1e-3
    for key, value in straight.items():
        assert_close(resumed[key], value, atol=1e-5, rtol=0)
