# SPDX-License-Identifier: Apache-2.0
"""Prompts: cleaned, tokenised from the file, embedded by UMT5's own formula, kept on disk."""

import json
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from released import CONFIG, WORDS, encoder_weights, write_text_encoder
from safetensors.torch import load_file, save_file
from tiny_models import tiny_tokenizer
from tokenizers import processors
from torch import Tensor
from torch.testing import assert_close

from flashwam.data import hashed_text
from flashwam.wam import weights
from flashwam.wam.lingbot_va import prompts
from flashwam.wam.lingbot_va.encoders import wan_encoders
from flashwam.wam.lingbot_va.prompts import PromptEncoder
from flashwam.wam.lingbot_va.text import Umt5, clean_prompt
from flashwam.wam.lingbot_va.vae import WAN22_CONFIG, WanVae
from flashwam.wam.t5 import read_text_config

ROWS = 24
NAMES = ("shared.weight", "encoder.embed_tokens.weight")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_text_encoder(tmp_path / "base")


def bucket(distance: int) -> int:
    """T5's bidirectional buckets: 4 for each sign, the first 2 exact, the others logarithmic up to 12."""
    half, exact = 4, 2
    past = half if distance > 0 else 0
    distance = abs(distance)
    if distance < exact:
        return past + distance
    return past + min(half - 1, exact + int(math.log(distance / exact) / math.log(12 / exact) * (half - exact)))


def umt5(ids: list[int], weights: dict[str, Tensor]) -> Tensor:
    """UMT5's encoder written out: a bias per layer, no scaling of the scores, gated tanh-approximated GELU."""

    def norm(x: Tensor, name: str) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * weights[name]

    x = weights["shared.weight"][ids]
    for i in range(2):
        block = f"encoder.block.{i}.layer"
        h = norm(x, f"{block}.0.layer_norm.weight")
        q, k, v = (h @ weights[f"{block}.0.SelfAttention.{name}.weight"].T for name in "qkv")
        table = weights[f"{block}.0.SelfAttention.relative_attention_bias.weight"]
        bias = torch.stack([torch.stack([table[bucket(b - a)] for b in range(len(ids))]) for a in range(len(ids))])
        heads = []
        for head in range(3):
            part = slice(4 * head, 4 * head + 4)
            scores = q[:, part] @ k[:, part].T + bias[:, :, head]
            heads.append(scores.softmax(-1) @ v[:, part])
        x = x + torch.cat(heads, -1) @ weights[f"{block}.0.SelfAttention.o.weight"].T
        h = norm(x, f"{block}.1.layer_norm.weight")
        inner, linear = (h @ weights[f"{block}.1.DenseReluDense.wi_{n}.weight"].T for n in (0, 1))
        gelu = 0.5 * inner * (1 + torch.tanh(math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)))
        x = x + (gelu * linear) @ weights[f"{block}.1.DenseReluDense.wo.weight"].T
    return norm(x, "encoder.final_layer_norm.weight")


@pytest.mark.parametrize("prompt", ["put the cup on the stove", "", "Open the DRAWER q z put put put put put put"])
def test_embedding_is_umt5s_formula_then_zeros(checkpoint: Path, prompt: str) -> None:
    encoder = Umt5(checkpoint, dtype=torch.float32, length=ROWS)
    ids = encoder.tokens(clean_prompt(prompt))
    embedding = encoder.encode(clean_prompt(prompt))
    assert embedding.shape == (ROWS, 16)
    assert_close(embedding[: len(ids)], umt5(ids, encoder_weights()), atol=1e-5, rtol=1e-5)
    assert not embedding[len(ids) :].any()


def test_padding_with_a_mask_would_give_the_same_rows(checkpoint: Path) -> None:
    encoder = Umt5(checkpoint, dtype=torch.float32, length=ROWS)
    ids = encoder.tokens("open the drawer")
    padded = torch.tensor([ids + [0] * (ROWS - len(ids))])
    with torch.no_grad():
        rows = encoder.model(input_ids=padded, attention_mask=(padded != 0).long()).last_hidden_state[0, : len(ids)]
    assert_close(encoder.encode("open the drawer")[: len(ids)], rows, atol=1e-5, rtol=1e-5)


def test_tokens_come_from_the_file_with_its_normaliser(checkpoint: Path) -> None:
    encoder = Umt5(checkpoint, dtype=torch.float32, length=ROWS)
    word = {name: 4 + i for i, name in enumerate(WORDS)}
    assert encoder.tokens("") == [1]
    # A full-width letter and capitals only become words by the file's normaliser.
    assert encoder.tokens("Put THE \uff43up") == [word["put"], word["the"], word["cup"], 1]
    long = encoder.tokens("put " * 40)
    assert long == [word["put"]] * (ROWS - 1) + [1]


