# SPDX-License-Identifier: Apache-2.0
"""Foresight distillation: pairing matters and by how much, what is frozen, and both stages through the pipeline."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from foresight_toys import SPREAD, TOLD, Dye, Observations, World, toy_policy
from tiny_models import tiny_codec, tiny_joint_wam, tiny_wam

from flashwam.core.batch import Batch
from flashwam.core.edm import EDMSchedule
from flashwam.core.noise import NoiseSchedule
from flashwam.core.streams import StreamSpec
from flashwam.data.pictures import FramePictures
from flashwam.distillation.draws import Draws
from flashwam.distillation.methods import make_method
from flashwam.distillation.setup import Setup
from flashwam.foresight.method import Foresight
from flashwam.foresight.scene import SceneEncoder
from flashwam.foresight.source import pool_number
from flashwam.pipeline.training import distill
from flashwam.recipe.load import load_recipe
from flashwam.recipe.sections import DataConfig, LoopConfig, Recipe, WamConfig
from flashwam.sampling import Rollout, samplers_for
from flashwam.student import load_wam, save_wam
from flashwam.system.paths import cache_folder


def streams(**action: Any) -> dict[str, StreamSpec]:
    return {
        "video": StreamSpec(name="video", schedule=NoiseSchedule(2.0), weight=0.0, teacher_steps=1),
        "action": StreamSpec(name="action", schedule=EDMSchedule(), teacher_steps=3, **action),
    }


def trained(tmp_path: Path, *, targets: str, steps: int = 120) -> float:
    """Loss on fresh windows of decouplers that were trained so; 1 is the variance of the targets."""
    torch.manual_seed(0)
    teacher = World()
    policy = toy_policy(teacher)
    method = Foresight(streams(), policy, teacher=teacher, targets=targets, pool=192, teacher_streams=TOLD)
    source = method.source(Observations(), Setup(data=tmp_path, streams=streams(), seed=0))
    optimizer = torch.optim.Adam(policy.decouplers.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    size = 24
    losses = []
    for step in range(steps):
        indices = list(range(step * size, (step + 1) * size))
        output = method.loss(source.batch(indices), Draws(seed=0, step=step, positions=range(size)))
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(output.loss.detach()))
    return sum(losses[-20:]) / 20


@pytest.fixture(scope="module")
def floors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    folder = tmp_path_factory.mktemp("pairing")
    return {targets: trained(folder, targets=targets) for targets in ("same_seed", "unpaired")}


def test_a_look_at_the_right_seed_foresees_what_the_teacher_draws(floors: dict[str, float]) -> None:
    assert floors["same_seed"] < 0.03


def test_a_look_at_another_seed_leaves_the_variance_that_the_seed_explains(floors: dict[str, float]) -> None:
    """Var(y | o) / Var(y) of y = 0.6 o + 0.8 z, less what 192 windows let one remember."""
    floor = SPREAD["noise"] ** 2 / (SPREAD["noise"] ** 2 + SPREAD["observation"] ** 2)
    assert 0.7 * floor < floors["unpaired"] < 1.15 * floor


def test_a_teacher_of_cooler_noise_is_not_looked_at_from_unit_noise(tmp_path: Path) -> None:
    teacher = World()
    cooler = {name: {**told, "teacher_temperature": 0.5} for name, told in TOLD.items()}
    for targets in ("same_seed", "unpaired"):
        method = Foresight(
            streams(), toy_policy(teacher), teacher=teacher, targets=targets, pool=4, teacher_streams=cooler
        )
        make = partial(method.source, Observations(), Setup(data=tmp_path, streams=streams(), seed=0))
        if targets == "unpaired":
            make()
            continue
        with pytest.raises(ValueError, match=r"cooler noise \(teacher_temperature: .*video 0\.5"):
            make()


def test_what_is_looked_at_is_what_the_rollout_was_drawn_from(tmp_path: Path) -> None:
    teacher = World()
    policy = toy_policy(teacher)
    for targets in ("same_seed", "unpaired", "ground_truth"):
        method = Foresight(streams(), policy, teacher=teacher, targets=targets, pool=4, teacher_streams=TOLD)
        source = method.source(Observations(), Setup(data=tmp_path, streams=streams(), seed=0))
        batch = source.batch([0, 1, 2])
        context = method.context(batch, Draws(seed=0, step=0, positions=range(3)))
        same = torch.equal(context["noise"]["video"][:, :, 1], batch.extra["noise/video"][:, :, 1])
        assert same is (targets == "same_seed")
        assert torch.equal(context["noise"]["video"][:, :, 0], batch.clean["video"][:, :, 0])
        assert context["noise_sigma"]["video"].tolist() == [[0, 1]] * 3
        seen = policy.features_of("colour", policy.decoder.pictures(batch.clean["video"]))
        recorded = torch.allclose(batch.extra["target/colour"], seen, atol=2e-3)
        assert recorded is (targets == "ground_truth")


def test_what_is_made_of_data_that_are_only_read_is_kept_elsewhere(tmp_path: Path) -> None:
    policy = toy_policy(World())
    method = Foresight(streams(), policy, teacher=World(), pool=2, teacher_streams=TOLD)
    data, kept = tmp_path / "data", tmp_path / "kept"
    data.mkdir()
    method.source(Observations(), Setup(data=data, streams=streams(), seed=0, kept=kept)).batch([0])
    assert any((kept / "rollouts").rglob("*.safetensors"))
    assert not any(data.iterdir())
    own, foreign = (
        Setup.of(recipe, recipe.distill)
        for recipe in map(load_recipe, ("metaworld/flash_wam", "lingbot_va/libero/flash_wam"))
    )
    assert (own.kept, foreign.kept) == (None, cache_folder())


def test_statistics_come_to_every_copy_of_the_decouplers(tmp_path: Path) -> None:
    teacher = World()
    policy = toy_policy(teacher)
    method = Foresight(streams(), policy, teacher=teacher, keep_target=True, pool=8, teacher_streams=TOLD)
    source = method.source(Observations(), Setup(data=tmp_path, streams=streams(), seed=0))
    mean, std = source.statistics["colour"]
    for role in (policy, method.roles.target):
        assert torch.equal(role.decouplers["colour"].mean, mean)
        assert torch.equal(role.decouplers["colour"].std, std)
    assert method.roles.target.backbone is policy.backbone


def test_elements_count_by_how_much_they_change(tmp_path: Path) -> None:
    torch.manual_seed(0)
    teacher = World()
    policy = toy_policy(teacher)
    plain, weighted = (
        Foresight(streams(), policy, teacher=teacher, pool=4, teacher_streams=TOLD, change_weight=weight)
        for weight in (0.0, 3.0)
    )
    setup = Setup(data=tmp_path, streams=streams(), seed=0)
    batch, draws = plain.source(Observations(), setup).batch([0, 1]), Draws(seed=0, step=0, positions=range(2))
    policy.eval()
    decoupler = policy.decouplers["colour"]
    target = decoupler.standardise(batch.extra["target/colour"])
    predicted = policy({}, {}, batch.history, plain.context(batch, draws))["colour"]
    still = policy.see_before(batch.history["video"], 2)["colour"][:, :, None]
    squared, weights = (predicted - target) ** 2, 1 + 3 * (target - still) ** 2 / ((target - still) ** 2).mean()
    # The frame that is given has no loss.
    for method, elements in ((plain, squared), (weighted, squared * weights)):
        assert float(method.loss(batch, draws).loss.detach()) == pytest.approx(
            float(elements[:, :, 1:].mean().detach())
        )


def test_options_that_make_no_sense_are_refused() -> None:
    teacher = World()

    def method(trained: str = "decouplers", **options: Any) -> Foresight:
        policy = toy_policy(teacher, trained=trained)
        return Foresight(streams(), policy, teacher=teacher, **options)

    for options, message in (
        ({"stage": "video"}, "stage must be one of"),
        ({"targets": "random"}, "targets must be one of"),
        ({"actions": "human"}, "actions must be one of"),
        ({"stage": "expert"}, "trains a foresight policy's expert"),
        ({"looks": 4}, "in stage expert"),
        ({"draws": 0}, "draws must be at least 1"),
        ({"change_weight": -1}, "change_weight must be at least 0"),
        ({"change_weight": float("nan")}, "change_weight must be at least 0"),
        ({"weights": {"depth": 1}}, r"weights name \['depth'\]"),
        ({"targets": "ground_truth", "actions": "teacher"}, "no actions of the teacher's"),
    ):
        with pytest.raises(ValueError, match=message):
            method(**options)
    with pytest.raises(ValueError, match="got World"):
        Foresight(streams(), World(), teacher=teacher)
    policy = toy_policy(teacher)
    other = {**streams(), "action": StreamSpec(name="action", schedule=EDMSchedule(sigma_data=0.4))}
    with pytest.raises(ValueError, match=r"sigma_data is 0\.4, the expert's 0\.5"):
        Foresight(other, policy, teacher=teacher)
    with pytest.raises(ValueError, match="give teacher_streams"):
        method().source(Observations(), Setup(data=Path("nowhere"), streams=streams(), seed=0))


def test_several_draws_from_one_look_are_the_mean_of_as_many_steps() -> None:
    teacher = World()
    policy = toy_policy(teacher, trained="expert")
    batch, draws = Observations().batch([0, 1, 2]), Draws(seed=0, step=5, positions=range(3))
    one, three = (Foresight(streams(), policy, teacher=teacher, stage="expert", draws=n) for n in (1, 3))
    together = three.loss(batch, draws)
    context = one.context(batch, draws)
    one.context = lambda batch, draws: context
    alone = [one.loss(batch, draws.again(time)) for time in range(3)]
    assert len({output.loss.item() for output in alone}) == 3
    assert torch.equal(one.loss(batch, draws).loss, alone[0].loss)
    torch.testing.assert_close(together.loss, torch.stack([output.loss for output in alone]).mean())
    each = torch.cat([output.terms["action"].loss for output in alone])
    torch.testing.assert_close(together.terms["action"].loss, each)


def test_looks_made_once_are_those_of_their_windows_and_noises(tmp_path: Path) -> None:
    teacher, pool = World(), 20
    policy = toy_policy(teacher, trained="expert")
    method = Foresight(streams(), policy, teacher=teacher, stage="expert", looks=pool)
    setup = Setup(data=tmp_path, streams=streams(), seed=3)
    source, windows = method.source(Observations(), setup), Observations()
    numbers = [pool_number(3, i, pool) for i in range(8)]
    assert len(set(numbers)) > 4
    batch, draws = source.batch(list(range(8))), Draws(seed=3, step=7, positions=range(8))
    assert torch.equal(batch.clean["video"], windows.batch(numbers).clean["video"])
    repeated = method.source(Observations(), setup).batch(list(range(8)))
    for name, x in batch.extra.items():
        assert torch.equal(x, repeated.extra[name])
    context = method.context(batch, draws)
    again = Draws(seed=3, step=0, positions=[("look", n) for n in numbers])
    fresh = method.context(windows.batch(numbers), again)
    seen = policy.foresight(batch.history, fresh)
    assert set(seen) == {"features", "colour"}
    for name, x in seen.items():
        torch.testing.assert_close(context["foresight"][name], x, atol=2e-3, rtol=2e-3)
    # What is learnt is the same as with the looks taken then and there.
    given = method.loss(batch, draws).loss
    method.context = lambda batch, draws: {**context, "foresight": seen}
    torch.testing.assert_close(given, method.loss(batch, draws).loss, atol=1e-3, rtol=1e-3)


def test_looks_at_rollouts_take_each_of_the_pool_once(tmp_path: Path) -> None:
    """Every look is at a window and noise of its own, of which as many are said as are drawn."""
    teacher = World()
    policy = toy_policy(teacher, trained="expert")
    options = {"stage": "expert", "actions": "teacher", "teacher_streams": TOLD}
    method = Foresight(streams(), policy, teacher=teacher, pool=16, looks=16, **options)
    source = method.source(Observations(), Setup(data=tmp_path, streams=streams(), seed=3))
    batch = source.batch(list(range(400)))
    assert len(batch.index.unique()) == 16
    for name in ("noise/video", "look/features"):
        assert len(batch.extra[name].flatten(1).unique(dim=0)) == 16
    # A rollout has one noise, so more looks than rollouts would be the same looks again.
    with pytest.raises(ValueError, match=r"looks is 17, of 16 rollouts \(pool\)"):
        Foresight(streams(), policy, teacher=teacher, pool=16, looks=17, **options)
    Foresight(streams(), policy, teacher=teacher, pool=16, looks=17, targets="unpaired", **options)


def test_the_second_stage_needs_the_first(tmp_path: Path) -> None:
    setup = Setup(data=tmp_path, streams=streams(), seed=0)
    with pytest.raises(ValueError, match=r"needs distill\.init"):
        Foresight.make_student(World, teacher=World(), options={"stage": "expert"}, setup=setup)
    with pytest.raises(ValueError, match="providers is empty"):
        Foresight.make_student(World, teacher=World(), options={}, setup=setup)
    with pytest.raises(ValueError, match="holds a World"):
        Foresight.make_student(
            World, teacher=World(), options={}, setup=Setup(data=tmp_path, streams=streams(), seed=0, init=tmp_path)
        )


POLICY = {
    "grid": [4, 4],
    "decoupler": {"width": 8, "blocks": 1, "heads": 2, "positions": True},
    "resampler": {"width": 8, "queries": 2, "depth": 1, "heads": 2, "head_dim": 4},
    "expert": {"width": 8, "encoder": 1, "decoder": 1, "heads": 2},
}


@pytest.fixture(params=["lingbot_va", "cogvideox"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Observations, dict[str, Any]]:
    """A tiny teacher's folder with its codec, windows, and options of the method."""
    wam = tiny_wam(num_layers=2) if request.param == "lingbot_va" else tiny_joint_wam()
    folder = tmp_path / "teacher"
    told = {name: StreamSpec.from_config(name, {"shift": 2.0, "teacher_steps": 2}) for name in wam.streams}
    save_wam(folder, wam, told, kind="teacher", info={"teacher": None})
    tiny_codec().save(folder)
    scenes = {}
    for name, labels in (("semantic", "colours"), ("geometric", "motion")):
        SceneEncoder(labels=labels, classes=0, width=5).save(tmp_path / "data" / "scene" / f"{labels}_seed0")
        scenes[name] = {"name": "scene", "labels": labels}
    chunks = 1 if wam.conditions_on_first else 2
    windows = Observations(wam.shapes, text=32, frames=chunks * wam.chunk_frames)
    return folder, windows, {"policy": {**POLICY, "blocks": [0]}, "providers": scenes, "pool": 4}


