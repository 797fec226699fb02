# SPDX-License-Identifier: Apache-2.0
"""flashwam's models as a policy of LeRobot, which imports every installed package of such a name."""

from .configuration_flashwam import FlashwamConfig

__all__ = ["FlashwamConfig"]
