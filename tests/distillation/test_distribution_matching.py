# SPDX-License-Identifier: Apache-2.0
"""Distribution matching, its critic and its rollouts, each against what they are by definition."""

from dataclasses import replace

import pytest
import torch
from distill_toys import CHUNK, GaussianTeacher, ToyWam
from tiny_models import tiny_joint_wam, tiny_wam
from tiny_windows import Windows

from flashwam.core.noise import append_dims
from flashwam.distillation.draws import Draws
from flashwam.distillation.methods import ConsistencyDistillation, DistributionMatching, FlowMatching
from flashwam.distillation.methods.dmd_term import matching_direction
from flashwam.wam import Layout


@pytest.fixture
def draws():
    return Draws(seed=5, step=2, positions=range(4))


def gradients(method, batch, draws) -> dict[str, torch.Tensor]:
    method.roles.model.zero_grad()
    method.loss(batch, draws).loss.backward()
    return {name: p.grad.clone() for name, p in method.roles.model.named_parameters() if p.grad is not None}


def drawn(method, batch, draws) -> dict[str, torch.Tensor]:
    """The draws of the student, after all the steps of its rollout."""
    with torch.no_grad():
        rollout = method.rollouts(method.roles.model, batch, draws)
        velocity = method.roles.model(rollout.noisy, rollout.sigma, rollout.history, rollout.context)
    return method.rollouts.clean(rollout.noisy, rollout.sigma, velocity)


def test_a_student_whose_critic_is_the_teacher_stands_still(specs, batch, draws):
    method = DistributionMatching(specs(), ToyWam.create(seed=1), teacher=ToyWam.create(seed=2))
    assert float(method.loss(batch, draws).loss.detach()) == 0
    assert not any(value.any() for value in gradients(method, batch, draws).values())
    guided = DistributionMatching(
        specs(video={"guidance": [3, 3]}), ToyWam.create(seed=1), teacher=ToyWam.create(seed=2)
    )
    moved = gradients(guided, batch, draws)
    assert moved["outside.video.weight"].any()
    assert not moved["outside.action.weight"].any(), "the actions have no guidance"


def test_the_critic_learns_the_students_draws_by_flow_matching(specs, batch, draws):
    student, teacher = ToyWam.create(seed=1), ToyWam.create(seed=2)
    method = DistributionMatching(specs(), student, teacher=teacher, critic_bandwidth=0.7)
    output = method.critic_loss(batch, draws)
    other = FlowMatching(specs(), ToyWam.create(seed=2), noisy_history={}, text_dropout=0.0)
    for name, (grid, _) in other._tables.items():
        other._tables[name] = grid, torch.exp(-2 * ((grid - 0.5) / 0.7) ** 2)
    expected = other.loss(replace(batch, clean=drawn(method, batch, draws)), draws)
    torch.testing.assert_close(output.loss, expected.loss, rtol=1e-6, atol=0)
    output.loss.backward()
    expected.loss.backward()
    assert all(p.grad is None for p in student.parameters())
    for mine, its in zip(method.roles.critic.parameters(), other.roles.model.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, its.grad, rtol=1e-5, atol=1e-8)


def test_only_the_last_step_of_a_rollout_has_a_graph(specs, batch, monkeypatch):
    seen: list[tuple[bool, float]] = []
    velocity = ToyWam.velocity

    def watched(model, noisy, sigma, clean, context):
        if model is student:
            seen.append((torch.is_grad_enabled(), float(sigma["video"].max())))
        return velocity(model, noisy, sigma, clean, context)

    monkeypatch.setattr(ToyWam, "velocity", watched)
    student = ToyWam.create(seed=1)
    method = DistributionMatching(specs(), student, teacher=ToyWam.create(seed=2))
    numbers = set()
    for step in range(12):
        seen.clear()
        method.loss(batch, Draws(seed=0, step=step, positions=range(4)))
        steps = len(seen)
        numbers.add(steps)
        assert [graph for graph, _ in seen] == [False] * (steps - 1) + [True]
        # Bands of the shifted schedule: 5 u / (1 + 4 u) at u = 1, 3/4, 1/2, 1/4.
        bands = [5 * u / (1 + 4 * u) for u in (1, 0.75, 0.5, 0.25)]
        assert [level for _, level in seen] == pytest.approx(bands[:steps])
    assert numbers == {1, 2, 3, 4}


