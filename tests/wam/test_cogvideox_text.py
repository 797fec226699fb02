# SPDX-License-Identifier: Apache-2.0
"""Prompts: padded to 226 tokens, embedded by transformers' T5 without a mask, kept on disk."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny_models import tiny_cogvideox
from torch.testing import assert_close
from transformers import T5EncoderModel

from flashwam.wam import t5
from flashwam.wam.cogvideox import text
from flashwam.wam.cogvideox.text import T5, T5Prompts


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_cogvideox(tmp_path_factory.mktemp("base"), transformer=False)


def test_an_embedding_is_that_of_the_padded_prompt_without_a_mask(checkpoint: Path) -> None:
    own = T5EncoderModel.from_pretrained(checkpoint / "text_encoder").eval()
    encoder = T5(checkpoint, dtype=torch.float32)
    ids = encoder.tokens("Open the shut")
    assert len(ids) == 226
    assert ids[:1] == [5]
    assert ids[ids.index(1) :] == [1] + [0] * (225 - ids.index(1))
    padded = torch.tensor([ids])
    with torch.no_grad():
        expected = own(input_ids=padded).last_hidden_state[0]
        masked = own(input_ids=padded, attention_mask=(padded != 0).long()).last_hidden_state[0]
    embedding = encoder.encode("Open the shut")
    assert_close(embedding, expected, atol=1e-5, rtol=1e-5)
    assert (embedding - masked).abs().max() > 1e-3
    assert embedding[-1].any()


def test_long_prompts_keep_their_end_mark(checkpoint: Path) -> None:
    assert T5(checkpoint, dtype=torch.float32, length=8).tokens("open " * 40) == [5] * 7 + [1]


def test_the_empty_prompt_is_zero_and_needs_no_encoder(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text.t5, "load_encoder", lambda *_, **__: pytest.fail("the encoder was loaded"))
    null = T5(checkpoint).encode("")
    assert (null.shape, null.dtype) == ((226, 16), torch.bfloat16)
    assert not null.any()


def test_prompts_are_kept(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = T5Prompts(tmp_path, checkpoint=checkpoint)
    encoder.prepare(["open", "  open ", ""])
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    monkeypatch.setattr(text, "T5", lambda *_, **__: pytest.fail("the encoder was asked for"))
    alone = T5Prompts(tmp_path)
    assert torch.equal(alone.encode("open"), T5Prompts(tmp_path, checkpoint=checkpoint).encode("open"))
    assert not alone.encode("").any()
    with pytest.raises(FileNotFoundError, match="'shut' is not among"):
        alone.encode("shut")
    with pytest.raises(ValueError, match="another text encoder"):
        T5Prompts(tmp_path, checkpoint=checkpoint, dtype=torch.float32)


def test_wrong_parts_are_refused(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="overflow in torch"):
        T5(checkpoint, dtype=torch.float16)
    folder = tmp_path / "base"
    for part in ("text_encoder", "tokenizer"):
        (folder / part).mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"text_encoder/config\.json is missing"):
        T5(folder)
    config = json.loads((checkpoint / "text_encoder" / "config.json").read_text())
    (folder / "text_encoder" / "config.json").write_text(json.dumps(config | {"model_type": "umt5"}))
    with pytest.raises(ValueError, match="must describe a T5 with gated-gelu, got model_type 'umt5'"):
        T5(folder)
    (folder / "text_encoder" / "config.json").write_text(json.dumps(config))
    weights = (checkpoint / "text_encoder" / "model.safetensors").read_bytes()
    (folder / "text_encoder" / "model.safetensors").write_bytes(weights)
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json is missing, and so is spiece\.model"):
        T5(folder).encode("open")
    (folder / "tokenizer" / "spiece.model").write_bytes(b"")
    monkeypatch.setattr("flashwam.wam.t5.find_spec", lambda _: None)
    with pytest.raises(ImportError, match=r"flashwam\[cogvideox\]"):
        T5(folder).encode("open")


def test_the_released_tokenizers_own_format(tmp_path: Path) -> None:
    """``spiece.model``, by way of transformers, against SentencePiece itself."""
    sentencepiece = pytest.importorskip("sentencepiece")
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    (tmp_path / "words").write_text("open the drawer\nput the cup on the stove\nfold the towel\n" * 20)
    ids = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "words"),
        model_prefix=str(folder / "spiece"),
        model_type="unigram",
        vocab_size=40,
        hard_vocab_limit=False,
        **ids,
    )
    path = t5.tokenizer_file(folder)
    assert path.name == "spiece.model"
    tokenizer = t5.load_tokenizer(path, SimpleNamespace(eos_token_id=1, vocab_size=200), length=226)
    reference = sentencepiece.SentencePieceProcessor(str(path))
    for prompt in ("open the drawer", "Put  the CUP, on the stove!", ""):
        assert tokenizer.encode(prompt).ids == [*reference.encode(prompt), 1]


def test_tokens_that_are_cut_off_are_said_once(checkpoint, caplog):
    encoder = T5(checkpoint, dtype=torch.float32, length=8)
    for _ in range(2):
        encoder.encode("open " * 5 + "shut")
        encoder.encode("shut " * 30 + "open")
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "a prompt has 32 tokens and the text encoder takes 8"
    ]
