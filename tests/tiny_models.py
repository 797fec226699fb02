# SPDX-License-Identifier: Apache-2.0
"""Models of random weights that run in milliseconds, one of each family, and codecs that go with them."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from flashwam.core.streams import StreamSpec
from flashwam.data.actions import ActionNorm
from flashwam.data.autoencoder import FrameAutoencoder
from flashwam.data.codec import Codec
from flashwam.student import save_wam
from flashwam.wam.cogvideox import CogVideoX
from flashwam.wam.lingbot_va import LingBotVA

__all__ = [
    "TINY",
    "TINY_NETWORK",
    "save_tiny_student",
    "tiny_codec",
    "tiny_cogvideox",
    "tiny_joint_wam",
    "tiny_tokenizer",
    "tiny_video_autoencoder",
    "tiny_wam",
]

TINY = {
    "latent_size": (8, 8),
    "chunk_frames": 2,
    "actions_per_frame": 4,
    "window_chunks": 2,
    "patch_size": (1, 4, 4),
    "num_attention_heads": 2,
    "attention_head_dim": 20,
    "in_channels": 3,
    "out_channels": 3,
    "action_dim": 4,
    "text_dim": 32,
    "freq_dim": 16,
    "ffn_dim": 32,
    "num_layers": 1,
}
"""Chunks of 2 frames, 4 actions a frame, pictures of 64 pixels."""


def tiny_wam(*, seed: int = 0, **changes: Any) -> LingBotVA:
    """`LingBotVA.create` of TINY with some keywords changed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LingBotVA.create(**{**TINY, **changes})


TINY_JOINT = {
    "latent_size": (8, 8),
    "chunk_frames": 4,
    "actions_per_frame": 4,
    "action_dim": 4,
    "execute_frames": 2,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_layers": 1,
    "out_channels": 3,
    "patch_size": 4,
    "time_embed_dim": 8,
    "text_embed_dim": 32,
    "use_rotary_positional_embeddings": True,
}


def tiny_joint_wam(*, seed: int = 0, **changes: Any) -> CogVideoX:
    """Draws three frames and their actions together with the observed one, and acts out two of them; some keywords
    changed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return CogVideoX.create(**{**TINY_JOINT, **changes})


TINY_FORESIGHT: dict[str, Any] = {
    "text_width": 32,
    "grid": [4, 4],
    "decoupler": {"width": 8, "blocks": 1, "heads": 2, "positions": True},
    "resampler": {"width": 8, "queries": 2, "depth": 1, "heads": 2, "head_dim": 4},
    "expert": {"width": 8, "encoder": 1, "decoder": 1, "heads": 2},
}
"""Sizes of a foresight policy around one of these."""


def tiny_codec(*, seed: int = 0, **norm: tuple[float, ...]) -> Codec:
    """An untrained autoencoder of 64 pixels; controls are normalised by q01 and q99, by default [-1, 1]."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        autoencoder = FrameAutoencoder(latent_channels=TINY["in_channels"], width=16).eval()
    bounds = {"q01": (-1.0,) * TINY["action_dim"], "q99": (1.0,) * TINY["action_dim"], **norm}
    return Codec(autoencoder=autoencoder, actions=ActionNorm(**bounds, used=tuple(range(TINY["action_dim"]))))


TINY_NETWORK = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 8,
    "out_channels": 4,
    "time_embed_dim": 8,
    "text_embed_dim": 16,
    "num_layers": 1,
    "max_text_seq_length": 226,
    "use_rotary_positional_embeddings": True,
}
"""A CogVideoX transformer for the latents and the text of `tiny_cogvideox`."""


def tiny_video_autoencoder(**changes: Any) -> AutoencoderKLCogVideoX:
    """Of the released kind: 8 pixels a latent, 4 pictures a latent frame."""
    options = {"block_out_channels": (8, 8, 8, 8), "latent_channels": 4, "layers_per_block": 1, "norm_num_groups": 2}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return AutoencoderKLCogVideoX(**{**options, "scaling_factor": 0.7, **changes}).eval()


def tiny_tokenizer(words: tuple[str, ...]) -> Tokenizer:
    """As T5's: padding 0, end mark 1, unknown 2, then a space, the words and all letters."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -8.0)]
    pieces += [(f"\u2581{word}", -2.0) for word in words] + [(letter, -6.0) for letter in "abcdefghijklmnopqrstuvwxyz"]
    made = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="always")
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    # As some files are saved; neither may have any effect.
    made.enable_padding(length=9)
    made.enable_truncation(3)
    return made


def tiny_cogvideox(folder: Path, *, transformer: bool = True, text_width: int = 16) -> Path:
    """A checkpoint in the released layout: transformer, autoencoder, text encoder and tokenizer, with random weights."""
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=64, d_model=text_width, d_kv=4, d_ff=24, num_layers=2, num_heads=3, feed_forward_proj="gated-gelu"
    )
    with torch.random.fork_rng():
        torch.manual_seed(5)
        T5EncoderModel(config).save_pretrained(folder / "text_encoder")
        if transformer:
            size = {"sample_height": 4, "sample_width": 4, "sample_frames": 9}
            network = {**TINY_NETWORK, **size, "text_embed_dim": text_width}
            CogVideoXTransformer3DModel(**network).save_pretrained(folder / "transformer")
    tiny_video_autoencoder().save_pretrained(folder / "vae")
    (folder / "tokenizer").mkdir()
    tiny_tokenizer(("fold", "open", "shut")).save(str(folder / "tokenizer" / "tokenizer.json"))
    return folder


def save_tiny_student(folder: Path, *, joint: bool = False) -> Path:
    """Saves a student of random weights as a run would, with its codec: chunks of 2 frames, or a joint one's, 4 actions
    a frame, pictures of 64 pixels; returns its folder."""
    wam = tiny_joint_wam() if joint else tiny_wam()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in wam.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    streams = {
        "video": StreamSpec.from_config("video", {"shift": 5.0, "consistency": "lcm"}),
        "action": StreamSpec.from_config("action", {"shift": 1.0, "steps": 2}),
    }
    recipe = {"data": {"root": "data/nowhere", "tasks": ["faucet-turn"]}, "evaluate": {"episodes": 1}}
    save_wam(folder, wam, streams, kind="student", info={"steps": 7, "name": "tiny", "recipe": recipe})
    tiny_codec(q01=(-0.9, -1.0, -0.5, -1.0), q99=(0.8, 1.0, 1.0, 1.0)).save(folder)
    return folder