def recipe(
    folder: Path, tmp_path: Path, options: Mapping[str, Any], *, init: Path | None = None, **changes: Any
) -> Recipe:
    loop = {"method": "foresight", "options": options, "init": None if init is None else str(init), "steps": 2,
            "batch_size": 2, "diagnose_every": 1, "warmup_steps": 0, **changes}  # fmt: skip
    return Recipe(
        name="tiny",
        streams=changes.pop("streams", None) or streams(),
        data=DataConfig(root=str(tmp_path / "data")),
        wam=WamConfig(pretrained=str(folder)),
        distill=LoopConfig(**{key: value for key, value in loop.items() if key != "streams"}),
    )


def test_from_a_teacher_to_a_one_step_policy(world: tuple, tmp_path: Path) -> None:
    """Decouplers, then the expert, then the expert in one step: three runs of one verb, for either family."""
    folder, windows, options = world
    first = distill(recipe(folder, tmp_path, options), run_dir=tmp_path / "one", source=windows)
    made, info = load_wam(first)
    assert (info.kind, info.role, made.trained) == ("teacher", "student", "decouplers")
    assert made.decouplers["semantic"].std.min() > 0
    tiny_codec().save(first)

    second_options = {"stage": "expert", "policy": {"raw": False}, "actions": "teacher", "pool": 4, "draws": 2}
    second = distill(recipe(folder, tmp_path, second_options, init=first), run_dir=tmp_path / "two", source=windows)
    policy, info = load_wam(second)
    assert (policy.trained, policy.raw) == ("expert", False)
    for mine, theirs in zip(policy.decouplers.parameters(), made.decouplers.parameters(), strict=True):
        assert torch.equal(mine, theirs)

    third = distill(recipe(second, tmp_path, {}, method="consistency"), run_dir=tmp_path / "three", source=windows)
    student, info = load_wam(third)
    assert info.kind == "student"
    samplers = samplers_for(info.streams, steps=dict.fromkeys(student.streams, 1), teacher=False)
    batch = windows.batch([0, 1])
    first_frames = {name: x[:, :, :1] for name, x in batch.clean.items()}
    drawn = Rollout(student.eval(), samplers, text=batch.text, first=first_frames).predict()
    assert set(drawn) == {"action"}
    lines = [json.loads(line) for line in (tmp_path / "one" / "metrics.jsonl").read_text().splitlines()]
    assert {"semantic/loss", "geometric/loss", "semantic/grad_norm"} <= set(lines[-1])


