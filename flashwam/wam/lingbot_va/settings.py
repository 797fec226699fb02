# SPDX-License-Identifier: Apache-2.0
"""The settings of another tool's checkpoint: as its folder says where it says so, else as a preset does."""

from flashwam.system.errors import MissingFileError
from flashwam.wam.lingbot_va.checkpoint import TransformerSource
from flashwam.wam.lingbot_va.lerobot import lerobot_preset, say_differences
from flashwam.wam.lingbot_va.presets import Preset
from flashwam.wam.lingbot_va.presets import preset as find_preset

__all__ = ["says_how", "settings_of"]


def says_how(source: TransformerSource) -> bool:
    """Tells whether the folder itself says how it is run, so that no preset is needed."""
    return source.layout == "lerobot"


def settings_of(source: TransformerSource, preset: str | None) -> Preset:
    """The settings to run a checkpoint with; a preset that is named holds, and what it changes is said.

    Raises:
        ValueError: The preset is unknown, or what the folder says has no meaning.
        FileNotFoundError: Neither is there.
    """
    if preset is None:
        if not says_how(source):
            raise MissingFileError(
                f"{source.root} does not say how it is run: name a preset, such as preset='robotwin'"
            )
        return lerobot_preset(source)
    chosen = find_preset(preset)
    if says_how(source):
        say_differences(chosen, source)
    return chosen
