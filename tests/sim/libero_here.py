# SPDX-License-Identifier: Apache-2.0
"""A mark for tests that need LIBERO, and a skip for machines that cannot render."""

import pytest

from flashwam.sim.gl import ensure_gl
from flashwam.sim.libero.packages import install_command, missing_packages

__all__ = ["needs_libero", "skip_without_rendering"]

needs_libero = pytest.mark.skipif(bool(missing_packages()), reason=f"needs LIBERO: {install_command()}")


def skip_without_rendering() -> None:
    """Skips a test where no OpenGL backend renders."""
    try:
        ensure_gl()
    except RuntimeError as error:
        pytest.skip(str(error))
