# SPDX-License-Identifier: Apache-2.0
"""Students of random weights, and what they are shown. Run with LeRobot installed: ``pytest integrations/lerobot``."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch.set_num_threads(1)

from lerobot_policy_flashwam.configuration_flashwam import FlashwamConfig  # noqa: E402
from lerobot_policy_flashwam.modeling_flashwam import FlashwamPolicy  # noqa: E402

PROMPT = "turn the faucet"
BOWL = "pick up the black bowl between the plate and the ramekin and place it on the plate"
FRONT = "observation.images.front"


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Embedded prompts are kept in a folder of this run's own."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLASHWAM_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One camera of 64 pixels, a picture for every 4 actions, 4 controls, chunks of 2 latent frames."""
    from tiny_models import save_tiny_student

    return save_tiny_student(tmp_path_factory.mktemp("students") / "tiny")


@pytest.fixture(scope="session")
def joint_student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `student`, of the family that draws video and actions together and acts out two frames of a chunk."""
    from tiny_models import save_tiny_student

    return save_tiny_student(tmp_path_factory.mktemp("students") / "joint", joint=True)


@pytest.fixture(scope="session")
def video_student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LingBot-VA's layout for LIBERO: two cameras of any size, a picture for every action, 7 controls, 4 frames."""
    from tiny_released import save_released

    from flashwam.student import load_wam, save_wam
    from flashwam.wam.lingbot_va.codec import LingBotCodec
    from flashwam.wam.lingbot_va.presets import preset

    base = save_released(tmp_path_factory.mktemp("released") / "base", (PROMPT, "", BOWL), layers=2)
    folder = tmp_path_factory.mktemp("students") / "video" / "student"
    wam, _ = load_wam(base, preset="libero")
    save_wam(folder, wam, preset("libero").released_student, kind="student")
    LingBotCodec.from_pretrained(base, "libero").save(folder, checkpoint=base)
    return folder


@pytest.fixture(scope="session")
def make_policy() -> Callable[..., FlashwamPolicy]:
    """Loads a student as a policy on the CPU, with some of its options changed."""

    def make(folder: Path, **options: Any) -> FlashwamPolicy:
        return FlashwamPolicy(FlashwamConfig(student=str(folder), device="cpu", **options))

    return make


@pytest.fixture
def film() -> Callable[..., np.ndarray]:
    """Random pictures of an episode, uint8 [steps, height, width, 3]."""

    def make(steps: int, *, seed: int = 0, size: tuple[int, int] = (64, 64)) -> np.ndarray:
        return np.random.default_rng(seed).integers(0, 256, (steps, *size, 3), np.uint8)

    return make
