# SPDX-License-Identifier: Apache-2.0
"""The cameras of a data set, and which of them are depth maps: by its own account, or by the pictures' format."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flashwam.system.errors import InputError

__all__ = ["check_camera", "is_deep_h264", "is_depth_format", "refuse_depth"]

_REMEDY = "leave it out of data.cameras, or set data.depth_as_grey=true"


def check_camera(info: Path, camera: str, features: Mapping[str, Any], *, depth: bool) -> str:
    """Finds where a camera's pictures lie, "video" or "image" (in the table), as `meta/info.json` says.

    Args:
        info: That file, for the message.
        camera: Key.
        features: Of the data set.
        depth: See `Clip`.

    Raises:
        ValueError: There is no such camera, or it is one of depth maps.
    """
    kinds = {key: feature.get("dtype") for key, feature in features.items() if isinstance(feature, dict)}
    there = sorted(key for key, kind in kinds.items() if kind in ("video", "image"))
    if camera not in there:
        raise InputError(f"{info}: has no video {camera}; it has {', '.join(there) or 'none'}")
    sign = None if depth else _depth_sign(features[camera])
    if sign is not None:
        raise InputError(
            f"{info}: camera {camera} is a depth map ({sign}); latents of pictures in colour are meant; {_REMEDY}"
        )
    return kinds[camera]


def _depth_sign(values: Mapping[str, Any]) -> str | None:
    """Finds the part of a feature that says that it is a depth map, at any depth and in any version's spelling."""
    for key, value in values.items():
        last, said = str(key).rpartition(".")[2].lower(), str(value).strip().lower()
        if isinstance(value, (Mapping, list)):
            inner = [value] if isinstance(value, Mapping) else [held for held in value if isinstance(held, Mapping)]
            sign = next((sign for held in inner if (sign := _depth_sign(held)) is not None), None)
            if sign is not None:
                return sign
        elif last in ("is_depth_map", "is_depth") and said in ("true", "1", "1.0", "yes"):
            return f"{key} is {value!r}"
        elif last == "pix_fmt" and is_depth_format(said):
            return f"{key} is {value!r}, grey of more than 8 bits"
    return None


def is_depth_format(name: str | None) -> bool:
    """Tells whether pictures of this FFmpeg pixel format are grey with more than 8 bits, as depth maps are and colour
    pictures never."""
    import av

    try:
        kind = av.VideoFormat(name) if name else None
    except ValueError:
        return False
    return kind is not None and not kind.is_rgb and _is_grey(kind) and max(c.bits for c in kind.components) > 8


def _is_grey(kind: Any) -> bool:
    return not any(component.is_chroma for component in kind.components)


def refuse_depth(pixel_format: str | None, where: Path | str, *, depth: bool) -> None:
    """Refuses pictures whose format is one of depth maps, unless `depth` says that they are meant."""
    if not depth and is_depth_format(pixel_format):
        raise InputError(
            f"{where}: is a depth map by its pixel format {pixel_format} (grey, more than 8 bits); pictures in "
            f"colour are meant; {_REMEDY}"
        )


def is_deep_h264(header: bytes | None) -> bool:
    """Tells whether an H.264 header says grey of more than 8 bits, whose pictures FFmpeg's decoder calls colour.

    Args:
        header: The codec's extradata: an `avcC` record, or NAL units with start codes.
    """
    if not header:
        return False
    begin = 8 if header[0] == 1 else header.find(b"\0\0\1\x67") + 3
    parameters = header[begin : begin + 16]
    # Profiles below these have neither.
    if begin < 3 or len(parameters) < 5 or parameters[1] not in (44, 100, 110, 122, 244):
        return False
    bits = iter("".join(f"{byte:08b}" for byte in parameters[4:]))

    def unsigned() -> int:
        zeros = next((count for count, bit in enumerate(bits) if bit == "1"), 0)
        return 2**zeros - 1 + int("0" + "".join(next(bits, "0") for _ in range(zeros)), 2)

    unsigned()
    return unsigned() == 0 and unsigned() > 0
