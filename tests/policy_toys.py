# SPDX-License-Identifier: Apache-2.0
"""A policy of a few thousand weights, and samples for it that are a function of their number."""

from typing import TYPE_CHECKING, Any

import torch
from papers import need
from torch import Tensor

from flashwam.core.batch import Batch
from flashwam.core.noise import NoiseSchedule
from flashwam.core.streams import StreamSpec

if TYPE_CHECKING:
    from flashwam.swiftvla.policy import FusionPolicy
    from flashwam.swiftvla.training_policy import PrivilegedPolicy

FRAMES, EACH, ACTIONS, TEXT, STATE = 3, 2, 4, 8, 4
LATENT = (3, 8, 8)
AUX = {"tokens": 4, "channels": 6}
SETTINGS = {
    "primary": {"name": "patches", "patch": 4},
    "trunk": {"width": 32, "layers": 2, "heads": 4, "key_heads": 2},
    "latent": list(LATENT),
    "chunk_frames": FRAMES,
    "actions_per_frame": EACH,
    "action_dim": ACTIONS,
    "text_dim": TEXT,
    "expert_width": 24,
    "state_dim": STATE,
}


def shaken(model: torch.nn.Module, *, seed: int = 1) -> Any:
    """The model with weights far from their beginning, so that nothing is near zero by construction."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def policy(*, seed: int = 0, **changes: Any) -> "FusionPolicy":
    need("swiftvla")
    from flashwam.swiftvla.policy import FusionPolicy

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return shaken(FusionPolicy.create(**{**SETTINGS, **changes}))


def privileged(student: "FusionPolicy", **changes: Any) -> "PrivilegedPolicy":
    need("swiftvla")
    from flashwam.swiftvla.training_policy import Modality, PrivilegedPolicy

    options = {"auxiliary": Modality(**AUX), "reconstruct": ("primary", "auxiliary"), "head_width": 16}
    if student.fusion is not None:
        options["trajectory"] = 3
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return shaken(PrivilegedPolicy(student, **{**options, **changes}), seed=2)


def specs(**action: Any) -> dict[str, StreamSpec]:
    return {
        "video": StreamSpec(name="video", schedule=NoiseSchedule(1.0), weight=0.0, teacher_steps=1),
        "action": StreamSpec(name="action", schedule=NoiseSchedule(1.0), **action),
    }


class PolicySource:
    """Random windows; the auxiliary tokens decide the actions, so that there is something to learn from them."""

    def __init__(self, *, fusion_tokens: int = 2) -> None:
        self.fusion_tokens = fusion_tokens

    def batch(self, indices: list[int]) -> Batch:
        rows = [self._row(i) for i in indices]
        joined = {key: torch.stack([row[key] for row in rows]) for key in rows[0]}
        clean = {"video": joined["video"], "action": joined["action"]}
        given = torch.zeros(len(indices), FRAMES, dtype=torch.bool)
        given[:, 0] = True
        mask = {"video": torch.ones(len(indices), 1, FRAMES, 1, 1, dtype=torch.bool)}
        mask["action"] = mask["video"] & ~given[:, None, :, None, None]
        known = torch.ones(len(indices), self.fusion_tokens, dtype=torch.bool)
        known[0, -1] = False
        return Batch(
            clean=clean,
            history={**clean, "state": joined["state"]},
            mask=mask,
            given=given,
            text=joined["text"],
            null_text=torch.zeros(5, TEXT),
            index=torch.tensor(indices),
            extra={
                "auxiliary": joined["auxiliary"],
                "trajectory": joined["trajectory"],
                "trajectory_mask": known,
            },
        )

    def _row(self, index: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(index)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator)

        text = draw(5, TEXT)
        text[3 + index % 2 :] = 0
        auxiliary = draw(AUX["tokens"], AUX["channels"])
        action = auxiliary[:, :1, None, None].expand(-1, FRAMES, EACH, 1).clone()
        action[:, 0] = 0
        return {
            "video": draw(LATENT[0], FRAMES, *LATENT[1:]),
            "action": action,
            "state": draw(STATE, FRAMES, 1, 1),
            "text": text,
            "auxiliary": auxiliary,
            "trajectory": draw(self.fusion_tokens, 3),
        }
