# SPDX-License-Identifier: Apache-2.0
"""Training and distillation: methods own the mathematics, the trainer owns the loop.

Imports sampling and student, and what they import.
"""
