# SPDX-License-Identifier: Apache-2.0
"""A run on disk, typed: its folder, inputs, evaluations and model card.

Imports recipe, and what it imports.
"""
