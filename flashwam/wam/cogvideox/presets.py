# SPDX-License-Identifier: Apache-2.0
"""The networks that CogVideoX was released in, and how VideoVLA's authors run theirs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flashwam.core.streams import StreamSpec
from flashwam.core.vp import VPSchedule
from flashwam.data.cameras import CameraLayout
from flashwam.data.episodes import CAMERA
from flashwam.system.errors import InputError
from flashwam.system.released import License, Released
from flashwam.wam.cogvideox.config import PIXELS_PER_LATENT, CogVideoXConfig

__all__ = [
    "NETWORKS",
    "PRESETS",
    "RELEASED",
    "SNR_SHIFTS",
    "Preset",
    "check_version",
    "network_name",
    "network_options",
    "preset",
]

NETWORKS: dict[str, dict[str, Any]] = {
    "2b": {"num_attention_heads": 30, "num_layers": 30},
    "5b": {"num_attention_heads": 48, "num_layers": 42, "use_rotary_positional_embeddings": True},
    "5b-i2v": {
        "num_attention_heads": 48,
        "num_layers": 42,
        "in_channels": 32,
        "use_rotary_positional_embeddings": True,
        "use_learned_positional_embeddings": True,
    },
}
"""Name -> keywords of `CogVideoXTransformer3DModel` beyond its defaults."""


def _of_5b(repo: str) -> Released:
    link = f"https://huggingface.co/{repo}/blob/main/LICENSE"
    return Released(repo=repo, license=License(identifier="other", name="cogvideox-license", link=link))


RELEASED = {
    "CogVideoX-2b": Released(repo="THUDM/CogVideoX-2b", license=License(identifier="apache-2.0")),
    "CogVideoX-5b": _of_5b("THUDM/CogVideoX-5b"),
    "CogVideoX-5b-I2V": _of_5b("THUDM/CogVideoX-5b-I2V"),
    # Published without a card.
    "checkpoints/videovla": Released(repo="VideoVLA/VideoVLA_Cogvideobase_Pretrained"),
}
"""See `FamilyFiles.released`."""
SNR_SHIFTS = {"2b": 3.0, "5b": 1.0, "5b-i2v": 1.0}
"""Name -> `snr_shift` of its pre-training."""


def network_options(name: str) -> dict[str, Any]:
    """The keywords of a released network.

    Raises:
        ValueError: There is none of that name.
    """
    if name not in NETWORKS:
        raise InputError(f"unknown network {name!r}; expected one of {sorted(NETWORKS)}")
    return dict(NETWORKS[name])


def check_version(options: Mapping[str, Any]) -> None:
    """Refuses a transformer of CogVideoX 1.5, by the keywords that only it has.

    Raises:
        ValueError: It is one.
    """
    newer = {name: options.get(name) for name in ("patch_size_t", "ofs_embed_dim")}
    if any(value is not None for value in newer.values()):
        raise InputError(
            "CogVideoX 1.5 (patch_size_t, ofs_embed_dim) is not supported; expected CogVideoX-2b, -5b or -5b-I2V, got "
            + ", ".join(f"{name} {value}" for name, value in newer.items())
        )


def network_name(options: dict[str, Any]) -> str | None:
    """The released network of a size, given all keywords of the transformer; None for another."""
    size = (options["num_attention_heads"], options["num_layers"], options["attention_head_dim"])
    if size == (30, 30, 64):
        return "2b"
    if size == (48, 42, 64):
        return "5b-i2v" if options["in_channels"] == 32 else "5b"
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """The sampling of a VideoVLA checkpoint. Chunk, robot and noise are the model's own, see `CogVideoXConfig`.

    Args:
        name: Its name.
        steps: Steps of both streams, which share their levels: "trailing" ones where they divide 1000.
        guidance: Scale of both streams' guidance. The authors' own scale jumps between 1 and 7 from step to step,
            which no student can learn; a constant takes its place.
    """

    name: str
    steps: int
    guidance: float = 1.0

    def streams(self, config: CogVideoXConfig) -> dict[str, StreamSpec]:
        """The teacher's streams: plain velocity sampling, which is DDIM on a variance-preserving path."""
        schedule = VPSchedule(snr_shift=config.snr_shift, beta_start=config.beta_start, beta_end=config.beta_end)
        return {
            name: StreamSpec(name=name, schedule=schedule, teacher_steps=self.steps, guidance_scale=self.guidance)
            for name in ("video", "action")
        }

    def cameras(self, config: CogVideoXConfig) -> CameraLayout:
        """One camera, whose picture fills the model's."""
        rows, columns = (side * PIXELS_PER_LATENT for side in config.latent_size)
        return CameraLayout(cameras=(CAMERA,), image_size=(rows, columns), factor=PIXELS_PER_LATENT, resize="cover")


PRESETS = {one.name: one for one in (Preset(name="videovla", steps=50), Preset(name="videovla_robot", steps=10))}
"""Name -> settings: in simulation, and on the robot."""


def preset(name: str) -> Preset:
    """The settings of that name.

    Raises:
        ValueError: There are none.
    """
    if name not in PRESETS:
        raise InputError(f"unknown preset {name!r}; expected one of {sorted(PRESETS)}")
    return PRESETS[name]
