# SPDX-License-Identifier: Apache-2.0
"""Rollouts of a teacher: reproducible from their seed, made once, found again, and refused where something changed."""

import copy
import hashlib
import json
from dataclasses import replace
from multiprocessing import get_context

import pytest
import torch
from distill_toys import ToySource, ToyWam
from tiny_models import TINY, tiny_joint_wam, tiny_wam
from tiny_windows import Windows
from torch import nn
from torch.testing import assert_close

from flashwam.core.consistency import Linear
from flashwam.core.noise import NoiseSchedule
from flashwam.distillation.adapted_model import adapted
from flashwam.distillation.adapters import Adapters
from flashwam.distillation.futures import TeacherFuture, seeded_noise, weights_hash
from flashwam.distillation.rollouts import Extras, RolloutStore
from flashwam.recipe.load import load_recipe
from flashwam.recipe.sections import LoraConfig
from flashwam.sampling import Rollout, StreamSampler, samplers_for
from flashwam.student import load_pretrained
from flashwam.system.paths import ASSETS
from flashwam.wam.cogvideox import CogVideoX
from flashwam.wam.lingbot_va import LingBotVA

FAMILIES = {"lingbot_va": tiny_wam, "cogvideox": tiny_joint_wam}


def samplers(steps=2, shift=2.0):
    one = StreamSampler(schedule=NoiseSchedule(shift), consistency=Linear(), steps=steps)
    return {"video": one, "action": one}


@pytest.fixture(params=FAMILIES)
def teacher(request):
    return FAMILIES[request.param]().eval()


def store(tmp_path, teacher, extras=None, **changes):
    return RolloutStore(tmp_path, TeacherFuture(teacher, samplers(**changes)), extras=extras, batch_size=2)


def group(batch, seeds):
    return lambda: (batch, seeds)


def in_twos(batch, seeds):
    """Groups of at most two of the batch's samples."""
    some = [range(batch.size)[begin : begin + 2] for begin in range(0, batch.size, 2)]
    return [group(batch.rows(rows), [seeds[row] for row in rows]) for rows in some]


def test_a_rollout_is_the_teachers_draw_from_its_seed(teacher, tmp_path):
    chunks = 1 if teacher.conditions_on_first else 2
    batch = Windows(teacher, chunks).batch([3, 4, 5])
    made = store(tmp_path, teacher)
    (keys,) = made.complete([group(batch, [11, 12, 13])], progress=False)
    assert len(set(keys)) == 3
    got = made.read(keys[1])

    one = batch.rows([1])
    noise = {n: x[None] for n, x in seeded_noise(12, {n: x[0] for n, x in one.clean.items()}).items()}
    first = {name: x[:, :, :1] for name, x in one.clean.items()}
    rollout = Rollout(teacher, samplers(), text=one.text, first=first)
    size = teacher.chunk_frames
    for k in range(chunks):
        at = slice(k * size, (k + 1) * size)
        drawn = rollout.predict({name: x[:, :, at] for name, x in noise.items()})
        for name, x in drawn.items():
            # Half precision is what is stored.
            assert_close(got.drawn[name][None, :, at], x, atol=1e-3, rtol=1e-3)
        if k + 1 < chunks:
            rollout.observe({name: one.clean[name][:, :, at] for name in teacher.streams})


def test_the_last_chunk_alone_is_the_whole_rollouts(tmp_path):
    """A window's last frames are drawn after its true past, as when all of it is drawn."""
    teacher = tiny_wam().eval()
    batch, size = Windows(teacher, 2).batch([3, 4]), teacher.chunk_frames
    future = TeacherFuture(teacher, samplers())
    noise = {name: torch.randn_like(x) for name, x in batch.clean.items()}
    whole = future.draw(batch, noise)
    last = future.draw(batch, {name: x[:, :, size:] for name, x in noise.items()})
    for name, x in last.items():
        assert_close(x, whole[name][:, :, size:], atol=1e-5, rtol=1e-5)


def test_rollouts_are_made_once_and_a_killed_run_goes_on(teacher, tmp_path, monkeypatch):
    batch, seeds = Windows(teacher).batch([0, 1, 2, 3, 4]), [7, 8, 9, 10, 11]
    drawn = []
    draw = TeacherFuture.draw

    def counting(self, batch, noise):
        if len(drawn) == 4:
            raise KeyboardInterrupt
        drawn.extend(batch.index.tolist())
        return draw(self, batch, noise)

    monkeypatch.setattr(TeacherFuture, "draw", counting)
    with pytest.raises(KeyboardInterrupt):
        store(tmp_path, teacher).complete(in_twos(batch, seeds), progress=False)
    assert drawn == [0, 1, 2, 3]
    drawn.append(None)  # no further interruption
    keys = store(tmp_path, teacher).complete(in_twos(batch, seeds), progress=False)
    assert drawn[5:] == [4]
    again = store(tmp_path, teacher)
    assert again.complete(in_twos(batch, seeds), progress=False) == keys
    assert len(drawn) == 6
    assert not list(tmp_path.rglob("*.tmp"))