def test_prompts_are_cleaned() -> None:
    assert clean_prompt("  pick &amp;amp; place\n\tthe\u00a0cup  ") == "pick & place the cup"
    # UTF-8 that was read as Latin-1.
    assert clean_prompt("caf\u00c3\u00a9") == "caf\u00e9"
    assert clean_prompt("") == ""


def test_missing_ftfy_comes_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ftfy", None)
    with pytest.raises(ImportError, match=r"flashwam\[lingbot\]"):
        clean_prompt("cup")


@pytest.mark.parametrize("kept", [("shared.weight",), ("encoder.embed_tokens.weight",), NAMES])
def test_the_one_input_embedding_by_any_of_its_names(checkpoint: Path, kept: tuple[str, ...]) -> None:
    path = checkpoint / "text_encoder" / "model.safetensors"
    weights = load_file(path)
    table = weights.pop("shared.weight")
    decoder = {"decoder.final_layer_norm.weight": torch.ones(16), "lm_head.weight": torch.ones(64, 16)}
    save_file(weights | decoder | {name: table.clone() for name in kept}, path)
    encoder = Umt5(checkpoint, dtype=torch.float32, length=ROWS)
    assert encoder.model.encoder.embed_tokens.weight is encoder.model.shared.weight
    assert_close(encoder.encode("cup")[:2], umt5(encoder.tokens("cup"), encoder_weights()), atol=1e-5, rtol=1e-5)


