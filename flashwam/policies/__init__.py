# SPDX-License-Identifier: Apache-2.0
"""Action policies that see through a world-action model."""
