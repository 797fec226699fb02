# SPDX-License-Identifier: Apache-2.0
"""The machine: files that appear whole, strict readers, classes by name, jobs, processes, what made an artefact.

Imports nothing of flashwam.
"""
