# SPDX-License-Identifier: Apache-2.0
"""VideoVLA's network against numbers made by its original implementation, through the converter."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import tiny_video_autoencoder
from torch import Tensor
from torch.testing import assert_close

from flashwam.cli import main
from flashwam.commands.describe import describe
from flashwam.core.vp import VPSchedule
from flashwam.sampling import Rollout, samplers_for
from flashwam.serve.model import load_served
from flashwam.serve.session import PolicySession
from flashwam.student import load_wam
from flashwam.wam.cogvideox import CogVideoX
from flashwam.wam.cogvideox.convert import convert_videovla
from flashwam.wam.cogvideox.files import CogVideoXFiles
from flashwam.wam.cogvideox.text import T5Prompts
from flashwam.wam.prompts import TEXT_CACHE

SETTINGS = {"latent_size": (4, 4), "chunk_frames": 3, "actions_per_frame": 3, "execute_frames": 2}


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> dict[str, Tensor]:
    return load_file(golden_dir / "videovla.safetensors")


@pytest.fixture
def weights(golden: dict[str, Tensor]) -> dict[str, Tensor]:
    prefix = "state_dict/"
    return {key.removeprefix(prefix): value for key, value in golden.items() if key.startswith(prefix)}


@pytest.mark.parametrize("layout", ["pt", "whole", "safetensors"])
def test_converted_network(golden: dict[str, Tensor], weights: dict[str, Tensor], tmp_path: Path, layout: str) -> None:
    source = tmp_path / "weights.pt"
    if layout == "pt":
        torch.save(weights, source)
    elif layout == "whole":
        # As a training run leaves it: under "module", prefixed, with the autoencoder beside the network.
        whole = {f"model.diffusion_model.{key}": value for key, value in weights.items()}
        torch.save({"module": whole | {"first_stage_model.encoder.weight": torch.zeros(2)}, "step": 3}, source)
    else:
        source = source.with_suffix(".safetensors")
        save_file(weights, source)
    config = convert_videovla(source, tmp_path / "model", **SETTINGS)
    assert (config.action_dim, config.action_tokens, config.robots, config.robot) == (7, 6, 100, 1)
    wam = CogVideoX.from_pretrained(tmp_path / "model")
    assert wam.config == config
    assert wam.transformer.config.max_text_seq_length == 5
    with torch.no_grad():
        video, action = wam.network(
            golden["video_in"], golden["action_in"], golden["text_emb"], golden["timestep"], robot=golden["robot_id"]
        )
    assert_close(video, golden["video_out"], atol=2e-6, rtol=0)
    assert_close(action, golden["action_out"], atol=2e-6, rtol=0)


def test_the_last_norms_epsilon_survives_a_round_trip(weights: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(weights, tmp_path / "weights.pt")
    convert_videovla(tmp_path / "weights.pt", tmp_path / "model", **SETTINGS, dtype=torch.bfloat16)
    wam = CogVideoX.from_pretrained(tmp_path / "model")
    assert {p.dtype for p in wam.parameters()} == {torch.bfloat16}
    assert wam.transformer.norm_out.norm.eps == 1e-6
    assert wam.transformer.norm_final.eps == 1e-5
    wam.save_pretrained(tmp_path / "again")
    assert CogVideoX.from_pretrained(tmp_path / "again").transformer.norm_out.norm.eps == 1e-6
    # Adopted under other settings it stays what it is, action module and all.
    adopted = CogVideoX.adopt(tmp_path / "model", execute_frames=1)
    assert adopted.transformer.norm_out.norm.eps == 1e-6
    assert torch.equal(adopted.action.robot.weight, wam.action.robot.weight)


def test_keys_that_match_nothing_or_are_missing_are_listed(weights: dict[str, Tensor], tmp_path: Path) -> None:
    del weights["transformer.layers.1.mlp.dense_4h_to_h.bias"]
    weights["mixins.second_head.weight"] = torch.zeros(2)
    torch.save(weights, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="2 keys") as error:
        convert_videovla(tmp_path / "weights.pt", tmp_path / "model", **SETTINGS)
    assert "unexpected mixins.second_head.weight" in str(error.value)
    assert "missing transformer.layers.1.mlp.dense_4h_to_h.bias" in str(error.value)
    assert not (tmp_path / "model").exists()


def test_sizes_that_do_not_fit_are_refused(weights: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(weights, path)
    with pytest.raises(ValueError, match=r"17 entries .* 12 rotated ones.* make 3328"):
        convert_videovla(path, tmp_path / "model")
    torch.save(weights | {"time_embed.2.bias": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match=r"misshapen time_embedding.linear_2.bias: expected \(16,\), got \(3,\)"):
        convert_videovla(path, tmp_path / "model", **SETTINGS)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="mapping"):
        convert_videovla(path, tmp_path / "model", **SETTINGS)
    with pytest.raises(FileNotFoundError, match=r"none\.pt"):
        convert_videovla(tmp_path / "none.pt", tmp_path / "model")


@pytest.fixture
def imported(weights: dict[str, Tensor], tmp_path: Path) -> Path:
    """VideoVLA's single file by way of the command line, and the released parts beside it with prompts embedded
    elsewhere."""
    torch.save({f"model.diffusion_model.{key}": value for key, value in weights.items()}, tmp_path / "weights.pt")
    folder = tmp_path / "model"
    settings = ["latent_size=[4,4]", "chunk_frames=3", "actions_per_frame=3", "execute_frames=2"]
    quantiles = [f"q01={[-0.5] * 6 + [-1]}", f"q99={[0.5] * 6 + [1]}"]
    arguments = ["import", str(tmp_path / "weights.pt"), str(folder), "--family", "cogvideox"]
    assert main([*arguments, *settings, *(text.replace(" ", "") for text in quantiles)]) == 0
    tiny_video_autoencoder().save_pretrained(folder / "vae")
    (folder / TEXT_CACHE).mkdir()
    (folder / TEXT_CACHE / "encoder.json").write_text(json.dumps({"fingerprint": "elsewhere"}))
    for prompt in ("pick", ""):
        save_file({"embedding": torch.randn(5, 12)}, T5Prompts(folder / TEXT_CACHE).path(prompt))
    return folder


def test_an_imported_checkpoint_is_described_and_sampled_by_its_preset(
    imported: Path, capsys: pytest.CaptureFixture
) -> None:
    facts = describe(imported)
    assert (facts["family"], facts["rollout"]["robot"], facts["rollout"]["execute_frames"]) == ("cogvideox", 1, 2)
    assert "videovla" in facts["kind"]
    with pytest.raises(FileNotFoundError, match="preset"):
        load_wam(imported)
    wam, info = load_wam(imported, preset="videovla")
    assert (info.kind, info.extra["preset"], wam.config.norm_out_eps) == ("teacher", "videovla", 1e-6)
    for spec in info.streams.values():
        assert (spec.schedule, spec.teacher_steps, spec.guidance_scale) == (VPSchedule(snr_shift=1.0), 50, 1.0)
    assert load_wam(imported, preset="videovla_robot")[1].streams["action"].teacher_steps == 10
    # The levels of diffusers' trailing DDIM: 999, 979, ..., 19.
    grid = info.streams["video"].schedule.sampling_grid(50)
    assert info.streams["video"].schedule.index(grid)[:-1].tolist() == list(range(999, 0, -20))


def test_an_imported_checkpoint_is_served_by_its_preset(imported: Path) -> None:
    served = load_served(imported, nfe="2v/2a", preset="videovla")
    facts = served.metadata
    assert (facts["cameras"], facts["picture_size"], facts["controls"]) == (["observation.images.front"], [32, 32], 7)
    session, rng = PolicySession(served), np.random.default_rng(0)
    session.reset("pick", seed=4)
    seen = [{"observation.images.front": picture} for picture in rng.integers(0, 256, (3, 40, 60, 3), np.uint8)]
    reply = session.infer(seen[0])
    assert reply.shape == (7, 3, 3)
    session.refresh(seen[1:], reply)
    following = session.infer()
    assert following.shape == (7, 2, 3)

    wam, info = load_wam(imported, preset="videovla")
    own = CogVideoXFiles().frame_codec(imported, preset="videovla", dtype=torch.float32, device="cpu")
    view = own.open()
    rollout = Rollout(
        wam,
        samplers_for(info.streams, steps={"video": 2, "action": 2}, teacher=True),
        text=view.text("pick"),
        first={"video": view.encode(seen[:1]), "action": torch.zeros(1, 7, 1, 3, 1)},
        generator=torch.Generator().manual_seed(4),
    )
    drawn = rollout.predict()["action"]
    np.testing.assert_array_equal(reply, view.actions(drawn[:, :, :3]))
    rollout.observe({"video": view.encode(seen[1:]), "action": view.executed(reply)[:, :, 1:]})
    np.testing.assert_array_equal(following, view.actions(rollout.predict()["action"][:, :, 1:3]))


def test_an_import_that_fails_leaves_nothing(
    weights: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    torch.save({"some.other.network": torch.zeros(2)}, tmp_path / "other.pt")
    torch.save(weights, tmp_path / "weights.pt")
    out = tmp_path / "model"
    known = ["latent_size=[4,4]", "chunk_frames=3", "actions_per_frame=3", "execute_frames=2"]

    def told(source: str, *settings: str, family: str = "cogvideox") -> str:
        assert main(["import", str(tmp_path / source), str(out), "--family", family, *settings]) == 2
        assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []
        return capsys.readouterr().err

    assert "unexpected some.other.network" in told("other.pt")
    assert "missing" in told("other.pt")
    assert "none.pt" in told("none.pt")
    assert "did you mean 'robot'" in told("weights.pt", "robto=1")
    assert "two whole numbers" in told("weights.pt", "latent_size=4")
    assert "expected one of ['cogvideox', 'lingbot_va']" in told("weights.pt", family="nobody")
    assert "nothing to import" in told("weights.pt", family="lingbot_va")
    assert "belong together" in told("weights.pt", *known, "q01=[0,0]")
    assert "lists with a number for every control; got 0.5" in told("weights.pt", *known, "q01=0.5", "q99=[1]")
    assert "lists with a number for every control" in told("weights.pt", *known, "q01=[0]", "q99=far")
    assert "dtype must be one of" in told("weights.pt", *known, "dtype=[float32]")
    assert "got quantiles of 2" in told("weights.pt", *known, "q01=[0,0]", "q99=[1,1]")
    assert "expected key=value" in told("weights.pt", "=1")
    assert main(["import", str(tmp_path / "weights.pt"), str(out), "--family", "cogvideox", *known]) == 0
    capsys.readouterr()
    assert main(["import", str(tmp_path / "weights.pt"), str(out), "--family", "cogvideox", *known]) == 2
    assert "never overwritten" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match="q01"):
        CogVideoXFiles().codec(out, preset="videovla", base=None, dtype=torch.float32, device="cpu")