def test_a_resumed_run_ends_with_the_same_bits(world: tuple, tmp_path: Path) -> None:
    folder, windows, options = world

    class Stops(Observations):
        def batch(self, indices: list[int]) -> Batch:
            return windows.batch(indices)

    plan = {"steps": 4, "save_every": 2}
    whole = distill(recipe(folder, tmp_path, options, **plan), run_dir=tmp_path / "whole", source=windows)
    loss = Foresight.loss
    calls = []

    def stopping(self: Foresight, batch: Batch, draws: Draws) -> Any:
        calls.append(draws.step)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return loss(self, batch, draws)

    Foresight.loss = stopping
    try:
        with pytest.raises(KeyboardInterrupt):
            distill(recipe(folder, tmp_path, options, **plan), run_dir=tmp_path / "cut", source=Stops())
    finally:
        Foresight.loss = loss
    cut = distill(recipe(folder, tmp_path, options, **plan), run_dir=tmp_path / "cut", source=windows)
    ours, theirs = (load_wam(path)[0].state_dict() for path in (whole, cut))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_the_method_is_found_by_name() -> None:
    teacher = World()
    policy = toy_policy(teacher, trained="expert")
    loop = LoopConfig(method="foresight", options={"stage": "expert"})
    method = make_method(loop, streams(), policy, teacher=teacher)
    output = method.loss(Observations().batch([0, 1]), Draws(seed=0, step=0, positions=range(2)))
    assert set(output.terms) == {"action"}
    output.loss.backward()
    assert all(p.grad is not None for p in policy.expert.parameters())
    assert isinstance(policy.decoder, Dye)
    assert not isinstance(policy.decoder, FramePictures)
