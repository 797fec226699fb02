# SPDX-License-Identifier: Apache-2.0
"""A rollout on a GPU never waits for a plan of its attention; elsewhere nothing is chosen for it."""

import torch

from flashwam.wam.lingbot_va.kernels import kernels_for_any_length


def chosen() -> tuple[bool, bool, bool]:
    return (
        torch.backends.cuda.cudnn_sdp_enabled(),
        torch.backends.cuda.flash_sdp_enabled(),
        torch.backends.cuda.mem_efficient_sdp_enabled(),
    )


def test_kernels_that_plan_are_left_out_on_a_gpu_for_as_long_as_a_pass_runs() -> None:
    before = chosen()
    with kernels_for_any_length(torch.device("cuda")):
        assert chosen() == (False, True, True)
    assert chosen() == before


def test_a_cpu_keeps_its_own_choice() -> None:
    before = chosen()
    with kernels_for_any_length(torch.device("cpu")):
        assert chosen() == before