def test_states_between_the_steps_are_clean_estimates_with_new_noise(specs, batch):
    method = DistributionMatching(specs(consistency="lcm"), ToyWam.create(seed=1), teacher=ToyWam.create(seed=2))
    steps = next(
        s for s in range(20) if Draws(seed=0, step=s, positions=[0]).shared_integer("rollout_steps", 1, 5) == 3
    )
    draws = Draws(seed=0, step=steps, positions=range(4))
    found = method.rollouts(method.roles.model, batch, draws)
    free = ~batch.given[:, None, :, None, None]
    with torch.no_grad():
        for k in range(3):
            level = {n: s.schedule.sigma(1 - k / 4) * (~batch.given).float() for n, s in method.streams.items()}
            eps = {n: draws.normal(f"draw/{k}/{n}", x.shape[1:]) for n, x in batch.clean.items()}
            if k == 0:
                x = {n: torch.where(free, eps[n], batch.clean[n]) for n in eps}
            else:
                last = method.streams["video"].schedule, method.streams["action"].schedule
                before = {n: s.sigma(1 - (k - 1) / 4) * (~batch.given).float() for n, s in zip(x, last, strict=True)}
                v = method.roles.model(x, before, batch.history, {"text": batch.text})
                clean = {n: method.streams[n].consistency(x[n], before[n], v[n]) for n in x}
                x = {
                    n: (1 - append_dims(level[n], c)) * c + append_dims(level[n], c) * eps[n] for n, c in clean.items()
                }
    for name in x:
        torch.testing.assert_close(found.noisy[name], x[name])
        torch.testing.assert_close(found.sigma[name], level[name])
        given = found.noisy[name].masked_select(~free)
        torch.testing.assert_close(given, batch.clean[name].masked_select(~free), msg="given frames stay clean")


def test_what_the_mask_leaves_out_counts_neither_in_the_gradient_nor_in_its_norm(specs, batch, draws):
    generator = torch.Generator().manual_seed(0)
    clean, real, fake = (torch.randn(4, 3, 4, 2, 1, generator=generator) for _ in range(3))
    mask = batch.loss_mask("action")
    direction, apart, scale = matching_direction(clean, real, fake, mask)
    assert not direction.masked_select(~mask).any()
    assert direction.masked_select(mask).all()
    wild = [torch.where(mask, x, x * 1e6) for x in (clean, real, fake)]
    for first, second in zip((direction, apart, scale), matching_direction(*wild, mask), strict=True):
        assert torch.equal(first, second)
    method = DistributionMatching(specs(guidance=[3, 3]), ToyWam.create(seed=1), teacher=ToyWam.create(seed=2))
    output = method.loss(batch, draws)
    for name, term in output.terms.items():
        (at,) = torch.autograd.grad(output.loss, term.velocity, retain_graph=True)
        inside = batch.loss_mask(name).expand_as(at)
        assert not at[~inside].any()
        assert at[inside].any()


def test_every_sample_is_normalised_by_itself():
    generator = torch.Generator().manual_seed(0)
    clean, real, fake = (torch.randn(3, 2, 4, 2, 2, generator=generator) for _ in range(3))
    mask = torch.ones(3, 1, 1, 1, 1, dtype=torch.bool)
    direction, apart, scale = matching_direction(clean, real, fake, mask)
    assert torch.allclose(scale, (clean - real).abs().mean((1, 2, 3, 4)))
    # The second sample ten times as far from everything.
    factor = torch.tensor([1.0, 10.0, 1.0])[:, None, None, None, None]
    further, wider, larger = matching_direction(factor * clean, factor * real, factor * fake, mask)
    torch.testing.assert_close(further, direction)
    torch.testing.assert_close(wider, apart * factor.flatten())
    torch.testing.assert_close(larger, scale * factor.flatten())
    same = matching_direction(clean, clean, fake, mask)[0]
    assert torch.isfinite(same).all(), "the norm is held away from zero"


