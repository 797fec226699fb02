# SPDX-License-Identifier: Apache-2.0
"""LingBot-VA: one transformer over video latents and actions, drawn chunk by chunk.

Imports wam, and what it imports.
"""

from flashwam.wam.lingbot_va.config import LingBotConfig
from flashwam.wam.lingbot_va.session import LingBotSession
from flashwam.wam.lingbot_va.transformer import WanTransformer3DModel
from flashwam.wam.lingbot_va.wam import LingBotVA

__all__ = ["LingBotConfig", "LingBotSession", "LingBotVA", "WanTransformer3DModel"]
