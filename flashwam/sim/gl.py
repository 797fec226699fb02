# SPDX-License-Identifier: Apache-2.0
"""Finds a working headless OpenGL backend before any simulator work starts."""

import logging
import os
import subprocess
import sys

from flashwam.system.errors import FailedError, MissingPackageError

__all__ = ["BACKENDS", "ensure_gl", "probe_gl"]

logger = logging.getLogger(__name__)

BACKENDS: dict[str, str] = {"egl": "libegl1 libopengl0 libgl1-mesa-dri", "osmesa": "libosmesa6", "glfw": "libglfw3"}
"""Backend name -> the Debian packages that provide it, in order of preference."""

_CHOSEN = "FLASHWAM_GL_PROBED"
_PROBE = (
    "import mujoco\n"
    "model = mujoco.MjModel.from_xml_string('<mujoco><worldbody><geom size=\"1\"/></worldbody></mujoco>')\n"
    "renderer = mujoco.Renderer(model, 16, 16)\n"
    "renderer.update_scene(mujoco.MjData(model))\n"
    "assert renderer.render().shape == (16, 16, 3)\n"
)


def probe_gl(backend: str) -> str | None:
    """Tries to render one picture with a backend, in a process of its own.

    Args:
        backend: One of `BACKENDS`.

    Returns:
        None if it works, else the last line of the error.
    """
    env = dict(os.environ, MUJOCO_GL=backend)
    env.pop("PYOPENGL_PLATFORM", None)
    done = subprocess.run([sys.executable, "-c", _PROBE], env=env, capture_output=True, text=True, timeout=120)
    if done.returncode == 0:
        return None
    lines = [line for line in done.stderr.strip().splitlines() if line and not line.startswith(" ")]
    return lines[-1] if lines else f"exit status {done.returncode}"


def _refuse_late(backend: str) -> None:
    """MuJoCo fixes its backend when it is imported: too late to choose another one then."""
    loaded = sys.modules.get("mujoco.gl_context")
    if loaded is not None and backend not in loaded.GLContext.__module__:
        raise FailedError(
            f"MuJoCo was imported before its OpenGL backend was chosen, with {loaded.GLContext.__module__}: "
            f"set MUJOCO_GL={backend} in the environment, or import flashwam's simulator first"
        )


def ensure_gl() -> str:
    """Chooses the OpenGL backend and sets `MUJOCO_GL`; MuJoCo reads it once, when it is first imported.

    Child processes inherit the choice, so only the first caller pays for the probe (about half a second).

    Returns:
        The backend's name.

    Raises:
        RuntimeError: No backend renders; the message names the packages to install.
        ImportError: MuJoCo is not installed.
    """
    # Mesa's software renderer: at 64 x 64 its threads cost more than they give, the more so beside other processes.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    if os.environ.get(_CHOSEN) and os.environ.get("MUJOCO_GL") == os.environ[_CHOSEN]:
        return os.environ[_CHOSEN]
    asked = os.environ.get("MUJOCO_GL", "").lower()
    errors = {}
    for backend in [asked] if asked else list(BACKENDS):
        error = probe_gl(backend)
        if error is None:
            _refuse_late(backend)
            os.environ["MUJOCO_GL"] = os.environ[_CHOSEN] = backend
            logger.info("OpenGL backend: %s", backend)
            return backend
        if "No module named 'mujoco'" in error:
            raise MissingPackageError("the simulator needs MuJoCo and MetaWorld: pip install 'flashwam[sim]'")
        errors[backend] = error
    tried = "; ".join(f"{name}: {error}" for name, error in errors.items())
    packages = BACKENDS.get(asked, BACKENDS["egl"])
    raise FailedError(
        f"no OpenGL backend can render here ({tried}). "
        f"On Debian or Ubuntu: apt-get install {packages}   (or, without EGL: apt-get install {BACKENDS['osmesa']})"
        + (f"; or unset MUJOCO_GL (now {asked!r}) to try the others" if asked else "")
    )
