# SPDX-License-Identifier: Apache-2.0
import json
import random
import re
import shutil
from contextlib import suppress

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch.utils.data import DataLoader

from flashwam.data.actions import ActionNorm
from flashwam.data.dataset import EpisodeDataset
from flashwam.data.episodes import episode_path, read_table
from flashwam.data.latents import latent_path, read_latents


def everything(root, frames=4, **kwargs):
    return EpisodeDataset(root, window_frames=frames, split="all", **kwargs)


def test_shapes_and_types(encoded):
    data = everything(encoded)
    sample = data[0]
    assert sample["video"].shape == (3, 4, 2, 2)
    assert sample["action"].shape == sample["executed"].shape == sample["action_mask"].shape == (4, 4, 4, 1)
    assert sample["video_mask"].shape == (1, 4, 1, 1)
    assert sample["text"].shape == (8, 32)
    assert sample["video"].dtype == sample["action"].dtype == torch.float32
    # Windows begin at every latent frame that has another one after it.
    assert len(data) == sum((n - 1) // 4 for n in (13, 21, 9, 17, 9, 33))


def test_windows_line_up_with_rows_and_latents(encoded):
    data = everything(encoded)
    for draw in range(60):
        sample = data[draw]
        task, rest = data.describe(draw).split("/episode_")
        episode, start = int(rest[:6]), int(rest.split()[-1])
        table = read_table(episode_path(encoded / task, episode))
        length = len(table["action"])
        latents = read_latents(latent_path(encoded / task, episode, 0, length)).latents
        for key, column in (("action", "action"), ("executed", "executed_action")):
            controls = data.norm.denormalise(sample[key])
            for f in range(1, 4):
                if start + f >= latents.shape[1]:
                    continue
                rows = slice(4 * (start + f - 1), 4 * (start + f))
                low, high = np.array(data.norm.q01), np.array(data.norm.q99)
                margin = 0.25 * (high - low)
                expected = np.clip(table[column][rows], low - margin, high + margin)
                assert np.allclose(controls[:, f].T.numpy(), expected, atol=1e-5)
        for f in range(4):
            assert torch.equal(sample["video"][:, f], latents[:, min(start + f, latents.shape[1] - 1)])
            assert bool(sample["video_mask"][0, f]) == (start + f < latents.shape[1])
            known = f > 0 and start + f < latents.shape[1]
            assert bool(sample["action_mask"][:, f].all()) == bool(sample["action_mask"][:, f].any()) == known
            assert known or not sample["action"][:, f].any()


def test_a_draw_is_a_function_of_seed_and_number(encoded):
    a, b = everything(encoded, seed=3), everything(encoded, seed=3)
    together = a.sample(range(20, 40))
    for i in reversed(range(20, 40)):
        single = b[i]
        assert all(torch.equal(single[key], together[key][i - 20]) for key in single)
    other = everything(encoded, seed=4)
    assert [a.describe(i) for i in range(20)] != [other.describe(i) for i in range(20)]


def test_every_window_is_drawn_alike(encoded):
    data = everything(encoded)
    names, counts = np.unique([data.describe(i) for i in range(4200)], return_counts=True)
    assert len(names) == len(data) == 24
    assert counts.min() > 120
    assert counts.max() < 240


def test_balance_draws_tasks_alike(encoded):
    data = everything(encoded, balance=True)
    share = np.mean([data.describe(i).startswith("beta") for i in range(1000)])
    assert 0.44 < share < 0.56


def test_first_share_draws_beginnings(encoded):
    data = everything(encoded, first_share=0.5, balance=True)
    at_start = np.mean([data.describe(i).endswith("frame 0") for i in range(2000)])
    assert 0.5 < at_start < 0.75
    assert all(everything(encoded, first_share=1.0).describe(i).endswith("frame 0") for i in range(50))
    with pytest.raises(ValueError, match="first_share"):
        everything(encoded, first_share=2.0)


def test_split_is_by_episode_and_complete(encoded):
    train = EpisodeDataset(encoded, window_frames=4, val_every=2)
    val = EpisodeDataset(encoded, window_frames=4, val_every=2, split="val")
    keys = [{tuple(e[:2]) for e in d.episodes.tolist()} for d in (train, val)]
    assert not keys[0] & keys[1]
    assert len(keys[0] | keys[1]) == 6


def test_batch_takes_no_loss_on_the_observation(encoded):
    data = everything(encoded)
    batch = data.batch(range(8))
    assert batch.given[:, 0].all()
    assert not batch.given[:, 1:].any()
    assert not batch.loss_mask("video")[:, :, 0].any()
    assert not batch.mask["action"][:, :, 0].any()
    assert batch.mask["video"][:, :, 1].all()
    assert torch.equal(batch.history["action"], data.sample(range(8))["executed"])
    assert (batch.history["action"] != batch.clean["action"]).any()
    assert torch.equal(batch.null_text, data.null_text)


def test_loader_gives_what_batch_gives(encoded):
    data = everything(encoded, draws=10)
    loader = DataLoader(data, batch_size=5, collate_fn=data.collate)
    for number, batch in enumerate(loader):
        expected = data.batch(range(5 * number, 5 * number + 5))
        assert torch.equal(batch.index, expected.index)
        assert torch.equal(batch.clean["video"], expected.clean["video"])
        assert torch.equal(batch.mask["action"], expected.mask["action"])


def test_first_windows_begin_episodes(encoded):
    data = everything(encoded, frames=2)
    windows = data.first_windows()
    assert windows["video"].shape[0] == 6
    first = read_latents(latent_path(encoded / "alpha", 2, 0, 9)).latents[:, :2]
    assert torch.equal(windows["video"][2], first)


def test_published_layout_with_a_temporal_factor_of_four(tmp_path):
    """Pictures every 2 rows from row 3, four to a latent frame: 8 actions a frame, the first from row 3."""
    from flashwam.data.actions import ActionNorm
    from flashwam.data.episodes import _table_bytes, write_whole

    rows = np.arange(60, dtype=np.float32)
    write_whole(episode_path(tmp_path / "real", 0), _table_bytes({"action": np.stack([rows, -rows], 1)}, {}))
    (tmp_path / "real" / "meta").mkdir()
    (tmp_path / "real" / "meta" / "info.json").write_text(json.dumps({"fps": 20}))
    segment = {"start_frame": 2, "end_frame": 50, "action_text": "x"}
    episode = {"episode_index": 0, "length": 60, "tasks": ["x"], "action_config": [segment]}
    (tmp_path / "real" / "meta" / "episodes.jsonl").write_text(json.dumps(episode) + "\n")
    for camera, width in (("cam_high", 3), ("cam_wrist", 2)):
        frame_ids = list(range(3, 3 + 2 * 17, 2))
        path = latent_path(tmp_path / "real", 0, 2, 50, camera)
        path.parent.mkdir(parents=True)
        value = {
            "latent": torch.randn(5 * 2 * width, 4).to(torch.bfloat16),
            "latent_num_frames": 5,
            "latent_height": 2,
            "latent_width": width,
            "text_emb": torch.ones(3, 7),
            "frame_ids": frame_ids,
            "start_frame": 2,
        }
        torch.save(value, path)
    torch.save(torch.zeros(3, 7), tmp_path / "empty_emb.pt")
    norm = ActionNorm(q01=(0.0, -100.0, 0.0), q99=(100.0, 0.0, 0.0), used=(0, 1), clip=None)
    data = everything(tmp_path, frames=5, norm=norm)
    window = data.first_windows()
    assert window["video"].shape == (1, 4, 5, 2, 5)
    controls = norm.denormalise(window["action"])[0]
    assert torch.allclose(controls[0, 1:].flatten(), torch.arange(3.0, 35.0), atol=1e-4)
    assert window["action"].shape == (1, 3, 5, 8, 1)
    assert not window["action_mask"][:, 2].any()


def test_no_flipped_bit_of_the_actions_passes(encoded, tmp_path):
    source = episode_path(encoded / "alpha", 1)
    content, expected = source.read_bytes(), read_table(source, ["action"])["action"]
    column = pq.ParquetFile(source).metadata.row_group(0).column(0)
    assert column.path_in_schema.startswith("action")
    draws, unchanged = random.Random(0), 0
    for _ in range(150):
        flipped = bytearray(content)
        flipped[4 + draws.randrange(column.total_compressed_size)] ^= 1 << draws.randrange(8)
        path = tmp_path / "flipped.parquet"
        path.write_bytes(flipped)
        with suppress(ValueError):
            assert np.array_equal(read_table(path, ["action"])["action"], expected)
            unchanged += 1
    assert unchanged < 50


def test_one_tasks_own_folder_is_told_from_one_that_is_not_encoded(encoded):
    task = next(path.parent for path in encoded.glob("*/meta")).name
    with pytest.raises(FileNotFoundError, match=rf"is a part of {encoded}, .* choose {task} among its data sets"):
        everything(encoded / task)


def test_missing_and_damaged_things_are_named(encoded, tmp_path):
    with pytest.raises(FileNotFoundError, match="collect"):
        EpisodeDataset(tmp_path, window_frames=4, norm=everything(encoded).norm)
    shutil.copytree(encoded, tmp_path / "copy")
    (tmp_path / "copy" / "action_norm.json").unlink()
    with pytest.raises(FileNotFoundError, match="action_norm"):
        EpisodeDataset(tmp_path / "copy", window_frames=4)
    episode_path(tmp_path / "copy" / "alpha", 1).write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"episode_000001\.parquet: not a readable"):
        everything(tmp_path / "copy", norm=everything(encoded).norm)
    with pytest.raises(FileNotFoundError, match="gamma"):
        everything(encoded, tasks=["gamma"])
    with pytest.raises(ValueError, match="window_frames"):
        everything(encoded, frames=1)