def _complete(folder):
    """Draws eight windows, as each of several processes does; returns how many were its own."""
    torch.set_num_threads(1)
    teacher = tiny_wam().eval()
    drawn = []
    future = TeacherFuture(teacher, samplers())
    draw = future.draw
    future.draw = lambda batch, noise: drawn.append(batch.size) or draw(batch, noise)
    made = RolloutStore(folder, future, batch_size=2)
    batch = Windows(teacher).batch(list(range(8)))
    keys = made.complete(in_twos(batch, list(range(8))), progress=False)
    return sum(drawn), [made.read(key).drawn["video"].sum().item() for some in keys for key in some]


def test_several_processes_share_the_work_and_end_with_the_same(tmp_path):
    with get_context("fork").Pool(2) as pool:
        (mine, some), (yours, others) = pool.map(_complete, [tmp_path, tmp_path], chunksize=1)
    assert mine + yours == 8
    assert some == others


def test_whatever_changes_the_draw_changes_its_name(teacher, tmp_path):
    batch = Windows(teacher).batch([0])
    base = store(tmp_path, teacher)
    key = base.key(batch, 0, 5)
    assert base.key(batch, 0, 6) != key
    assert base.key(replace(batch, text=batch.text + 1), 0, 5) != key
    moved = {name: x.clone() for name, x in batch.history.items()}
    moved["video"][0, 0, 0, 0, 0] += 1e-3
    assert base.key(replace(batch, history=moved), 0, 5) != key
    settings = {base.settings, store(tmp_path, teacher, steps=3).settings, store(tmp_path, teacher, shift=3.0).settings}
    with torch.no_grad():
        next(teacher.parameters()).add_(1e-3)
    settings.add(store(tmp_path, teacher).settings)
    assert len(settings) == 4


def test_a_rollout_of_other_settings_is_refused(teacher, tmp_path):
    batch = Windows(teacher).batch([0])
    made, other = store(tmp_path, teacher), store(tmp_path, teacher, steps=3)
    ((key,),) = made.complete([group(batch, [1])], progress=False)
    with pytest.raises(FileNotFoundError, match="complete the rollouts first"):
        other.read(key)
    other.file([key]).write_bytes(made.file([key]).read_bytes())
    other.complete([group(batch, [1])], progress=False)
    with pytest.raises(ValueError, match="was drawn under settings"):
        other.read(key)


def test_what_else_is_stored_is_that_of_what_made_it(teacher, tmp_path):
    def negated(by):
        return Extras(fingerprint=by, make=lambda batch, drawn: {"negated": -drawn["video"]})

    batch = Windows(teacher).batch([0])
    bare, one, again, other = (
        store(tmp_path, teacher, extras) for extras in (None, negated("one"), negated("one"), negated("other"))
    )
    assert one.settings == again.settings
    assert len({bare.settings, one.settings, other.settings}) == 3
    ((key,),) = one.complete([group(batch, [1])], progress=False)
    assert list(one.read(key).extra) == ["negated"]
    again.complete([group(batch, [1])], progress=False)
    other.complete([group(batch, [1])], progress=False)
    assert (one.made, again.made, other.made) == (1, 0, 1)
    # Of rollouts alone, as every earlier version named them.
    told = json.dumps(TeacherFuture(teacher, samplers()).settings(), sort_keys=True)
    assert bare.settings == hashlib.sha256(told.encode()).hexdigest()[:16]


def test_a_teacher_is_drawn_at_its_temperature_and_stored_apart(teacher, tmp_path):
    """From the noise that the pair tells, so that a student learns the teacher's cooler draw of it."""
    batch, noise = Windows(teacher).batch([0]), {}
    for name, x in batch.clean.items():
        noise[name] = seeded_noise(1, {name: x[0]})[name][None]
    warm = {name: replace(one, temperature=0.5) for name, one in samplers().items()}
    cool, usual = TeacherFuture(teacher, warm), TeacherFuture(teacher, samplers())
    expected = usual.draw(batch, {name: 0.5 * x for name, x in noise.items()})
    for name, x in cool.draw(batch, noise).items():
        assert_close(x, expected[name], rtol=0, atol=0)
    assert cool.settings() != usual.settings()
    assert "temperature" not in json.dumps(usual.settings()), "earlier draws keep their name"


def test_windows_must_hold_whole_chunks(teacher, tmp_path):
    windows = Windows(teacher)
    windows.frames += 1
    with pytest.raises(ValueError, match=r"see data\.window_frames"):
        store(tmp_path, teacher).complete([group(windows.batch([0]), [1])], progress=False)


