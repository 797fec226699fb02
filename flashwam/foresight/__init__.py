# SPDX-License-Identifier: Apache-2.0
"""S-VAM: one denoising step of a frozen video model, read by decouplers, in place of many (docs/foresight.md).

Imports the engine and all below it; nothing but registries of import paths knows this folder.
"""
