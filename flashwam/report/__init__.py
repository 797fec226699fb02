# SPDX-License-Identifier: Apache-2.0
"""Reports from files: numbers first (JSON), then figures, then one HTML page; runs no model.

Imports distillation, and what it imports.
"""
