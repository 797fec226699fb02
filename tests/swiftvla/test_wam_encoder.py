# SPDX-License-Identifier: Apache-2.0
"""A policy that sees through a world-action model of any family."""

import pytest
import torch
from distill_toys import ToyWam
from tiny_models import tiny_joint_wam, tiny_wam

from flashwam.core.batch import Batch
from flashwam.core.consistency import Linear
from flashwam.core.noise import NoiseSchedule
from flashwam.core.streams import StreamSpec
from flashwam.distillation.methods import make_method
from flashwam.distillation.trainer import train
from flashwam.recipe.sections import LoopConfig
from flashwam.sampling import Rollout, StreamSampler
from flashwam.student import load_wam
from flashwam.swiftvla.encoders import WamEncoder, make_encoder
from flashwam.swiftvla.policy import FusionPolicy
from flashwam.swiftvla.training_policy import PRIMARY, Modality, PrivilegedPolicy
from flashwam.system.imports import trusting
from flashwam.wam import load

B, FRAMES = 2, 4
SIZES = {
    "trunk": {"width": 32, "layers": 2, "heads": 2},
    "latent": [3, 8, 8],
    "chunk_frames": FRAMES,
    "actions_per_frame": 4,
    "action_dim": 4,
    "text_dim": 32,
    "expert_width": 16,
}


def looked(encoder, **changes):
    generator = torch.Generator().manual_seed(0)
    shapes = {"video": (B, 3, FRAMES, 8, 8), "action": (B, 4, FRAMES, 4, 1)}
    told = {
        "observation": torch.randn(B, 3, 8, 8, generator=generator),
        "noise": {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()},
        "text": torch.randn(B, 8, 32, generator=generator),
    }
    told |= changes
    return encoder(told["observation"], told["noise"], told["text"]), told


@pytest.fixture(params=[tiny_wam, tiny_joint_wam], ids=["lingbot_va", "cogvideox"])
def wam(request):
    return request.param().eval()


