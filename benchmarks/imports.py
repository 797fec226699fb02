# SPDX-License-Identifier: Apache-2.0
"""Importing this module imports what the steps of `gpu_check.py` need; what cannot be imported is left to them."""

import importlib
from contextlib import suppress

IMPORTED = (
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "scipy",
    "pytest",
    "flashwam.cli",
    "flashwam.serve.server",
    "flashwam.serve.client",
    "flashwam.wam.lingbot_va.files",
    "flashwam.wam.cogvideox.files",
    "flashwam.distillation.methods",
    "diffusers.models.autoencoders.autoencoder_kl_wan",
    "diffusers.models.autoencoders.autoencoder_kl_cogvideox",
)

for name in IMPORTED:
    with suppress(Exception):
        importlib.import_module(name)
