# SPDX-License-Identifier: Apache-2.0
"""Episodes, latents and actions on disk, and the datasets that yield training samples."""
