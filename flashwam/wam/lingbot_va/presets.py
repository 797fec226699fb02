# SPDX-License-Identifier: Apache-2.0
"""The settings of LingBot-VA's authors for their checkpoints: what no released folder says about itself."""

from dataclasses import dataclass, replace

from flashwam.core.consistency import make_consistency_function
from flashwam.core.noise import NoiseSchedule
from flashwam.core.streams import StreamSpec
from flashwam.data.actions import ActionNorm
from flashwam.data.cameras import CameraLayout
from flashwam.system.errors import InputError
from flashwam.system.released import License, Released
from flashwam.wam.lingbot_va.config import LingBotConfig

__all__ = ["ACTION_CHANNELS", "PRESETS", "RELEASED", "RELEASED_DATA", "Preset", "preset"]

ACTION_CHANNELS = 30
"""0-6 left end effector (xyz, quaternion), 7-13 right, 14-20 left joints, 21-27 right, 28 left gripper, 29 right."""
_APACHE = License(identifier="apache-2.0")
RELEASED = {
    "lingbot-va-base": Released(repo="robbyant/lingbot-va-base", license=_APACHE),
    "lingbot-va-posttrain-libero-long": Released(repo="robbyant/lingbot-va-posttrain-libero-long", license=_APACHE),
    # The licence is that of its own card, which a download brings along.
    "lingbot-va-posttrain-robotwin": Released(repo="robbyant/lingbot-va-posttrain-robotwin"),
}
"""See `FamilyFiles.released`."""
_ROBOTWIN_DATA = "robbyant/robotwin-clean-and-aug-lerobot"
RELEASED_DATA = {
    "libero-long-lerobot": "robbyant/libero-long-lerobot",
    "lerobot_robotwin_eef_clean_50": _ROBOTWIN_DATA,
    "lerobot_robotwin_eef_aug_500": _ROBOTWIN_DATA,
}
"""See `FamilyFiles.released_data`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """One environment's published settings.

    Args:
        name: Its name.
        cameras: Keys, order, sizes and arrangement.
        chunk_frames: Latent frames drawn at a time.
        actions_per_frame: Controls per latent frame.
        attn_window: Blocks the original's cache has room for, the one in flight included; it keeps whole chunks.
        video_steps: Steps of the video stream.
        action_steps: Steps of the action stream.
        action_shift: Shift of the action stream; the video stream's is 5 everywhere.
        used: Model channel of every control, in the client's order.
        q01: 1 % quantile of the model channels, by channel; 0 where absent. None where nobody says.
        q99: 99 % quantile, likewise.
        video_shift: Shift of the video stream.
        guidance: Scale of the video stream's guidance.
        action_guidance: Scale of the action stream's guidance.
    """

    name: str
    cameras: CameraLayout
    chunk_frames: int
    actions_per_frame: int
    attn_window: int
    video_steps: int
    action_steps: int
    action_shift: float
    used: tuple[int, ...]
    q01: tuple[float, ...] | None
    q99: tuple[float, ...] | None
    video_shift: float = 5.0
    guidance: float = 5.0
    action_guidance: float = 1.0

    @property
    def config(self) -> LingBotConfig:
        """The rollout's shape; its reach is that of the original's cache, see `LingBotConfig`."""
        return LingBotConfig(
            latent_size=self.cameras.latent_size,
            chunk_frames=self.chunk_frames,
            actions_per_frame=self.actions_per_frame,
            window_chunks=2 * (self.attn_window // 2) - 1,
            eviction="permanent",
            used_channels=self.used,
        )

    @property
    def streams(self) -> dict[str, StreamSpec]:
        """The teacher's streams: plain velocity sampling at the published steps and guidance."""
        return {
            "video": StreamSpec(
                name="video",
                schedule=NoiseSchedule(self.video_shift),
                teacher_steps=self.video_steps,
                guidance_scale=self.guidance,
            ),
            "action": StreamSpec(
                name="action",
                schedule=NoiseSchedule(self.action_shift),
                teacher_steps=self.action_steps,
                guidance_scale=self.action_guidance,
            ),
        }

    @property
    def released_student(self) -> dict[str, StreamSpec]:
        """The streams of the Flash-WAM release's students: video by `lcm`, actions by `linear`, one step each."""
        streams = self.streams
        lcm = make_consistency_function({"name": "lcm", "sigma_data": 0.5})
        return {
            "video": replace(streams["video"], consistency=lcm, guidance=(2.0, 10.0)),
            "action": replace(streams["action"], consistency=make_consistency_function("linear")),
        }

    def actions(self, *, clip: float | None = None) -> ActionNorm:
        """Normalisation of the controls; the first release did not clip, later ones do at 1.5.

        Raises:
            ValueError: The quantiles are not known.
        """
        if self.q01 is None or self.q99 is None:
            raise InputError(
                f"settings {self.name!r} know no quantiles of the actions: put LeRobot's policy_postprocessor.json and "
                f"its state file beside config.json, or name one of the presets {', '.join(PRESETS)}"
            )
        return ActionNorm(q01=self.q01, q99=self.q99, used=self.used, clip=clip)


