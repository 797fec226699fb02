# SPDX-License-Identifier: Apache-2.0
"""S-VAM: a policy that looks once into a frozen model and never draws the video (docs/foresight.md).

Imports distillation, and what it imports.
"""
