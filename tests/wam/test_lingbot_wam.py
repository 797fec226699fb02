# SPDX-License-Identifier: Apache-2.0
"""Sizes, files, precision and attention backends of the LingBot-VA adapter."""

import json
import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close

from flashwam.wam.lingbot_va import LingBotConfig, LingBotVA, WanTransformer3DModel, flex, masks

Draw = Callable[..., dict[str, Tensor]]
Make = Callable[..., LingBotVA]


def run(wam: LingBotVA, draw: Draw, *, batch: int = 2, frames: int = 4) -> dict[str, Tensor]:
    noisy, clean = draw(wam, batch, frames, 1), draw(wam, batch, frames, 2)
    generator = torch.Generator().manual_seed(3)
    sigma = {stream: torch.rand(batch, frames, generator=generator) for stream in noisy}
    return wam.velocity(noisy, sigma, clean, {"text": torch.randn(batch, 6, 12, generator=generator)})


def test_released_size() -> None:
    with torch.device("meta"):
        transformer = WanTransformer3DModel()
    assert sum(p.numel() for p in transformer.parameters()) == 5_088_872_670
    shapes = {key: tuple(value.shape) for key, value in transformer.state_dict().items()}
    assert shapes["patch_embedding_mlp.weight"] == (3072, 192)
    assert shapes["condition_embedder_action.text_embedder.linear_1.weight"] == (3072, 4096)
    assert shapes["blocks.29.attn1.to_out.0.weight"] == (3072, 3072)
    assert shapes["blocks.0.ffn.net.2.weight"] == (3072, 14336)
    assert len(shapes) == 1 + 2 * 4 + 2 * 10 + 30 * (1 + 2 * 10 + 2 + 4)


def test_round_trip_on_disk(make_wam: Make, draw: Draw, tmp_path: Path) -> None:
    wam = make_wam()
    wam.save_pretrained(tmp_path)
    loaded = LingBotVA.from_pretrained(tmp_path)
    assert loaded.config == wam.config
    before, after = run(wam, draw), run(loaded, draw)
    assert all(torch.equal(before[stream], after[stream]) for stream in wam.streams)
    config = json.loads((tmp_path / "transformer" / "config.json").read_text())
    assert config["_class_name"] == "WanTransformer3DModel"
    assert "chunk_frames" not in config
    assert json.loads((tmp_path / "wam.json").read_text())["family"] == "lingbot_va"
    assert LingBotVA.from_pretrained(tmp_path, dtype=torch.bfloat16).transformer.proj_out.weight.dtype == torch.bfloat16


