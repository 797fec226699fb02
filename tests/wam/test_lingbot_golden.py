# SPDX-License-Identifier: Apache-2.0
"""LingBot-VA against numbers made by its original implementation."""

from typing import Any

import pytest
import torch
from original_cache import OriginalCache, with_original_cache
from torch import Tensor
from torch.testing import assert_close

from flashwam.wam.lingbot_va import LingBotSession, LingBotVA
from flashwam.wam.lingbot_va.masks import allowed, block_ids
from flashwam.wam.lingbot_va.patches import unpatchify
from flashwam.wam.lingbot_va.rope import action_grid, action_rotary, video_grid, video_rotary

Golden = dict[str, Any]
STREAMS = {"v": "video", "a": "action"}
DICTS = {"video": "latent_dict", "action": "action_dict"}


def original_tokens(stream: str, velocity: Tensor) -> Tensor:
    """Velocity in the order of the original's raw outputs: [B, 4 h w F, C] for video, [B, F N, A] for actions."""
    if stream == "action":
        return velocity.flatten(2).transpose(1, 2)
    x = velocity.unflatten(4, (-1, 2)).unflatten(3, (-1, 2))
    return x.permute(0, 2, 3, 5, 4, 6, 1).flatten(1, 5)


def test_video_rotary(golden: Golden) -> None:
    frames, rows, columns, _, _, start = golden["rope/video_args"]
    assert_close(video_grid(frames, rows, columns, start=start), golden["rope/grid_video"][:3].double())
    rotary = video_rotary(20, frames, rows, columns, start)
    assert_close(rotary, golden["rope/freqs_video"][0], atol=1e-6, rtol=0)


def test_action_rotary(golden: Golden) -> None:
    frames, actions, *_, start = golden["rope/action_args"]
    assert_close(action_grid(frames, actions, start=start), golden["rope/grid_action"][:3].double())
    rotary = action_rotary(20, frames, actions, start)
    assert_close(rotary, golden["rope/freqs_action"][0], atol=1e-6, rtol=0)


def test_unpatchify(golden: Golden) -> None:
    tokens, out = golden["data_seq_to_patch/inp"], golden["data_seq_to_patch/out"]
    frames, rows, columns = out.shape[2], out.shape[3] // 2, out.shape[4] // 2
    merged = tokens.reshape(tokens.shape[0], frames * rows * columns, -1)
    assert torch.equal(unpatchify(merged, (frames, rows, columns), (2, 2)), out)


@pytest.mark.parametrize("stream", ["video", "action"])
def test_single_stream_without_history(golden: Golden, golden_wam: LingBotVA, stream: str) -> None:
    inputs = {k: golden[f"nocache/{stream}_in/{k}"] for k in ("noisy_latents", "text_emb", "timesteps")}
    session = golden_wam.session(inputs["text_emb"])
    velocity = session.velocity({stream: inputs["noisy_latents"]}, {stream: inputs["timesteps"] / 1000})[stream]
    assert_close(original_tokens(stream, velocity), golden[f"nocache/{stream}_out"], atol=1e-5, rtol=1e-5)


def play_protocol(golden: Golden, session: LingBotSession) -> None:
    """Every call of the original's protocol: output, and which tokens are held, in what order, imagined or not."""
    count = 1 + max(int(key.split("/")[2]) for key in golden if key.startswith("kv_protocol/calls/"))
    for i in range(count):
        call = f"kv_protocol/calls/{i}"
        kind = golden[f"{call}/kind"]
        if kind == "clear_pred":
            session.drop_predicted()
            continue
        x = golden[f"{call}/inp/noisy_latents"]
        sigma = golden[f"{call}/inp/timesteps"] / 1000
        start = int(golden[f"{call}/inp/grid_id"][0, 0, 0])
        if start > session.frame_index:
            session.advance(start - session.frame_index)
        stream = STREAMS[kind]
        velocity = session.velocity({stream: x}, {stream: sigma})[stream]
        assert_close(original_tokens(stream, velocity), golden[f"{call}/out"], atol=1e-5, rtol=1e-5)
        keep = golden[f"{call}/update_cache"]
        if keep:
            session.append(stream, x, predicted=keep == 1, sigma=sigma)
        assert held_by(session) == original_tokens_held(golden, call)


def held_by(session: LingBotSession) -> list[tuple[int, bool]]:
    """(id, predicted) of every token that is held."""
    if isinstance(session._cache, OriginalCache):
        cache = session._cache
        return sorted(zip(cache.id[cache.mask].tolist(), cache.is_pred[cache.mask].tolist(), strict=True))
    return [(index, predicted) for index, tokens, predicted in session.blocks for _ in range(tokens)]


def original_tokens_held(golden: Golden, call: str) -> list[tuple[int, bool]]:
    """(id, predicted) of every valid slot of the original's cache, in order of id."""
    valid = golden[f"{call}/mask"]
    ids, predicted = golden[f"{call}/id"][valid].tolist(), golden[f"{call}/is_pred"][valid].tolist()
    return sorted(zip(ids, predicted, strict=True))


