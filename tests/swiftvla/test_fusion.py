# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from policy_toys import ACTIONS, AUX, EACH, FRAMES, PolicySource, policy, privileged, shaken

from flashwam.core.consistency import Linear
from flashwam.core.noise import NoiseSchedule
from flashwam.sampling import Rollout, StreamSampler
from flashwam.swiftvla.accompanied import AccompaniedPolicy
from flashwam.swiftvla.encoders import PatchEncoder, picture_cells
from flashwam.swiftvla.policy import FusionPolicy
from flashwam.swiftvla.training_policy import AUXILIARY, PRIMARY, Modality, PrivilegedPolicy
from flashwam.swiftvla.trunk import Segment, Trunk
from flashwam.wam import family, load

B = 3
EXACT = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture
def asked():
    """noisy, sigma, clean, context and auxiliary tokens."""
    batch = PolicySource().batch(list(range(B)))
    generator = torch.Generator().manual_seed(9)
    noisy = {"action": torch.randn(B, ACTIONS, FRAMES, EACH, 1, generator=generator)}
    sigma = {"action": torch.rand(B, 1, generator=generator).expand(B, FRAMES)}
    return noisy, sigma, batch.history, {"text": batch.text}, batch.extra["auxiliary"]


def seen(*flags: bool) -> torch.Tensor:
    return torch.tensor(flags)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("fusion_tokens", [0, 2])
def test_a_masked_modality_is_a_stripped_one(asked, layers, fusion_tokens):
    """Layers of the expert alternate between joint and cross attention; both must not notice."""
    noisy, sigma, clean, context, auxiliary = asked
    student = policy(fusion_tokens=fusion_tokens, trunk={"width": 32, "layers": layers, "heads": 4, "key_heads": 2})
    full = privileged(student)
    told = {**context, "auxiliary": auxiliary}
    masked = full.velocity(noisy, sigma, clean, {**told, "valid": {AUXILIARY: seen(False, True, False)}})["action"]
    alone = full.strip().velocity(noisy, sigma, clean, context)["action"]
    both = full.velocity(noisy, sigma, clean, told)["action"]
    torch.testing.assert_close(masked[[0, 2]], alone[[0, 2]], **EXACT)
    torch.testing.assert_close(masked[1], both[1], **EXACT)
    assert ((masked[1] - alone[1]).abs() > 1e-3).any()


def test_masked_2d_tokens_are_as_if_removed(asked):
    noisy, sigma, clean, context, auxiliary = asked
    full = privileged(policy(fusion_tokens=2))
    told = {**context, "auxiliary": auxiliary, "valid": {PRIMARY: seen(False, False, False)}}
    masked = full.velocity(noisy, sigma, clean, told)["action"]
    student = full.strip()
    segments = student.segments(student.look(clean, context), clean, context)
    del segments[PRIMARY]
    shown = Segment(tokens=full.show(auxiliary) + full.place)
    removed = student.act(student.trunk([shown, *segments.values()]), noisy["action"], sigma["action"])[0]
    torch.testing.assert_close(masked, removed, **EXACT)


def test_absent_tokens_consume_no_positions():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        trunk = shaken(Trunk.of_size(width=16, layers=2, heads=2))
    x, gap = torch.randn(2, 4, 16), torch.randn(2, 3, 16)
    absent = torch.zeros(2, 1, dtype=torch.bool)
    whole = trunk([Segment(tokens=x[:, :2]), Segment(tokens=gap, valid=absent), Segment(tokens=x[:, 2:], block=1)])
    short = trunk([Segment(tokens=x[:, :2]), Segment(tokens=x[:, 2:], block=1)])
    assert whole.length.tolist() == short.length.tolist() == [4, 4]
    for segment in (0, 1):
        torch.testing.assert_close(whole.of(2 * segment), short.of(segment), **EXACT)
    for long_keys, keys in zip(whole.keys, short.keys, strict=True):
        torch.testing.assert_close(long_keys[:, :, [0, 1, 5, 6]], keys, **EXACT)


def test_blocks_see_themselves_and_what_is_before():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        trunk = shaken(Trunk.of_size(width=16, layers=1, heads=2))
    parts = [torch.randn(1, 2, 16, requires_grad=True) for _ in range(3)]
    prefix = trunk([Segment(tokens=x, block=k) for k, x in enumerate(parts)])
    for k in range(3):
        gradients = torch.autograd.grad(prefix.of(k)[0, 0].sum(), parts, retain_graph=True)
        reached = [bool((g != 0).any(-1).all()) for g in gradients]
        assert reached == [j <= k for j in range(3)]


