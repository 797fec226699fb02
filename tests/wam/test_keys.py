# SPDX-License-Identifier: Apache-2.0
"""Weights that do not lie as their configuration says: wrapped, incomplete, pointers, not finite."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan, CogVideoXTransformer3DModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from flashwam.cli import main
from flashwam.commands.describe import describe
from flashwam.commands.info import has_problems
from flashwam.wam.autoencoders import load_autoencoder
from flashwam.wam.cogvideox.checkpoint import load_module
from flashwam.wam.lingbot_va import WanTransformer3DModel
from flashwam.wam.lingbot_va.checkpoint import load_transformer
from flashwam.wam.lingbot_va.vae import WAN22_CONFIG

WEIGHTS = "diffusion_pytorch_model.safetensors"
NETWORK = {"num_attention_heads": 2, "attention_head_dim": 20, "text_dim": 12, "freq_dim": 16, "ffn_dim": 32}
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{:064}\nsize 10177654784\n"


def within_blocks(key: str) -> str:
    return key.replace("blocks.0.", "blocks.0._fsdp_wrapped_module._checkpoint_wrapped_module.")


WRAPPERS: dict[str, Callable[[str], str]] = {
    "torch.compile": lambda key: f"_orig_mod.{key}",
    "DistributedDataParallel": lambda key: f"module.{key}",
    "a module around it": lambda key: f"model.{key}",
    "FSDP": lambda key: f"_fsdp_wrapped_module.{within_blocks(key)}",
    "activation checkpointing": within_blocks,
    "DistributedDataParallel and torch.compile": lambda key: f"module._orig_mod.module.{key}",
}


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Transformer and autoencoder of tiny size."""
    folder = tmp_path_factory.mktemp("released")
    torch.manual_seed(2)
    WanTransformer3DModel(**NETWORK, num_layers=1).save_pretrained(folder / "transformer")
    small = {**WAN22_CONFIG, "base_dim": 8, "decoder_base_dim": 8, "num_res_blocks": 1, "dim_mult": [1, 1, 1, 1]}
    AutoencoderKLWan(**small).save_pretrained(folder / "vae")
    return folder


@pytest.fixture
def base(released: Path, tmp_path: Path) -> Path:
    return shutil.copytree(released, tmp_path / "base")


def rewrite(file: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> dict[str, Tensor]:
    before = load_file(file)
    save_file({key: x.clone() for key, x in change(dict(before)).items()}, file)
    return before


def as_lerobot(base: Path, folder: Path) -> Path:
    folder.mkdir()
    config = json.loads((base / "transformer" / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"type": "lingbot_va", **config}))
    weights = load_file(base / "transformer" / WEIGHTS)
    save_file({f"transformer.{key}": x for key, x in weights.items()}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("layout", ["released", "lerobot"])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_what_a_wrapper_put_around_the_keys_is_taken_off_and_said(
    base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, wrapper: str, layout: str
) -> None:
    wrap = WRAPPERS[wrapper]
    folder = base if layout == "released" else as_lerobot(base, tmp_path / "policy")
    file = base / "transformer" / WEIGHTS if layout == "released" else folder / "model.safetensors"
    before = rewrite(file, lambda held: {wrap(key): x for key, x in held.items()})
    loaded = load_transformer(folder).state_dict()
    for key, value in loaded.items():
        stored = key if layout == "released" else f"transformer.{key}"
        assert torch.equal(value, before[stored])
    assert all(word in caplog.text for word in wrapper.split(" and "))
    facts = describe(folder)
    assert not has_problems(facts)
    assert all(word in facts["keys"] for word in wrapper.split(" and "))
    assert facts["parameters"] == sum(x.numel() for x in loaded.values())


def test_a_wrapped_autoencoder_is_brought_to_a_dtype_without_a_warning(
    base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """diffusers warns of modules that it keeps in float32 where there are none."""
    rewrite(base / "vae" / WEIGHTS, lambda held: {f"module.{key}": x for key, x in held.items()})
    model = load_autoencoder(AutoencoderKLWan, base / "vae", dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    assert [each.name for each in caplog.records] == ["flashwam.wam.keys"]


def test_what_is_wrapped_in_parts_or_unknown_is_listed_with_status_1(base: Path, capsys: Any) -> None:
    file = base / "transformer" / WEIGHTS
    whole = load_file(file)
    first = next(iter(whole))

    def other(held: dict[str, Tensor]) -> dict[str, Tensor]:
        held["patch_embedding_mlp.bias"] = torch.zeros(3)
        return {
            (f"module.{key}" if key == first else f"net.{key}" if "ffn" in key else key): x for key, x in held.items()
        }

    rewrite(file, other)
    problems = "\n".join(describe(base)["problems"])
    assert f"unexpected module.{first}" in problems
    assert f"missing {first}" in problems
    assert "unexpected net." in problems
    assert "misshapen patch_embedding_mlp.bias: expected" in problems
    assert main(["info", str(base)]) == 1
    assert f"missing {first}" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"does not fit its config\.json"):
        load_transformer(base)
    rewrite(file, lambda held: {f"x{n}.{key}": x for n in range(9) for key, x in held.items()})
    assert len(describe(base)["problems"]) == 21, "the list is bounded"


@pytest.mark.parametrize("name", ["student.", "ema_model.module.", "model.diffusion_model."])
def test_a_wrapper_that_is_not_known_is_named_first(base: Path, name: str) -> None:
    rewrite(base / "transformer" / WEIGHTS, lambda held: {name + key: x for key, x in held.items()})
    left = name.removeprefix("model.")
    assert describe(base)["problems"][0].startswith(f"every key begins with '{left}': saved from inside another module")
    with pytest.raises(ValueError, match=f"every key begins with '{re.escape(left)}'") as caught:
        load_transformer(base)
    assert "same checkpoint" not in str(caught.value), "that would not help"


def test_a_wrapper_around_a_layouts_own_prefix_is_named_alone(base: Path, tmp_path: Path) -> None:
    folder = as_lerobot(base, tmp_path / "policy")
    rewrite(folder / "model.safetensors", lambda held: {f"policy.{key}": x for key, x in held.items()})
    assert describe(folder)["problems"][0].startswith("every key begins with 'policy.': saved")


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool])
def test_weights_of_whole_numbers_are_named(base: Path, dtype: torch.dtype) -> None:
    def quantised(held: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key: x.to(dtype) if key == "action_embedder.bias" else x for key, x in held.items()}

    rewrite(base / "transformer" / WEIGHTS, quantised)
    assert describe(base)["problems"][0].startswith("action_embedder.bias is of whole numbers")
    with pytest.raises(ValueError, match=r"action_embedder\.bias is of whole numbers"):
        load_transformer(base)