def test_a_weight_scales_its_streams_part_alone(specs, batch, draws):
    def of(weight: float) -> dict[str, torch.Tensor]:
        both = specs(video={"guidance": [3, 3]}, action={"guidance": [3, 3], "weight": weight})
        return gradients(DistributionMatching(both, ToyWam.create(seed=1), teacher=ToyWam.create(seed=2)), batch, draws)

    whole, part = of(1.0), of(0.1)
    assert whole["outside.action.weight"].any()
    for side in ("inside", "outside"):
        torch.testing.assert_close(part[f"{side}.action.weight"], 0.1 * whole[f"{side}.action.weight"])
        torch.testing.assert_close(part[f"{side}.video.weight"], whole[f"{side}.video.weight"])


def test_a_stream_with_a_regulariser_alone_is_held_by_flow_matching(specs, batch, draws):
    held = specs(video={"guidance": [3, 3]}, action={"weight": 0.0, "regulariser": 1.0})
    found = gradients(DistributionMatching(held, ToyWam.create(seed=1), teacher=ToyWam.create(seed=2)), batch, draws)
    alone = specs(video={"weight": 0.0}, action={"weight": 0.0, "regulariser": 1.0})
    teacher = GaussianTeacher()
    expected = gradients(ConsistencyDistillation(alone, ToyWam.create(seed=1), teacher=teacher), batch, draws)
    for side in ("inside", "outside"):
        torch.testing.assert_close(found[f"{side}.action.weight"], expected[f"{side}.action.weight"])
    assert found["outside.video.weight"].any()


def test_a_regulariser_beside_the_matching_takes_a_pass_of_its_own(specs, batch, draws):
    def of(**changes) -> dict[str, torch.Tensor]:
        spec = specs(video={"guidance": [3, 3], **changes}, action={"weight": 0.0})
        return gradients(DistributionMatching(spec, ToyWam.create(seed=1), teacher=ToyWam.create(seed=2)), batch, draws)

    alone = specs(video={"weight": 0.0, "regulariser": 0.5}, action={"weight": 0.0})
    matching = gradients(
        ConsistencyDistillation(alone, ToyWam.create(seed=1), teacher=ToyWam.create(seed=2)), batch, draws
    )
    both, first = of(regulariser=0.5), of()
    name = "outside.video.weight"
    torch.testing.assert_close(both[name], first[name] + matching[name])


def test_own_draws_of_the_video_are_what_the_actions_are_drawn_under(specs, batch):
    method = DistributionMatching(specs(), ToyWam.create(seed=1), teacher=ToyWam.create(seed=2), video_slot="own")
    for step in range(4):
        draws = Draws(seed=0, step=step, positions=range(4))
        rollout = method.rollouts(method.roles.model, batch, draws)
        begin = rollout.history["video"].shape[2] - CHUNK
        assert begin == draws.shared_integer("chunk", 0, 2) * CHUNK
        assert torch.equal(rollout.history["video"][:, :, :begin], batch.history["video"][:, :, :begin])
        assert torch.equal(rollout.history["action"], batch.history["action"][:, :, : begin + CHUNK])
        # The joint last step gives the very video that the actions have been drawn under so far.
        video = drawn(method, batch, draws)["video"]
        torch.testing.assert_close(rollout.history["video"][:, :, begin:], video)
        assert torch.isfinite(method.loss(batch, draws).loss)
        assert torch.isfinite(method.critic_loss(batch, draws).loss)


