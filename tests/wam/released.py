# SPDX-License-Identifier: Apache-2.0
"""A checkpoint in the released layout, every part of it tiny."""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import save_file
from tiny_models import tiny_tokenizer
from torch import Tensor

from flashwam.wam.lingbot_va import WanTransformer3DModel
from flashwam.wam.lingbot_va.vae import WAN22_CONFIG

NETWORK = {"num_attention_heads": 2, "attention_head_dim": 20, "text_dim": 16, "freq_dim": 16, "ffn_dim": 64}
NETWORK |= {"num_layers": 1}
CONFIG = {
    "architectures": ["UMT5EncoderModel"],
    "model_type": "umt5",
    "vocab_size": 64,
    "d_model": 16,
    "d_kv": 4,
    "d_ff": 24,
    "num_layers": 2,
    "num_heads": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
    "layer_norm_epsilon": 1e-6,
    "feed_forward_proj": "gated-gelu",
    "dense_act_fn": "gelu_new",
    "is_gated_act": True,
    "dropout_rate": 0.1,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "output_past": True,
    "scalable_attention": True,
    "tie_word_embeddings": False,
    "tokenizer_class": "T5Tokenizer",
    "transformers_version": "4.51.0",
}
WORDS = ("put", "the", "cup", "on", "stove", "open", "drawer")


def encoder_weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    shapes = {"shared.weight": (64, 16), "encoder.final_layer_norm.weight": (16,)}
    for i in range(2):
        block = f"encoder.block.{i}.layer"
        shapes |= {f"{block}.0.SelfAttention.{name}.weight": (12, 16) for name in "qkv"}
        shapes |= {
            f"{block}.0.SelfAttention.o.weight": (16, 12),
            f"{block}.0.SelfAttention.relative_attention_bias.weight": (8, 3),
            f"{block}.0.layer_norm.weight": (16,),
            f"{block}.1.DenseReluDense.wi_0.weight": (24, 16),
            f"{block}.1.DenseReluDense.wi_1.weight": (24, 16),
            f"{block}.1.DenseReluDense.wo.weight": (16, 24),
            f"{block}.1.layer_norm.weight": (16,),
        }
    return {key: torch.randn(shape, generator=generator) * 0.5 for key, shape in shapes.items()}


def write_text_encoder(folder: Path) -> Path:
    """``text_encoder/`` and ``tokenizer/``."""
    for part in ("text_encoder", "tokenizer"):
        (folder / part).mkdir(parents=True)
    (folder / "text_encoder" / "config.json").write_text(json.dumps(CONFIG))
    save_file(encoder_weights(), folder / "text_encoder" / "model.safetensors")
    tiny_tokenizer(WORDS).save(str(folder / "tokenizer" / "tokenizer.json"))
    return folder


def write_parts(folder: Path) -> Path:
    """The parts beside a transformer: ``vae/``, ``text_encoder/`` and ``tokenizer/``."""
    small = {**WAN22_CONFIG, "base_dim": 8, "decoder_base_dim": 8, "num_res_blocks": 1, "dim_mult": [1, 1, 1, 1]}
    AutoencoderKLWan(**small).save_pretrained(folder / "vae")
    return write_text_encoder(folder)


def write_released(folder: Path) -> Path:
    """The whole checkpoint."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        WanTransformer3DModel(**NETWORK).save_pretrained(folder / "transformer")
    return write_parts(folder)


def write_lerobot(folder: Path, weights: dict[str, Tensor], *, quantiles: bool = True, **config: object) -> Path:
    """LeRobot's policy without the parts beside it; fields that are None are left out."""
    folder.mkdir(parents=True)
    fields = {"type": "lingbot_va", **NETWORK, **config}
    (folder / "config.json").write_text(json.dumps({k: v for k, v in fields.items() if v is not None}))
    save_file(weights, folder / "model.safetensors")
    if quantiles:
        state = "policy_postprocessor_step_0_unnormalizer_processor.safetensors"
        save_file(
            {"action.q01": torch.tensor([-1.0, -2, 0]), "action.q99": torch.tensor([1.0, 3, 0.5])}, folder / state
        )
        step = {"registry_name": "unnormalizer_processor", "config": {"norm_map": {"ACTION": "QUANTILES"}}}
        step["state_file"] = state
        (folder / "policy_postprocessor.json").write_text(json.dumps({"name": "post", "steps": [step]}))
    return folder


def lerobot_weights() -> dict[str, Tensor]:
    """A transformer by LeRobot's keys."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return {f"transformer.{key}": value for key, value in WanTransformer3DModel(**NETWORK).state_dict().items()}
