# SPDX-License-Identifier: Apache-2.0
"""Pictures, controls and the whole closed loop against the original server."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor
from torch.testing import assert_close

from flashwam.core.consistency import Linear
from flashwam.core.noise import NoiseSchedule
from flashwam.data.actions import ActionNorm
from flashwam.data.cameras import CameraLayout
from flashwam.data.encoders import to_pixels
from flashwam.sampling import Rollout, StreamSampler, draw, samplers_for
from flashwam.wam.lingbot_va import LingBotConfig, LingBotVA
from flashwam.wam.lingbot_va.codec import LingBotCodec
from flashwam.wam.lingbot_va.files import LingBotFiles
from flashwam.wam.lingbot_va.pictures import WanPictures
from flashwam.wam.lingbot_va.presets import PRESETS, preset
from flashwam.wam.lingbot_va.vae import LATENTS_MEAN, LATENTS_STD, WAN22_CONFIG, WanVae

JOB = "server_concat/job_config/"


@pytest.fixture(scope="module")
def vae(golden: dict[str, Any]) -> WanVae:
    config = {k.removeprefix("vae/config/"): v for k, v in golden.items() if k.startswith("vae/config/")}
    model = AutoencoderKLWan(**config)
    weights = {k.removeprefix("vae/state_dict/"): v for k, v in golden.items() if k.startswith("vae/state_dict/")}
    model.load_state_dict(weights, strict=True)
    return WanVae(model)


@pytest.fixture(scope="module")
def codec(golden: dict[str, Any], vae: WanVae) -> LingBotCodec:
    job = {k.removeprefix(JOB): v for k, v in golden.items() if k.startswith(JOB)}
    prompts = {"pick": golden["server_prompt/prompt_embeds"][0], "": golden["server_prompt/negative_prompt_embeds"][0]}
    return LingBotCodec(
        vae=vae,
        cameras=CameraLayout(cameras=job["obs_cam_keys"], image_size=(job["height"], job["width"])),
        actions=ActionNorm(
            q01=tuple(job["norm_stat/q01"]),
            q99=tuple(job["norm_stat/q99"]),
            used=tuple(job["used_action_channel_ids"]),
            clip=None,
        ),
        prompts=prompts.__getitem__,
    )


def observation(golden: Mapping[str, Any], path: str) -> dict[str, np.ndarray]:
    return {key: golden[f"{path}/{key}"].numpy() for key in golden[f"{JOB}obs_cam_keys"]}


def keyframes(golden: Mapping[str, Any], step: int) -> list[dict[str, np.ndarray]]:
    path = f"server_concat/steps/{step}/keyframes"
    return [observation(golden, f"{path}/{i}") for i in range(12 if step == 0 else 16)]


def pictures(layout: CameraLayout, count: int, *, seed: int = 0, size: tuple[int, int] = (40, 50)) -> list[dict]:
    rng = np.random.default_rng(seed)
    return [{key: rng.integers(0, 256, (*size, 3), np.uint8) for key in layout.cameras} for _ in range(count)]


def test_pictures_become_the_servers_latents(golden: dict[str, Any], codec: LingBotCodec) -> None:
    session = codec.open()
    first = session.encode([observation(golden, "server_concat/steps/0/obs")])
    assert_close(first, golden["server_concat/steps/0/encoded/0"], atol=1e-4, rtol=0)
    for step in range(3):
        seen = session.encode(keyframes(golden, step))
        assert_close(seen, golden[f"server_concat/steps/{step}/kv_encoded/0"], atol=1e-4, rtol=0)


def test_closed_loop_from_pictures_to_controls(
    golden: dict[str, Any], golden_wam: LingBotVA, codec: LingBotCodec
) -> None:
    job = {k.removeprefix(JOB): v for k, v in golden.items() if k.startswith(JOB)}
    frames, per_frame = job["frame_chunk_size"], job["action_per_frame"]
    config = LingBotConfig(
        latent_size=codec.cameras.latent_size,
        chunk_frames=frames,
        actions_per_frame=per_frame,
        window_chunks=job["attn_window"] - 1,
        used_channels=job["used_action_channel_ids"],
    )
    wam = LingBotVA(golden_wam.transformer, config)
    levels = NoiseSchedule(job["snr_shift"]).sampling_grid(job["num_inference_steps"]).tolist()
    sampler = StreamSampler(
        schedule=NoiseSchedule(job["action_snr_shift"]),
        consistency=Linear(),
        steps=job["action_num_inference_steps"],
    )
    episode = codec.open()
    first = episode.encode([observation(golden, "server_concat/steps/0/obs")])
    session = wam.session(episode.text("pick"))
    for step in range(3):
        torch.manual_seed(golden[f"server_concat/steps/{step}/seed"])
        video = torch.randn(1, 48, frames, *codec.cameras.latent_size)
        noise = torch.randn(1, 30, frames, per_frame, 1)
        # The video stops before its noise is gone, and is remembered as it was at the last level it was stepped from.
        for i in range(job["video_exec_step"]):
            sigma = torch.full((1, frames), levels[i])
            if step == 0:
                video[:, :, :1], sigma[:, :1] = first, 0.0
            velocity = session.velocity({"video": video}, {"video": sigma})["video"]
            if i == job["video_exec_step"] - 1:
                session.append("video", video, predicted=True, sigma=sigma)
            video = video + velocity * (levels[i + 1] - levels[i])
        if step == 0:
            video[:, :, :1] = first
        assert_close(video, golden[f"server_concat/steps/{step}/latents"], atol=1e-4, rtol=1e-4)

        given = {"action": torch.zeros(1, 30, 1, per_frame, 1)} if step == 0 else None
        actions = draw(session.velocity, {"action": noise}, {"action": sampler}, given=given)["action"]
        controls = episode.actions(actions)
        assert controls.dtype == np.float32
        assert_close(torch.from_numpy(controls), golden[f"server_concat/steps/{step}/action"], atol=1e-4, rtol=1e-4)

        seen, executed = episode.encode(keyframes(golden, step)), episode.executed(controls)
        assert_close(executed, actions * codec.actions.mask().float(), atol=1e-5, rtol=0)
        if step == 0:
            seen = torch.cat([first, seen], 2)
        session.drop_predicted()
        session.append("video", seen, predicted=False)
        session.append("action", executed, predicted=False)
        session.advance(frames)
        assert session.frame_index == golden[f"server_concat/steps/{step}/frame_st_id_after"]


def test_a_student_drives_a_robot_in_two_chunks(golden: dict[str, Any], golden_wam: LingBotVA, vae: WanVae) -> None:
    """The way of the published settings, the codec and the rollout together, from pictures to controls and back."""
    settings = preset("robotwin")
    codec = LingBotCodec(
        vae=vae,
        cameras=CameraLayout(cameras=settings.cameras.cameras, image_size=(64, 64), arrangement="tshape"),
        actions=settings.actions(),
        prompts=lambda prompt: golden["server_prompt/prompt_embeds"][0],
    )
    assert codec.facts["controls"] == 16
    config = LingBotConfig(
        latent_size=codec.cameras.latent_size,
        chunk_frames=2,
        actions_per_frame=16,
        window_chunks=3,
        used_channels=settings.used,
    )
    wam = LingBotVA(golden_wam.transformer, config)
    samplers = samplers_for(settings.released_student, steps={"video": 1, "action": 2}, teacher=False)
    generator = torch.Generator().manual_seed(8)
    noise = [
        {name: torch.randn(1, c, 2, *size, generator=generator) for name, (c, *size) in wam.shapes.items()}
        for _ in range(2)
    ]
    unused = 1 - codec.actions.mask().float()
    seen = pictures(codec.cameras, 13)

    def drive(change: float) -> list[np.ndarray]:
        episode, controls = codec.open(), []
        first = episode.encode(seen[:1])
        rollout = Rollout(
            wam,
            samplers,
            text=episode.text("pick"),
            first={"video": first, "action": torch.zeros(1, 30, 1, 16, 1)},
        )
        for i, (drawn, new) in enumerate(zip(noise, (seen[1:5], seen[5:13]), strict=True)):
            chunk = rollout.predict({**drawn, "action": drawn["action"] + change * unused})
            controls.append(episode.actions(chunk["action"]))
            latents = episode.encode(new)
            video = torch.cat([first, latents], 2) if i == 0 else latents
            rollout.observe({"video": video, "action": episode.executed(controls[-1])})
        return controls

    controls = drive(0.0)
    assert [x.shape for x in controls] == [(16, 2, 16)] * 2
    # The first frame's controls are the padding: zero between the quantiles, half-way in raw units.
    middle = (np.array(settings.q01) + np.array(settings.q99))[list(settings.used)] / 2
    np.testing.assert_allclose(controls[0][:, 0], middle[:, None].repeat(16, 1), atol=1e-5)
    # Channels that no control goes to have no part in anything, whatever noise they begin with.
    assert all(np.array_equal(a, b) for a, b in zip(controls, drive(7.0), strict=True))


def test_actions_are_normalised_as_the_original_does(golden: dict[str, Any], vae: WanVae) -> None:
    settings = preset("robotwin")
    session = LingBotCodec(vae=vae, cameras=settings.cameras, actions=settings.actions(), prompts=lambda _: None).open()
    raw, model = golden["action_norm/raw"], golden["action_norm/pre"]
    # The original leaves -1 in unused channels here and zeroes them before the network.
    used = settings.actions().mask().float()
    assert_close(session.executed(raw.numpy()), model * used, atol=1e-6, rtol=1e-6)
    assert_close(torch.from_numpy(session.actions(model)), golden["action_norm/post"], atol=1e-6, rtol=1e-6)
    clipped = settings.actions(clip=1.5).normalise(raw * 10)
    assert clipped.abs().max() == 1.5


@pytest.mark.parametrize("cuts", [(1, 4, 8), (5, 8), (1, 12), (13,)])
def test_streaming_equals_one_clip(vae: WanVae, cuts: tuple[int, ...]) -> None:
    clip = torch.rand(2, 3, 13, 32, 32, generator=torch.Generator().manual_seed(3)) * 2 - 1
    stream = vae.open()
    parts = [stream.encode(part) for part in clip.split(cuts, 2)]
    whole = vae.model.encode(clip).latent_dist.mode()
    assert_close(torch.cat(parts, 2), vae.normalised(whole), atol=1e-5, rtol=1e-5)
    assert stream.frames == 4


def test_the_released_autoencoders_sizes() -> None:
    with torch.device("meta"):
        released = WanVae(AutoencoderKLWan(**WAN22_CONFIG))
    stream = released.open()
    first = stream.encode(torch.empty(1, 3, 1, 256, 320, device="meta"))
    later = stream.encode(torch.empty(1, 3, 8, 256, 320, device="meta"))
    assert (first.shape, later.shape) == ((1, 48, 1, 16, 20), (1, 48, 2, 16, 20))


def test_drawn_chunks_become_pictures_clip_by_clip(vae: WanVae, tmp_path: Path) -> None:
    decoder = WanPictures(vae)
    latents = torch.randn(2, 48, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    pictures = decoder.pictures(latents)
    assert pictures.shape == (2, 9, 32, 32, 3)
    assert torch.equal(pictures[1:], vae.decode(latents[1:]))
    decoder.save(tmp_path)
    again = LingBotFiles().picture_decoder(tmp_path)
    assert torch.equal(again.pictures(latents[:1]), pictures[:1])
    assert 0 < decoder.parameter_count < sum(p.numel() for p in decoder.parameters())


def test_decoding_undoes_the_statistics(vae: WanVae) -> None:
    latents = torch.randn(1, 48, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    mean, std = (torch.tensor(vae.model.config[f"latents_{name}"]).view(1, -1, 1, 1, 1) for name in ("mean", "std"))
    expected = vae.model.decode(latents * std + mean).sample.clamp(-1, 1)
    decoded = vae.decode(latents)
    assert decoded.shape == (1, 9, 32, 32, 3)
    assert (decoded.permute(0, 4, 1, 2, 3) / 127.5 - 1 - expected).abs().max() <= 0.51 / 127.5


def test_a_failed_call_leaves_the_past_as_it_was(golden: dict[str, Any], codec: LingBotCodec) -> None:
    session = codec.open()
    with pytest.raises(ValueError, match="expected 1"):
        session.encode(keyframes(golden, 0)[:4])
    session.encode([observation(golden, "server_concat/steps/0/obs")])
    for wrong, message in (
        (keyframes(golden, 0)[:3], "multiple of 4"),
        ([], "got none"),
        ([{"observation.images.agentview_rgb": np.zeros((8, 8, 3), np.uint8)}] * 4, "no camera"),
        ([{key: np.zeros((8, 8, 3), np.float32) for key in codec.cameras.cameras}] * 4, "uint8"),
        ([{key: np.zeros((8, 8), np.uint8) for key in codec.cameras.cameras}] * 4, "uint8"),
        (keyframes(golden, 0)[:3] + pictures(codec.cameras, 1), "differ in size"),
    ):
        with pytest.raises(ValueError, match=message):
            session.encode(wrong)
    seen = session.encode(keyframes(golden, 0))
    assert_close(seen, golden["server_concat/steps/0/kv_encoded/0"], atol=1e-4, rtol=0)


def test_executed_controls_are_checked(codec: LingBotCodec) -> None:
    session = codec.open()
    with pytest.raises(ValueError, match="7 controls"):
        session.executed(np.zeros((6, 4, 4), np.float32))
    with pytest.raises(ValueError, match="finite"):
        session.executed(np.full((7, 4, 4), np.nan, np.float32))
    with pytest.raises(ValueError, match="numbers"):
        session.executed(np.zeros((7, 4, 4), object))
    with pytest.raises(ValueError, match=r"\[1, A, F, N, 1\]"):
        session.actions(torch.zeros(2, 30, 4, 4, 1))


def test_tshape_puts_the_wrists_above_the_head(vae: WanVae) -> None:
    layout = CameraLayout(cameras=("head", "left", "right"), image_size=(64, 96), arrangement="tshape")
    assert layout.latent_size == (6, 6)
    codec = LingBotCodec(vae=vae, cameras=layout, actions=preset("robotwin").actions(), prompts=lambda _: None)
    seen = pictures(layout, 5)
    session = codec.open()
    joined = torch.cat([session.encode(seen[:1]), session.encode(seen[1:])], 2)
    assert joined.shape == (1, 48, 2, 6, 6)

    def alone(key: str, size: tuple[int, int]) -> Tensor:
        return vae.encode(to_pixels(np.stack([o[key] for o in seen]), size)[None])

    assert_close(joined[..., 2:, :], alone("head", (64, 96)), atol=1e-5, rtol=1e-5)
    assert_close(joined[..., :2, :3], alone("left", (32, 48)), atol=1e-5, rtol=1e-5)
    assert_close(joined[..., :2, 3:], alone("right", (32, 48)), atol=1e-5, rtol=1e-5)
    decoded = codec.pictures(joined)
    assert {key: x.shape for key, x in decoded.items()} == {
        "head": (5, 64, 96, 3),
        "left": (5, 32, 48, 3),
        "right": (5, 32, 48, 3),
    }
    back = layout.join(layout.split(joined))
    assert torch.equal(back, joined)


def test_sessions_do_not_see_each_other(golden: dict[str, Any], codec: LingBotCodec) -> None:
    one, other = codec.open(), codec.open()
    one.encode([observation(golden, "server_concat/steps/0/obs")])
    other.encode(pictures(codec.cameras, 1))
    one_seen = one.encode(keyframes(golden, 0))
    other.encode(pictures(codec.cameras, 4, seed=2))
    assert_close(one_seen, golden["server_concat/steps/0/kv_encoded/0"], atol=1e-4, rtol=0)


def test_bilinear_resize_by_hand() -> None:
    column = np.array([0, 100, 200, 40], np.uint8)
    picture = np.broadcast_to(column[:, None, None], (4, 2, 3))[None]
    halved = to_pixels(picture, (2, 2))
    # Half a pixel's centre lies midway between two rows.
    assert_close(halved[0, 0, :, 0], torch.tensor([50.0, 120.0]) / 127.5 - 1)
    grown = to_pixels(picture, (8, 2))
    assert_close(grown[0, 0, :3, 0], torch.tensor([0.0, 25.0, 75.0]) / 127.5 - 1)


def test_presets_have_the_published_sizes() -> None:
    sizes = {name: (one.cameras.latent_size, one.chunk_frames, one.actions_per_frame) for name, one in PRESETS.items()}
    assert sizes == {
        "robotwin": ((24, 20), 2, 16),
        "libero": ((8, 16), 4, 4),
        "libero_first": ((8, 16), 4, 4),
        "franka": ((14, 60), 4, 20),
        "demo": ((16, 32), 4, 8),
    }
    for one in PRESETS.values():
        tokens = one.config.latent_size[0] * one.config.latent_size[1] // 4
        assert one.streams["video"].guidance_scale == 5
        # Channels without a range of their own are those no control goes to.
        assert {i for i, (a, b) in enumerate(zip(one.q01, one.q99, strict=True)) if a != b} == set(one.used)
        per_chunk = one.chunk_frames * (tokens + one.actions_per_frame)
        capacity = {"robotwin": 9792, "libero": 2160, "libero_first": 2160, "franka": 13800}
        if one.name in capacity:
            assert one.attn_window // 2 * per_chunk == capacity[one.name]
    with pytest.raises(ValueError, match="robotwin"):
        preset("robotwim")


def test_the_released_autoencoder_needs_the_published_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (len(LATENTS_MEAN), len(LATENTS_STD)) == (48, 48)
    assert round(sum(LATENTS_MEAN), 4) == -0.5589
    assert round(sum(LATENTS_STD), 4) == 32.536
    small = {**WAN22_CONFIG, "base_dim": 8, "decoder_base_dim": 8}
    with pytest.raises(ValueError, match="48 latent channels"):
        WanVae(AutoencoderKLWan(**{**small, "latents_mean": [0.0] * 16}))
    monkeypatch.setitem(WAN22_CONFIG, "base_dim", 8)
    WanVae(AutoencoderKLWan(**small))
    with pytest.raises(ValueError, match="not the published one"):
        WanVae(AutoencoderKLWan(**{**small, "latents_std": [1.0] * 48}))
