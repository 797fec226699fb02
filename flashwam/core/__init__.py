# SPDX-License-Identifier: Apache-2.0
"""Pure maths on tensors and frozen dataclasses: schedules, consistency functions, noise, losses, statistics.

Imports system.
"""