def make_policy(wam, folder) -> FusionPolicy:
    wam.save_pretrained(folder)
    primary = {"name": "wam", "pretrained": str(folder), "blocks": [0], "side": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return FusionPolicy.create(primary=primary, **SIZES).eval()


def test_tokens_are_the_models_own_features_of_one_look(wam):
    encoder = WamEncoder(wam, blocks=(0,), side=2)
    tokens, told = looked(encoder)
    assert tokens.shape == (B, encoder.tokens, encoder.width)
    assert encoder.tokens == 4 * wam.chunk_frames
    session = wam.session(told["text"])
    first = {"video": told["observation"][:, :, None], "action": torch.zeros(B, 4, 1, 4, 1)}
    noisy = {name: x[:, :, : wam.chunk_frames].clone() for name, x in told["noise"].items()}
    sigma = {name: torch.ones(B, wam.chunk_frames) for name in noisy}
    if wam.conditions_on_first:
        for name, x in first.items():
            session.append(name, x, predicted=False)
        session.advance(1)
    else:
        noisy["video"][:, :, :1], sigma["video"][:, 0] = first["video"], 0
    maps = session.features(noisy, sigma, blocks=(0,))
    # The models' own grid is 2 x 2.
    torch.testing.assert_close(tokens, maps.flatten(2).transpose(1, 2), atol=1e-5, rtol=1e-5)
    coarse = looked(WamEncoder(wam, blocks=(0,), side=1))[0]
    torch.testing.assert_close(coarse, tokens.unflatten(1, (-1, 4)).mean(2), atol=1e-5, rtol=1e-5)


def test_what_is_seen_and_read_is_in_the_tokens_and_nothing_learns(wam):
    encoder = WamEncoder(wam, blocks=(0,), side=2)
    tokens, told = looked(encoder)
    assert not tokens.requires_grad
    changed = [
        looked(encoder, observation=told["observation"] + 1)[0],
        looked(encoder, noise={name: -x for name, x in told["noise"].items()})[0],
    ]
    for other in changed:
        assert not torch.allclose(other, tokens, atol=1e-3)
    assert torch.equal(encoder.target(told["observation"], tokens), tokens)


def test_a_policy_carries_its_world_action_model(wam, tmp_path):
    policy = make_policy(wam, tmp_path / "wam")
    policy.save_pretrained(tmp_path / "policy")
    for path in sorted((tmp_path / "wam").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    again = load(tmp_path / "policy")
    tokens, told = looked(again.encoder)
    assert torch.equal(tokens, looked(policy.encoder)[0])
    context = {"text": told["text"], "noise": told["noise"]}
    clean = {"video": told["observation"][:, :, None].expand(-1, -1, FRAMES, -1, -1)}
    sigma = {"action": torch.full((B, FRAMES), 0.5)}
    drawn = [one.velocity(told["noise"], sigma, clean, context)["action"] for one in (policy, again)]
    assert torch.equal(*drawn)
    assert policy.deployed_parameters()["encoder"] == sum(p.numel() for p in wam.parameters())


def test_it_looks_from_the_noise_it_draws_with(wam, tmp_path):
    policy = make_policy(wam, tmp_path / "wam")
    _, told = looked(policy.encoder)
    first = {"video": told["observation"][:, :, None], "action": torch.zeros(B, 4, 1, 4, 1)}
    steps = {"video": 1, "action": 1}
    samplers = {n: StreamSampler(schedule=NoiseSchedule(1.0), consistency=Linear(), steps=k) for n, k in steps.items()}
    rollout = Rollout(policy, samplers, text=told["text"], first=first)
    drawn = rollout.predict(told["noise"])["action"]
    clean = {"video": first["video"].expand(-1, -1, FRAMES, -1, -1)}
    context = {"text": told["text"], "noise": told["noise"]}
    flow = policy.velocity(told["noise"], {"action": torch.ones(B, FRAMES)}, clean, context)["action"]
    torch.testing.assert_close(drawn, told["noise"]["action"] - flow, atol=1e-5, rtol=1e-5)


def test_reconstruction_leaves_the_world_action_model_alone(wam, tmp_path):
    policy = make_policy(wam, tmp_path / "wam")
    full = PrivilegedPolicy(policy, auxiliary=Modality(tokens=2, channels=3), reconstruct=(PRIMARY,), head_width=16)
    full.requires_grad_(True)
    full.freeze()
    _, told = looked(policy.encoder)
    context = {
        "text": told["text"],
        "noise": told["noise"],
        "auxiliary": torch.randn(B, 2, 3),
        "valid": {PRIMARY: torch.zeros(B, dtype=torch.bool)},
        "heads": True,
    }
    clean = {"video": told["observation"][:, :, None].expand(-1, -1, FRAMES, -1, -1)}
    out = full.velocity(told["noise"], {"action": torch.ones(B, FRAMES)}, clean, context)
    (out["reconstruction/primary"] - out["target/primary"]).square().sum().backward()
    assert all(p.grad is None for p in policy.encoder.parameters())
    assert full.show.weight.grad.abs().max() > 0


def test_settings_that_do_not_fit_are_refused(wam, tmp_path):
    with pytest.raises(ValueError, match=r"primary\.pretrained"):
        make_encoder({"name": "wam", "blocks": [0], "side": 2}, (3, 8, 8))
    with pytest.raises(ValueError, match="does not take"):
        make_encoder({"name": "patches", "size": 2}, (3, 8, 8))
    wam.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"blocks must be some of 0\.\.\d, ascending; got \[9\]"):
        WamEncoder(wam, blocks=(9,), side=1)
    primary = {"name": "wam", "pretrained": str(tmp_path), "blocks": [0], "side": 2}
    with pytest.raises(ValueError, match="the world-action model it looks through"):
        FusionPolicy.create(primary=primary, **{**SIZES, "action_dim": 5})


def test_a_model_that_cannot_be_looked_into_is_refused(tmp_path):
    ToyWam.create().save_pretrained(tmp_path)
    with trusting(True), pytest.raises(ValueError, match=r"ToyWam gives no hidden states.*LooksInside"):
        WamEncoder.from_folder(tmp_path, blocks=(0,), side=1)


def test_it_is_trained_and_distilled_as_any_policy(wam, tmp_path):
    """The method, the loop and the student's folder know nothing of the family that it sees through."""
    aux = {"tokens": 2, "channels": 3}
    options = {"auxiliary": aux, "fusion_tokens": 2, "trajectory": 0.5, "head_width": 16}
    options |= {"mask": {"auxiliary": 0.5, "primary": 0.25}, "reconstruct": {"auxiliary": 0.1, "primary": 0.1}}
    loop = LoopConfig(method="masked_reconstruction", options=options, steps=2, batch_size=4, save_every=1)
    student = make_policy(wam, tmp_path / "wam")
    before = {key: x.clone() for key, x in student.encoder.state_dict().items()}
    teacher = train(make_method(loop, specs(), student), Windows(aux), loop, run_dir=tmp_path / "a", seed=0)
    trained, info = load_wam(teacher)
    assert info.kind == "teacher"
    assert all(torch.equal(x, before[key]) for key, x in trained.encoder.state_dict().items())
    assert not torch.equal(trained.see.weight, make_policy(wam, tmp_path / "wam").see.weight)
    one_step = LoopConfig(method="consistency", steps=1, batch_size=4)
    method = make_method(one_step, specs(), load_wam(teacher)[0], teacher=trained)
    result = train(method, Windows(aux), one_step, run_dir=tmp_path / "b", seed=0)
    assert load_wam(result)[1].kind == "student"


def specs():
    video = StreamSpec(name="video", schedule=NoiseSchedule(1.0), weight=0.0, teacher_steps=1)
    return {"video": video, "action": StreamSpec(name="action", schedule=NoiseSchedule(1.0))}


class Windows:
    """Noise in every place."""

    def __init__(self, auxiliary):
        self.auxiliary = auxiliary

    def batch(self, indices):
        count = len(indices)
        generator = torch.Generator().manual_seed(indices[0])
        shapes = {"video": (3, FRAMES, 8, 8), "action": (4, FRAMES, 4, 1)}
        clean = {name: torch.randn(count, *shape, generator=generator) for name, shape in shapes.items()}
        given = torch.zeros(count, FRAMES, dtype=torch.bool)
        given[:, 0] = True
        everywhere = torch.ones(count, 1, FRAMES, 1, 1, dtype=torch.bool)
        return Batch(
            clean=clean,
            history=clean,
            mask={"video": everywhere, "action": everywhere & ~given[:, None, :, None, None]},
            given=given,
            text=torch.randn(count, 8, 32, generator=generator),
            null_text=torch.zeros(8, 32),
            index=torch.tensor(indices),
            extra={
                "auxiliary": torch.randn(count, self.auxiliary["tokens"], self.auxiliary["channels"]),
                "trajectory": torch.zeros(count, 2, 3),
                "trajectory_mask": torch.ones(count, 2, dtype=torch.bool),
            },
        )
