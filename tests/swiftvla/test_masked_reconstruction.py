# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest
import torch
from policy_toys import AUX, PolicySource, policy, specs
from torch import nn

from flashwam.data.lerobot import SegmentDataset
from flashwam.distillation.draws import Draws
from flashwam.distillation.methods import find_method, make_method
from flashwam.distillation.setup import Setup
from flashwam.distillation.trainer import train
from flashwam.recipe.sections import LoopConfig
from flashwam.student import load_wam
from flashwam.swiftvla.method import MaskedReconstruction
from flashwam.swiftvla.policy import FusionPolicy
from flashwam.swiftvla.training_policy import AUXILIARY, PRIMARY

B = 6
WHOLE = {
    "auxiliary": AUX,
    "fusion_tokens": 2,
    "mask": {"auxiliary": 0.5, "primary": 0.25},
    "reconstruct": {"auxiliary": 0.1, "primary": 0.1},
    "trajectory": 0.5,
    "head_width": 16,
}


def method(student: FusionPolicy | None = None, **options) -> MaskedReconstruction:
    return MaskedReconstruction(specs(), student or policy(), **{**WHOLE, **options})


def draws(step: int = 0, positions=range(B)) -> Draws:
    return Draws(seed=0, step=step, positions=positions)


def batch(indices=range(B)):
    return PolicySource().batch(list(indices))


def spied(one: MaskedReconstruction) -> list:
    """The context that the model is told, call by call."""
    told: list = []
    one.roles.model.register_forward_pre_hook(lambda _, args: told.append(args[3]))
    return told


def test_a_sample_never_lacks_both_and_the_draw_is_its_own():
    one = method()
    told = spied(one)
    for step in range(8):
        one.loss(batch(), draws(step))
    visible = [{name: context["valid"][name] for name in (PRIMARY, AUXILIARY)} for context in told]
    assert all((v[PRIMARY] | v[AUXILIARY]).all() for v in visible)
    assert {bool(x) for v in visible for x in v[PRIMARY]} == {True, False}
    one.loss(batch(range(3, B)), draws(0, range(3, B)))
    assert torch.equal(told[-1]["valid"][AUXILIARY], visible[0][AUXILIARY][3:])


def only(name: str, masked: dict[str, float], **others) -> MaskedReconstruction:
    """A method whose total is the reconstruction of one modality alone."""
    streams = {key: replace(spec, weight=0.0) for key, spec in specs().items()}
    weights = {key: 1.0 if key == name else 0.0 for key in (PRIMARY, AUXILIARY)}
    options = {"auxiliary": AUX, "mask": masked, "reconstruct": weights, "head_width": 16, **others}
    return MaskedReconstruction(streams, policy(), **options)


@pytest.mark.parametrize("name", [PRIMARY, AUXILIARY])
def test_reconstruction_counts_masked_samples_alone(name):
    one = only(name, {PRIMARY: 0.4, AUXILIARY: 0.4})
    told, data = spied(one), batch()
    one.roles.model.register_forward_hook(lambda _, __, out: told.append(out))
    output = one.loss(data, draws())
    context, out = told
    target = out["target/primary"] if name == PRIMARY else data.extra["auxiliary"]
    errors = (out[f"reconstruction/{name}"] - target).square().mean((1, 2))
    masked = ~context["valid"][name]
    assert 0 < int(masked.sum()) < B
    torch.testing.assert_close(output.loss, errors[masked].sum() / (0.4 * B))
    torch.testing.assert_close(output.metrics[f"reconstruction/{name}"], errors[masked].mean())


@pytest.mark.parametrize("name", [PRIMARY, AUXILIARY])
@pytest.mark.parametrize("divide", [True, False])
def test_a_masked_sample_weighs_the_inverse_of_its_probability_or_as_any_other(name, divide):
    probability = {PRIMARY: 0.4, AUXILIARY: 0.6}
    one = only(name, probability, reconstruct_divides=divide)
    outputs = []

    def keep(_, __, out):
        out[f"reconstruction/{name}"].retain_grad()
        outputs.append(out)

    one.roles.model.register_forward_hook(keep)
    one.loss(batch(), draws()).loss.backward()
    given = outputs[0][f"reconstruction/{name}"]
    target = outputs[0]["target/primary"] if name == PRIMARY else batch().extra["auxiliary"]
    pushed = given.grad.flatten(1).any(1)
    assert 0 < pushed.sum() < B
    error = 2 * (given - target).detach() / given[0].numel() / B
    expected = error / probability[name] if divide else error
    torch.testing.assert_close(given.grad[pushed], expected[pushed])


