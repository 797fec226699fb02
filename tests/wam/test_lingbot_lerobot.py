# SPDX-License-Identifier: Apache-2.0
"""A policy that LeRobot saved says itself how it is run: chunk, window, shifts, guidance, cameras and channels."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from released import NETWORK, lerobot_weights, write_lerobot, write_parts

from flashwam.commands.describe import describe
from flashwam.recipe.load import load_recipe
from flashwam.serve.model import load_served
from flashwam.student import load_pretrained, load_wam, save_wam
from flashwam.wam.lingbot_va.files import LingBotFiles

OWN = {
    "obs_cam_keys": ["front", "wrist"],
    "camera_layout": "width_concat",
    "height": 32,
    "width": 64,
    "frame_chunk_size": 2,
    "action_per_frame": 8,
    "attn_window": 9,
    "num_inference_steps": 3,
    "action_num_inference_steps": 7,
    "snr_shift": 4.0,
    "action_snr_shift": 0.5,
    "guidance_scale": 2.5,
    "action_guidance_scale": 0.5,
    "used_action_channel_ids": [5, 0, 28],
    "video_exec_step": -1,
    "image_hflip": False,
    "use_relative_actions": False,
    "wan_pretrained_path": "owner/base",
    "dtype": "bfloat16",
}
Make = Callable[..., Path]


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return lerobot_weights()


@pytest.fixture
def make(tmp_path: Path, weights: dict[str, torch.Tensor]) -> Make:
    """Writes a policy's folder; changes replace fields, and None takes one out."""

    def write(*, name: str = "policy", **changes: Any) -> Path:
        return write_lerobot(tmp_path / name, weights, **{**OWN, **changes})

    return write


def test_it_is_run_as_its_own_file_says(make: Make, tmp_path: Path) -> None:
    model, info = load_wam(make())
    config = model.config
    assert (config.latent_size, config.chunk_frames, config.actions_per_frame) == ((2, 8), 2, 8)
    # Room for nine blocks is room for four whole chunks, the one in flight among them.
    assert (config.window_chunks, config.eviction, config.used_channels) == (7, "permanent", (0, 5, 28))
    video, action = info.streams.values()
    assert (video.schedule.shift, video.teacher_steps, video.guidance_scale) == (4.0, 3, 2.5)
    # A scale of one or less does not guide.
    assert (action.schedule.shift, action.teacher_steps, action.guidance_scale) == (0.5, 7, 1.0)
    save_wam(tmp_path / "own", model, info.streams, kind="teacher")
    assert load_wam(tmp_path / "own")[0].config == config


def test_what_the_file_leaves_out_is_lerobots_default(make: Make) -> None:
    model, info = load_wam(make(**dict.fromkeys(OWN), quantiles=False))
    assert (model.config.latent_size, model.config.chunk_frames, model.config.window_chunks) == ((8, 16), 4, 29)
    assert [spec.schedule.shift for spec in info.streams.values()] == [5.0, 0.05]


def test_it_is_served_with_its_cameras_and_quantiles(make: Make) -> None:
    folder = make()
    with pytest.raises(FileNotFoundError, match="owner/base"):
        load_served(folder)
    write_parts(folder)
    served = load_served(folder, nfe="1v/1a")
    assert served.metadata["cameras"] == ["front", "wrist"]
    norm = served.codec()._codec.actions
    assert norm.used == (5, 0, 28)
    assert [(norm.q01[c], norm.q99[c]) for c in norm.used] == [(-1, 1), (-2, 3), (0, 0.5)]
    bare = make(quantiles=False, name="bare")
    write_parts(bare)
    with pytest.raises(ValueError, match=r"policy_postprocessor\.json"):
        load_served(bare)


@pytest.mark.parametrize("way", ["preset", "recipe"])
def test_whoever_overrules_it_says_every_difference(make: Make, caplog: pytest.LogCaptureFixture, way: str) -> None:
    folder = make(video_exec_step=2)
    with caplog.at_level(logging.WARNING):
        if way == "preset":
            model, _ = load_wam(folder, preset="libero")
        else:
            overrides = [f"wam.config.{key}={value}" for key, value in NETWORK.items()]
            recipe = load_recipe("lingbot_va/libero/flash_wam", [*overrides, "wam.config.attention=sdpa"])
            model = load_pretrained(folder, recipe.wam)
    assert model.config.window_chunks == 29
    (told,) = [record.getMessage() for record in caplog.records if "overrules" in record.getMessage()]
    shared = ["chunk_frames 4 instead of 2", "actions_per_frame 4 instead of 8"]
    more = {
        "preset": [
            "attn_window 30 instead of 9",
            "action_shift 0.05 instead of 0.5",
            "guidance 5.0 instead of 2.5",
            "video_steps 20 instead of 3",
            "cameras",
            "used (0, 1, 2, 3, 4, 5, 6) instead of (5, 0, 28)",
            "q01",
            "without video_exec_step 2",
        ],
        "recipe": ["window_chunks 29 instead of 7", "latent_size (8, 16) instead of (2, 8)", "used_channels"],
    }
    for part in shared + more[way]:
        assert part in told
    assert "video_shift 5.0 instead of 5.0" not in told


def test_a_preset_that_agrees_says_nothing(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    keys = ["observation.images.agentview_rgb", "observation.images.eye_in_hand_rgb"]
    folder = make(**{**dict.fromkeys(OWN), "obs_cam_keys": keys}, quantiles=False)
    with caplog.at_level(logging.WARNING):
        load_wam(folder, preset="libero")
    assert "overrules" not in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"video_exec_step": 3}, "not supported: video_exec_step 3"),
        ({"use_relative_actions": True}, "not supported: use_relative_actions"),
        ({"image_hflip": True}, "not supported: image_hflip"),
        ({"camera_layout": "stacked"}, "camera_layout must be one of width_concat, robotwin_tshape, got 'stacked'"),
        ({"height": 30}, "multiples of 16"),
        ({"attn_window": 1}, "attn_window must be 2 or more"),
        ({"attn_window": 30.5}, "attn_window must be a whole number"),
        ({"frame_chunk_size": "4"}, "frame_chunk_size must be a whole number"),
        ({"obs_cam_keys": "front"}, "obs_cam_keys must be a list of texts"),
        ({"used_action_channel_ids": [0, 1, 30]}, "between 0 and 29"),
        ({"used_action_channel_ids": [0, 1]}, "2 numbers each"),
        ({"action_dim": 10**9}, "action_dim must be a whole number from 1 to 65,536"),
        ({"frame_chunk_size": 10**30}, "frame_chunk_size must be a whole number"),
        ({"guidance_scale": 10**400}, "guidance_scale must be a number"),
        ({"guidance_scale": "high"}, "guidance_scale must be a number"),
    ],
)
def test_what_has_no_meaning_is_refused(make: Make, changes: dict[str, Any], message: str) -> None:
    folder = make(**changes)
    with pytest.raises(ValueError, match=message) as told:
        load_wam(folder)
    assert "config.json" in str(told.value)


def test_info_prints_what_is_run(make: Make) -> None:
    folder = make()
    assert describe(folder)["rollout"]["attn_window"] == 9
    assert LingBotFiles().says_how(folder)
    assert not LingBotFiles().says_how(folder.parent)