def test_sharded_encoder(checkpoint: Path) -> None:
    folder, weights = checkpoint / "text_encoder", encoder_weights()
    (folder / "model.safetensors").unlink()
    where = {}
    for i, keys in enumerate((sorted(weights)[:9], sorted(weights)[9:])):
        where |= dict.fromkeys(keys, f"model-{i + 1:05}-of-00002.safetensors")
        save_file({key: weights[key] for key in keys}, folder / f"model-{i + 1:05}-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    encoder = Umt5(checkpoint, dtype=torch.float32, length=ROWS)
    assert_close(encoder.encode("cup")[:2], umt5(encoder.tokens("cup"), weights), atol=1e-5, rtol=1e-5)


def test_wrong_weights_are_listed(checkpoint: Path) -> None:
    path = checkpoint / "text_encoder" / "model.safetensors"
    weights = load_file(path)
    save_file(weights | {"encoder.embed_tokens.weight": torch.zeros(64, 16)}, path)
    with pytest.raises(ValueError, match="differ"):
        Umt5(checkpoint)
    del weights["shared.weight"], weights["encoder.block.1.layer.0.SelfAttention.q.weight"]
    weights["encoder.final_layer_norm.weight"] = torch.zeros(8)
    save_file(weights | {"extra": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="5 keys") as caught:
        Umt5(checkpoint)
    for line in (
        "unexpected extra (1,)",
        "misshapen encoder.final_layer_norm.weight: expected (16,), got (8,)",
        "missing shared.weight",
        "missing encoder.embed_tokens.weight",
        "missing encoder.block.1.layer.0.SelfAttention.q.weight (12, 16)",
    ):
        assert line in str(caught.value)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match="cut off"):
        Umt5(checkpoint)


def test_wrong_parts_are_refused(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="float16"):
        Umt5(checkpoint, dtype=torch.float16)
    file = checkpoint / "tokenizer" / "tokenizer.json"
    made = tiny_tokenizer(WORDS)
    made.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    made.save(str(file))
    with pytest.raises(ValueError, match="end mark"):
        Umt5(checkpoint)
    made = tiny_tokenizer(WORDS)
    made.add_tokens([f"more{i}" for i in range(40)])
    made.save(str(file))
    with pytest.raises(ValueError, match="77 tokens"):
        Umt5(checkpoint)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        Umt5(checkpoint)
    path = checkpoint / "text_encoder" / "config.json"
    path.write_text(json.dumps(CONFIG | {"model_type": "t5"}))
    with pytest.raises(ValueError, match="UMT5"):
        Umt5(checkpoint)


def test_cached_prompts_need_no_encoder(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "prompts"
    encoder = PromptEncoder(cache, checkpoint=checkpoint, length=ROWS)
    first, null = encoder.encode("Open the drawer"), encoder.encode("")
    assert first.dtype == torch.bfloat16
    assert not torch.equal(first, null)
    monkeypatch.setattr(prompts, "Umt5", lambda *_, **__: pytest.fail("the encoder was loaded"))
    again = PromptEncoder(cache, checkpoint=checkpoint, length=ROWS)
    assert torch.equal(again.encode("  Open the\tdrawer "), first)
    alone = PromptEncoder(cache)
    assert torch.equal(alone.encode("Open the drawer"), first)
    assert torch.equal(alone.encode(""), null)
    with pytest.raises(FileNotFoundError, match="close the drawer"):
        alone.encode("close the drawer")
    with pytest.raises(FileNotFoundError, match="no prompts"):
        PromptEncoder(tmp_path / "none").encode("")
    damaged = alone.path("")
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(ValueError, match="damaged"):
        alone.encode("")


def test_a_folder_of_prompts_belongs_to_one_encoder(checkpoint: Path, tmp_path: Path) -> None:
    cache = tmp_path / "prompts"
    PromptEncoder(cache, checkpoint=checkpoint, length=ROWS).encode("cup")
    with pytest.raises(ValueError, match="another text encoder"):
        PromptEncoder(cache, checkpoint=checkpoint, length=ROWS, dtype=torch.float32)
    with pytest.raises(ValueError, match="another text encoder"):
        PromptEncoder(cache, checkpoint=checkpoint, length=ROWS + 1)
    weights = encoder_weights()
    weights["encoder.final_layer_norm.weight"][0] += 1
    save_file(weights, checkpoint / "text_encoder" / "model.safetensors")
    with pytest.raises(ValueError, match="another text encoder"):
        PromptEncoder(cache, checkpoint=checkpoint, length=ROWS)


def test_prompts_are_kept_in_the_packages_own_folder_and_the_checkpoint_is_only_read(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("FLASHWAM_CACHE", str(cache))
    listed = sorted(checkpoint.rglob("*"))
    first = PromptEncoder(checkpoint=checkpoint, length=ROWS).encode("cup")
    assert sorted(checkpoint.rglob("*")) == listed
    (file,) = cache.glob("prompts/*/*.safetensors")
    with monkeypatch.context() as patch:
        patch.setattr(prompts, "Umt5", lambda *_, **__: pytest.fail("the encoder was loaded"))
        assert torch.equal(PromptEncoder(checkpoint=checkpoint, length=ROWS).encode("cup"), first)
    file.write_bytes(file.read_bytes()[:-1])
    assert torch.equal(PromptEncoder(checkpoint=checkpoint, length=ROWS).encode("cup"), first), "damage is mended"
    assert load_file(file)
    # Carried to a machine without the encoder.
    shutil.copytree(file.parent, tmp_path / "elsewhere" / "text_cache")
    assert torch.equal(PromptEncoder(checkpoint=tmp_path / "elsewhere").encode("cup"), first)
    assert len(list(cache.rglob("*.safetensors"))) == 1


def test_other_weights_never_give_the_embeddings_of_the_ones_before(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLASHWAM_CACHE", str(tmp_path / "cache"))
    # Both ends of the file stay as they were, which are all that the fingerprint reads of a large one.
    monkeypatch.setattr(weights, "_EDGE", 8)
    first = PromptEncoder(checkpoint=checkpoint, length=ROWS).encode("cup")
    path = checkpoint / "text_encoder" / "model.safetensors"
    content = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    middle = np.frombuffer(content, np.uint8)[header + 64 : -64]
    middle[1::2] ^= 0x80
    path.write_bytes(content)
    second = PromptEncoder(checkpoint=checkpoint, length=ROWS).encode("cup")
    assert not torch.equal(first, second)


def test_without_a_writable_folder_prompts_are_held_in_memory_and_it_is_said_once(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FLASHWAM_CACHE", str(tmp_path / "file"))
    encoder = PromptEncoder(checkpoint=checkpoint, length=ROWS)
    first = encoder.encode("cup"), encoder.encode("open")
    encoder.release()
    monkeypatch.setattr(prompts, "Umt5", lambda *_, **__: pytest.fail("the encoder was loaded again"))
    assert all(torch.equal(a, b) for a, b in zip(first, (encoder.encode("cup"), encoder.encode("open")), strict=True))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "FLASHWAM_CACHE" in caplog.text


def test_encoders_of_a_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    small = {**WAN22_CONFIG, "base_dim": 8, "decoder_base_dim": 8, "num_res_blocks": 1, "dim_mult": [1, 1, 1, 1]}
    torch.manual_seed(0)
    AutoencoderKLWan(**small).save_pretrained(checkpoint / "vae")
    encoders = wan_encoders(checkpoint, dtype=torch.float32)
    clip = torch.rand(3, 5, 32, 48, generator=torch.Generator().manual_seed(2)) * 2 - 1
    latents = encoders["video"](clip)
    vae = WanVae.from_pretrained(checkpoint / "vae")
    assert_close(latents, vae.normalised(vae.model.encode(clip[None]).latent_dist.mode())[0], atol=1e-5, rtol=1e-5)
    assert (latents.shape, encoders["pictures_per_frame"]) == ((48, 2, 2, 3), 4)
    encoders["prepare"](["open the drawer", ""])
    (checkpoint / "text_encoder" / "model.safetensors").rename(tmp_path / "away")
    assert encoders["text"]("open the drawer").shape == (512, 16)
    AutoencoderKLWan(**small).save_pretrained(checkpoint / "vae")
    (tmp_path / "away").rename(checkpoint / "text_encoder" / "model.safetensors")
    assert wan_encoders(checkpoint, dtype=torch.float32)["name"] != encoders["name"]


def test_a_prompt_that_is_cut_says_so_when_it_is_embedded_and_when_it_is_read_again(
    checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    long = "put the cup on the stove " * 7

    def said() -> list[str]:
        hashed_text._said.clear()
        caplog.clear()
        cache = PromptEncoder(tmp_path / "kept", checkpoint=checkpoint, dtype=torch.float32, length=ROWS)
        for _ in range(2):
            assert torch.equal(cache.encode(long + "open the drawer"), cache.encode(long))
            cache.encode("open the drawer")
        return [record.getMessage().partition(":")[0] for record in caplog.records]

    counts = [
        "a prompt has 46 tokens and the text encoder takes 24",
        "a prompt has 43 tokens and the text encoder takes 24",
    ]
    assert said() == counts
    assert said() == counts


@pytest.mark.parametrize(
    "held",
    [torch.zeros(3, 16), torch.zeros(16), torch.zeros(ROWS, 16, dtype=torch.int64), torch.full((ROWS, 16), math.nan)],
)
def test_what_is_kept_of_a_prompt_and_is_no_embedding_is_never_used(
    checkpoint: Path, tmp_path: Path, held: Tensor
) -> None:
    own, given = (PromptEncoder(folder, checkpoint=checkpoint, length=ROWS) for folder in (None, tmp_path / "given"))
    expected = own.encode("open the drawer")
    assert torch.equal(given.encode("open the drawer"), expected)
    for encoder in (own, given):
        save_file({"embedding": held}, encoder.path("open the drawer"))
    assert torch.equal(own.encode("open the drawer"), expected)
    with pytest.raises(ValueError, match=r"is damaged .*; remove it and embed the prompt again"):
        given.encode("open the drawer")


@pytest.mark.parametrize("content", [b"", b"{}", b"[" * 10**5, b"\x80\x04K\x01.", b'{"version": "1.0"}'])
def test_a_tokenizer_that_is_none_is_refused_by_its_file(checkpoint: Path, content: bytes) -> None:
    (checkpoint / "tokenizer/tokenizer.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"tokenizer\.json: "):
        Umt5(checkpoint)


@pytest.mark.parametrize("kind", ["umt5", "t5"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("d_model", value) for value in (None, "x", -1, 10**30, 10**9, [1])),
        *(("relative_attention_max_distance", value) for value in (0, -1, 2, None)),
        *(("relative_attention_num_buckets", value) for value in (-1, 1.5)),
    ],
)
def test_a_width_or_distance_that_cannot_be_is_named_before_anything_is_made(
    checkpoint: Path, kind: str, key: str, value: object
) -> None:
    path = checkpoint / "text_encoder/config.json"
    path.write_text(json.dumps({**CONFIG, "model_type": kind, key: value}))
    with pytest.raises(ValueError, match=rf"config\.json: {key} must be a whole number"):
        read_text_config(path.parent, kind=kind)


@pytest.mark.parametrize("value", [None, -1, 64, 10**30])
def test_a_padding_token_that_the_encoder_does_not_know_is_named(checkpoint: Path, value: object) -> None:
    path = checkpoint / "text_encoder/config.json"
    path.write_text(json.dumps({**CONFIG, "pad_token_id": value}))
    with pytest.raises(ValueError, match="pad_token_id"):
        Umt5(checkpoint)
