# SPDX-License-Identifier: Apache-2.0
"""Numbers first (JSON), then figures, then one HTML page."""
