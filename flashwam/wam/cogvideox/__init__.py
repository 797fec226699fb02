# SPDX-License-Identifier: Apache-2.0
"""CogVideoX with action tokens, as VideoVLA has them: video and actions of a chunk drawn together.

Imports wam, and what it imports.
"""

from flashwam.wam.cogvideox.action import ActionModule
from flashwam.wam.cogvideox.config import CogVideoXConfig
from flashwam.wam.cogvideox.network import CogVideoXActionNetwork
from flashwam.wam.cogvideox.wam import CogVideoX

__all__ = [
    "ActionModule",
    "CogVideoX",
    "CogVideoXActionNetwork",
    "CogVideoXConfig",
]
