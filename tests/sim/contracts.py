# SPDX-License-Identifier: Apache-2.0
"""The contract that every simulated environment is held to."""

import numpy as np

from flashwam.sim.contract import Environment

__all__ = ["held_to_the_contract"]


def held_to_the_contract(env, *, scene, controls, views=1):
    assert isinstance(env, Environment)
    first = env.reset(scene)
    assert (first.shape, first.dtype) == ((env.size, views * env.size, 3), np.uint8)
    assert (env.steps, env.success) == (0, False)
    assert tuple(env.look()) == env.cameras
    assert np.array_equal(first, env.look()[env.cameras[0]])
    assert env.reset(scene, render=False) is None
    felt = env.proprioception
    done, success, info = env.step(np.full(controls, 0.5))
    assert (done, success, info.step, env.steps) == (False, False, 1, 1)
    assert info.hand.shape == (3,)
    assert env.proprioception.shape == felt.shape
    assert np.array_equal(env.reset(scene), first)
    assert np.array_equal(env.proprioception, felt)
    assert env.prompt
