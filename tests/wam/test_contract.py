# SPDX-License-Identifier: Apache-2.0
"""The contract: a family states one layout that makes sense and writes `velocity`; the rest has a default."""

import copy
import pickle
from dataclasses import FrozenInstanceError, fields, replace

import pytest
import torch
from toy_families import BATCH, FRAMES, SHAPES, Joint, Minimal, batch, frame, sampler

from flashwam.sampling import Rollout
from flashwam.wam import Layout, LooksInside, WorldActionModel, load

STREAMS = ("video", "action")
SENSIBLE = {"streams": STREAMS, "shapes": SHAPES, "chunk_frames": FRAMES}
REFUSED = [
    ({"streams": ()}, "at least one stream"),
    ({"streams": "video"}, "streams must be a tuple of names"),
    ({"streams": ("video", "video")}, "each once"),
    ({"streams": ("action", "arm")}, "different letters, by which steps are written"),
    ({"shapes": {"video": (2, 2, 2)}}, r"of every stream of .*; missing \['action'\]"),
    ({"shapes": [(2, 2, 2), (3, 2, 1)]}, "shapes must give .* by stream"),
    ({"shapes": {**SHAPES, "depth": (1, 2, 2)}}, r"shapes names \['depth'\]; the streams are"),
    ({"shapes": {**SHAPES, "action": (3, 2)}}, r"shapes\['action'\] must be three positive integers.*got \(3, 2\)"),
    ({"shapes": {**SHAPES, "action": (3, 0, 1)}}, r"shapes\['action'\] must be three positive integers"),
    ({"shapes": {**SHAPES, "action": (3, 2.0, 1)}}, r"shapes\['action'\] must be three positive integers"),
    ({"chunk_frames": 0}, "chunk_frames must be a positive integer.*got 0"),
    ({"chunk_frames": "3"}, "chunk_frames must be a positive integer.*got '3'"),
    ({"stages": (("video",),)}, r"every stream of .* once; .*\['action'\] in none"),
    ({"stages": (("video", "action"), ("action",))}, r"\['action'\] in more than one"),
    ({"stages": (("video",), ("action", "depth"))}, r"stages names \['depth'\]"),
    ({"stages": (("action",), ("video",))}, "in their order"),
    ({"stages": ("video", "action")}, "each of stages must be a tuple of names"),
    ({"execute_frames": FRAMES + 1}, "execute_frames must be 1 to 3.*got 4"),
    ({"execute_frames": FRAMES, "conditions_on_first": True}, "execute_frames must be 1 to 2, .*not observed already"),
    ({"execute_frames": 0}, "execute_frames must be 1 to 3.*got 0"),
    ({"chunk_frames": 1, "conditions_on_first": True}, "nothing to execute in 1 frame: set chunk_frames to 2"),
    ({"probes": ("depth",)}, r"probes names \['depth'\]"),
    ({"probes": ("video",), "stages": (STREAMS,)}, r"probes are whole stages .* leaves out \['action'\]"),
    ({"probes": STREAMS}, "probes are never drawn"),
    ({"senses": {"state": 4}}, "set conditions_on_first too"),
    ({"senses": {"video": 4}, "conditions_on_first": True}, "names beside the streams"),
    ({"senses": {"state": 0}, "conditions_on_first": True}, "each with a positive count; got {'state': 0}"),
    ({"predicted": {"depth": torch.ones(1, 1, 1, 1).bool()}}, r"predicted names \['depth'\]"),
    ({"predicted": {"action": torch.ones(1, 1, 1, 1)}}, r"predicted\['action'\] must be a bool tensor"),
    (
        {"predicted": {"action": torch.ones(2, FRAMES, 1, 1).bool()}},
        r"broadcastable to \(3, 3, 2, 1\).*got \(2, 3, 1, 1\)",
    ),
    ({"text_shape": (8,)}, r"text_shape must be \(tokens, width\)"),
]


@pytest.mark.parametrize(
    ("changes", "sentence"), REFUSED, ids=[f"{i}-{'-'.join(c)}" for i, (c, _) in enumerate(REFUSED)]
)
def test_a_layout_that_makes_no_sense_is_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        Layout(**{**SENSIBLE, **changes})


def test_by_default_a_stream_is_a_stage_and_a_whole_chunk_is_executed():
    layout = Layout(**SENSIBLE)
    assert layout.stages == (("video",), ("action",))
    assert layout.execute_frames == FRAMES
    assert replace(Joint.layout, execute_frames=None).execute_frames == FRAMES - 1
    assert Joint.layout.whole_stages({"action"}) == {"video", "action"}
    assert layout.whole_stages({"action"}) == {"action"}


