# SPDX-License-Identifier: Apache-2.0
"""The settings and the autoencoder that recordings were converted with, held to those of a recipe that reads them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flashwam.data.autoencoder import STATS
from flashwam.data.fingerprint import autoencoder_files, files_fingerprint
from flashwam.data.summary import SUMMARY_FILE
from flashwam.data.targets import PLAN_FILE
from flashwam.system.changed_settings import changed_settings
from flashwam.system.errors import InputError
from flashwam.system.json_file import read_mapping
from flashwam.system.paths import user_path

__all__ = ["MADE_WITH", "check_converted", "check_measured", "made_with"]

MADE_WITH = "made_with"
"""The key of a conversion's report under which `made_with` lies."""
_AUTOENCODER = "autoencoder"


def made_with(data: Any, autoencoder: Path | None) -> dict[str, Any]:
    """The settings that decide a conversion and that its plan does not tell, as plain values; see `check_converted`."""
    return {**_measured_by(data), _AUTOENCODER: _weights(autoencoder)}


def check_converted(data: Any, autoencoder: Path | None) -> None:
    """Refuses to read latents of other pictures, or of another autoencoder, than a model is shown.

    Data that other tools converted, or earlier versions, tell less of it.

    Args:
        data: A recipe's `data` section.
        autoencoder: Folder of the model's; None where nobody says which it is, or it is not here.

    Raises:
        ValueError: They are; the message says what differs.
    """
    root = user_path(data.root)
    path = root / PLAN_FILE
    asked = {"size": data.camera_size, "stride": data.stride, "resize": data.resize, "action_key": data.action_key}
    noted = read_mapping(path) if path.is_file() else {}
    if noted.get("window") is not None:
        # Of clips that are encoded whole.
        asked |= {"window": data.window_frames, "hop": data.clip_hop}
    if changed := changed_settings(noted, asked):
        raise InputError(
            f"{root} was converted otherwise than this recipe reads it ({changed}): convert into another folder "
            "(data.root), or ask for the same settings"
        )
    then, now = _noted(root).get(_AUTOENCODER), _weights(autoencoder)
    if None not in (then, now) and then != now:
        raise InputError(
            f"the latents below {root} were encoded by another autoencoder than this recipe's model is shown pictures "
            "by: convert into another folder (data.root), or name the model that they were converted with; where its "
            f"weights were merely saved in another form, remove {_AUTOENCODER!r} from {root / SUMMARY_FILE}"
        )


def check_measured(data: Any) -> None:
    """Refuses quantiles that a conversion measured of other controls than a recipe's `data` section reads.

    Raises:
        ValueError: They are of others.
    """
    root = user_path(data.root)
    if changed := changed_settings(_noted(root), _measured_by(data)):
        raise InputError(
            f"the actions below {root} were measured otherwise than this recipe reads them ({changed}): give "
            "`flashwam convert` again with this recipe, which measures them anew, or ask for the same settings"
        )


def _measured_by(data: Any) -> dict[str, Any]:
    return {"relative_poses": data.relative_poses, "unscaled_controls": list(data.unscaled_controls)}


def _noted(root: Path) -> Mapping[str, Any]:
    path = root / SUMMARY_FILE
    told = read_mapping(path, finite=False).get(MADE_WITH) if path.is_file() else None
    return told if isinstance(told, Mapping) else {}


def _weights(folder: Path | None) -> str | None:
    """Tells an autoencoder's weights, with the mean and standard deviation of its latents, from others, however they
    were saved; None where there are none."""
    if folder is None or not (files := autoencoder_files(folder, settings=(STATS,))):
        return None
    return files_fingerprint(files, base=folder)
