# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from safetensors.torch import save_file

from flashwam.swiftvla.attention import _rotate, grid_rotations
from flashwam.swiftvla.geometry import GeometryConfig, GeometryTransformer

TINY = GeometryConfig(size=16, patch=4, width=16, depth=1, heads=2, vision_depth=1)


def test_a_saved_network_gives_the_same_features(tmp_path):
    model = GeometryTransformer(TINY).eval()
    model.save_pretrained(tmp_path)
    again = GeometryTransformer.from_pretrained(tmp_path)
    assert again.config == TINY
    pictures = torch.rand(1, 2, 3, 16, 16)
    assert torch.equal(again(pictures), model(pictures))


def test_the_released_networks_keys_are_ours(monkeypatch, tmp_path):
    """Sizes shrunk, names as in the released checkpoint, whose heads are left out."""
    monkeypatch.setattr(GeometryConfig, "streamvggt", classmethod(lambda cls: TINY))
    model = GeometryTransformer(TINY).eval()
    weights = {f"aggregator.{key}": x for key, x in model.state_dict().items()}
    released = {
        "aggregator.camera_token",
        "aggregator.register_token",
        *(f"aggregator.patch_embed.{name}" for name in ("cls_token", "register_tokens", "mask_token", "pos_embed")),
        *(f"aggregator.patch_embed.patch_embed.proj.{part}" for part in ("weight", "bias")),
        *(f"aggregator.patch_embed.norm.{part}" for part in ("weight", "bias")),
    }
    layers = ["norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"]
    for stack, names in (
        ("patch_embed.blocks", layers),
        ("frame_blocks", [*layers, "attn.q_norm", "attn.k_norm"]),
        ("global_blocks", [*layers, "attn.q_norm", "attn.k_norm"]),
    ):
        released |= {f"aggregator.{stack}.0.{name}.{part}" for name in names for part in ("weight", "bias")}
        released |= {f"aggregator.{stack}.0.{name}.gamma" for name in ("ls1", "ls2")}
    assert set(weights) == released
    save_file({**weights, "depth_head.norm.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    pictures = torch.rand(1, 1, 3, 16, 16)
    assert torch.equal(GeometryTransformer.from_pretrained(tmp_path / "model.safetensors")(pictures), model(pictures))
    del weights["aggregator.camera_token"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="camera_token"):
        GeometryTransformer.from_pretrained(tmp_path / "model.safetensors")


def test_the_released_networks_size():
    with torch.device("meta"):
        model = GeometryTransformer(GeometryConfig.streamvggt())
    assert model.channels == 2048
    assert tuple(model.patch_embed.pos_embed.shape) == (1, 1370, 1024)
    # Twice 24 blocks and a ViT-L: 0.91 billion of the whole network's 1.2, the rest are heads.
    assert 0.90e9 < sum(p.numel() for p in model.parameters()) < 0.92e9


def test_rotations_depend_on_differences_of_places_alone():
    angle = grid_rotations(4, 4, head_width=8, special=1)
    assert (angle[0] == 0).all()
    grid = angle[1:].unflatten(0, (4, 4))
    torch.testing.assert_close(grid[1:] - grid[:-1], (grid[1, 0] - grid[0, 0]).expand(3, 4, -1))
    torch.testing.assert_close(grid[:, 1:] - grid[:, :-1], (grid[0, 1] - grid[0, 0]).expand(4, 3, -1))
    assert (grid[1, 0] - grid[0, 0])[4:].abs().max() == 0
    assert (grid[0, 1] - grid[0, 0])[:4].abs().max() == 0


def test_wrong_sizes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="multiple of patch"):
        GeometryConfig(size=18, patch=4)
    with pytest.raises(ValueError, match="multiple of 4 heads"):
        GeometryConfig(width=20, heads=4)
    with pytest.raises(ValueError, match=r"\[B, 3, 16, 16\]"):
        GeometryTransformer(TINY)(torch.rand(1, 1, 3, 20, 20))
    with pytest.raises(FileNotFoundError, match="geometry transformer"):
        GeometryTransformer.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="StreamVGGT"):
        GeometryTransformer.from_pretrained(tmp_path / "checkpoints.pth")


def test_each_axis_turns_pairs_of_channels_like_complex_numbers():
    angle = grid_rotations(2, 3, head_width=8, special=1)
    x = torch.randn(1, 1, 7, 8)
    turned = _rotate(x, angle)
    for axis in (slice(0, 4), slice(4, 8)):
        pairs = torch.complex(x[..., axis][..., :2], x[..., axis][..., 2:])
        turn = torch.polar(torch.ones(7, 2), angle[:, axis][:, :2])
        expected = pairs * turn
        torch.testing.assert_close(turned[..., axis], torch.cat([expected.real, expected.imag], -1))