def test_sharded_weights(make_wam: Make, draw: Draw, tmp_path: Path) -> None:
    wam = make_wam()
    wam.save_pretrained(tmp_path)
    (tmp_path / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    wam.transformer.save_pretrained(tmp_path / "transformer", max_shard_size="64KB")
    assert len(list((tmp_path / "transformer").glob("*.safetensors"))) > 1
    before, after = run(wam, draw), run(LingBotVA.from_pretrained(tmp_path), draw)
    assert all(torch.equal(before[stream], after[stream]) for stream in wam.streams)


def test_loading_lists_every_key_that_does_not_fit(make_wam: Make, tmp_path: Path) -> None:
    make_wam().save_pretrained(tmp_path)
    path = tmp_path / "transformer" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    del weights["blocks.1.norm2.bias"]
    weights["proj_out.bias"] = torch.zeros(3)
    weights["extra"] = torch.zeros(1)
    save_file(weights, path)
    with pytest.raises(ValueError, match="3 keys") as error:
        LingBotVA.from_pretrained(tmp_path)
    for part in ("missing blocks.1.norm2.bias", "misshapen proj_out.bias", "got (3,)", "unexpected extra"):
        assert part in str(error.value)


def test_absent_files_are_named(make_wam: Make, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere"):
        LingBotVA.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"transformer/config\.json"):
        LingBotVA.from_pretrained(tmp_path)
    wam = make_wam()
    wam.save_pretrained(tmp_path)
    (tmp_path / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"weights are missing"):
        LingBotVA.from_pretrained(tmp_path)


def test_rollout_configuration_is_checked(tmp_path: Path) -> None:
    options = {"latent_size": (4, 4), "chunk_frames": 2, "actions_per_frame": 4, "window_chunks": 5}
    with pytest.raises(ValueError, match="chunk_frames"):
        LingBotConfig(**(options | {"chunk_frames": 0}))
    with pytest.raises(ValueError, match="matmul_dtype"):
        LingBotConfig(**options, matmul_dtype="int8")
    (tmp_path / "wam.json").write_text(json.dumps({"family": "other", **options}))
    with pytest.raises(ValueError, match="'other'"):
        LingBotConfig.load(tmp_path)
    (tmp_path / "wam.json").write_text(json.dumps({"family": "lingbot_va", "chunk": 2, **options}))
    with pytest.raises(ValueError, match=r"\['chunk'\]"):
        LingBotConfig.load(tmp_path)


def test_an_attention_that_drops_the_mask_is_refused(make_wam: Make) -> None:
    with pytest.raises(ValueError, match="cannot honour"):
        make_wam(attention="flash")
    assert make_wam(attn_mode="flashattn").transformer.attention == "sdpa"


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize("window", [1, 3, 64])
def test_block_mask_equals_dense_mask(make_wam: Make, draw: Draw, monkeypatch: pytest.MonkeyPatch, window: int) -> None:
    """The flex backend's block mask, run by flex attention's uncompiled reference."""
    monkeypatch.setattr(flex, "compiled", lambda function, **options: function)
    masks.teacher_forced_layout.cache_clear()
    dense, block = (make_wam(attention=name, window_chunks=window) for name in ("sdpa", "flex"))
    with torch.no_grad():
        expected, got = run(dense, draw, frames=7), run(block, draw, frames=7)
    for stream in expected:
        assert_close(got[stream], expected[stream], atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(shutil.which("c++") is None, reason="compiling flex attention for the CPU needs a C++ compiler")
def test_compiled_block_mask_equals_dense_mask(make_wam: Make, draw: Draw) -> None:
    options = {"attention_head_dim": 32, "num_layers": 1}
    with torch.no_grad():
        expected = run(make_wam(**options), draw)
        got = run(make_wam(attention="flex", **options), draw)
    for stream in expected:
        assert_close(got[stream], expected[stream], atol=1e-5, rtol=1e-5)


def test_bfloat16_stays_near_float32(make_wam: Make, draw: Draw) -> None:
    wam = make_wam()
    exact = run(wam, draw)
    half = run(wam.bfloat16(), draw)
    for stream in wam.streams:
        assert half[stream].dtype == torch.float32
        error = (half[stream] - exact[stream]).norm() / exact[stream].norm()
        assert 0 < error < 0.03


def test_bfloat16_products_stay_near_float32(make_wam: Make, draw: Draw, tmp_path: Path) -> None:
    make_wam(matmul_dtype="bfloat16").save_pretrained(tmp_path)
    exact, rounded = run(make_wam(), draw), run(LingBotVA.from_pretrained(tmp_path), draw)
    for stream in exact:
        error = (rounded[stream] - exact[stream]).norm() / exact[stream].norm()
        assert 0 < error < 0.02


def test_a_change_of_dtype_and_back_leaves_rotations_exact(make_wam: Make, draw: Draw) -> None:
    wam = make_wam()
    exact = run(wam, draw)
    wam.bfloat16().float().load_state_dict(make_wam().state_dict())
    again = run(wam, draw)
    assert all(torch.equal(exact[stream], again[stream]) for stream in wam.streams)


def test_every_parameter_but_the_unused_copy_learns(make_wam: Make, draw: Draw) -> None:
    wam = make_wam()
    sum(x.square().mean() for x in run(wam, draw).values()).backward()
    for name, value in wam.transformer.named_parameters():
        unused = name.startswith("condition_embedder_action.text_embedder")
        assert (value.grad is None) == unused, name
        assert value.requires_grad != unused, name


def test_copies_are_independent(make_wam: Make, draw: Draw) -> None:
    wam = make_wam()
    before = run(wam, draw)
    copy = deepcopy(wam)
    with torch.no_grad():
        wam.transformer.proj_out.bias.add_(1.0)
    after = run(copy, draw)
    assert all(torch.equal(before[stream], after[stream]) for stream in wam.streams)


def test_what_does_not_fit_together_is_refused(make_wam: Make, draw: Draw) -> None:
    wam = make_wam()
    x = draw(wam, 1, 4, 0)
    sigma = {stream: torch.zeros(1, 4) for stream in x}
    context = {"text": torch.zeros(1, 6, 12)}
    with pytest.raises(ValueError, match="clean must hold"):
        wam.velocity(x, sigma, {"video": x["video"]}, context)
    with pytest.raises(ValueError, match="same number of latent frames"):
        wam.velocity(x, sigma, x | {"action": x["action"][:, :, :3]}, context)
    with pytest.raises(ValueError, match="multiple of the patch"):
        make_wam(latent_size=(5, 4))
    with pytest.raises(ValueError, match="even third"):
        make_wam(attention_head_dim=16)
    with pytest.raises(ValueError, match="never spans latent frames"):
        make_wam(patch_size=(2, 2, 2))


def test_a_step_after_inference_mode(make_wam: Make, draw: Draw) -> None:
    """Cached tables and masks first built under inference mode must still serve a training step."""
    wam = make_wam(latent_size=(4, 8))
    with torch.inference_mode():
        run(wam, draw, frames=3)
    sum(x.square().mean() for x in run(wam, draw, frames=3).values()).backward()
    assert wam.transformer.blocks[0].attn1.to_q.weight.grad.abs().sum() > 0
