# SPDX-License-Identifier: Apache-2.0
"""Options of the policy, as LeRobot's command lines and ``config.json`` give them."""

from dataclasses import dataclass, field
from typing import Any, NoReturn

from lerobot.configs.policies import PreTrainedConfig

__all__ = ["NO_TRAINING", "FlashwamConfig"]

NO_TRAINING = "LeRobot does not train this policy: make a student with `flashwam distill` and give its folder"


@PreTrainedConfig.register_subclass("flashwam")
@dataclass
class FlashwamConfig(PreTrainedConfig):
    """Says which model acts, and how it is shown what the robot sees.

    Args:
        student: Folder of a student or teacher, or of a run; that of `pretrained_path` if None.
        prompt: The instruction, in place of the task that comes with an observation.
        cameras: The model's camera -> key of the observation; its own name where nothing is said.
        resize: Scale pictures where the model takes one size alone; otherwise another size is refused.
        mirrored: The pictures come mirrored left to right, as LeRobot's LIBERO gives them: mirror them back.
        seed: Of the noise. The k-th episode that begins, counted over all environments, draws from seed + k; None draws
            anew every time.
        nfe: Steps of a chunk, such as "1v/2a", or "full"; what the model itself says if None.
        base: Folder with ``vae/``, ``text_encoder/`` and ``tokenizer/``, where it is not the one that the model notes.
        rollout: One of its family's ways to compute a chunk, such as "graphed"; the model's own if None.
        encoder: "plain", "compiled" or "graphed", of pictures; as `rollout` if None.
        dtype: "bfloat16" or "float32"; that of the model's files if None.
        precision: "own" or "fp8"; what the model's recipe says if None.
        trust: Import the classes that the model's files name beside flashwam's, and run their code.
    """

    student: str | None = None
    prompt: str | None = None
    cameras: dict[str, str] = field(default_factory=dict)
    resize: bool = False
    mirrored: bool = False
    seed: int | None = 0
    nfe: str | None = None
    base: str | None = None
    rollout: str | None = None
    encoder: str | None = None
    dtype: str | None = None
    precision: str | None = None
    trust: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.use_amp:
            raise ValueError("use_amp must be false: --policy.dtype=bfloat16 or --policy.precision=fp8 rounds a model")
        if self.use_peft:
            raise ValueError("use_peft must be false: a student's own adapters are loaded with it")
        if self.seed is not None and not 0 <= self.seed < 2**62:
            raise ValueError(f"seed must be a whole number from 0 to 2**62 - 1, or null; got {self.seed}")

    @property
    def observation_delta_indices(self) -> None:
        """None: one observation at a time; the policy keeps what it has seen."""

    @property
    def action_delta_indices(self) -> None:
        """None: nothing is trained."""

    @property
    def reward_delta_indices(self) -> None:
        """None: nothing is trained."""

    def get_optimizer_preset(self) -> NoReturn:
        """Refuses: flashwam trains."""
        raise NotImplementedError(NO_TRAINING)

    def get_scheduler_preset(self) -> Any:
        """None: nothing is trained."""
        return None

    def validate_features(self) -> None:
        """Does nothing: the policy holds features to its model when that is loaded."""