def test_a_layout_is_frozen_and_can_be_copied_and_pickled():
    drawn = torch.ones(1, FRAMES, 1, 1, dtype=torch.bool)
    given = {name: list(shape) for name, shape in SHAPES.items()}
    layout = Layout(streams=list(STREAMS), shapes=given, chunk_frames=FRAMES, predicted={"action": drawn})
    given["video"][0] = 99
    with pytest.raises(FrozenInstanceError):
        layout.chunk_frames = 9
    with pytest.raises(TypeError):
        layout.shapes["video"] = (9, 9, 9)
    for again in (copy.deepcopy(layout), pickle.loads(pickle.dumps(layout))):
        assert (again.streams, again.shapes) == (STREAMS, SHAPES)
        assert torch.equal(again.predicted["action"], drawn)


def test_every_fact_of_the_layout_is_an_attribute_of_the_model():
    model = Joint()
    for field in fields(Layout):
        assert getattr(model, field.name) is getattr(model.layout, field.name)


def test_a_family_without_a_layout_is_refused_when_it_is_made():
    class Silent(Minimal):
        layout = None

    with pytest.raises(ValueError, match=r"Silent states no layout: write `layout = Layout\(streams=..., shapes=..."):
        Silent()


def test_a_family_that_sets_a_fact_by_hand_is_refused():
    with pytest.raises(
        ValueError, match=r"Old sets \['streams', 'chunk_frames'\] by hand: .* Layout\(streams=..., chunk"
    ):

        class Old(WorldActionModel):
            streams = STREAMS
            chunk_frames = FRAMES

    class Mixin:
        probes = ("video",)

    with pytest.raises(ValueError, match=r"Mixed sets \['probes'\] by hand"):

        class Mixed(Mixin, Minimal):
            pass

    with pytest.raises(ValueError, match=r"Minimal sets \['shapes'\] by hand"):
        Minimal().shapes = SHAPES


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


def test_a_class_that_cannot_be_imported_is_refused(tmp_path):
    class Local(Minimal):
        pass

    with pytest.raises(ValueError, match="module that can be imported"):
        Local.create().save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_family_that_knows_no_other_tools_files_adopts_none(tmp_path):
    assert Minimal.adopt(tmp_path, gain=1.0) is None


def test_a_family_that_shows_nothing_says_what_to_write():
    session = Minimal().session(torch.zeros(BATCH, 1, 3))
    with pytest.raises(ValueError, match="derives from `LooksInside` writes `features` of its session"):
        session.features(batch().clean, {}, blocks=(0,))
    with pytest.raises(ValueError, match="no probes"):
        session.probe({}, {})
    assert Minimal().deployed_parameters() == {"model": 1}


class Glassy(Minimal, LooksInside):
    """Shows the clean video it was told, as its only block."""

    feature_blocks = 1

    def feature_width(self, blocks):
        return SHAPES["video"][0]

    def features(self, noisy, sigma, clean, context, *, blocks):
        return clean["video"][:, :, -noisy["video"].shape[2] :]


def test_a_family_that_can_be_looked_into_needs_no_session_of_its_own():
    model = Glassy()
    session = model.feature_session(torch.zeros(BATCH, 1, 3), blocks=(0,))
    noisy, sigma = batch().clean, {name: torch.ones(BATCH, FRAMES) for name in SHAPES}
    session.append("video", noisy["video"], predicted=True)
    assert torch.equal(session.features(noisy, sigma, blocks=(0,)), noisy["video"])
    assert model.feature_parameters((0,)) == 1


class Feeling(Joint):
    """Draws actions that are the state it was last told."""

    layout = replace(Joint.layout, senses={"state": 3}, predicted={})

    def velocity(self, noisy, sigma, clean, context):
        out = super().velocity(noisy, sigma, clean, context)
        level = sigma["action"][:, None, :, None, None].clamp(min=1e-6)
        told = clean["state"][:, :, -FRAMES].unsqueeze(2)
        return {**out, "action": (noisy["action"] - told) / level}


def test_a_family_with_senses_needs_no_session_of_its_own():
    model = Feeling()
    samplers = {name: sampler(2) for name in SHAPES}
    first = {name: frame(1, name) for name in SHAPES} | {"state": torch.full((BATCH, 3, 1, 1, 1), 5.0)}
    rollout = Rollout(model, samplers, text=torch.zeros(BATCH, 1, 3), first=first)
    assert rollout.predict()["action"].sub(5).abs().max() < 1e-5
    rollout.observe({**first, "state": torch.full((BATCH, 3, 1, 1, 1), 7.0)})
    assert rollout.predict()["action"].sub(7).abs().max() < 1e-5
    with pytest.raises(ValueError, match=r"stream must be one of \['video', 'action', 'state'\]"):
        rollout.session.append("depth", first["state"], predicted=False)
