# SPDX-License-Identifier: Apache-2.0
"""The demonstration: the whole job at small size, and the page that shows it.

Imports report and pipeline, and what they import.
"""