@pytest.mark.parametrize("name", [PRIMARY, AUXILIARY])
def test_reconstruction_is_zero_where_nothing_is_masked(name):
    one = only(name, {PRIMARY: 1e-9, AUXILIARY: 1e-9})
    output = one.loss(batch(), draws())
    assert output.loss.item() == 0
    assert float(output.metrics[f"reconstruction/{name}"]) == 0
    output.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in one.roles.model.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", [PRIMARY, AUXILIARY])
def test_reconstruction_reaches_the_backbone(name):
    one = only(name, {name: 1.0})
    one.loss(batch(), draws()).loss.backward()
    student = one.roles.model.strip()
    for layer in student.trunk.layers:
        assert layer.self_attn.v_proj.weight.grad.abs().max() > 0
    # The last layer's output is read by the trajectory alone; the expert reads keys and values.
    for layer in student.trunk.layers[:-1]:
        assert layer.mlp.down_proj.weight.grad.abs().max() > 0
    shown = student.see.weight if name == AUXILIARY else one.roles.model.show.weight
    assert shown.grad.abs().max() > 0
    hidden = one.roles.model.show.weight if name == AUXILIARY else student.see.weight
    assert not hidden.grad.any()


def test_targets_are_detached_and_no_output_of_what_is_trained():
    one, data = only(AUXILIARY, {AUXILIARY: 1.0}), batch()
    auxiliary = data.extra["auxiliary"].requires_grad_(True)
    one.loss(data, draws()).loss.backward()
    # Masked, it is not looked at; as a target it gets no gradient either.
    assert auxiliary.grad is None or not auxiliary.grad.any()
    two = only(PRIMARY, {PRIMARY: 1.0})
    outs: list = []
    two.roles.model.register_forward_hook(lambda _, __, out: outs.append(out))
    data = batch()
    two.loss(data, draws())
    target = outs[0]["target/primary"]
    assert not target.requires_grad
    with torch.no_grad():
        for parameter in two.roles.model.parameters():
            parameter.add_(1.0)
    two.loss(data, draws())
    assert torch.equal(outs[1]["target/primary"], target)


def test_a_batch_in_parts_adds_up_to_the_whole():
    one = method()
    whole = one.loss(batch(), draws()).loss
    parts = [one.loss(batch(part), draws(0, part)).loss for part in (range(3), range(3, B))]
    # The toy source pads the first sample of each batch, so the second half is drawn as part of the whole.
    data = batch()
    halves = []
    for part in (slice(0, 3), slice(3, B)):
        rows = {
            key: {n: x[part] for n, x in getattr(data, key).items()} for key in ("clean", "history", "mask", "extra")
        }
        rest = {key: getattr(data, key)[part] for key in ("given", "text", "index")}
        halves.append(one.loss(replace(data, **rows, **rest), draws(0, range(B)[part])).loss)
    torch.testing.assert_close(sum(halves) / 2, whole)
    assert torch.isfinite(torch.stack(parts)).all()


def test_the_trajectory_is_masked_beyond_the_end():
    streams = {key: replace(spec, weight=0.0) for key, spec in specs().items()}
    one = MaskedReconstruction(streams, policy(), fusion_tokens=2, trajectory=1.0)
    data = batch()
    before = one.loss(data, draws()).loss
    data.extra["trajectory"][0, -1] = 1e6
    assert torch.equal(one.loss(data, draws()).loss, before)
    data.extra["trajectory"][0, 0] = 1e3
    assert one.loss(data, draws()).loss > 1e4


def test_before_its_start_the_method_is_the_baseline():
    data = batch()
    late, baseline = (
        method(start_step=3),
        method(policy(), **dict.fromkeys(("auxiliary", "mask", "reconstruct")), fusion_tokens=0, trajectory=0.0),
    )
    early = late.loss(data, draws(2))
    torch.testing.assert_close(early.loss, baseline.loss(data, draws(2)).loss, atol=1e-6, rtol=1e-6)
    early.loss.backward()
    own = [p for key, p in late.roles.model.named_parameters() if not key.startswith("policy.")]
    assert all(p.grad is None for p in own)
    assert not late.roles.model.policy.fusion.grad.any()
    after = late.loss(data, draws(3))
    assert "reconstruction/auxiliary" in after.metrics
    assert not torch.isclose(after.loss, baseline.loss(data, draws(3)).loss)


