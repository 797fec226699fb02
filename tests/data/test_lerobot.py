# SPDX-License-Identifier: Apache-2.0
"""The released layout, against a slow computation row by row that shares no code with the reader."""

import shutil

import pyarrow.parquet as pq
import pytest
import torch
from lerobot_sets import ROBOTWIN, write_set
from released_sets import CAMERAS, PLAN, QUANTILES, USED, reader

from flashwam.data.lerobot import SegmentDataset
from flashwam.data.segments import NoEpisodesError


@pytest.fixture(scope="module", params=["robotwin", "libero"])
def kind(request):
    return request.param


def hamilton(p, q):
    """Product of two quaternions (x, y, z, w)."""
    (a, b, c, d), (e, f, g, h) = p, q
    return [
        d * e + a * h + b * g - c * f,
        d * f - a * g + b * h + c * e,
        d * g + a * f - b * e + c * h,
        d * h - a * e - b * f - c * g,
    ]


def by_hand(segment, kind, clip):
    """Video, actions and mask of a segment, number by number."""
    files = [torch.load(segment.latents(camera), weights_only=True) for camera in CAMERAS[kind]]
    frames = (len(files[0]["frame_ids"]) - 1) // 4 + 1

    def pixel(file, c, f, y, x):
        row = (f * file["latent_height"] + y) * file["latent_width"] + x
        return float(file["latent"][row, c])

    if kind == "robotwin":
        video = torch.empty(4, frames, 6, 6)
        places = [(0, 2, 0), (1, 0, 0), (2, 0, 3)]
    else:
        video = torch.empty(4, frames, 2, 7)
        places = [(0, 0, 0), (1, 0, 3)]
    for number, top, left in places:
        file = files[number]
        for c in range(4):
            for f in range(frames):
                for y in range(file["latent_height"]):
                    for x in range(file["latent_width"]):
                        video[c, f, top + y, left + x] = pixel(file, c, f, y, x)

    stride = files[0]["frame_ids"][1] - files[0]["frame_ids"][0]
    per = 4 * stride
    table = pq.read_table(segment.table).column("action").to_pylist()[segment.start : segment.end]
    table = table[files[0]["frame_ids"][0] - segment.start :]
    rows = [[0.0] * len(USED[kind]) for _ in range(per)]
    for row in table:
        if kind == "libero":
            rows.append(list(row))
            continue
        out = []
        for arm in (0, 8):
            position, turn, grip = row[arm : arm + 3], row[arm + 3 : arm + 7], row[arm + 7]
            start = table[0][arm + 3 : arm + 7]
            inverse = [-start[0], -start[1], -start[2], start[3]]
            out += [position[i] - table[0][arm + i] for i in range(3)] + hamilton(inverse, turn) + [grip]
        rows.append(out)
    low, high = QUANTILES[kind]
    action, mask = torch.zeros(30, frames, per, 1), torch.zeros(30, frames, per, 1, dtype=torch.bool)
    for f in range(frames):
        for n in range(per):
            for place, channel in enumerate(USED[kind]):
                value = (rows[f * per + n][place] - low[channel]) / (high[channel] - low[channel] + 1e-6) * 2 - 1
                action[channel, f, n, 0] = value if clip is None else max(-clip, min(clip, value))
                mask[channel, f, n, 0] = True
    return video, action, mask, files[0]["text_emb"].float()


@pytest.mark.parametrize("clip", [None, 1.5])
def test_every_segment_is_what_the_slow_computation_gives(roots, kind, clip):
    data = reader(roots / kind, kind, clip=clip)
    assert len(data) == sum(len(segments) for repo in PLAN[kind].values() for _, segments in repo)
    for number, segment in enumerate(data.segments):
        video, action, mask, text = by_hand(segment, kind, clip)
        sample = data.segment(number)
        assert torch.equal(sample.video, video)
        assert torch.equal(sample.mask, mask)
        assert torch.equal(sample.text, text)
        assert torch.allclose(sample.action, action, atol=2e-5)
        assert sample.prompt == f"part {segment.start}"


