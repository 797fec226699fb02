# SPDX-License-Identifier: Apache-2.0
"""World-action model families behind one contract."""