def test_a_draw_that_half_precision_cannot_hold_is_refused(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(TeacherFuture, "draw", lambda self, batch, noise: {"video": noise["video"] * 1e6})
    with pytest.raises(ValueError, match=r"drew \['video'\] beyond 65504"):
        store(tmp_path, teacher).complete([group(Windows(teacher).batch([0]), [1])], progress=False)
    assert not list(tmp_path.rglob("*.safetensors"))


class Told(ToyWam):
    """Moves its noise by what it is told of the robot."""

    layout = replace(ToyWam.layout, senses={"state": 2}, conditions_on_first=True, execute_frames=1)

    def velocity(self, noisy, sigma, clean, context):
        return {name: torch.zeros_like(x) + clean["state"].mean() for name, x in noisy.items()}


def test_a_teacher_is_told_the_robots_state_with_the_observation():
    batch = ToySource().batch([0, 1]).frames_of(slice(Told.layout.chunk_frames))
    future = TeacherFuture(Told(), samplers())
    noise = {name: torch.randn_like(x) for name, x in batch.clean.items()}
    for state in (0.0, 0.5):
        told = {**batch.history, "state": torch.full((2, 2, batch.frames, 1, 1), state)}
        for name, x in future.draw(replace(batch, history=told), noise).items():
            assert torch.allclose(x, noise[name], atol=1e-5) == (state == 0)


def test_a_teacher_that_is_run_otherwise_draws_others(tmp_path):
    tiny_wam().transformer.save_pretrained(tmp_path / "one" / "transformer")
    told = {name: TINY[name] for name in ("latent_size", "chunk_frames", "actions_per_frame", "window_chunks")}
    others = ({}, {"window_chunks": 1}, {"eviction": "permanent"}, {"used_channels": (0, 1)})
    ways = [LingBotVA.adopt(tmp_path / "one", **{**told, **more}) for more in (*others, {"matmul_dtype": "bfloat16"})]
    network = {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 1, "out_channels": 3, "patch_size": 4}
    network |= {"time_embed_dim": 8, "text_embed_dim": 32, "use_rotary_positional_embeddings": True}
    shape = {"latent_size": (8, 8), "chunk_frames": 4, "actions_per_frame": 4, "action_dim": 4}
    for more in ({}, {"snr_shift": 3.0}, {"rope_mode": "resize_crop"}, {"beta_end": 0.02}, {"norm_out_eps": 1e-6}):
        torch.manual_seed(0)
        ways.append(CogVideoX.create(**network, **shape, **more))
    assert len({store(tmp_path, way).settings for way in ways}) == len(ways)
    # The way in which it computes changes no draw, nor does a student's own adapter.
    again = LingBotVA.adopt(tmp_path / "one", **told, rollout="static")
    assert store(tmp_path, again).settings == store(tmp_path, ways[0]).settings
    role = adapted(Adapters(ways[1], LoraConfig(rank=2)), None)
    assert role.drawn_with == ways[1].drawn_with == {"window_chunks": 1}


def test_a_folder_that_says_otherwise_of_the_same_weights_is_refused(tmp_path):
    """It needs no word, so its pairs have the name of those before it was edited."""
    torch.manual_seed(0)
    one = tiny_wam()
    told = {"window_chunks": one.config.window_chunks}
    other = copy.deepcopy(one)
    other.config = replace(one.config, window_chunks=told["window_chunks"] + 1)
    first = store(tmp_path, one.said_by_folder(told))
    assert store(tmp_path, one).folder == first.folder
    said = r"drawn by these weights with other settings of their wam\.json \(window_chunks\)"
    with pytest.raises(ValueError, match=said):
        store(tmp_path, other.said_by_folder({"window_chunks": told["window_chunks"] + 1}))
    # What earlier versions drew is taken as it is, and noted.
    (first.folder / "unnamed.json").unlink()
    store(tmp_path, one)
    assert json.loads((first.folder / "unnamed.json").read_text())["window_chunks"] == told["window_chunks"]


def test_what_the_folder_of_the_weights_says_needs_no_word():
    """Pairs of the shipped miniature, as every earlier version named them."""
    recipe = load_recipe("metaworld/pairs")
    teacher = load_pretrained(ASSETS / "teacher", recipe.wam)
    told = TeacherFuture(teacher, samplers_for(recipe.streams, steps=None, teacher=True)).settings()
    assert hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16] == "688fb4096ef36d8a"


def test_a_teacher_is_told_by_layers_of_the_released_sizes():
    """A feed-forward layer of the 5 billion parameters has more numbers than single precision counts."""
    layer = nn.Linear(3072, 14336, bias=False, dtype=torch.float16, device="meta").to_empty(device="cpu")
    layer.weight.data.zero_()
    first = weights_hash(layer)
    assert weights_hash(layer) == first
    layer.weight.data[-1, -1] = 1
    assert weights_hash(layer) != first


def test_a_small_teacher_keeps_its_name():
    layer = nn.Linear(40, 50)
    layer.weight.data = torch.arange(2000.0).reshape(50, 40)
    layer.bias.data = torch.arange(50.0)
    assert weights_hash(layer).startswith("9b282004a10a8e0a")
