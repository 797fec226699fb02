# SPDX-License-Identifier: Apache-2.0
"""Names of the model families that are part of the package."""

__all__ = ["FAMILIES"]

FAMILIES = {
    "cogvideox": "flashwam.wam.cogvideox:CogVideoX",
    "foresight": "flashwam.policies.foresight:ForesightPolicy",
    "fusion": "flashwam.policies.fusion:FusionPolicy",
    "lingbot_va": "flashwam.wam.lingbot_va:LingBotVA",
    "smolvla": "flashwam.policies.smolvla:SmolVLA",
}
"""Family -> import path of its class; "package.module:Class" works as a family's name too."""