def test_the_frozen_encoder_stays_frozen():
    class Coloured(nn.Module):
        tokens, width, target_width, frozen, kept_apart = 4, 48, 48, True, False

        def __init__(self, inner):
            super().__init__()
            self.inner, self.scale = inner, nn.Parameter(torch.ones(()))

        def forward(self, *told):
            return self.scale * self.inner(*told)

    student = policy()
    student.encoder = Coloured(student.encoder)
    one = MaskedReconstruction(specs(), student)
    assert not student.encoder.scale.requires_grad
    assert all(p.requires_grad for p in one.roles.model.policy.trunk.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask": {"auxiliary": 0.5}, "auxiliary": None, "reconstruct": None}, "one alone"),
        ({"mask": {"auxiliary": 0.5}}, "never reconstructed"),
        ({"start_step": -1}, "at least 0"),
        ({"weighting": "steep"}, "flat"),
        ({"fusion_tokens": 0}, "the policy has none"),
        ({"auxiliary": {"tokens": 0, "channels": 1}}, "at least one token"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        method(**options)


def test_a_world_action_model_is_told_where_it_belongs():
    from tiny_models import tiny_wam

    with pytest.raises(ValueError, match="goes inside one"):
        MaskedReconstruction(specs(), tiny_wam())


def test_samples_without_the_modality_are_refused():
    data = replace(batch(), extra={})
    with pytest.raises(ValueError, match="not 'auxiliary'"):
        method().loss(data, draws())


def test_recordings_are_left_as_they_are_where_nothing_is_added(tmp_path):
    source = SegmentDataset.__new__(SegmentDataset)
    setup = Setup(data=tmp_path, streams=specs(), seed=0, cameras=2)
    alone = {"auxiliary": None, "mask": None, "reconstruct": None, "trajectory": 0.0}
    assert method(**alone).source(source, setup) is source


def loop(**changes) -> LoopConfig:
    values = {"method": "masked_reconstruction", "options": WHOLE, "steps": 4, "batch_size": 4, "warmup_steps": 0}
    return LoopConfig(**{**values, "diagnose_every": 2, "save_every": 2, "lr": 1e-2, **changes})


def test_two_stages_then_one_step(tmp_path):
    """Trained alone, then with the modality, then distilled to one step: each by recipe, each from the last's folder."""
    assert find_method("masked_reconstruction") is MaskedReconstruction
    source = PolicySource()
    alone = loop(options={})
    first = train(make_method(alone, specs(), policy()), source, alone, run_dir=tmp_path / "first", seed=0)
    student, info = load_wam(first)
    assert (type(student), info.kind, student.fusion) == (FusionPolicy, "teacher", None)
    second = train(make_method(loop(), specs(), student), source, loop(), run_dir=tmp_path / "second", seed=0)
    teacher, info = load_wam(second)
    assert (type(teacher), info.kind, len(teacher.fusion)) == (FusionPolicy, "teacher", 2)
    third_loop = loop(options={**WHOLE, "parts": str(second)}, steps=1)
    third = make_method(third_loop, specs(), load_wam(second)[0])
    assert torch.equal(third.roles.model.show.weight, _parts(second)["show.weight"])
    distil = loop(method="consistency", options={}, steps=2)
    result = train(
        make_method(distil, specs(), load_wam(second)[0], teacher=teacher),
        source,
        distil,
        run_dir=tmp_path / "d",
        seed=0,
    )
    assert load_wam(result)[1].kind == "student"


def _parts(folder):
    from safetensors.torch import load_file

    return load_file(folder / "training.safetensors")


def test_a_resumed_training_goes_on_as_if_never_stopped(tmp_path):
    whole = loop(options={**WHOLE, "start_step": 1})
    straight = train(make_method(whole, specs(), policy()), PolicySource(), whole, run_dir=tmp_path / "a", seed=0)

    class Killed(PolicySource):
        def batch(self, indices):
            if indices[0] >= 12:
                raise KeyboardInterrupt
            return super().batch(indices)

    with pytest.raises(KeyboardInterrupt):
        train(make_method(whole, specs(), policy()), Killed(), whole, run_dir=tmp_path / "b", seed=0)
    again = train(make_method(whole, specs(), policy()), PolicySource(), whole, run_dir=tmp_path / "b", seed=0)
    for name in ("model.safetensors", "training.safetensors"):
        assert (straight / name).read_bytes() == (again / name).read_bytes()
