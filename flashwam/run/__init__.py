# SPDX-License-Identifier: Apache-2.0
"""A run on disk, typed: its folder, inputs, evaluations and model card.

Imports system, core and recipe.
"""
