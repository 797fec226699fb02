# SPDX-License-Identifier: Apache-2.0
"""Evaluation of a model in closed loop, in open loop, by the clock, and behind a server.

Imports everything but report, pipeline, the papers and the commands.
"""
