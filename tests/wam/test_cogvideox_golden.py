# SPDX-License-Identifier: Apache-2.0
"""VideoVLA's network against numbers made by its original implementation, through the converter."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close

from flashwam.wam.cogvideox import CogVideoX
from flashwam.wam.cogvideox.convert import convert_videovla

SETTINGS = {"latent_size": (4, 4), "chunk_frames": 3, "actions_per_frame": 3, "execute_frames": 2}


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> dict[str, Tensor]:
    path = golden_dir / "videovla.safetensors"
    if not path.is_file():
        pytest.skip(f"{path} is missing")
    return load_file(path)


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
