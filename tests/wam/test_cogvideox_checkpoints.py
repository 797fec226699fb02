# SPDX-License-Identifier: Apache-2.0
"""Folders of the CogVideoX family: round trips, checkpoints of other tools, and what is said of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXTransformer3DModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close

from flashwam.commands.describe import describe
from flashwam.wam import load
from flashwam.wam.cogvideox import CogVideoX, CogVideoXConfig
from flashwam.wam.cogvideox.fitting import table_size

Make = Callable[..., CogVideoX]
CHUNK = {"latent_size": (4, 6), "chunk_frames": 3, "actions_per_frame": 2, "action_dim": 5}
TINY = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 4,
    "out_channels": 4,
    "time_embed_dim": 8,
    "text_embed_dim": 12,
    "num_layers": 2,
    "max_text_seq_length": 6,
    "sample_height": 8,
    "sample_width": 10,
    "sample_frames": 13,
}
KINDS = {
    "2b": {},
    "5b": {"use_rotary_positional_embeddings": True},
    "5b-i2v": {
        "in_channels": 8,
        "use_rotary_positional_embeddings": True,
        "use_learned_positional_embeddings": True,
    },
}
WEIGHTS = "diffusion_pytorch_model.safetensors"


def run(wam: CogVideoX) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    noisy, clean = (
        {name: torch.randn(2, c, 3, *size, generator=generator) for name, (c, *size) in wam.shapes.items()}
        for _ in range(2)
    )
    sigma = {name: torch.tensor([[0.5], [0.9]]).repeat(1, 3) for name in noisy}
    with torch.no_grad():
        return wam.velocity(noisy, sigma, clean, {"text": torch.randn(2, 6, 12, generator=generator)})


def bare(folder: Path, kind: str, **changes: Any) -> CogVideoXTransformer3DModel:
    """A tiny checkpoint as released, saved by diffusers itself."""
    torch.manual_seed(9)
    transformer = CogVideoXTransformer3DModel(**(TINY | KINDS[kind] | changes)).eval()
    with torch.no_grad():
        for value in transformer.parameters():
            value.add_(torch.randn_like(value) * 0.2)
    transformer.save_pretrained(folder / "transformer")
    return transformer


@pytest.mark.parametrize("positions", ["sincos", "rotary", "learned"])
def test_round_trip_on_disk(make_cogvideox: Make, tmp_path: Path, positions: str) -> None:
    wam = make_cogvideox(
        use_rotary_positional_embeddings=positions != "sincos",
        use_learned_positional_embeddings=positions == "learned",
        action_tokens=3,
        execute_frames=1,
        robots=4,
        robot=2,
        snr_shift=3.0,
        norm_out_eps=1e-6,
    )
    wam.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert isinstance(loaded, CogVideoX)
    assert loaded.config == wam.config
    assert loaded.transformer.norm_out.norm.eps == 1e-6
    before, after = run(wam), run(loaded)
    assert all(torch.equal(before[stream], after[stream]) for stream in wam.streams)
    learned = dict(loaded.named_parameters()).get("network.transformer.patch_embed.pos_embedding")
    assert (learned is not None) == (positions == "learned")
    # The transformer is diffusers' own, and loads there.
    stock = CogVideoXTransformer3DModel.from_pretrained(tmp_path / "transformer")
    assert list(stock.state_dict()) == list(wam.transformer.state_dict())
    assert json.loads((tmp_path / "wam.json").read_text())["family"] == "cogvideox"
    half = CogVideoX.from_pretrained(tmp_path, dtype=torch.bfloat16, gradient_checkpointing=True)
    assert {value.dtype for value in half.parameters()} == {torch.bfloat16}
    assert half.transformer.is_gradient_checkpointing


def test_sharded_weights(make_cogvideox: Make, tmp_path: Path) -> None:
    wam = make_cogvideox()
    wam.save_pretrained(tmp_path)
    (tmp_path / "transformer" / WEIGHTS).unlink()
    wam.transformer.save_pretrained(tmp_path / "transformer", max_shard_size="64KB")
    assert len(list((tmp_path / "transformer").glob("*.safetensors"))) > 1
    before, after = run(wam), run(CogVideoX.from_pretrained(tmp_path))
    assert all(torch.equal(before[stream], after[stream]) for stream in wam.streams)


@pytest.mark.parametrize(
    ("part", "removed", "misshapen"),
    [
        ("transformer", "transformer_blocks.1.norm2.linear.bias", "proj_out.bias"),
        ("action", "positions", "proj_out.bias"),
    ],
)
def test_loading_lists_every_key_that_does_not_fit(
    make_cogvideox: Make, tmp_path: Path, part: str, removed: str, misshapen: str
) -> None:
    make_cogvideox().save_pretrained(tmp_path)
    path = tmp_path / part / WEIGHTS
    weights = load_file(path)
    del weights[removed]
    weights[misshapen] = torch.zeros(3)
    weights["extra"] = torch.zeros(1)
    save_file(weights, path)
    with pytest.raises(ValueError, match="3 keys") as error:
        CogVideoX.from_pretrained(tmp_path)
    for expected in (f"missing {removed}", f"misshapen {misshapen}", "got (3,)", "unexpected extra"):
        assert expected in str(error.value)


def test_absent_files_are_named(make_cogvideox: Make, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        CogVideoX.from_pretrained(tmp_path / "nowhere")
    bare(tmp_path, "5b")
    with pytest.raises(FileNotFoundError, match=r"wam\.json.*adopt"):
        CogVideoX.from_pretrained(tmp_path)
    CogVideoXConfig(**CHUNK).save(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"action/config\.json"):
        CogVideoX.from_pretrained(tmp_path)
    (tmp_path / "transformer" / WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match="weights are missing"):
        CogVideoX.from_pretrained(tmp_path)


def test_wam_json_is_checked(tmp_path: Path) -> None:
    (tmp_path / "wam.json").write_text(json.dumps({"family": "other", **CHUNK}))
    with pytest.raises(ValueError, match="'other'"):
        CogVideoXConfig.load(tmp_path)
    wrong = {key: value for key, value in CHUNK.items() if key != "action_dim"} | {"chunk": 3}
    (tmp_path / "wam.json").write_text(json.dumps({"family": "cogvideox", **wrong}))
    with pytest.raises(ValueError, match=r"\['chunk'\], missing fields \['action_dim'\]"):
        CogVideoXConfig.load(tmp_path)


@pytest.mark.parametrize("kind", ["2b", "5b"])
@pytest.mark.parametrize("inner", [False, True])
def test_a_video_checkpoint_is_adopted_with_blind_image_channels(tmp_path: Path, kind: str, inner: bool) -> None:
    """Widened by zeros it computes what it computed, whatever the observation; without actions, to the bit."""
    transformer = bare(tmp_path, kind)
    wam = CogVideoX.adopt(tmp_path / "transformer" if inner else tmp_path, **CHUNK)
    assert not wam.training
    assert wam.transformer.config.in_channels == 8
    assert torch.equal(wam.transformer.patch_embed.proj.weight[:, :4], transformer.patch_embed.proj.weight)
    assert not wam.transformer.patch_embed.proj.weight[:, 4:].any()
    video, text = torch.randn(2, 3, 4, 4, 6), torch.randn(2, 6, 12)
    rotary = None if kind == "2b" else wam.network._rotary((3, 2, 3), 0, torch.device("cpu"))
    with torch.no_grad():
        expected = transformer(video, text, torch.tensor([999, 37]), image_rotary_emb=rotary, return_dict=False)[0]
        shown = torch.cat([video, torch.randn_like(video)], 2)
        got, _ = wam.network(shown, torch.zeros(2, 0, 5), text, torch.tensor([999, 37]))
    assert_close(got, expected, atol=1e-6, rtol=1e-6)
    wam.save_pretrained(tmp_path / "saved")
    before, after = run(wam), run(CogVideoX.from_pretrained(tmp_path / "saved"))
    assert all(torch.equal(before[stream], after[stream]) for stream in wam.streams)


def test_a_video_checkpoint_keeps_its_channels_under_prefix(tmp_path: Path) -> None:
    bare(tmp_path, "5b")
    wam = CogVideoX.adopt(tmp_path, **CHUNK, conditioning="prefix")
    assert wam.transformer.config.in_channels == 4
    bare(tmp_path, "5b-i2v")
    with pytest.raises(ValueError, match="needs 4 input channels"):
        CogVideoX.adopt(tmp_path, **CHUNK, conditioning="prefix")


def test_a_learned_table_is_kept_where_it_fits_the_chunk(tmp_path: Path) -> None:
    transformer = bare(tmp_path, "5b-i2v")
    fitting = CHUNK | {"latent_size": (8, 10), "chunk_frames": 4}
    wam = CogVideoX.adopt(tmp_path, **fitting)
    table = wam.transformer.patch_embed.pos_embedding
    assert isinstance(table, torch.nn.Parameter)
    assert torch.equal(table, transformer.patch_embed.pos_embedding.float())
    dropped = CogVideoX.adopt(tmp_path, **fitting, use_learned_positional_embeddings=False)
    assert not hasattr(dropped.transformer.patch_embed, "pos_embedding")


def test_a_learned_table_of_another_size_is_left_out_or_begun_anew(tmp_path: Path) -> None:
    bare(tmp_path, "5b-i2v")
    without = CogVideoX.adopt(tmp_path, **CHUNK)
    assert not without.transformer.config.use_learned_positional_embeddings
    anew = CogVideoX.adopt(tmp_path, **CHUNK, use_learned_positional_embeddings=True)
    table = dict(anew.named_parameters())["network.transformer.patch_embed.pos_embedding"]
    assert table.shape == (1, 6 + 3 * 2 * 3, 32)
    assert not table.any()
    video, actions, text = torch.randn(2, 3, 8, 4, 6), torch.zeros(2, 0, 5), torch.randn(2, 6, 12)
    with torch.no_grad():
        one, same = (wam.network(video, actions, text, torch.tensor([999, 37]))[0] for wam in (without, anew))
        assert torch.equal(one, same)
        table.add_(torch.randn_like(table))
        anew.save_pretrained(tmp_path / "saved")
        loaded = CogVideoX.from_pretrained(tmp_path / "saved")
        assert torch.equal(loaded.transformer.patch_embed.pos_embedding, table)
        given = (video, actions, text, torch.tensor([999, 37]))
        assert torch.equal(loaded.network(*given)[0], anew.network(*given)[0])
    with pytest.raises(ValueError, match="goes with a rotary network"):
        CogVideoX.adopt(tmp_path, **CHUNK, use_learned_positional_embeddings=True, rope_mode="resize_crop")


def test_adopting_checks_the_network_that_was_asked_for(tmp_path: Path) -> None:
    bare(tmp_path, "5b")
    assert CogVideoX.adopt(tmp_path, **CHUNK, num_layers=2, in_channels=8).transformer.config.num_layers == 2
    with pytest.raises(ValueError, match=r"expected \{'num_layers': 3\}, got \{'num_layers': 2\}"):
        CogVideoX.adopt(tmp_path, **CHUNK, num_layers=3)
    with pytest.raises(ValueError, match=r"expected .*48.*got .*2"):
        CogVideoX.adopt(tmp_path, **CHUNK, network="5b")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no CogVideoXTransformer3DModel"):
        CogVideoX.adopt(tmp_path / "empty", **CHUNK)


def test_the_noise_is_read_beside_the_transformer(tmp_path: Path) -> None:
    bare(tmp_path, "2b")
    options = {
        "beta_schedule": "scaled_linear",
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "snr_shift_scale": 3.0,
        "beta_start": 0.00085,
        "beta_end": 0.012,
    }
    CogVideoXDDIMScheduler(**options).save_pretrained(tmp_path / "scheduler")
    assert CogVideoX.adopt(tmp_path, **CHUNK).config.snr_shift == 3.0
    assert CogVideoX.adopt(tmp_path, **CHUNK, snr_shift=1.0).config.snr_shift == 1.0
    CogVideoXDDIMScheduler(**(options | {"prediction_type": "epsilon"})).save_pretrained(tmp_path / "scheduler")
    with pytest.raises(ValueError, match="'prediction_type': 'epsilon'"):
        CogVideoX.adopt(tmp_path, **CHUNK)


def test_fresh_models_fit_their_chunk() -> None:
    with torch.device("meta"):
        wam = CogVideoX.create(network="5b-i2v", **(CHUNK | {"latent_size": (32, 32), "chunk_frames": 13}))
    assert wam.transformer.patch_embed.pos_embedding.shape == (1, 226 + 13 * 16 * 16, 3072)
    assert wam.transformer.config.in_channels == 32
    # As the facts of VideoVLA have it, without the robots: 3.2 M for actions.
    assert sum(p.numel() for p in wam.action.parameters()) == pytest.approx(3.3e6, abs=1e5)
    assert wam.config.snr_shift == 1.0
    with torch.device("meta"):
        assert CogVideoX.create(network="2b", **CHUNK).config.snr_shift == 3.0
        assert CogVideoX.create(network="2b", **CHUNK, snr_shift=2.0).config.snr_shift == 2.0
    fresh = {key: value for key, value in TINY.items() if not key.startswith("sample")}
    learned = CogVideoX.create(**CHUNK, **(fresh | KINDS["5b-i2v"]))
    assert not learned.transformer.patch_embed.pos_embedding.any()
    assert not learned.action.positions.any()
    assert not learned.action.proj_out.bias.any()
    assert CogVideoX.create(**CHUNK, **(fresh | {"in_channels": 8})).transformer.config.sample_frames == 9


def test_folders_are_described(make_cogvideox: Make, tmp_path: Path) -> None:
    transformer = bare(tmp_path / "bare", "5b")
    count = sum(p.numel() for p in transformer.parameters())
    for folder, layout in ((tmp_path / "bare", "fine-tune"), (tmp_path / "bare" / "transformer", "transformer")):
        facts = describe(folder)
        assert (facts["family"], facts["layout"], facts["parameters"]) == ("cogvideox", layout, count)
        assert facts["network"]["num_layers"] == 2
        assert facts["size"] is None
    wam = make_cogvideox()
    wam.save_pretrained(tmp_path / "saved")
    facts = describe(tmp_path / "saved")
    assert facts["family"] == "cogvideox"
    assert facts["parameters"] == sum(p.numel() for p in wam.parameters())
    assert facts["rollout"]["conditioning"] == "channel_concat"
    path = tmp_path / "bare" / "transformer" / WEIGHTS
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match="cut off"):
        describe(tmp_path / "bare")


@pytest.mark.parametrize("value", [None, "9", 0, -5, 1.5, 10**30, [4]])
def test_a_compression_of_time_that_cannot_be_is_named(value: object) -> None:
    config = CogVideoXConfig(latent_size=(4, 4), chunk_frames=3, actions_per_frame=4, action_dim=4)
    with pytest.raises(
        ValueError, match=r"temporal_compression_ratio of the transformer.s config\.json must be a whole"
    ):
        table_size(config, {"temporal_compression_ratio": value})
