# SPDX-License-Identifier: Apache-2.0
"""The networks that CogVideoX was released in."""

from typing import Any

__all__ = ["NETWORKS", "SNR_SHIFTS", "network_name", "network_options"]

NETWORKS: dict[str, dict[str, Any]] = {
    "2b": {"num_attention_heads": 30, "num_layers": 30},
    "5b": {"num_attention_heads": 48, "num_layers": 42, "use_rotary_positional_embeddings": True},
    "5b-i2v": {
        "num_attention_heads": 48,
        "num_layers": 42,
        "in_channels": 32,
        "use_rotary_positional_embeddings": True,
        "use_learned_positional_embeddings": True,
    },
}
"""Name -> keywords of `CogVideoXTransformer3DModel` beyond its defaults."""
SNR_SHIFTS = {"2b": 3.0, "5b": 1.0, "5b-i2v": 1.0}
"""Name -> `snr_shift` of its pre-training."""


def network_options(name: str) -> dict[str, Any]:
    """The keywords of a released network.

    Raises:
        ValueError: There is none of that name.
    """
    if name not in NETWORKS:
        raise ValueError(f"unknown network {name!r}; expected one of {sorted(NETWORKS)}")
    return dict(NETWORKS[name])


def network_name(options: dict[str, Any]) -> str | None:
    """The released network of a size, given all keywords of the transformer; None for another."""
    size = (options["num_attention_heads"], options["num_layers"], options["attention_head_dim"])
    if size == (30, 30, 64):
        return "2b"
    if size == (48, 42, 64):
        return "5b-i2v" if options["in_channels"] == 32 else "5b"
    return None
