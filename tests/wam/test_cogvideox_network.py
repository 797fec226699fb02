# SPDX-License-Identifier: Apache-2.0
"""The action-carrying network against diffusers' own transformer and blocks."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid
from torch import Tensor
from torch.testing import assert_close

from flashwam.wam.cogvideox import ActionModule, CogVideoXActionNetwork
from flashwam.wam.cogvideox.fitting import expand_channels
from flashwam.wam.cogvideox.presets import NETWORKS, network_name, network_options
from flashwam.wam.cogvideox.rope import rotary_table
from flashwam.wam.cogvideox.timegroups import TimeGroups, group_times, take_time_groups

POSITIONS = {
    "sincos": {},
    "rotary": {"use_rotary_positional_embeddings": True},
    "learned": {"use_rotary_positional_embeddings": True, "use_learned_positional_embeddings": True},
}
SIZE = {"sample_height": 4, "sample_width": 6, "sample_frames": 9}
TINY = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 4,
    "out_channels": 4,
    "time_embed_dim": 8,
    "text_embed_dim": 12,
    "num_layers": 2,
    "max_text_seq_length": 6,
    **SIZE,
}


def random_transformer(**changes: Any) -> CogVideoXTransformer3DModel:
    """Every parameter and the learned table random."""
    transformer = CogVideoXTransformer3DModel(**(TINY | changes)).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for value in (*transformer.parameters(), *transformer.buffers()):
            value.add_(torch.randn(value.shape, generator=generator) * 0.2)
    return transformer


def network_of(transformer: CogVideoXTransformer3DModel, *, rope_mode: str = "integer") -> CogVideoXActionNetwork:
    torch.manual_seed(3)
    action = ActionModule(action_dim=7, tokens=6, width=32, time_dim=8, robots=4)
    torch.nn.init.normal_(action.positions)
    return CogVideoXActionNetwork(deepcopy(transformer), action, rope_mode=rope_mode)


@pytest.fixture
def inputs() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "video": torch.randn(2, 3, 4, 4, 6, generator=generator),
        "actions": torch.randn(2, 6, 7, generator=generator),
        "text": torch.randn(2, 6, 12, generator=generator),
        "timestep": torch.tensor([999, 37]),
        "robot": torch.tensor([1, 3]),
    }


@pytest.mark.parametrize("positions", POSITIONS)
def test_no_actions_is_the_stock_transformer(inputs: dict[str, Tensor], positions: str) -> None:
    transformer = random_transformer(**POSITIONS[positions])
    rotary = None
    if positions != "sincos":
        rotary = get_3d_rotary_pos_embed(16, ((0, 0), (2, 3)), (2, 3), 3)
    given = (inputs["video"], inputs["text"], inputs["timestep"])
    expected = transformer(*given, image_rotary_emb=rotary, return_dict=False)[0]
    video, actions = network_of(transformer)(**(inputs | {"actions": inputs["actions"][:, :0]}))
    assert torch.equal(video, expected)
    assert actions.shape == (2, 0, 7)


def test_stretched_positions_are_the_pipelines(inputs: dict[str, Tensor]) -> None:
    size = {"sample_height": 8, "sample_width": 10}
    transformer = random_transformer(**POSITIONS["rotary"], **size)
    crops = get_resize_crop_region_for_grid((2, 3), 5, 4)
    rotary = get_3d_rotary_pos_embed(16, crops, (2, 3), 3)
    given = (inputs["video"], inputs["text"], inputs["timestep"])
    expected = transformer(*given, image_rotary_emb=rotary, return_dict=False)[0]
    none = inputs | {"actions": inputs["actions"][:, :0]}
    assert torch.equal(network_of(transformer, rope_mode="resize_crop")(**none)[0], expected)
    assert not torch.equal(network_of(transformer)(**none)[0], expected)


def test_rotary_table_counts_patches_and_leaves_actions_unrotated() -> None:
    cos, sin = rotary_table(16, (3, 2, 4), unrotated=5, device=torch.device("cpu"))
    assert cos.shape == sin.shape == (3 * 2 * 4 + 5, 16)
    assert torch.equal(cos[-5:], torch.ones(5, 16))
    assert torch.equal(sin[-5:], torch.zeros(5, 16))
    angle = torch.atan2(sin, cos)[:-5].unflatten(0, (3, 2, 4))
    # The first pair of every axis turns by one radian a step: 4 dimensions for time, 6 for rows, 6 for columns.
    assert_close(angle[:, 1, 2, 0], torch.arange(3.0))
    assert_close(angle[2, :, 2, 4], torch.arange(2.0))
    assert_close(angle[2, 1, :3, 10], torch.arange(3.0))


@pytest.mark.parametrize("positions", POSITIONS)
def test_equal_times_given_apart_change_nothing(inputs: dict[str, Tensor], positions: str) -> None:
    network = network_of(random_transformer(**POSITIONS[positions]))
    apart = {f"{name}_timestep": inputs["timestep"].clone() for name in ("text", "first", "action")}
    for shared, given in zip(network(**inputs), network(**inputs, **apart), strict=True):
        assert torch.equal(shared, given)


def test_a_block_with_groups_is_the_stock_block_where_their_times_agree() -> None:
    stock = random_transformer().transformer_blocks[0]
    block = deepcopy(stock)
    take_time_groups(block)
    assert list(block.state_dict()) == list(stock.state_dict())
    hidden, text, time = torch.randn(2, 9, 32), torch.randn(2, 6, 32), torch.randn(2, 8)
    groups = group_times(time.clone(), [(2, time.clone()), (4, time.clone()), (3, time.clone())])
    assert isinstance(groups, TimeGroups)
    assert len(groups.times) == 4
    for expected, plain, grouped in zip(
        stock(hidden, text, time), block(hidden, text, time), block(hidden, text, groups), strict=True
    ):
        assert torch.equal(plain, expected)
        assert torch.equal(grouped, expected)


def test_a_groups_time_reaches_its_own_tokens_alone_where_tokens_do_not_mix() -> None:
    """With attention silenced a block treats every token by itself, so each group follows the time of its own."""
    block = random_transformer().transformer_blocks[0]
    torch.nn.init.zeros_(block.attn1.to_out[0].weight)
    take_time_groups(block)
    hidden, text = torch.randn(2, 9, 32), torch.randn(2, 6, 32)
    now, then, text_time = torch.randn(3, 2, 8).unbind(0)
    at = {id(time): block(hidden, text, time) for time in (now, then, text_time)}
    mixed, mixed_text = block(hidden, text, group_times(text_time, [(2, now), (4, then), (3, now)]))
    assert torch.equal(mixed_text, at[id(text_time)][1])
    assert torch.equal(mixed[:, :2], at[id(now)][0][:, :2])
    assert torch.equal(mixed[:, 2:6], at[id(then)][0][:, 2:6])
    assert torch.equal(mixed[:, 6:], at[id(now)][0][:, 6:])
    assert not torch.allclose(at[id(now)][0], at[id(then)][0])


def test_one_object_is_one_time() -> None:
    now, then = torch.randn(2, 2, 8).unbind(0)
    assert group_times(now, [(2, now), (4, now), (0, then)]) is now
    groups = group_times(now, [(2, then), (4, now), (3, now)])
    assert groups.spans == ((2, 0), (7, 1))
    assert groups.times[groups.text] is now


@pytest.mark.parametrize("group", ["text", "first", "action"])
def test_every_groups_time_matters(inputs: dict[str, Tensor], group: str) -> None:
    network = network_of(random_transformer(**POSITIONS["rotary"]))
    shared = network(**inputs)
    changed = network(**inputs, **{f"{group}_timestep": torch.tensor([5, 700])})
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(shared, changed, strict=True))


def test_actions_hear_video_text_and_robot_and_video_hears_actions(inputs: dict[str, Tensor]) -> None:
    network = network_of(random_transformer(**POSITIONS["rotary"]))
    video, actions = network(**inputs)
    for name in ("video", "text"):
        other = network(**(inputs | {name: inputs[name] + 1}))[1]
        assert (other - actions).abs().max() > 1e-4, name
    other = network(**(inputs | {"actions": inputs["actions"] + 1}))[0]
    assert (other - video).abs().max() > 1e-4
    other = network(**(inputs | {"robot": torch.tensor([1, 2])}))[1]
    assert torch.equal(other[0], actions[0])
    assert not torch.equal(other[1], actions[1])


@pytest.mark.parametrize("apart", [False, True])
def test_checkpointing_changes_no_gradient(inputs: dict[str, Tensor], apart: bool) -> None:
    times = {"first_timestep": torch.zeros(2)} if apart else {}
    gradients = []
    for checkpointing in (False, True):
        network = network_of(random_transformer(**POSITIONS["learned"]))
        if checkpointing:
            network.transformer.enable_gradient_checkpointing()
        video, actions = network(**inputs, **times)
        (video.square().mean() + actions.square().mean()).backward()
        gradients.append({name: value.grad for name, value in network.named_parameters()})
    assert "transformer.patch_embed.pos_embedding" in gradients[0]
    for name, value in gradients[0].items():
        # Rows of robots that took no part aside, everything is trained.
        assert value is not None, name
        assert torch.equal(gradients[1][name], value), name


def test_new_input_channels_are_not_seen(inputs: dict[str, Tensor]) -> None:
    transformer = random_transformer(**POSITIONS["rotary"])
    expected = network_of(transformer)(**inputs)
    before = transformer.patch_embed.proj.weight.detach().clone()
    expand_channels(transformer, 8)
    assert torch.equal(transformer.patch_embed.proj.weight[:, :4], before)
    assert not transformer.patch_embed.proj.weight[:, 4:].any()
    assert transformer.config.in_channels == 8
    shown = torch.cat([inputs["video"], torch.randn_like(inputs["video"])], dim=2)
    for got, stock in zip(network_of(transformer)(**(inputs | {"video": shown})), expected, strict=True):
        assert_close(got, stock, atol=1e-6, rtol=0)
    torch.nn.init.normal_(transformer.patch_embed.proj.weight[:, 4:])
    assert (network_of(transformer)(**(inputs | {"video": shown}))[0] - expected[0]).abs().max() > 1e-3
    with pytest.raises(ValueError, match="widened"):
        expand_channels(transformer, 4)


def test_tables_of_positions_fix_the_texts_length_and_the_learned_one_the_size(inputs: dict[str, Tensor]) -> None:
    short = inputs | {"text": inputs["text"][:, :5]}
    assert network_of(random_transformer(**POSITIONS["rotary"]))(**short)[0].isfinite().all()
    for positions in ("sincos", "learned"):
        with pytest.raises(ValueError, match="6 text tokens; got 5"):
            network_of(random_transformer(**POSITIONS[positions]))(**short)
    longer = inputs | {"video": torch.randn(2, 4, 4, 4, 6)}
    assert network_of(random_transformer())(**longer)[0].shape == (2, 4, 4, 4, 6)
    with pytest.raises(ValueError, match=r"\(3, 4, 6\), got \(4, 4, 6\)"):
        network_of(random_transformer(**POSITIONS["learned"]))(**longer)


def test_what_does_not_fit_is_refused(inputs: dict[str, Tensor]) -> None:
    transformer = random_transformer(**POSITIONS["rotary"])
    with pytest.raises(ValueError, match="must have 4 channels"):
        network_of(transformer)(**(inputs | {"video": torch.randn(2, 3, 8, 4, 6)}))
    with pytest.raises(ValueError, match="width"):
        CogVideoXActionNetwork(transformer, ActionModule(7, 6, 48, 8))
    with pytest.raises(ValueError, match="rope_mode"):
        network_of(transformer, rope_mode="nearest")
    with pytest.raises(ValueError, match=r"1\.5"):
        network_of(random_transformer(patch_size_t=2, sample_frames=8))


@pytest.mark.parametrize(
    ("name", "parameters", "keys"), [("2b", 1.6938e9, 736), ("5b", 5.5703e9, 1024), ("5b-i2v", 5.5705e9, 1025)]
)
def test_released_sizes(name: str, parameters: float, keys: int) -> None:
    with torch.device("meta"):
        transformer = CogVideoXTransformer3DModel(**network_options(name))
    assert sum(p.numel() for p in transformer.parameters()) == pytest.approx(parameters, abs=5e4)
    assert len(transformer.state_dict()) == keys
    assert network_name(dict(transformer.config)) == name
    if name == "5b-i2v":
        assert tuple(transformer.patch_embed.pos_embedding.shape) == (1, 17776, 3072)


def test_unknown_sizes() -> None:
    assert network_name(dict(random_transformer().config)) is None
    with pytest.raises(ValueError, match=r"'7b'.*2b"):
        network_options("7b")
    assert sorted(NETWORKS) == ["2b", "5b", "5b-i2v"]
