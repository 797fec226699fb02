# SPDX-License-Identifier: Apache-2.0
"""``python -m lerobot_policy_flashwam STUDENT``: prepares a student's folder for LeRobot's ``--policy.path``."""

import argparse
import sys
from pathlib import Path

__all__ = ["main"]


def _camera(text: str) -> tuple[str, str]:
    camera, equals, key = text.partition("=")
    if not (camera and equals and key):
        raise argparse.ArgumentTypeError(f"expected CAMERA=KEY; got {text!r}")
    return camera, key


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lerobot_policy_flashwam",
        description="Writes the three small files by which LeRobot takes a student's folder as --policy.path.",
    )
    parser.add_argument("student", metavar="STUDENT", type=Path, help="folder of a student or teacher, or of a run")
    parser.add_argument("--out", type=Path, metavar="DIR", help="another folder for the files (default: the student's)")
    parser.add_argument(
        "--camera",
        type=_camera,
        action="append",
        default=[],
        metavar="CAMERA=KEY",
        help="the observation's key of a camera's picture, where it is not the camera's name; may be given again",
    )
    parser.add_argument("--prompt", metavar="TEXT", help="in place of the task that comes with an observation")
    parser.add_argument("--base", metavar="DIR", help="folder with vae/ and text_encoder/")
    parser.add_argument("--resize", action="store_true", help="scale pictures where the model takes one size alone")
    parser.add_argument(
        "--mirrored", action="store_true", help="mirror pictures left to right, which LeRobot's LIBERO gives mirrored"
    )
    parser.add_argument("--trust", action="store_true", help="import and run classes that the student names")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Loads the student, so that one that cannot act is refused here, and writes the files.

    Args:
        arguments: Of the command line; the process's own if None.

    Returns:
        0; 2 where the student cannot act, with the reason on stderr.
    """
    from flashwam.run.model_info import model_folder
    from flashwam.system.errors import UserError

    from .configuration_flashwam import FlashwamConfig
    from .folder import write_policy
    from .modeling_flashwam import FlashwamPolicy

    told = _parser().parse_args(arguments)
    try:
        student = model_folder(told.student)
        config = FlashwamConfig(
            student=str(student),
            cameras=dict(told.camera),
            prompt=told.prompt,
            base=told.base,
            resize=told.resize,
            mirrored=told.mirrored,
            trust=told.trust,
        )
        policy = FlashwamPolicy(config)
        folder = write_policy(config, policy.model, told.out or student, student=student)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{folder} is a policy of LeRobot: --policy.path={folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
