# SPDX-License-Identifier: Apache-2.0
"""Measures of draws and of their time by the names that tables give them."""

from collections.abc import Iterable, Mapping

__all__ = ["GREY", "OPEN_LOOP", "latency_columns", "sharpness_ratios"]

OPEN_LOOP = {
    "action_error_teacher": "action error to teacher",
    "action_error_expert": "action error to expert",
    "action_variance_ratio": "action variance ratio",
    "video_error_teacher": "latent video error to teacher",
    "video_decoded_error_teacher": "video error to teacher, grey levels",
    "video_decoded_error_expert": "video error to recorded, grey levels",
    "video_decoded_sharpness_ratio": "decoded video sharpness ratio",
    "video_sharpness_ratio": "sharpness ratio of last latents alone",
}
"""Open-loop measure -> column. The last one is of earlier versions, which decoded the last latent frame of a chunk as
if a clip began with it."""
GREY = frozenset(key for key, name in OPEN_LOOP.items() if name.endswith("grey levels"))
"""Those of decoded pictures in grey levels."""
_SHARPNESS, _DECODED = "_sharpness_ratio", "_decoded_sharpness_ratio"
_CHUNK, _JOINT, _PART, _MS = "chunk_ms", "video+action_ms", "part/", "_ms"


def sharpness_ratios(open_loop: Mapping[str, float]) -> dict[str, float]:
    """Finds how sharp decoded streams are.

    Args:
        open_loop: Measure -> value.

    Returns:
        Stream -> sharpness over the teacher's, of decoded chunks where that was measured.
    """
    told = {key: value for key, value in open_loop.items() if key.endswith(_SHARPNESS)}
    older = {key.removesuffix(_SHARPNESS): value for key, value in told.items() if not key.endswith(_DECODED)}
    return older | {key.removesuffix(_DECODED): value for key, value in told.items() if key.endswith(_DECODED)}


def latency_columns(latencies: Iterable[Mapping[str, float]]) -> dict[str, str]:
    """Columns of milliseconds: stages, the whole chunk, then the parts that models tell apart.

    Args:
        latencies: Part of a chunk -> milliseconds, of every row.

    Returns:
        Key -> column, of the keys that any row has.
    """
    keys = list(dict.fromkeys(key for latency in latencies for key in latency))
    stages = [key for key in keys if key != _CHUNK and not key.startswith(_PART)]
    found = {key: "joint ms" if key == _JOINT else f"{key.removesuffix(_MS)} ms" for key in stages}
    found |= {key: "ms a chunk" for key in keys if key == _CHUNK}
    parts = sorted(key for key in keys if key.startswith(_PART))
    return found | {key: f"{key.removeprefix(_PART).removesuffix(_MS)} ms" for key in parts}
