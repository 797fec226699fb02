# SPDX-License-Identifier: Apache-2.0
"""The CogVideoX adapter: coordinates, conditioning, action slots, and what it refuses."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from flashwam.wam import family
from flashwam.wam.cogvideox import CogVideoX, CogVideoXConfig

Make = Callable[..., CogVideoX]
FRAMES = 3


def draw(wam: CogVideoX, *, frames: int = FRAMES, seed: int = 1) -> dict[str, Tensor]:
    """{stream: [2, C, frames, H, W]}."""
    generator = torch.Generator().manual_seed(seed)
    return {
        stream: torch.randn(2, channels, frames, *size, generator=generator)
        for stream, (channels, *size) in wam.shapes.items()
    }


def at(**levels: tuple[float, float] | Tensor) -> dict[str, Tensor]:
    """Levels of two samples, {stream: [2, FRAMES]}."""
    return {name: torch.as_tensor(level)[:, None].repeat(1, FRAMES) for name, level in levels.items()}


def both(*level: float) -> dict[str, Tensor]:
    return at(video=level, action=level)


@pytest.fixture
def text() -> Tensor:
    return torch.randn(2, 6, 12, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("snr_shift", [1.0, 3.0])
@pytest.mark.parametrize("conditioning", ["channel_concat", "prefix"])
def test_velocity_by_hand(make_cogvideox: Make, text: Tensor, conditioning: str, snr_shift: float) -> None:
    """Levels of table indices 999 and 250: state to the network's path, one call, outputs back to the flow's."""
    wam = make_cogvideox(conditioning=conditioning, snr_shift=snr_shift)
    timestep = torch.tensor([999.0, 250.0])
    level = wam.schedule.levels()[timestep.long() + 1].float()
    noisy, clean = draw(wam), draw(wam, frames=5, seed=4)
    with torch.no_grad():
        velocity = wam.velocity(noisy, at(video=level, action=level), clean, {"text": text})

        norm = (level**2 + (1 - level) ** 2).sqrt()
        alpha, s = (1 - level) / norm, level / norm
        video = noisy["video"].transpose(1, 2) / norm[:, None, None, None, None]
        action = noisy["action"][:, :, 1:].flatten(2).transpose(1, 2) / norm[:, None, None]
        observation = clean["video"][:, :, 2]
        if conditioning == "prefix":
            seen, first = video.clone(), {"first_timestep": torch.zeros(2)}
            seen[:, 0] = observation
        else:
            block = torch.zeros_like(video)
            block[:, 0] = observation
            seen, first = torch.cat([video, block], 2), {}
        v_video, v_action = wam.network(seen, action, text, timestep, **first)
    expected = (s - alpha)[:, None, None, None, None] * video + (alpha + s)[:, None, None, None, None] * v_video
    expected = expected.transpose(1, 2)
    if conditioning == "prefix":
        expected[:, :, 0] = (noisy["video"][:, :, 0] - observation) / level[:, None, None, None]
    assert_close(velocity["video"], expected, atol=1e-5, rtol=1e-5)
    expected = (s - alpha)[:, None, None] * action + (alpha + s)[:, None, None] * v_action
    drawn = velocity["action"][:, :, 1:, :, 0].flatten(2).transpose(1, 2)
    assert_close(drawn, expected, atol=1e-5, rtol=1e-5)
    assert velocity["action"].shape == noisy["action"].shape
    assert not velocity["action"][:, :, 0].any()


def test_pure_noise_maps_to_minus_the_networks_output(make_cogvideox: Make, text: Tensor) -> None:
    wam = make_cogvideox()
    noisy, clean = draw(wam), draw(wam, seed=4)
    with torch.no_grad():
        velocity = wam.velocity(noisy, both(1.0, 1.0), clean, {"text": text})
        shown = torch.zeros_like(noisy["video"])
        shown[:, :, 0] = clean["video"][:, :, 0]
        seen = torch.cat([noisy["video"], shown], 1).transpose(1, 2)
        action = noisy["action"][:, :, 1:].flatten(2).transpose(1, 2)
        video, _ = wam.network(seen, action, text, torch.tensor([999, 999]))
    assert velocity["video"].isfinite().all()
    assert_close(noisy["video"] - velocity["video"], -video.transpose(1, 2), atol=1e-5, rtol=0)


def test_prefix_velocity_leads_back_to_the_observation(make_cogvideox: Make, text: Tensor) -> None:
    wam = make_cogvideox(conditioning="prefix")
    noisy, clean = draw(wam), draw(wam, seed=4)
    sigma = both(0.7, 0.0)
    with torch.no_grad():
        video = wam.velocity(noisy, sigma, clean, {"text": text})["video"]
    assert_close(noisy["video"][0, :, 0] - 0.7 * video[0, :, 0], clean["video"][0, :, 0], atol=1e-6, rtol=0)
    assert not video[1, :, 0].any()
    assert video.isfinite().all()
    # What the noisy slot of the observed frame holds is not seen by the others.
    other = dict(noisy, video=noisy["video"].clone())
    other["video"][:, :, 0] += 1
    with torch.no_grad():
        again = wam.velocity(other, sigma, clean, {"text": text})
    assert torch.equal(again["video"][:, :, 1:], video[:, :, 1:])


@pytest.mark.parametrize("conditioning", ["channel_concat", "prefix"])
def test_the_observation_is_all_that_is_seen_of_clean(make_cogvideox: Make, text: Tensor, conditioning: str) -> None:
    wam = make_cogvideox(conditioning=conditioning)
    noisy, clean = draw(wam), draw(wam, frames=5, seed=4)
    other = draw(wam, frames=5, seed=5)
    other["video"][:, :, 2] = clean["video"][:, :, 2]
    with torch.no_grad():
        one, same = (wam.velocity(noisy, both(0.5, 0.9), c, {"text": text}) for c in (clean, other))
        other["video"][:, :, 2] += 1
        changed = wam.velocity(noisy, both(0.5, 0.9), other, {"text": text})
    for stream in wam.streams:
        assert torch.equal(one[stream], same[stream])
        assert (one[stream] - changed[stream]).abs().max() > 1e-4


def test_action_slots(make_cogvideox: Make, text: Tensor) -> None:
    """Three tokens of four slots: those after frame 0 and the first after frame 1; others are neither seen nor drawn."""
    wam = make_cogvideox(action_tokens=3)
    noisy, clean = draw(wam), draw(wam, seed=4)
    real = torch.tensor([[False, False], [True, True], [True, False]])
    with torch.no_grad():
        velocity = wam.velocity(noisy, both(0.5, 0.9), clean, {"text": text})["action"][..., 0]
        for frame, slot in ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)):
            other = dict(noisy, action=noisy["action"].clone())
            other["action"][:, :, frame, slot] += 1
            changed = wam.velocity(other, both(0.5, 0.9), clean, {"text": text})["action"][..., 0]
            assert bool((changed != velocity).any()) == bool(real[frame, slot]), (frame, slot)
    assert torch.equal((velocity != 0).all(0).all(0), real)
    assert torch.equal((velocity != 0).any(0).any(0), real)


def test_a_level_of_its_own_for_actions(make_cogvideox: Make, text: Tensor) -> None:
    wam = make_cogvideox()
    noisy, clean = draw(wam), draw(wam, seed=4)
    with torch.no_grad():
        shared = wam.velocity(noisy, both(0.5, 0.9), clean, {"text": text})
        apart = wam.velocity(noisy, at(video=(0.5, 0.9), action=(0.5, 0.2)), clean, {"text": text})
    for stream in wam.streams:
        assert_close(apart[stream][0], shared[stream][0], atol=1e-6, rtol=0)
        assert (apart[stream][1] - shared[stream][1]).abs().max() > 1e-3


def test_robots(make_cogvideox: Make, text: Tensor) -> None:
    wam = make_cogvideox(robots=4, robot=2)
    noisy, clean, sigma = draw(wam), draw(wam, seed=4), both(0.5, 0.9)
    with torch.no_grad():
        own = wam.velocity(noisy, sigma, clean, {"text": text})
        same = wam.velocity(noisy, sigma, clean, {"text": text, "robot": torch.tensor([2, 2])})
        other = wam.velocity(noisy, sigma, clean, {"text": text, "robot": torch.tensor([2, 3])})
    assert torch.equal(own["action"], same["action"])
    assert torch.equal(own["action"][0], other["action"][0])
    assert not torch.equal(own["action"][1], other["action"][1])
    with pytest.raises(ValueError, match="robots = 0"):
        make_cogvideox().velocity(noisy, sigma, clean, {"text": text, "robot": torch.tensor([2, 3])})


@pytest.mark.parametrize("conditioning", ["channel_concat", "prefix"])
def test_gradients_reach_every_parameter(make_cogvideox: Make, text: Tensor, conditioning: str) -> None:
    gradients = []
    for checkpointing in (False, True):
        wam = make_cogvideox(conditioning=conditioning, gradient_checkpointing=checkpointing)
        velocity = wam(draw(wam), both(0.5, 1.0), draw(wam, seed=4), {"text": text})
        sum(v.square().mean() for v in velocity.values()).backward()
        gradients.append({name: value.grad for name, value in wam.named_parameters()})
    for name, value in gradients[0].items():
        assert value.abs().max() > 0, name
        assert torch.equal(gradients[1][name], value), name


def test_bfloat16_stays_near_float32(make_cogvideox: Make, text: Tensor) -> None:
    wam = make_cogvideox()
    given = (draw(wam), both(0.5, 0.9), draw(wam, seed=4), {"text": text})
    with torch.no_grad():
        exact, half = wam.velocity(*given), wam.bfloat16().velocity(*given)
    for stream in wam.streams:
        assert half[stream].dtype == torch.float32
        error = (half[stream] - exact[stream]).norm() / exact[stream].norm()
        assert 0 < error < 0.03


def test_what_the_contract_asks(make_cogvideox: Make) -> None:
    wam = make_cogvideox(execute_frames=1)
    assert family("cogvideox") is CogVideoX
    assert wam.stages == (wam.streams,)
    assert (wam.conditions_on_first, wam.frame_levels) == (True, False)
    assert (wam.chunk_frames, wam.execute_frames, wam.actions_per_frame) == (3, 1, 2)
    assert wam.shapes == {"video": (4, 4, 6), "action": (5, 2, 1)}
    assert wam.pass_tokens(9) == 3 * 2 * 3 + 4
    names = [name for name, module in wam.named_modules() if isinstance(module, torch.nn.Linear)]
    adapted = [name for name in names if name.endswith(wam.adapter_targets)]
    assert len(adapted) == 2 * 6
    assert {name.split(".")[2] for name in adapted} == {"transformer_blocks"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"noisy": ["video"]}, "draws .* together"),
        ({"frames": 4}, "noisy video must be .*3, 4, 6"),
        ({"clean": 2}, "at least 3 frames"),
        ({"sigma": (2, 1)}, "sigma of video must be"),
        ({"uneven": True}, r"sigma of \['action'\] differs over the frames"),
        ({"chunk_frames": 2}, "chunks have 3 frames; asked for 2"),
        ({"text": 5}, "6 text tokens; got 5"),
    ],
)
def test_what_does_not_fit_is_refused(make_cogvideox: Make, text: Tensor, change: dict[str, Any], message: str) -> None:
    wam = make_cogvideox(use_rotary_positional_embeddings=False)
    noisy = draw(wam, frames=change.get("frames", FRAMES))
    noisy = {name: noisy[name] for name in change.get("noisy", noisy)}
    sigma = both(0.5, 0.9)
    if "sigma" in change:
        sigma["video"] = torch.zeros(change["sigma"])
    if "uneven" in change:
        sigma["action"][1, 0] = 0
    clean = draw(wam, frames=change.get("clean", FRAMES))
    context = {"text": text[:, : change.get("text", 6)], "chunk_frames": change.get("chunk_frames")}
    with pytest.raises(ValueError, match=message):
        wam.velocity(noisy, sigma, clean, context)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latent_size": (4,)}, "latent_size"),
        ({"chunk_frames": 1}, "chunk_frames must be at least 2"),
        ({"actions_per_frame": 0}, "actions_per_frame"),
        ({"action_dim": 0}, "action_dim"),
        ({"action_tokens": 5}, r"action_tokens must be 1\.\.4"),
        ({"execute_frames": 3}, r"execute_frames must be 1\.\.2"),
        ({"conditioning": "suffix"}, "conditioning must be one of"),
        ({"rope_mode": "none"}, "rope_mode must be one of"),
        ({"prediction": "epsilon"}, "prediction must be one of"),
        ({"robots": 3, "robot": 3}, r"robot must be 0\.\.2"),
        ({"robot": 1}, r"robot must be 0\.\.0"),
        ({"snr_shift": 0.0}, "snr_shift"),
        ({"beta_end": 1.5}, "beta_end"),
        ({"norm_out_eps": 0.0}, "norm_out_eps"),
    ],
)
def test_configuration_is_checked(change: dict[str, Any], message: str) -> None:
    options = {"latent_size": (4, 6), "chunk_frames": 3, "actions_per_frame": 2, "action_dim": 5}
    assert CogVideoXConfig(**options).action_tokens == 4
    assert CogVideoXConfig(**options).execute_frames == 2
    with pytest.raises(ValueError, match=message):
        CogVideoXConfig(**(options | change))


def test_parts_must_fit_each_other(make_cogvideox: Make) -> None:
    with pytest.raises(ValueError, match="multiple of the patch"):
        make_cogvideox(latent_size=(4, 5))
    with pytest.raises(ValueError, match="needs 4 input channels"):
        make_cogvideox(conditioning="prefix", in_channels=8)
    with pytest.raises(ValueError, match="needs 8 input channels"):
        make_cogvideox(in_channels=4)
    wam = make_cogvideox()
    config = CogVideoXConfig(latent_size=(4, 6), chunk_frames=4, actions_per_frame=2, action_dim=5)
    with pytest.raises(ValueError, match=r"must be \(5, 6, 0\).* has \(5, 4, 0\)"):
        CogVideoX(wam.transformer, wam.action, config)


def test_what_is_put_out(make_cogvideox: Make) -> None:
    """Five of eight slots and not the observation's; under prefix not the observed frame either."""
    assert make_cogvideox().predicted["action"][0, :, :, 0].tolist() == [[False] * 2, [True] * 2, [True] * 2]
    masks = make_cogvideox(chunk_frames=5, action_tokens=5).predicted
    assert set(masks) == {"action"}
    assert masks["action"][0, :, :, 0].tolist() == [[False] * 2, [True] * 2, [True] * 2, [True, False], [False] * 2]
    assert make_cogvideox(conditioning="prefix").predicted["video"].flatten().tolist() == [False, True, True]


def test_only_actions_that_are_drawn_are_acted_out() -> None:
    shape = {"latent_size": (4, 4), "chunk_frames": 5, "actions_per_frame": 2, "action_dim": 5}
    assert CogVideoXConfig(**shape).execute_frames == 4
    assert CogVideoXConfig(**shape, action_tokens=5).execute_frames == 2
    with pytest.raises(ValueError, match=r"execute_frames must be 1\.\.2, the new frames whose every action is drawn"):
        CogVideoXConfig(**shape, action_tokens=5, execute_frames=3)