def test_frame_zero_is_raw_zeros_normalised_or_zero(roots, kind):
    low, high = (torch.tensor(q, dtype=torch.float64) for q in QUANTILES[kind])
    zero = (0 - low) / (high - low + 1e-6) * 2 - 1
    for channel in USED[kind]:
        first = reader(roots / kind, kind, clip=None).segment(0).action[channel, 0]
        assert torch.allclose(first.double(), zero[channel].expand_as(first), atol=1e-5)
    assert not reader(roots / kind, kind, first="zero").segment(0).action[:, 0].any()
    published = reader(roots / kind, kind).segment(0).action[:, 1:]
    assert torch.equal(reader(roots / kind, kind, first="zero").segment(0).action[:, 1:], published)


def test_windows_are_cuts_of_segments(roots, kind):
    data = reader(roots / kind, kind, frames=4)
    cut, padded = set(), 0
    for draw in range(60):
        drawn = data[draw]
        name, _, start = data.describe(draw).partition(" from latent frame ")
        start = int(start)
        whole = data.segment([str(s) for s in data.segments].index(name))
        frames = whole.video.shape[1]
        assert start <= max(0, frames - 4)
        cut.add((name, start))
        for f in range(4):
            real = start + f < frames
            padded += not real
            assert torch.equal(drawn["video"][:, f], whole.video[:, min(start + f, frames - 1)])
            assert bool(drawn["video_mask"][0, f]) == real
            assert torch.equal(drawn["action_mask"][:, f], whole.mask[:, 0] & real)
            expected = whole.action[:, 0] if f == 0 else whole.action[:, start + f] if real else 0 * whole.action[:, 0]
            assert torch.equal(drawn["action"][:, f], expected)
    assert len({start for _, start in cut}) > 3
    assert (padded > 0) == (kind == "robotwin")


def test_a_large_window_holds_the_whole_published_sample(roots, kind):
    data = reader(roots / kind, kind, frames=20)
    for draw in range(len(data)):
        drawn, whole = data[draw], data.segment(data._number(draw))
        frames = whole.video.shape[1]
        assert torch.equal(drawn["action"][:, :frames], whole.action)
        assert torch.equal(drawn["action_mask"][:, :frames], whole.mask)
        assert not drawn["action_mask"][:, frames:].any()


def test_every_epoch_visits_each_segment_once(roots, kind):
    data = reader(roots / kind, kind, seed=5)
    size = len(data)
    epochs = [tuple(data.describe(e * size + i).split(" from")[0] for i in range(size)) for e in range(8)]
    assert all(len(set(epoch)) == size for epoch in epochs)
    assert len(set(epochs)) > 1


def test_a_draw_is_a_function_of_seed_and_number(roots, kind):
    together = reader(roots / kind, kind, seed=3, text_dropout=0.5).sample(range(30, 50))
    other = reader(roots / kind, kind, seed=3, text_dropout=0.5)
    for i in reversed(range(30, 50)):
        single = other[i]
        assert all(torch.equal(single[key], together[key][i - 30]) for key in single)
    changed = reader(roots / kind, kind, seed=4)
    assert [other.describe(i) for i in range(20)] != [changed.describe(i) for i in range(20)]


def test_text_is_dropped_at_its_rate_and_for_nothing_else(roots, kind):
    kept, dropping = reader(roots / kind, kind), reader(roots / kind, kind, text_dropout=0.25)
    empty = torch.full((5, 6), 0.25)
    dropped = []
    for i in range(100):
        a, b = kept[i], dropping[i]
        dropped.append(torch.equal(b["text"], empty))
        assert dropped[-1] or torch.equal(a["text"], b["text"])
        assert torch.equal(a["video"], b["video"])
        assert torch.equal(a["action"], b["action"])
    # Four standard deviations about 25.
    assert 8 <= sum(dropped) <= 42


def test_batch_marks_frame_zero_as_given(roots, kind):
    data = reader(roots / kind, kind)
    batch = data.batch(range(5))
    assert batch.given[:, 0].all()
    assert not batch.given[:, 1:].any()
    assert not batch.mask["action"][:, :, 0].any()
    assert not batch.loss_mask("video")[:, :, 0].any()
    assert batch.mask["action"][:, list(USED[kind]), 1].all()
    assert torch.equal(batch.history["action"], batch.clean["action"])
    assert torch.equal(batch.null_text, torch.full((5, 6), 0.25))
    assert data.shapes["video"] == tuple(batch.clean["video"].shape[i] for i in (1, 3, 4))
    assert data.shapes["action"] == (30, 16 if kind == "robotwin" else 4, 1)