def test_with_the_modality_masked_its_tokens_get_no_gradient_and_its_head_reaches_the_backbone(asked):
    noisy, sigma, clean, context, auxiliary = asked
    full = privileged(policy(fusion_tokens=2))
    auxiliary.requires_grad_(True)
    told = {**context, "auxiliary": auxiliary, "valid": {AUXILIARY: seen(False, False, False)}, "heads": True}
    out = full.velocity(noisy, sigma, clean, told)
    (nothing,) = torch.autograd.grad(out["action"].sum(), auxiliary, retain_graph=True)
    assert not nothing.any()
    out["reconstruction/auxiliary"].square().sum().backward()
    student = full.strip()
    for name in ("see.weight", "place", "read.weight", "feel.weight", "fusion"):
        assert student.get_parameter(name).grad.abs().max() > 0, name
    for layer in student.trunk.layers:
        assert layer.self_attn.k_proj.weight.grad.abs().max() > 0
    assert not full.show.weight.grad.any()


def test_the_student_has_the_baselines_parameters_and_its_fusion_tokens():
    count = {n: sum(p.numel() for p in policy(fusion_tokens=n).parameters()) for n in (0, 5)}
    full = privileged(policy(fusion_tokens=5))
    stripped = full.strip()
    assert sum(p.numel() for p in stripped.parameters()) == count[0] + 5 * stripped.trunk.width == count[5]
    assert sum(full.deployed_parameters().values()) == count[5]
    assert sum(p.numel() for p in full.parameters()) > count[5]
    assert full.deployed_parameters()["fusion tokens"] == 5 * stripped.trunk.width


def test_the_future_of_a_window_is_not_seen(asked):
    noisy, sigma, clean, context, _ = asked
    student = policy()
    changed = {name: x.clone() for name, x in clean.items()}
    for x in changed.values():
        x[:, :, 1:] = 7.0
    expected = student.velocity(noisy, sigma, clean, context)["action"]
    torch.testing.assert_close(student.velocity(noisy, sigma, changed, context)["action"], expected)


@pytest.mark.parametrize("before", [0, 1])
def test_a_rollouts_velocities_are_the_passes(asked, before):
    noisy, sigma, clean, context, _ = asked
    student = policy(fusion_tokens=2)
    session = student.session(context["text"])
    for _ in range(before + 1):
        for name in ("video", "action", "state"):
            session.append(name, clean[name][:, :, :1], predicted=False)
        session.advance(1)
    session.probe({}, {})
    expected = student.velocity(noisy, sigma, clean, context)["action"]
    torch.testing.assert_close(session.velocity(noisy, sigma)["action"], expected)
    session.advance(1)
    with pytest.raises(RuntimeError, match="call probe"):
        session.velocity(noisy, sigma)


def test_a_chunk_is_looked_at_once_and_acted_out(asked, monkeypatch):
    clean, context = asked[2], asked[3]
    student = policy()
    looks = []
    look = student.look
    monkeypatch.setattr(student, "look", lambda *told: looks.append(told) or look(*told))
    first = {name: x[:, :, :1] for name, x in clean.items()}
    samplers = {
        n: StreamSampler(schedule=NoiseSchedule(1.0), consistency=Linear(), steps=s)
        for n, s in (("video", 1), ("action", 4))
    }
    rollout = Rollout(student, samplers, text=context["text"], first=first)
    for _ in range(2):
        assert rollout.executed == slice(1, FRAMES)
        drawn = rollout.predict()
        assert set(drawn) == {"action"}
        assert drawn["action"].shape == (B, ACTIONS, FRAMES, EACH, 1)
        rollout.observe({name: x[:, :, 1:] for name, x in clean.items()})
    assert len(looks) == 2
    torch.testing.assert_close(looks[1][0]["state"][:, :, 0], clean["state"][:, :, -1])
    assert set(rollout.seconds) == {"video", "action"}


def test_a_policy_is_saved_and_found_again(asked, tmp_path):
    noisy, sigma, clean, context, _ = asked
    student = policy(fusion_tokens=3)
    student.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert type(again) is family("fusion") is FusionPolicy
    expected = student.velocity(noisy, sigma, clean, context)["action"]
    torch.testing.assert_close(again.velocity(noisy, sigma, clean, context)["action"], expected)