@pytest.fixture(params=["young", "full"])
def protocol(request: pytest.FixtureRequest, golden: Golden, golden_full_window: Golden) -> Golden:
    """Calls of the original's protocol, in a cache with room to spare and in one that is full after two chunks."""
    return golden if request.param == "young" else golden_full_window


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("static", [True, False])
def test_cached_rollout(protocol: Golden, golden_wam: LingBotVA, static: bool, fused: bool) -> None:
    text = protocol["kv_protocol/calls/0/inp/text_emb"]
    session = golden_wam.session(text, eviction="permanent", static=static, fused=fused)
    play_protocol(protocol, session)


def test_the_copy_of_the_original_cache_is_one(protocol: Golden, golden_wam: LingBotVA) -> None:
    """The closed loops of test_lingbot_full_window are held against it."""
    session = golden_wam.session(protocol["kv_protocol/calls/0/inp/text_emb"], fused=False)
    play_protocol(protocol, with_original_cache(session, chunk_tokens=12 + 8, chunks=2))


@pytest.mark.parametrize("case", ["train/0", "train/1"])
def test_mask_rule(golden: Golden, case: str) -> None:
    """The packed order of the original: noisy video, clean video, noisy actions, clean actions, of all samples."""
    batch, _, frames, height, width = golden[f"{case}/clean_latents"].shape
    per_frame = {"video": height * width // 4, "action": golden[f"{case}/clean_actions"].shape[3]}
    block, noisy, sample = [], [], []
    for stream in ("video", "action"):
        ids = block_ids(stream, frames, golden[f"{case}/inp/chunk_size"]).repeat_interleave(per_frame[stream])
        for is_noisy in (True, False):
            block.append(ids.repeat(batch))
            noisy.append(torch.full((len(ids) * batch,), is_noisy))
            sample.append(torch.arange(batch).repeat_interleave(len(ids)))
    block, noisy, sample = torch.cat(block), torch.cat(noisy), torch.cat(sample)
    mask = allowed(block[:, None], noisy[:, None], block[None], noisy[None], golden[f"{case}/inp/window_size"])
    mask &= sample[:, None] == sample[None]
    length = len(block)
    original = golden[f"{case}/self_mask"].clone()
    assert torch.equal(mask, original[:length, :length])
    original[:length, :length] = False
    assert not original.any()


@pytest.mark.parametrize("case", ["train/0", "train/1"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_teacher_forced_pass(golden: Golden, golden_wam: LingBotVA, case: str, checkpointing: bool) -> None:
    """Outputs, losses and the gradient norm of every parameter."""
    inputs = {
        stream: {
            key: golden[f"{case}/inp/{name}/{key}"]
            for key in ("noisy_latents", "latent", "timesteps", "cond_timesteps", "targets", "text_emb")
        }
        for stream, name in DICTS.items()
    }
    golden_wam.transformer.gradient_checkpointing = checkpointing
    golden_wam.zero_grad(set_to_none=True)
    velocity = golden_wam.velocity(
        {stream: given["noisy_latents"] for stream, given in inputs.items()},
        {stream: given["timesteps"] / 1000 for stream, given in inputs.items()},
        {stream: given["latent"] for stream, given in inputs.items()},
        {
            "text": inputs["video"]["text_emb"],
            "clean_sigma": {stream: given["cond_timesteps"] / 1000 for stream, given in inputs.items()},
            "chunk_frames": golden[f"{case}/inp/chunk_size"],
            "window_chunks": golden[f"{case}/inp/window_size"],
        },
    )
    golden_wam.transformer.gradient_checkpointing = False
    for stream, name in (("video", "video_out"), ("action", "action_out")):
        assert_close(original_tokens(stream, velocity[stream]), golden[f"{case}/{name}"], atol=1e-4, rtol=1e-4)

    weights = {stream: loss_weight(golden, stream, given["timesteps"]) for stream, given in inputs.items()}
    mask = golden[f"{case}/inp/action_dict/actions_mask"].float()
    error = (velocity["video"] - inputs["video"]["targets"]) ** 2
    video_loss = (error.mean((1, 3, 4)) * weights["video"]).mean()
    error = (velocity["action"] - inputs["action"]["targets"]) ** 2 * mask * weights["action"][:, None, :, None, None]
    action_loss = (error.sum((1, 3, 4)) / (mask.sum((1, 3, 4)) + 1e-6)).mean()
    assert_close(video_loss, golden[f"{case}/latent_loss"].reshape(()), atol=1e-4, rtol=1e-4)
    assert_close(action_loss, golden[f"{case}/action_loss"].reshape(()), atol=1e-4, rtol=1e-4)

    (video_loss + action_loss).backward()
    for name, value in golden_wam.transformer.named_parameters():
        norm = golden[f"{case}/grad_norms/{name}"]
        if norm is None:
            assert value.grad is None, name
        else:
            assert value.grad.norm().item() == pytest.approx(norm, rel=1e-4, abs=1e-5), name


def loss_weight(golden: Golden, stream: str, timestep: Tensor) -> Tensor:
    """The original's loss weight w(t), from the golden training table of the stream's shift."""
    shift = "5.0" if stream == "video" else "1.0"
    table, weights = golden[f"scheduler/{shift}/train/timesteps"], golden[f"scheduler/{shift}/train/weights"]
    return weights[(table - timestep[..., None]).abs().argmin(-1)]
