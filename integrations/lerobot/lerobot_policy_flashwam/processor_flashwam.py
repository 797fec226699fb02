# SPDX-License-Identifier: Apache-2.0
"""LeRobot's steps before and after the policy: nothing is normalised, because flashwam's codecs do that."""

from typing import Any

from lerobot.processor import (
    AddBatchDimensionProcessorStep,
    DeviceProcessorStep,
    PolicyProcessorPipeline,
    RenameObservationsProcessorStep,
)
from lerobot.processor.factory import make_policy_processor_pipelines

from .configuration_flashwam import FlashwamConfig

__all__ = ["make_flashwam_pre_post_processors"]


def make_flashwam_pre_post_processors(
    config: FlashwamConfig, dataset_stats: dict[str, Any] | None = None
) -> tuple[PolicyProcessorPipeline, PolicyProcessorPipeline]:
    """Makes both pipelines, which LeRobot finds by this function's name.

    Args:
        config: The policy's.
        dataset_stats: Ignored: the student brings its own.

    Returns:
        Before the policy: rename, add a batch dimension where there is none, move to its device. After it: to the CPU.
    """
    return make_policy_processor_pipelines(
        input_steps=[
            RenameObservationsProcessorStep(rename_map={}),
            AddBatchDimensionProcessorStep(),
            DeviceProcessorStep(device=config.device or "cpu"),
        ],
        output_steps=[DeviceProcessorStep(device="cpu")],
    )
