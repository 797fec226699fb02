# SPDX-License-Identifier: Apache-2.0
"""Pure maths on tensors and frozen dataclasses; knows nothing of files, devices, configs or models."""
