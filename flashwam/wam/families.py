# SPDX-License-Identifier: Apache-2.0
"""Names of the model families that are part of the package."""

__all__ = ["FAMILIES"]

FAMILIES = {
    "cogvideox": "flashwam.wam.cogvideox:CogVideoX",
    "foresight": "flashwam.foresight.policy:ForesightPolicy",
    "fusion": "flashwam.swiftvla.policy:FusionPolicy",
    "lingbot_va": "flashwam.wam.lingbot_va:LingBotVA",
    "smolvla": "flashwam.swiftvla.smolvla:SmolVLA",
}
"""Family -> import path of its class; "package.module:Class" works as a family's name too."""