def test_windows_that_reach_hold_more_recorded_frames_than_are_asked(encoded):
    data = everything(encoded, frames=4, balance=True, first_share=0.3)
    frames = {tuple(row[:2]): row[4] for row in data.episodes.tolist()}
    longest = max(frames.values())
    reaching = data.reaching(2)
    sampled = reaching.sample(range(400))
    assert sampled["video_mask"][:, 0, 2].all()
    assert not data.sample(range(400))["video_mask"][:, 0, 2].all()
    # Any of them is met, and the source that they were chosen of is as it was.
    starts = {(task, episode, start) for (task, episode), count in frames.items() for start in range(count - 2)}
    assert {(*reaching.episodes[n, :2].tolist(), s) for n, _, s in reaching._windows.tolist()} == starts
    assert len(data._windows) > len(reaching._windows)
    with pytest.raises(ValueError, match=rf"has more than {longest} latent frames \(the longest has {longest}\)"):
        data.reaching(longest)


def test_recordings_with_another_number_of_controls_are_refused_by_name(encoded):
    norm = ActionNorm(q01=(-1.0,) * 8, q99=(1.0,) * 8, used=tuple(range(7)))
    told = r"episode_000000\.parquet: column 'action' has 4 controls, and 7 are meant .*recordings of the robot"
    with pytest.raises(ValueError, match=told):
        everything(encoded, frames=4, norm=norm)


def test_samples_say_their_shapes(encoded):
    data = everything(encoded, frames=4)
    sample = data.sample([0])
    for name in ("video", "action"):
        assert data.shapes[name] == (sample[name].shape[1], *sample[name].shape[3:])
    assert data.shapes["text"] == tuple(sample["text"].shape[1:])


def test_data_sets_of_one_name_are_refused_and_not_lost(encoded, tmp_path):
    for day in ("monday", "tuesday"):
        shutil.copytree(encoded / "alpha", tmp_path / day / "alpha")
    shutil.copytree(encoded / "beta", tmp_path / "beta")
    for name in ("empty_emb.pt", "action_norm.json"):
        shutil.copy(encoded / name, tmp_path / name)
    told = f"{tmp_path / 'monday' / 'alpha'} and {tmp_path / 'tuesday' / 'alpha'} are both called 'alpha'"
    with pytest.raises(ValueError, match=re.escape(told)):
        everything(tmp_path, frames=4)
    assert everything(tmp_path, frames=4, tasks=["beta"]).tasks == ["beta"]