def _channels(values: tuple[float, ...], **grippers: float) -> tuple[float, ...]:
    """Values of the first channels, then zeros, then those of the grippers."""
    ends = (grippers.get("left", 0.0), grippers.get("right", 0.0))
    return (*map(float, values), *[0.0] * (ACTION_CHANNELS - 2 - len(values)), *ends)


_TWO_ARMS = (*range(7), 28, *range(7, 14), 29)
_THREE = ("observation.images.cam_high", "observation.images.cam_left_wrist", "observation.images.cam_right_wrist")
_LIBERO = ("observation.images.agentview_rgb", "observation.images.eye_in_hand_rgb")

# fmt: off
_ROBOTWIN_Q01 = (
    -.06172713458538055, -3.6716461181640625e-05, -.08783501386642456, -1, -1, -1, -1,
    -.3547105032205582, -1.3113021850585938e-06, -.11975435614585876, -1, -1, -1, -1,
)
_ROBOTWIN_Q99 = (
    .3462600058317184, .39966784834861746, .14745532035827624, 1, 1, 1, 1,
    .034201726913452024, .39142737388610793, .1792279863357542, 1, 1, 1, 1,
)
_LIBERO_Q01 = (
    -.6589285731315613, -.84375, -.9375, -.12107142806053162, -.15964286029338837, -.26571428775787354,
)
_LIBERO_Q99 = (
    .8999999761581421, .8544642925262451, .9375, .17142857611179352, .1842857152223587, .34392857551574707,
)
_FRANKA_Q01 = (
    .3051295876502991, -.22647984325885773, .19957000017166138, -.022680532187223434, -.05553057789802551,
    -.2693849802017212, -.29341773986816405, .2935442328453064, -.4431332051753998, .21256473660469055,
    -.7962440848350525, -.40816226601600647, -.28359392285346985, -.44507765769958496,
)
_FRANKA_Q99 = (
    .7572150230407715, .47736290097236633, .6428080797195435, .9835678935050964, .9927203059196472,
    .28041139245033264, .47529348731040877, .7564866304397571, .04082797020673729, .5355993628501885,
    .9976375699043274, .8973174452781656, .6016915678977965, .5027598619461056,
)
_DEMO_Q01 = (-90.60303497314453, -98.73043060302734, -79.9008560180664, 48.95470428466797, -32.794578552246094)
_DEMO_Q99 = (71.735107421875, 65.89081573486328, 92.87967681884766, 100., 22.784151077270508)
# fmt: on

PRESETS = {
    one.name: one
    for one in (
        Preset(
            name="robotwin",
            cameras=CameraLayout(cameras=_THREE, image_size=(256, 320), arrangement="tshape"),
            chunk_frames=2,
            actions_per_frame=16,
            attn_window=72,
            video_steps=25,
            action_steps=50,
            action_shift=1.0,
            used=_TWO_ARMS,
            q01=_channels(_ROBOTWIN_Q01),
            q99=_channels(_ROBOTWIN_Q99, left=1.0, right=1.0),
        ),
        Preset(
            name="libero",
            cameras=CameraLayout(cameras=_LIBERO, image_size=(128, 128)),
            chunk_frames=4,
            actions_per_frame=4,
            attn_window=30,
            video_steps=20,
            action_steps=50,
            action_shift=0.05,
            used=tuple(range(7)),
            q01=_channels((*_LIBERO_Q01, -1)),
            q99=_channels((*_LIBERO_Q99, 1)),
        ),
        # The first LIBERO checkpoints: the gripper in its own channel, actions trained with a shift of 1.
        Preset(
            name="libero_first",
            cameras=CameraLayout(cameras=_LIBERO, image_size=(128, 128)),
            chunk_frames=4,
            actions_per_frame=4,
            attn_window=30,
            video_steps=20,
            action_steps=50,
            action_shift=1.0,
            used=(*range(6), 28),
            q01=_channels(_LIBERO_Q01, left=-1.0),
            q99=_channels(_LIBERO_Q99, left=1.0),
        ),
        Preset(
            name="franka",
            cameras=CameraLayout(cameras=_THREE, image_size=(224, 320)),
            chunk_frames=4,
            actions_per_frame=20,
            attn_window=30,
            video_steps=5,
            action_steps=10,
            action_shift=1.0,
            used=_TWO_ARMS,
            q01=_channels(_FRANKA_Q01),
            q99=_channels(_FRANKA_Q99, left=1.0, right=1.0),
        ),
        Preset(
            name="demo",
            cameras=CameraLayout(cameras=("observation.images.top", "observation.images.wrist"), image_size=(256, 256)),
            chunk_frames=4,
            actions_per_frame=8,
            attn_window=30,
            video_steps=5,
            action_steps=10,
            action_shift=1.0,
            used=(*range(5), 28),
            q01=_channels(_DEMO_Q01, left=0.8250824809074402),
            q99=_channels(_DEMO_Q99, left=100.0),
        ),
    )
}
"""Name -> settings."""


def preset(name: str) -> Preset:
    """The settings of an environment.

    Raises:
        ValueError: There is none of that name.
    """
    if name not in PRESETS:
        raise InputError(f"unknown preset {name!r}; expected one of {sorted(PRESETS)}")
    return PRESETS[name]
