# SPDX-License-Identifier: Apache-2.0
"""Closed-loop simulators: tasks, scripted experts, collection of demonstrations."""
