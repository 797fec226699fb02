# SPDX-License-Identifier: Apache-2.0
"""Measurement of a model in closed loop, in open loop, by the clock, and behind a server.

Imports sim and serve, and what they import.
"""
