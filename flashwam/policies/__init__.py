# SPDX-License-Identifier: Apache-2.0
"""Policies that draw actions alone: a look at the scene, a trunk over what was seen, an expert for the actions."""
