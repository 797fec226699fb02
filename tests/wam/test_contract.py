# SPDX-License-Identifier: Apache-2.0
"""What the contract promises of any family: defaults, stages, and chunks that begin with the observation."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from flashwam.core.batch import Batch
from flashwam.core.consistency import Linear
from flashwam.core.noise import NoiseSchedule
from flashwam.core.streams import StreamSpec
from flashwam.distillation.draws import Draws
from flashwam.distillation.methods.consistency import ConsistencyDistillation
from flashwam.distillation.methods.flow_matching import FlowMatching
from flashwam.distillation.methods.on_policy import OnPolicy
from flashwam.evaluation.open_loop import chunk_draws
from flashwam.sampling import Rollout, StreamSampler
from flashwam.wam import WorldActionModel, load
from flashwam.wam.replay import ReplaySession

FRAMES, BATCH = 3, 2
SHAPES = {"video": (2, 2, 2), "action": (3, 2, 1)}


class Minimal(WorldActionModel):
    """As little as a family can be."""

    streams = ("video", "action")
    chunk_frames = FRAMES
    shapes = SHAPES

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))

    def velocity(self, noisy, sigma, clean, context):
        return {name: self.gain * x for name, x in noisy.items()}


class Joint(Minimal):
    """Both streams in one pass; the data is the observation, so x0 is known and every velocity exact."""

    stages = (("video", "action"),)
    conditions_on_first = True
    frame_levels = False
    execute_frames = 1

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__(gain)
        self.calls = []

    def velocity(self, noisy, sigma, clean, context):
        frames = next(iter(noisy.values())).shape[2]
        self.calls.append({name: (level.clone(), clean[name][:, :, -frames].clone()) for name, level in sigma.items()})
        out = {}
        for name, x in noisy.items():
            level = sigma[name][:, None, :, None, None]
            x0 = clean[name][:, :, -frames].unsqueeze(2) if name == "video" else noisy["video"].mean() * 0
            out[name] = self.gain * torch.where(level > 0, (x - x0) / level.clamp(min=1e-6), 0)
        return out


def sampler(steps):
    return StreamSampler(schedule=NoiseSchedule(2.0), consistency=Linear(), steps=steps)


def frame(value, name):
    c, h, w = SHAPES[name]
    return torch.full((BATCH, c, 1, h, w), float(value))


def batch(frames=FRAMES):
    generator = torch.Generator().manual_seed(5)
    clean = {n: torch.randn(BATCH, c, frames, h, w, generator=generator) for n, (c, h, w) in SHAPES.items()}
    given = torch.zeros(BATCH, frames, dtype=torch.bool)
    given[:, 0] = True
    mask = {name: torch.ones(BATCH, 1, frames, 1, 1, dtype=torch.bool) for name in SHAPES}
    mask["action"][:, :, 0] = False
    return Batch(
        clean=clean,
        history=clean,
        mask=mask,
        given=given,
        text=torch.zeros(BATCH, 1, 3),
        null_text=torch.zeros(1, 3),
        index=torch.arange(BATCH),
    )


def specs():
    return {name: StreamSpec(name=name, schedule=NoiseSchedule(2.0)) for name in SHAPES}


def test_a_minimal_family_is_saved_and_found_again(tmp_path):
    model = Minimal.create(gain=3.0)
    model.save_pretrained(tmp_path)
    again = load(tmp_path, trust=True)
    assert type(again) is Minimal
    assert again.settings == {"gain": 3.0}
    assert torch.equal(again.gain, model.gain)


def test_weights_that_do_not_fit_are_refused(tmp_path):
    Minimal.create().save_pretrained(tmp_path)
    (tmp_path / "wam.json").write_text((tmp_path / "wam.json").read_text().replace("Minimal", "Wider"))
    with pytest.raises(ValueError, match="missing extra"):
        load(tmp_path, trust=True)


class Wider(Minimal):
    def __init__(self) -> None:
        super().__init__()
        self.extra = nn.Parameter(torch.zeros(2))


def test_a_class_that_cannot_be_imported_is_refused(tmp_path):
    class Local(Minimal):
        pass

    with pytest.raises(ValueError, match="module that can be imported"):
        Local.create().save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_by_default_a_stream_is_a_stage_and_a_whole_chunk_is_executed():
    model = Minimal()
    assert model.stages == (("video",), ("action",))
    first = {name: frame(1, name) for name in SHAPES}
    rollout = Rollout(model, {n: sampler(1) for n in SHAPES}, text=torch.zeros(BATCH, 1, 3), first=first)
    assert rollout.executed == slice(1, FRAMES)
    drawn = rollout.predict()
    assert torch.equal(drawn["video"][:, :, :1], first["video"])
    rollout.observe(drawn)
    assert rollout.executed == slice(0, FRAMES)
    assert set(rollout.seconds) == {"video", "action"}


def test_a_chunk_begins_with_the_latest_observation():
    model = Joint()
    rollout = Rollout(
        model,
        {name: sampler(2) for name in SHAPES},
        text=torch.zeros(BATCH, 1, 3),
        first={name: frame(7, name) for name in SHAPES},
    )
    for value in (7, 9):
        assert rollout.executed == slice(1, 2)
        drawn = rollout.predict()
        torch.testing.assert_close(drawn["video"], frame(value, "video").expand(-1, -1, FRAMES, -1, -1))
        torch.testing.assert_close(drawn["action"], torch.zeros_like(drawn["action"]))
        rollout.observe({name: frame(9, name) for name in SHAPES})
    assert len(model.calls) == 4  # one pass per level for both streams
    assert set(rollout.seconds) == {"video+action"}
    assert all(torch.equal(call["video"][0], call["action"][0]) for call in model.calls)


def test_streams_drawn_together_are_replaced_together():
    model = Joint()
    rollout = Rollout(
        model,
        {name: sampler(1) for name in SHAPES},
        text=torch.zeros(BATCH, 1, 3),
        first={name: frame(0, name) for name in SHAPES},
    )
    with pytest.raises(ValueError, match="replace all of them or none"):
        rollout.predict(replace={"video": frame(0, "video")})


@pytest.mark.parametrize("synchronous", [True, False])
@pytest.mark.parametrize("kind", [FlowMatching, ConsistencyDistillation])
def test_levels_of_streams_that_are_drawn_together(kind, synchronous):
    student = Joint()
    method = kind(specs(), student, teacher=Joint(), synchronous=synchronous)
    method.loss(batch(), Draws(seed=0, step=0, positions=range(BATCH)))
    level = {name: seen[0] for name, seen in student.calls[-1].items()}
    for one in level.values():
        assert (one == one[:, :1]).all()
        assert (one > 0).all()  # the first frame is noised as the others
    assert torch.equal(level["video"], level["action"]) is synchronous


class Partial(Joint):
    """Puts out no action in the last slot of a frame, and none in the last frame."""

    @property
    def predicted(self):
        drawn = torch.ones(1, FRAMES, 2, 1, dtype=torch.bool)
        drawn[:, :, 1] = drawn[:, -1] = False
        return {"action": drawn}


@pytest.mark.parametrize("kind", [FlowMatching, ConsistencyDistillation, OnPolicy])
def test_no_loss_is_taken_where_a_model_puts_nothing_out(kind):
    student = Partial(gain=0.5)
    method = kind(specs(), student, teacher=Partial(gain=0.9))
    output = method.loss(batch(), Draws(seed=0, step=0, positions=range(BATCH)))
    # Nobody executed the first frame's actions either.
    expected = torch.tensor([[False, False], [True, False], [False, False]])
    assert torch.equal(output.terms["action"].mask.expand(BATCH, 3, -1, 2, 1)[0, 0, :, :, 0], expected)
    assert output.terms["video"].mask.all()


def test_what_is_put_out_is_said_of_every_chunk_of_a_window():
    data = batch(2 * FRAMES + 1)
    mask = data.restricted(Partial().predicted).mask["action"][0, 0, :, :, 0]
    chunk = [[True, False], [True, False], [False, False]]
    assert mask.tolist() == [[False, False], *chunk[1:], *chunk, chunk[0]]


def test_the_first_frame_is_a_condition_and_has_a_loss():
    data = batch()
    student = Joint(gain=0.5)
    method = FlowMatching(specs(), student, noisy_history={}, text_dropout=0.0)
    output = method.loss(data, Draws(seed=0, step=0, positions=range(BATCH)))
    assert torch.equal(student.calls[0]["video"][1], data.clean["video"][:, :, 0])
    assert output.terms["video"].frame_mask.all()
    assert output.terms["action"].frame_mask[:, 1:].all()
    assert not output.terms["action"].frame_mask[:, 0].any()


@pytest.mark.parametrize("frames", [FRAMES, 2 * FRAMES])
def test_on_policy_carries_a_stage_together(frames):
    """The teacher's path is straight here, so every node's end is the observation."""
    teacher = Joint()
    method = OnPolicy(specs(), Joint(gain=0.9), teacher=teacher, teacher_steps=3, start_share=0.5)
    data = batch(frames)
    for step in range(4):
        output = method.loss(data, Draws(seed=0, step=step, positions=range(BATCH)))
        assert torch.isfinite(output.loss)
        term = output.terms
        assert torch.equal(term["video"].sigma, term["action"].sigma)
        assert (term["video"].sigma > 0).all()
    seen = {float(call["video"][1].flatten()[0]) for call in teacher.calls}
    begins = {float(data.clean["video"][0, 0, k, 0, 0]) for k in range(0, frames, FRAMES)}
    assert seen == begins


def test_open_loop_draws_begin_at_each_chunks_first_frame():
    data = batch(2 * FRAMES)
    drawn = chunk_draws(Joint(), {name: sampler(1) for name in SHAPES}, data, draws=1)
    for k, chunk in enumerate(drawn):
        expected = data.clean["video"][:, :, k * FRAMES : k * FRAMES + 1].expand(-1, -1, FRAMES, -1, -1)
        torch.testing.assert_close(chunk["video"], expected)


def test_given_frames_are_left_alone_by_other_families():
    data = batch()
    method = FlowMatching(specs(), Minimal(), noisy_history={}, text_dropout=0.0)
    output = method.loss(data, Draws(seed=0, step=0, positions=range(BATCH)))
    assert not output.terms["video"].frame_mask[:, 0].any()
    assert (output.terms["video"].sigma[:, 0] == 0).all()
    assert replace(data, given=torch.zeros_like(data.given)).loss_mask("video").all()


@pytest.mark.parametrize("substeps", [1, 3])
def test_a_stream_without_loss_goes_along_with_its_stage(substeps):
    """A stage is asked for whole, also where one stream is not distilled, takes fewer steps, or is guided alone."""
    streams = specs()
    streams["video"] = replace(streams["video"], teacher_substeps=substeps, guidance=(2.0, 2.0))
    streams["action"] = replace(streams["action"], weight=0.0)
    student, teacher = Joint(gain=0.9), Joint()
    method = ConsistencyDistillation(streams, student, teacher=teacher)
    output = method.loss(batch(), Draws(seed=0, step=0, positions=range(BATCH)))
    assert set(output.terms) == {"video"}
    assert torch.isfinite(output.loss)
    assert len(teacher.calls) == 2 * substeps  # with and without text
    for call in teacher.calls + student.calls:
        assert set(call) == {"video", "action"}


class Seer(Minimal):
    """Looks at its video and draws actions that are the mean of the noise it looked at."""

    probes = ("video",)

    def velocity(self, noisy, sigma, clean, context):
        self.noisy = noisy
        return {"action": self.gain * (noisy["action"] - context["noise"]["video"].mean())}

    def session(self, text, *, null_text=None, guidance=None):
        return SeerSession(self, text)


class SeerSession(ReplaySession):
    def probe(self, noise, sigma):
        self.seen, self.level = noise, sigma

    def velocity(self, noisy, sigma):
        return self._wam.velocity(noisy, sigma, {}, {"text": self._text, "noise": self.seen})


def test_a_probe_is_looked_at_once_and_not_drawn():
    model = Seer()
    first = {name: frame(4, name) for name in SHAPES}
    samplers = {"video": sampler(1), "action": sampler(3)}
    generator = torch.Generator().manual_seed(0)
    rollout = Rollout(model, samplers, text=torch.zeros(BATCH, 1, 3), first=first, generator=generator)
    noise = rollout.noise()
    drawn = rollout.predict(noise)
    session = rollout.session
    assert set(drawn) == {"action"}
    assert set(model.noisy) == {"action"}
    assert set(session.seen) == set(SHAPES)
    for name in SHAPES:
        assert torch.equal(session.seen[name][:, :, :1], first[name])
        assert torch.equal(session.seen[name][:, :, 1:], noise[name][:, :, 1:])
        assert session.level[name].tolist() == [[0, 1, 1]] * BATCH
    rollout.observe({name: frame(1, name).expand(-1, -1, FRAMES, -1, -1) for name in SHAPES})
    rollout.predict(noise)
    assert torch.equal(session.seen["video"], noise["video"])
    assert (session.level["video"] == 1).all()
    assert set(rollout.seconds) == {"video", "action"}


def test_a_probe_takes_one_step_and_cannot_be_replaced():
    first = {name: frame(0, name) for name in SHAPES}
    with pytest.raises(ValueError, match="take 1 step, such as '1v/4a'"):
        Rollout(Seer(), {n: sampler(2) for n in SHAPES}, text=torch.zeros(BATCH, 1, 3), first=first)
    rollout = Rollout(Seer(), {n: sampler(1) for n in SHAPES}, text=torch.zeros(BATCH, 1, 3), first=first)
    with pytest.raises(ValueError, match="nothing to replace"):
        rollout.predict(replace={"video": frame(0, "video")})


def test_what_a_probe_is_looked_at_from_is_one_draw_for_every_role():
    streams = specs()
    streams["video"] = replace(streams["video"], weight=0.0)
    streams["action"] = replace(streams["action"], guidance=(2.0, 2.0), teacher_substeps=2)
    seen = []

    class Noting(Seer):
        def velocity(self, noisy, sigma, clean, context):
            seen.append(context["noise"])
            return super().velocity(noisy, sigma, clean, context)

    method = ConsistencyDistillation(streams, Noting(0.9), teacher=Noting())
    output = method.loss(batch(), Draws(seed=0, step=0, positions=range(BATCH)))
    assert set(output.terms) == {"action"}
    assert len(seen) == 6  # student, target, and twice two of the teacher
    for noise in seen[1:]:
        assert all(torch.equal(noise[name], seen[0][name]) for name in SHAPES)


def test_methods_that_draw_every_stream_refuse_a_probe():
    with pytest.raises(ValueError, match=r"never draws \['video'\]"):
        FlowMatching(specs(), Seer())
    with pytest.raises(ValueError, match=r"never draws \['video'\]"):
        OnPolicy(specs(), Seer(), teacher=Seer())
    with pytest.raises(ValueError, match="set their weight and regulariser to 0"):
        ConsistencyDistillation(specs(), Seer(), teacher=Seer())


def test_a_family_that_shows_nothing_says_what_to_write():
    model = Minimal()
    assert model.feature_blocks == 0
    with pytest.raises(ValueError, match="a family writes `feature_blocks`"):
        model.features({}, {}, {}, {}, blocks=(0,))
    with pytest.raises(ValueError, match="Minimal gives no hidden states"):
        model.session(torch.zeros(BATCH, 1, 3)).features(batch().clean, {}, blocks=(0,))
    with pytest.raises(ValueError, match="no probes"):
        model.session(torch.zeros(BATCH, 1, 3)).probe({}, {})
    assert model.deployed_parameters() == {"model": 1}


def test_further_tensors_of_a_batch_move_with_it():
    data = replace(batch(), extra={"target/depth": torch.zeros(BATCH, 1)})
    assert set(data.to("cpu").extra) == {"target/depth"}
    assert data.to("meta").extra["target/depth"].device.type == "meta"
    assert batch().extra == {}
