# SPDX-License-Identifier: Apache-2.0
"""SwiftVLA: a modality that the policy has in training alone (docs/swiftvla.md).

Imports distillation and evaluation, and what they import.
"""