@pytest.mark.parametrize("file", ["vae/config.json", "text_encoder/config.json", "tokenizer/tokenizer.json"])
def test_settings_of_a_part_that_are_none_are_listed(base: Path, file: str) -> None:
    (base / file).parent.mkdir(exist_ok=True)
    (base / file).write_text(POINTER.format(0))
    assert any("Git LFS pointer" in line for line in describe(base)["problems"])
    if file.endswith("config.json"):
        (base / file).write_text("[")
        assert any("is not JSON" in line for line in describe(base)["problems"])


@pytest.mark.parametrize("part", ["transformer", "vae"])
def test_a_git_lfs_pointer_is_named_also_as_one_shard_of_several(base: Path, part: str) -> None:
    load = load_transformer if part == "transformer" else lambda root: load_autoencoder(AutoencoderKLWan, root / "vae")
    folder = base / part
    weights = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = {key: f"shard-{number % 2}.safetensors" for number, key in enumerate(weights)}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    for shard in set(names.values()):
        save_file({key: x for key, x in weights.items() if names[key] == shard}, folder / shard)
    assert not has_problems(describe(base))
    rewrite(folder / "shard-1.safetensors", lambda held: dict(list(held.items())[1:]))
    assert has_problems(describe(base)), "a key that the index names is missing"
    (folder / "shard-1.safetensors").write_text(POINTER.format(0))
    told = r"shard-1\.safetensors is a Git LFS pointer of 10,177,654,784 bytes: run git lfs pull, or hf download"
    with pytest.raises(ValueError, match=told):
        load(base)
    if part == "transformer":
        with pytest.raises(ValueError, match=told):
            describe(base)
    else:
        assert "Git LFS pointer" in describe(base)["problems"][0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite_are_named(base: Path, dtype: torch.dtype, value: float) -> None:
    for part in ("transformer", "vae"):

        def spoil(held: dict[str, Tensor]) -> dict[str, Tensor]:
            held = {key: x.to(dtype) for key, x in held.items()}
            held[next(iter(held))].flatten()[-1] = value
            return held

        rewrite(base / part / WEIGHTS, spoil)
    problems = describe(base)["problems"]
    assert len(problems) == 2
    assert all("1 value(s) that are NaN or infinite" in line for line in problems)
    assert problems[1].startswith("vae: ")


def test_the_second_family_is_compared_and_taken_out_of_its_wrapper_too(
    make_cogvideox: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = make_cogvideox()
    model.save_pretrained(tmp_path / "model")
    shutil.copytree(tmp_path / "model" / "transformer", tmp_path / "bare" / "transformer")
    folder = tmp_path / "bare" / "transformer"
    before = rewrite(folder / WEIGHTS, lambda held: {f"module._orig_mod.{key}": x for key, x in held.items()})
    loaded = load_module(CogVideoXTransformer3DModel, folder)
    assert all(torch.equal(value, before[key]) for key, value in loaded.state_dict().items())
    assert "torch.compile" in caplog.text
    facts = describe(tmp_path / "bare")
    assert "torch.compile" in facts["keys"]
    assert not has_problems(facts)
    assert not has_problems(describe(tmp_path / "model"))
    rewrite(folder / WEIGHTS, lambda held: dict(list(held.items())[1:]))
    assert "missing" in describe(tmp_path / "bare")["problems"][0]
    shutil.copy(folder / WEIGHTS, tmp_path / "model" / "action" / WEIGHTS)
    assert has_problems(describe(tmp_path / "model"))
