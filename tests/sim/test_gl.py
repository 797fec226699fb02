# SPDX-License-Identifier: Apache-2.0
import pytest

from flashwam.sim import gl


def test_error_names_the_package_to_install(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "")
    monkeypatch.setenv("FLASHWAM_GL_PROBED", "")
    monkeypatch.setattr(gl, "probe_gl", lambda backend: "no such library")
    with pytest.raises(RuntimeError, match="libegl1"):
        gl.ensure_gl()


def test_asked_backend_is_not_replaced_by_another(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    monkeypatch.setenv("FLASHWAM_GL_PROBED", "")
    asked = []
    monkeypatch.setattr(gl, "probe_gl", lambda backend: asked.append(backend) or "missing")
    with pytest.raises(RuntimeError, match="libosmesa6"):
        gl.ensure_gl()
    assert asked == ["osmesa"]


def test_first_backend_that_renders_is_chosen_once(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "")
    monkeypatch.setenv("FLASHWAM_GL_PROBED", "")
    calls = []
    monkeypatch.setattr(gl, "_refuse_late", lambda backend: None)
    monkeypatch.setattr(gl, "probe_gl", lambda backend: calls.append(backend) or (None if backend == "osmesa" else "x"))
    assert gl.ensure_gl() == "osmesa"
    assert gl.ensure_gl() == "osmesa"
    assert calls == ["egl", "osmesa"]