def test_streams_of_one_stage_are_looked_at_at_levels_that_belong_together(specs, batch, draws):
    class Together(ToyWam):
        layout = Layout(
            streams=("video", "action"), stages=(("video", "action"),), chunk_frames=CHUNK, shapes=ToyWam.layout.shapes
        )

    for synchronous in (True, False):
        method = DistributionMatching(
            specs(action={"weight": 0.0}), Together(), teacher=Together(), synchronous=synchronous
        )
        assert method.term.drawn == ["video", "action"]
        _, sigma = method.term._renoised(drawn(method, batch, draws), batch, draws)
        video, action = sigma["video"][:, 1], sigma["action"][:, 1]
        assert bool((sigma["video"][:, 0] == 0).all()), "a given frame stays clean"
        assert 0.02 <= float(video.min()) < float(video.max()) <= 0.98
        together = torch.allclose(method.streams["video"].schedule.u(video), action, atol=1e-6)
        assert together == synchronous
        assert torch.isfinite(method.loss(batch, draws).loss)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rollout_steps": 0}, "rollout_steps must be at least 1; got 0"),
        ({"student_every": 0}, "student_every must be at least 1; got 0"),
        ({"renoise": [0.0, 0.98]}, r"renoise must be \[low, high\] with 0 < low <= high < 1; got \[0.0, 0.98\]"),
        ({"critic_lr": 0.0}, "critic_lr must be positive, or null for twice the student's; got 0.0"),
        ({"critic_bandwidth": -1.0}, "critic_bandwidth must be positive; got -1.0"),
        ({"video_slot": "teacher"}, 'video_slot must be "data" or "own"; got \'teacher\''),
    ],
)
def test_an_option_out_of_range_is_refused_by_its_name(specs, wam, teacher, options, message):
    with pytest.raises(ValueError, match=message):
        DistributionMatching(specs(), wam, teacher=teacher, **options)


@pytest.mark.parametrize("video_slot", ["data", "own"])
@pytest.mark.parametrize("weight", [0.0, 0.1])
@pytest.mark.parametrize("wam", [tiny_wam, tiny_joint_wam], ids=["lingbot_va", "cogvideox"])
def test_both_families_have_both_turns(specs, wam, weight, video_slot):
    student, teacher = wam(seed=3), wam(seed=4)
    streams = specs(video={"guidance": [3, 3]}, action={"weight": weight, "regulariser": 1.0 - weight})
    method = DistributionMatching(streams, student, teacher=teacher, video_slot=video_slot)
    batch = Windows(teacher, 1 if teacher.conditions_on_first else 2).batch([0, 1])
    output = method.loss(batch, Draws(seed=0, step=0, positions=range(2)))
    output.loss.backward()
    assert list(output.terms) == ["video", "action"]
    assert ("action/regulariser" in output.metrics) == ("action/ratio" in output.metrics) == (weight > 0)
    assert all(p.grad is None for p in method.roles.critic.parameters())
    reached = {name for name, p in student.named_parameters() if p.grad is not None and p.grad.any()}
    student.zero_grad()
    critic = method.critic_loss(batch, Draws(seed=0, step=0, positions=range(2)))
    critic.loss.backward()
    assert list(critic.terms) == (["video", "action"] if weight else ["video"])
    assert not any(p.grad is not None and p.grad.any() for p in student.parameters())
    assert len(reached) > 10
    assert any(p.grad is not None and p.grad.any() for p in method.roles.critic.parameters())
    assert all(p.grad is None for p in teacher.parameters())


def test_a_pass_more_or_less_is_counted(specs):
    """4 beside the critic's own of 3: K = 4 steps are 2.5 on average; a fifth of 1.5 + 3 of the student, 2 + 1 scores."""
    guided = specs(video={"guidance": [3, 3]})
    assert DistributionMatching.passes_without_gradient(guided, {}) == pytest.approx(1.5 + 1 + (1.5 + 3 + 2 + 1) / 5)
    assert DistributionMatching.passes_without_gradient(specs(), {"rollout_steps": 1, "student_every": 1}) == 6