def test_in_training_it_is_saved_as_the_policy_with_its_training_beside(asked, tmp_path):
    full = privileged(policy(fusion_tokens=2))
    full.save_pretrained(tmp_path)
    assert type(load(tmp_path)) is FusionPolicy
    fresh = PrivilegedPolicy(
        load(tmp_path), auxiliary=Modality(**AUX), reconstruct=(PRIMARY, AUXILIARY), head_width=16, trajectory=3
    )
    assert fresh.load_training(tmp_path) == []
    assert all(torch.equal(x, fresh.state_dict()[key]) for key, x in full.state_dict().items())
    with pytest.raises(ValueError, match="do not fit"):
        PrivilegedPolicy(load(tmp_path)).load_training(tmp_path)


def test_an_earlier_stage_lacks_nothing_but_what_is_new():
    first, second = policy(), privileged(policy(seed=3, fusion_tokens=2))
    weights = {f"policy.{key}": x for key, x in first.state_dict().items()}
    missing, unexpected = second.load_state_dict(weights, strict=False)
    assert unexpected == []
    new = {key for key in missing if not key.startswith(("show.", "place", "reconstruct.", "trajectory."))}
    assert new == {"policy.fusion"}


def test_cells_of_a_picture():
    x = torch.arange(2 * 4 * 4).view(1, 2, 4, 4)
    cells = picture_cells(x, 4)
    assert cells.shape == (1, 4, 8)
    assert cells[0, 1].tolist() == x[0, :, :2, 2:].flatten().tolist()
    assert PatchEncoder((2, 4, 4), patch=2).tokens == 4
    with pytest.raises(ValueError, match="cells of a square grid"):
        picture_cells(x, 5)


def test_patches_of_cameras_side_by_side():
    wide = torch.arange(2 * 4 * 8).view(1, 2, 4, 8)
    encoder = PatchEncoder((2, 4, 8), patch=2)
    patches = encoder(wide, {}, torch.zeros(1, 1, 1))
    assert patches.shape == (1, encoder.tokens, encoder.width) == (1, 8, 8)
    assert patches[0, 5].tolist() == wide[0, :, 2:, 2:4].flatten().tolist()
    with pytest.raises(ValueError, match="multiples of patch 3"):
        PatchEncoder((2, 4, 8), patch=3)


def test_what_does_not_fit_is_refused(asked):
    noisy, sigma, clean, context, auxiliary = asked
    student = policy()
    with pytest.raises(ValueError, match="robot's state"):
        student.velocity(noisy, sigma, {"video": clean["video"]}, context)
    with pytest.raises(ValueError, match="without an auxiliary modality"):
        privileged(student, auxiliary=None, reconstruct=()).velocity(
            noisy, sigma, clean, {**context, "auxiliary": auxiliary}
        )
    with pytest.raises(ValueError, match="auxiliary tokens must be"):
        privileged(student).velocity(noisy, sigma, clean, {**context, "auxiliary": auxiliary[:, 1:]})
    with pytest.raises(ValueError, match="the policy has none"):
        PrivilegedPolicy(student, trajectory=3)
    with pytest.raises(ValueError, match="cannot be guided"):
        student.session(context["text"], guidance={"action": 2.0})
    with pytest.raises(ValueError, match='"patches" or "wam"'):
        policy(primary={"name": "eyes"})
    with pytest.raises(RuntimeError, match="begins with the observation"):
        student.session(context["text"]).probe({}, {})


def test_shown_the_modality_at_rollout_it_acts_as_in_the_pass(asked):
    noisy, sigma, clean, context, auxiliary = asked
    full = privileged(policy(fusion_tokens=2))
    accompanied = AccompaniedPolicy(full)
    assert accompanied.pass_tokens(4) == full.pass_tokens(4) == full.policy.pass_tokens(4) + full.auxiliary.tokens
    assert accompanied.senses == {"state": 4, "auxiliary": AUX["tokens"] * AUX["channels"]}
    session = accompanied.session(context["text"])
    told = {**clean, "auxiliary": auxiliary.flatten(1)[:, :, None, None, None]}
    for name, x in told.items():
        session.append(name, x[:, :, :1], predicted=False)
    session.advance(1)
    session.probe({}, {})
    expected = full.velocity(noisy, sigma, clean, {**context, "auxiliary": auxiliary})["action"]
    torch.testing.assert_close(session.velocity(noisy, sigma)["action"], expected)
    with pytest.raises(ValueError, match="nothing to show it"):
        AccompaniedPolicy(privileged(policy(), auxiliary=None, reconstruct=()))
