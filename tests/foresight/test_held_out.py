# SPDX-License-Identifier: Apache-2.0
"""Errors of the foresight on held-out windows beside three guesses, in a world where each of them is known."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from foresight_toys import SPREAD, TOLD, Observations, World, toy_policy
from torch import Tensor

from flashwam.core.noise import NoiseSchedule
from flashwam.core.streams import StreamSpec
from flashwam.distillation.futures import TeacherFuture, seeded_noise
from flashwam.distillation.setup import Setup
from flashwam.foresight import held_out
from flashwam.foresight.method import Foresight
from flashwam.foresight.policy import ForesightPolicy
from flashwam.foresight.source import noise_seed

COUNT = 24
STREAMS = {
    "video": StreamSpec(name="video", schedule=NoiseSchedule(2.0), weight=0.0, teacher_steps=1),
    "action": StreamSpec(name="action", schedule=NoiseSchedule(2.0)),
}


def measured(
    folder: Path, *, count: int = COUNT, **options: object
) -> tuple[ForesightPolicy, Callable[[ForesightPolicy], dict[str, float]]]:
    """A policy of stage decouplers with its statistics, and what measures it."""
    torch.manual_seed(0)
    teacher = World()
    policy = toy_policy(teacher)
    options = {"pool": 16, "teacher_streams": TOLD, "rollout_batch": 7, **options}
    method = Foresight(STREAMS, policy, teacher=teacher, **options)
    setup = Setup(data=folder, streams=STREAMS, seed=0)
    method.source(Observations(), setup)
    return policy, method.held_out_measures(Held(), setup, count=count)


class Held(Observations):
    """Other windows than those that are trained on."""

    def batch(self, indices: list[int]):
        return super().batch([10_000 + i for i in indices])


def foreseeing(policy: ForesightPolicy, foresee: Callable[[Tensor, Tensor], Tensor]) -> ForesightPolicy:
    policy.foresee = lambda features, reference: {"colour": foresee(features, reference["colour"])}
    return policy.eval()


def drawn(seed: int) -> Tensor:
    """The draws of this world's teacher on the held-out windows from a seed, as colours [B, 3, F, 1, 1]."""
    clean = Held().batch(list(range(COUNT))).clean
    like = {name: x[0] for name, x in clean.items()}
    z = torch.stack([seeded_noise(noise_seed(seed, n), like)["video"] for n in range(COUNT)])
    return SPREAD["observation"] * clean["video"][:, :, :1] + SPREAD["noise"] * z


def test_a_copy_has_the_error_of_the_copy_and_the_target_none(tmp_path: Path) -> None:
    policy, measure = measured(tmp_path)
    found = measure(foreseeing(policy, lambda features, seen: seen[:, :, None].expand(-1, -1, 2, -1, -1)))
    guesses = ("copy", "other_seed", "one_step")
    assert list(found) == [f"colour_{what}" for what in ("error_teacher", "follows_noise", *guesses)]
    assert found["colour_error_teacher"] == found["colour_copy"]
    assert found["colour_follows_noise"] == 0
    drawn_ones = [measure._target(policy, "colour", batch) for batch in (measure._batch, measure._other)]
    parts = iter([part for one in drawn_ones for part in one.split(7)])
    known = measure(foreseeing(policy, lambda features, seen: next(parts)))
    assert known == {**found, "colour_error_teacher": 0.0, "colour_follows_noise": pytest.approx(1.0)}
    against = iter([-part for one in drawn_ones for part in one.split(7)])
    wrong = measure(foreseeing(policy, lambda features, seen: next(against)))
    assert wrong["colour_follows_noise"] == pytest.approx(-1.0)


def test_the_guesses_are_as_far_off_as_this_world_says(tmp_path: Path) -> None:
    """Var(y) of the targets is what errors are measured in; one step of this teacher already arrives."""
    policy, measure = measured(tmp_path)
    found = measure(policy.eval())
    right, other = drawn(held_out._SEED), drawn(held_out._OTHER_SEED)
    seen = Held().batch(list(range(COUNT))).clean["video"][:, :, :1]
    std = policy.decouplers["colour"].std[:, None, None]
    for guess, values in (("copy", seen), ("other_seed", other[:, :, 1:])):
        expected = ((values - right[:, :, 1:])[:, :, 0] / std).square().mean()
        assert found[f"colour_{guess}"] == pytest.approx(float(expected), rel=0.03)
    assert found["colour_one_step"] < 1e-3 < 0.3 < found["colour_error_teacher"]


def test_trainings_on_other_targets_are_measured_on_the_same(tmp_path: Path) -> None:
    batches = [measured(tmp_path, targets=targets)[1]._batch for targets in ("same_seed", "unpaired", "ground_truth")]
    for name in ("noise/video", "target/colour"):
        assert all(torch.equal(batch.extra[name], batches[0].extra[name]) for batch in batches)


def test_references_are_drawn_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, measure = measured(tmp_path)
    first = measure(policy.eval())

    def never(*told: object) -> None:
        raise AssertionError("drawn again")

    monkeypatch.setattr(TeacherFuture, "draw", never)
    assert measure(policy) == first
    again, measure = measured(tmp_path)
    assert measure(again.eval()) == first


def test_the_way_of_sampling_has_to_be_known(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give teacher_streams"):
        measured(tmp_path, targets="ground_truth", teacher_streams=None)


def test_only_decouplers_are_measured_apart() -> None:
    assert Foresight.measured_apart({})
    assert not Foresight.measured_apart({"stage": "expert"})
