# SPDX-License-Identifier: Apache-2.0
import copy
import pickle
import random
import shutil

import pytest
import torch

from flashwam.data.episodes import read_frames, video_path
from flashwam.data.hashed_text import encode_text
from flashwam.data.latents import encode_latents, latent_path, read_latents, read_text
from flashwam.system.json_file import read_json


def test_latents_are_the_encoded_pictures(encoded, autoencoder):
    segment = read_latents(latent_path(encoded / "alpha", 1, 0, 21))
    frames = read_frames(video_path(encoded / "alpha", 1), range(0, 21, 4))
    assert segment.latents.shape == (3, 6, 2, 2)
    assert (segment.stride, segment.factor, segment.actions_per_frame) == (4, 1, 4)
    expected = autoencoder.encode(frames).permute(1, 0, 2, 3)
    assert torch.equal(segment.latents, expected.to(torch.bfloat16).float())
    assert torch.equal(segment.text, encode_text("do alpha"))
    assert torch.equal(read_text(encoded / "empty_emb.pt"), encode_text(""))


def test_encoding_again_writes_nothing_and_another_autoencoder_all(encoded, autoencoder, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(encoded, root)
    assert encode_latents(root, autoencoder, progress=False) == 0
    latent_path(root / "alpha", 0, 0, 13).unlink()
    assert encode_latents(root, autoencoder, progress=False) == 1
    other = copy.deepcopy(autoencoder)
    other.mean.add_(1)
    assert encode_latents(root, other, progress=False) == 6


def test_an_episode_of_other_pictures_is_encoded_anew_and_an_older_file_kept(encoded, autoencoder, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(encoded, root)
    # Both have nine rows.
    shutil.copy(video_path(encoded / "beta", 0), video_path(root / "alpha", 2))
    path = latent_path(root / "alpha", 2, 0, 9)
    older = torch.load(path, weights_only=True)
    del older["pictures"]
    before = path.read_bytes()
    torch.save(older, path)
    assert encode_latents(root, autoencoder, progress=False) == 0
    path.write_bytes(before)
    assert encode_latents(root, autoencoder, progress=False) == 1
    same = read_latents(latent_path(encoded / "beta", 0, 0, 9)).latents
    assert torch.equal(read_latents(path).latents, same)
    assert encode_latents(root, autoencoder, progress=False) == 0


def published(frames: int, *, count: int | None = None, start: int = 0, stride: int = 2) -> dict:
    """A file as LingBot-VA's own preparation makes it, with a temporal factor of 4."""
    count = (frames - 1) * 4 + 1 if count is None else count
    return {
        "latent": torch.randn(frames * 2 * 3, 48).to(torch.bfloat16),
        "latent_num_frames": frames,
        "latent_height": 2,
        "latent_width": 3,
        "video_num_frames": count,
        "video_height": 32,
        "video_width": 48,
        "text_emb": torch.randn(512, 16).to(torch.bfloat16),
        "text": "fold the towel",
        "frame_ids": [start + 1 + stride * i for i in range(count)],
        "start_frame": start,
        "end_frame": 100,
        "fps": 10,
        "ori_fps": 20,
    }


def test_temporal_factor_follows_from_the_counts(tmp_path):
    torch.save(published(5, start=10), tmp_path / "a.pth")
    segment = read_latents(tmp_path / "a.pth")
    assert (segment.stride, segment.factor, segment.actions_per_frame) == (2, 4, 8)
    assert (segment.start, segment.first_row) == (10, 11)
    assert segment.latents.shape == (48, 5, 2, 3)


def test_latent_order_is_frame_height_width(tmp_path):
    value = published(2)
    torch.save(value, tmp_path / "a.pth")
    latents = read_latents(tmp_path / "a.pth").latents
    assert torch.equal(latents[:, 1, 1, 2], value["latent"][1 * 6 + 1 * 3 + 2].float())


class Evil:
    def __reduce__(self):
        import os

        return os.mkdir, ("should-never-exist",)


def test_code_in_a_file_is_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"latent": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match=r"evil\.pth"):
        read_latents(tmp_path / "evil.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match=r"plain\.pth"):
        read_latents(tmp_path / "plain.pth")
    assert not (tmp_path / "should-never-exist").exists()


def broken_missing(value):
    del value["frame_ids"]


def broken_count(value):
    value["latent_num_frames"] = 4


def broken_stride(value):
    value["frame_ids"][3] += 1


def broken_nan(value):
    value["latent"][0, 0] = float("nan")


def broken_factor(value):
    value["frame_ids"] = value["frame_ids"][:11]


@pytest.mark.parametrize(
    ("breaking", "reason"),
    [
        (broken_missing, "frame_ids"),
        (broken_count, "as its own counts say"),
        (broken_stride, "rise evenly"),
        (broken_nan, "not all finite"),
        (broken_factor, "fit neither"),
    ],
)
def test_a_broken_file_is_named_with_its_reason(tmp_path, breaking, reason):
    value = published(5)
    breaking(value)
    torch.save(value, tmp_path / "broken.pth")
    with pytest.raises(ValueError, match=rf"broken\.pth.*{reason}"):
        read_latents(tmp_path / "broken.pth")


def test_a_truncated_file_is_named(tmp_path):
    torch.save(published(5), tmp_path / "a.pth")
    (tmp_path / "a.pth").write_bytes((tmp_path / "a.pth").read_bytes()[:500])
    with pytest.raises(ValueError, match=r"a\.pth"):
        read_latents(tmp_path / "a.pth")
    with pytest.raises(FileNotFoundError, match="encode"):
        read_latents(tmp_path / "b.pth")


def test_a_mutated_file_is_read_or_refused_by_name(tmp_path):
    torch.save(published(3), tmp_path / "good.pth")
    good, path, refused = (tmp_path / "good.pth").read_bytes(), tmp_path / "mutated.pth", []
    rng = random.Random(0)
    for _ in range(400):
        content = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            content[rng.choice([rng.randrange(len(content)), rng.randrange(1500)])] = rng.randrange(256)
        path.write_bytes(content[: rng.choice([len(content), rng.randrange(len(content))])])
        try:
            read_latents(path)
        except ValueError as error:
            refused.append(str(error))
    assert len(refused) > 300
    assert all("mutated.pth" in reason for reason in refused)


@pytest.mark.parametrize("read", [read_text, read_json])
def test_a_pointer_of_git_lfs_is_told_as_such(tmp_path, read):
    path = tmp_path / "file"
    path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12345\n")
    with pytest.raises(ValueError, match=r"is a Git LFS pointer of 12,345 bytes: run git lfs pull"):
        read(path)
