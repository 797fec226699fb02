# SPDX-License-Identifier: Apache-2.0
"""What students are shown or asked for in training alone: features of other networks, and what the simulator knew."""
