# SPDX-License-Identifier: Apache-2.0
"""The subcommands of `flashwam`, one file each: words, options and action together.

Imports plan and demo, and what they import.
"""