def test_first_share_begins_where_segments_begin(roots):
    data = reader(roots / "libero", "libero", first_share=1.0)
    assert all(data.describe(i).endswith("frame 0") for i in range(20))


def test_windows_that_reach_further_are_of_longer_segments(roots):
    data = reader(roots / "robotwin", "robotwin", frames=6)
    reaching = data.reaching(4)
    assert any(not data[draw]["video_mask"][0, 4] for draw in range(40))
    numbers = set()
    for draw in range(40):
        drawn = reaching[draw]
        assert bool(drawn["video_mask"][0, 4])
        number, start, _ = reaching._draw(draw)
        assert reaching.describe(draw) == f"{data.segments[number]} from latent frame {start}"
        assert (reaching.locate(draw).episode, reaching.locate(draw).frame) == (data.segments[number].episode, start)
        numbers.add(number)
        asked = data.segment(data._number(draw))
        if asked.video.shape[1] > 4:
            assert torch.equal(drawn["video"], data[draw]["video"])
    assert numbers == {n for n in range(len(data.segments)) if data.segment(n).video.shape[1] > 4}
    assert len(numbers) == 2 < len(data.segments)
    with pytest.raises(ValueError, match=r"no more than 9 latent frames.*: lower data\.window_frames"):
        data.reaching(9)


def test_tasks_choose_folders_on_the_way(roots):
    root = roots / "robotwin"
    assert len(reader(root, "robotwin", tasks=["clean_50"])) == 3
    assert len(reader(root, "robotwin", tasks=["click_*"])) == 1
    assert len(reader(root, "robotwin", tasks=["*"])) == 4
    with pytest.raises(FileNotFoundError, match=r"adjust_bottel.*adjust_bottle"):
        reader(root, "robotwin", tasks=["adjust_bottel"])


def test_one_data_sets_own_folder_is_told_from_one_that_is_not_encoded(roots, tmp_path):
    root = roots / "robotwin"
    for part in ("clean_50/adjust_bottle", "clean_50"):
        with pytest.raises(FileNotFoundError, match=rf"is a part of {root}, .* choose {part.split('/')[-1]} among its"):
            reader(root / part, "robotwin")
    shutil.copytree(root / "clean_50" / "adjust_bottle", tmp_path / "alone")
    with pytest.raises(FileNotFoundError, match="encode the episodes first"):
        reader(tmp_path / "alone", "robotwin")


def test_a_segment_without_latents_of_every_camera_is_no_sample(roots, tmp_path):
    shutil.copytree(roots / "robotwin", tmp_path / "copy")
    data = reader(tmp_path / "copy", "robotwin")
    data.segments[1].latents(ROBOTWIN[2]).unlink()
    assert len(reader(tmp_path / "copy", "robotwin")) == len(data) - 1
    with pytest.raises(FileNotFoundError, match=r"4 segments.*cam_low"):
        SegmentDataset(tmp_path / "copy", cameras=["cam_low"], layout="width", space=data.space, window_frames=4)


def test_one_episode_in_so_many_of_every_set_is_held_out_and_more_episodes_change_nothing(tmp_path):
    episodes = [(30, [(0, 12, 0, 3), (12, 28, 12, 4)])] * 7
    write_set(tmp_path / "set", "libero", {"a": episodes, "b": episodes[:3]})

    def numbers(split, every=3):
        segments = reader(tmp_path / "set", "libero", split=split, val_every=every).segments
        return sorted({(segment.repo.name, segment.episode) for segment in segments})

    assert numbers("val") == [("a", 2), ("a", 5), ("b", 2)]
    assert sorted([*numbers("val"), *numbers("train")]) == numbers("all")
    assert numbers("train", None) == numbers("all")
    fewer = numbers("train")
    shutil.rmtree(tmp_path / "set")
    write_set(tmp_path / "set", "libero", {"a": [*episodes, *episodes], "b": episodes[:3]})
    assert [known for known in numbers("train") if known in fewer] == fewer
    for every in (None, 20):
        with pytest.raises(NoEpisodesError, match=r"no episodes for split 'val'.*data\.held_out_every"):
            reader(tmp_path / "set", "libero", split="val", val_every=every)
    with pytest.raises(ValueError, match="split: expected one of train, val, all, got 'test'"):
        reader(tmp_path / "set", "libero", split="test")
