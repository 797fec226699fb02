# SPDX-License-Identifier: Apache-2.0
"""SwiftVLA: a modality that the policy has in training alone (docs/swiftvla.md).

Imports the engine, evaluation and all below them; nothing but registries of import paths knows this folder.
"""
