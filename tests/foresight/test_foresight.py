# SPDX-License-Identifier: Apache-2.0
"""The foresight policy as a world-action model: training pass and rollout agree, frozen parts stay so, folders."""

import copy
from collections.abc import Callable
from itertools import count

import pytest
import torch
from distill_toys import ToyWam
from foresight_toys import Dye
from torch.testing import assert_close

from flashwam.core.consistency import Linear
from flashwam.core.edm import EDMSchedule
from flashwam.core.noise import NoiseSchedule
from flashwam.core.streams import StreamSpec
from flashwam.foresight.policy import ForesightPolicy
from flashwam.sampling import Rollout, StreamSampler
from flashwam.student import load_wam, save_wam
from flashwam.wam import family, load
from flashwam.wam.rounded_linear import Float8Linear
from flashwam.wam.session import Kept

BATCH = 2
Make = Callable[..., ForesightPolicy]


def frames_of(policy: ForesightPolicy) -> int:
    """Two chunks, or one where nothing older is known."""
    return policy.chunk_frames * (1 if policy.conditions_on_first else 2)


def tensors(policy: ForesightPolicy, *, frames: int | None = None, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    count = frames_of(policy) if frames is None else frames
    return {n: torch.randn(BATCH, c, count, *size, generator=generator) for n, (c, *size) in policy.shapes.items()}


def told(policy: ForesightPolicy, clean: dict[str, torch.Tensor], *, seed: int = 3) -> dict:
    """Context of a training pass whose first frame is given, unless the family conditions on it."""
    noise = tensors(policy, seed=seed)
    level = {name: torch.ones(BATCH, x.shape[2]) for name, x in noise.items()}
    if not policy.conditions_on_first:
        for name, x in noise.items():
            x[:, :, 0], level[name][:, 0] = clean[name][:, :, 0], 0.0
    return {"text": torch.randn(BATCH, 3, 32, generator=torch.Generator().manual_seed(9)), "noise": noise,
            "noise_sigma": level}  # fmt: skip


@torch.no_grad()
def test_the_rollout_computes_what_the_training_pass_computes(make_policy: Make) -> None:
    policy = make_policy().eval()
    clean, actions = tensors(policy), tensors(policy, seed=5)["action"]
    context = told(policy, clean)
    sigma = torch.tensor([[0.9], [0.3]]).repeat(1, actions.shape[2])
    if not policy.conditions_on_first:
        sigma[:, 0] = 0
    whole = policy.velocity({"action": actions}, {"action": sigma}, clean, context)["action"]
    assert whole.shape == actions.shape

    session, size, asked = policy.session(context["text"]), policy.chunk_frames, count()
    session.clock = lambda: float(next(asked))
    if policy.conditions_on_first:
        for name in policy.streams:
            session.append(name, clean[name][:, :, :1], predicted=False)
        session.advance(1)
    for start in range(0, frames_of(policy), size):
        at = slice(start, start + size)
        session.probe(
            {name: x[:, :, at] for name, x in context["noise"].items()},
            {name: level[:, at] for name, level in context["noise_sigma"].items()},
        )
        for _ in range(2):
            got = session.velocity({"action": actions[:, :, at]}, {"action": sigma[:, at]})["action"]
            assert_close(got, whole[:, :, at], atol=2e-5, rtol=1e-4)
        if not policy.conditions_on_first:
            for name in policy.streams:
                session.append(name, clean[name][:, :, at], predicted=False)
            session.advance(size)
    # A clock that goes on by one each time it is looked at: one a part and look, and the expert draws twice.
    *looks, drawn = session.part_seconds.values()
    assert looks == [looks[0]] * 4
    assert drawn == 2 * looks[0] > 0


@torch.no_grad()
def test_a_chunk_depends_on_its_noise_its_past_and_the_observed_picture(make_policy: Make) -> None:
    policy = make_policy().eval()
    clean, noisy = tensors(policy), {"action": tensors(policy, seed=5)["action"]}
    sigma = {"action": torch.full((BATCH, frames_of(policy)), 0.8)}
    context = told(policy, clean)

    def moved(other_clean: dict, other_context: dict) -> list[bool]:
        """True for each chunk whose velocities change."""
        before, after = (
            policy.velocity(noisy, sigma, *parts)["action"]
            for parts in ((clean, context), (other_clean, other_context))
        )
        change = (before - after).abs().amax((0, 1, 3, 4)).unflatten(0, (-1, policy.chunk_frames)).amax(1)
        return (change > 1e-6).tolist()

    chunks = frames_of(policy) // policy.chunk_frames
    noise = {name: x.clone() for name, x in context["noise"].items()}
    noise["video"][:, :, -1] += 1
    assert moved(clean, {**context, "noise": noise}) == [False] * (chunks - 1) + [True]
    last = {name: x.clone() for name, x in clean.items()}
    last["video"][:, :, -1] += 1
    assert not any(moved(last, context))  # what comes is not known
    first = {name: x.clone() for name, x in clean.items()}
    first["video"][:, :, 0] += 1
    assert moved(first, context) == [True] * chunks


@torch.no_grad()
def test_what_is_kept_gives_the_same_velocities(make_policy: Make) -> None:
    policy = make_policy().eval()
    clean = tensors(policy)
    context = told(policy, clean)
    kept = {**context, "kept": Kept()}
    for seed in (5, 6):
        noisy = {"action": tensors(policy, seed=seed)["action"]}
        sigma = {"action": torch.full((BATCH, frames_of(policy)), 0.1 * seed)}
        expected = policy.velocity(noisy, sigma, clean, context)["action"]
        assert_close(policy.velocity(noisy, sigma, clean, kept)["action"], expected, rtol=0, atol=0)


@torch.no_grad()
def test_a_rollout_draws_actions_alone(make_policy: Make) -> None:
    policy = make_policy().eval()
    samplers = {
        "video": StreamSampler(schedule=NoiseSchedule(5.0), consistency=Linear(), steps=1),
        "action": StreamSampler(schedule=EDMSchedule(), consistency=Linear(), steps=3),
    }
    clean = tensors(policy, frames=policy.chunk_frames)
    text = torch.randn(BATCH, 3, 32)
    rollout = Rollout(policy, samplers, text=text, first={name: x[:, :, :1] for name, x in clean.items()})
    for _ in range(2):
        drawn = rollout.predict()
        assert set(drawn) == {"action"}
        assert torch.isfinite(drawn["action"]).all()
        rollout.observe(clean)
    assert set(rollout.seconds) == {"video", "action"}


def test_only_the_trained_part_learns_and_drops_out(make_policy: Make) -> None:
    for trained, learning in (("decouplers", {"decouplers"}), ("expert", {"resampler", "expert"})):
        policy = make_policy(trained=trained).requires_grad_(True).train()
        for name in ("decouplers", "resampler", "expert"):
            part = getattr(policy, name)
            assert all(p.requires_grad is (name in learning) for p in part.parameters())
            assert part.training is (name in learning)
        assert not any(p.requires_grad for p in policy.backbone.parameters())
        assert not policy.backbone.training
        assert not any(p.requires_grad for p in policy.requires_grad_(False).parameters())


def test_gradients_reach_the_trained_part_alone(make_policy: Make) -> None:
    policy = make_policy(trained="expert")
    clean = tensors(policy)
    noisy, sigma = {"action": tensors(policy, seed=5)["action"]}, {"action": torch.rand(BATCH, frames_of(policy))}
    policy(noisy, sigma, clean, told(policy, clean))["action"].square().mean().backward()
    assert all(p.grad is not None for name in ("resampler", "expert") for p in getattr(policy, name).parameters())
    assert all(p.grad is None for p in policy.decouplers.parameters())
    policy = make_policy(trained="decouplers")
    foresight = policy({}, {}, clean, told(policy, clean))
    assert {name: x.shape for name, x in foresight.items()} == {
        "semantic": (BATCH, 6, frames_of(policy), 4, 4),
        "geometric": (BATCH, 5, frames_of(policy), 4, 4),
    }
    sum(x.square().mean() for x in foresight.values()).backward()
    assert all(p.grad is not None for p in policy.decouplers.parameters())
    assert all(p.grad is None for p in policy.backbone.parameters())


def test_copies_share_what_is_frozen(make_policy: Make) -> None:
    policy = make_policy()
    other = copy.deepcopy(policy)
    assert other.backbone is policy.backbone
    assert other.providers["semantic"] is policy.providers["semantic"]
    assert not {id(p) for p in other.parameters()} & {id(p) for p in policy.parameters()}
    trained = sum(p.numel() for p in policy.parameters())
    assert trained == sum(policy.deployed_parameters()[name] for name in ("decouplers", "resampler", "expert"))


def test_all_that_stays_deployed_is_counted(make_policy: Make) -> None:
    policy = make_policy()
    count = policy.deployed_parameters()
    assert set(count) == {
        f"backbone to block {policy.blocks[-1]}", "semantic: scene encoder trained on colours", "geometric: scene encoder trained on motion",
        "picture decoder", "decouplers", "resampler", "expert",
    }  # fmt: skip
    used = set()
    hooks = [
        module.register_forward_hook(lambda module, *_: used.update(id(p) for p in module.parameters(recurse=False)))
        for module in policy.backbone.modules()
    ]
    clean = tensors(policy)
    policy.eval()({}, {}, clean, told(policy, clean))
    for hook in hooks:
        hook.remove()
    ran = sum(p.numel() for p in policy.backbone.parameters() if id(p) in used)
    whole = sum(p.numel() for p in policy.backbone.parameters())
    assert ran <= count[f"backbone to block {policy.blocks[-1]}"] < whole


def test_a_folder_holds_all_that_acting_takes(make_policy: Make, tmp_path) -> None:
    policy = make_policy().eval()
    policy.decouplers["semantic"].mean.fill_(0.3)
    streams = {
        "video": StreamSpec(name="video", schedule=NoiseSchedule(5.0), teacher_steps=1),
        "action": StreamSpec(name="action", schedule=EDMSchedule()),
    }
    save_wam(tmp_path, policy, streams, kind="teacher", info={"teacher": "somewhere"})
    again, info = load_wam(tmp_path)
    assert isinstance(again, ForesightPolicy)
    assert info.role == "student"
    assert family("foresight") is ForesightPolicy
    clean = tensors(policy)
    parts = {"action": tensors(policy, seed=5)["action"]}, {"action": torch.rand(BATCH, frames_of(policy))}, clean
    context = told(policy, clean)
    with torch.no_grad():
        expected = policy.velocity(*parts, context)["action"]
        assert_close(again.eval().velocity(*parts, context)["action"], expected, rtol=0, atol=0)
    assert again.deployed_parameters() == policy.deployed_parameters()
    (tmp_path / "decoder" / "latent_stats.json").unlink()
    with pytest.raises(FileNotFoundError):
        load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use": ["depth"]}, r"use names \['depth'\]"),
        ({"use": [], "raw": False}, "nothing to draw actions from"),
        ({"pooling": "max"}, "pooling must be one of"),
        ({"blocks": [9]}, r"blocks must be some of 0\.\.\d, ascending; got \[9\]"),
        ({"trained": "backbone"}, "trained decouplers or expert"),
    ],
)
def test_settings_that_make_no_policy_are_refused(make_policy: Make, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_policy(**changes)


def test_a_backbone_that_cannot_be_looked_into_is_refused() -> None:
    with pytest.raises(ValueError, match=r"ToyWam gives no hidden states.*LooksInside"):
        ForesightPolicy(ToyWam(), {}, Dye(), text_width=3, blocks=(0,), grid=(1, 1))


def test_fp8_rounds_the_backbone_and_nothing_of_the_policys_own(make_policy: Make) -> None:
    """The backbone has nearly all of the weights, and lies outside of what the policy trains and saves."""
    policy = make_policy(heads_of_32=True).eval()
    assert policy.precision == policy.backbone.precision == "own"
    policy.choose_precision("fp8")
    assert policy.precision == policy.backbone.precision == "fp8"
    assert not any(isinstance(module, Float8Linear) for module in policy.modules())
    with pytest.raises(ValueError, match="load the model again"):
        policy.choose_precision("own")


@pytest.mark.parametrize("changes", [{"use": ["semantic"]}, {"use": []}, {"raw": False}, {"pooling": "mean"}])
def test_every_ablation_keeps_the_decouplers_and_has_a_policy_of_its_own(make_policy: Make, changes: dict) -> None:
    policy = make_policy().eval()
    other = policy.rebuilt(**changes).eval()
    for mine, theirs in zip(policy.decouplers.parameters(), other.decouplers.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert other.backbone is policy.backbone
    clean = tensors(policy)
    parts = {"action": tensors(policy, seed=5)["action"]}, {"action": torch.rand(BATCH, frames_of(policy))}, clean
    assert torch.isfinite(other.velocity(*parts, told(policy, clean))["action"]).all()
    with pytest.raises(ValueError, match=r"\['grid'\] belong to the decouplers"):
        policy.rebuilt(grid=[2, 2])
    assert policy.rebuilt(grid=[4, 4]).grid == (4, 4)


def test_misuse_is_refused(make_policy: Make) -> None:
    policy = make_policy()
    clean = tensors(policy)
    with pytest.raises(ValueError, match="draws actions alone"):
        policy.velocity(clean, {}, clean, told(policy, clean))
    text = torch.zeros(BATCH, 3, 32)
    with pytest.raises(ValueError, match="no guidance"):
        policy.session(text, guidance={"action": 2.0})
    with pytest.raises(RuntimeError, match="call probe first"):
        policy.session(text).velocity({}, {})
    noise = {name: x[:, :, : policy.chunk_frames] for name, x in clean.items()}
    with pytest.raises(RuntimeError, match="nothing was observed"):
        policy.session(text).probe(noise, {name: torch.ones(BATCH, policy.chunk_frames) for name in noise})
    with pytest.raises(ValueError, match="flashwam distill with method foresight"):
        ForesightPolicy.create()
    odd = {name: x[:, :, :-1] for name, x in clean.items()}
    context = told(policy, clean)
    context["noise"] = odd
    with pytest.raises(ValueError, match=r"see data\.window_frames"):
        policy.velocity({"action": odd["action"]}, {}, clean, context)
