# SPDX-License-Identifier: Apache-2.0
"""The `flashwam` command. Parsing imports nothing heavy; each command imports what it runs."""

import argparse
import logging
import os
import sys
import sysconfig
import traceback
from collections.abc import Sequence
from pathlib import Path

from flashwam.commands import (
    analyze,
    check,
    collect,
    compare,
    convert,
    demo,
    distill,
    evaluate,
    import_weights,
    info,
    pairs,
    plan,
    push,
    record,
    serve,
    train,
)
from flashwam.system.errors import UserError

__all__ = ["main"]

USER_ERROR = 2
INTERRUPTED = 130

_STOPPED = "stopped; what is done is kept, and the same command resumes it"
_NOISY = ("matplotlib", "PIL", "urllib3", "filelock", "absl", "numexpr", "OpenGL", "websockets", "httpx", "httpx2")
"""Libraries whose warnings alone are shown."""

COMMANDS = (
    demo.COMMAND,
    collect.COMMAND,
    convert.COMMAND,
    check.COMMAND,
    import_weights.COMMAND,
    plan.COMMAND,
    train.COMMAND,
    pairs.COMMAND,
    distill.COMMAND,
    evaluate.COMMAND,
    record.COMMAND,
    serve.COMMAND,
    push.COMMAND,
    analyze.COMMAND,
    compare.COMMAND,
    info.COMMAND,
)
"""In the order of the help."""

_TOP = """\
From demonstrations to a one-step world-action model, with the reasons shown.

A world-action model draws a chunk of video and then the actions that lead there, in dozens of network evaluations.
flashwam distils it to one per stream, with the consistency function that fits each stream's noise.
"""

_TOP_EPILOG = """\
in order:
  flashwam demo                        all of the below at small size, and one page that shows it
  flashwam analyze flash_wam           before any training: what a student starts from, and where it is trained
  flashwam collect teacher             demonstrations from a simulator
  flashwam convert RAW OUT --recipe R  or latents of a robot's own episodes
  flashwam train teacher               the many-step teacher
  flashwam distill flash_wam           the one-step student
  flashwam evaluate runs/flash_wam/student --nfe 1v/1a
  flashwam compare runs/flash_wam runs/naive_lcm
  flashwam serve runs/flash_wam/student

`flashwam COMMAND --help` explains a command. Every run stops cleanly on Ctrl-C and resumes with the same command;
a training first saves a checkpoint, on SIGTERM too. A second Ctrl-C ends at once.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0, 1 where `check` or `info` found something wrong, 2 for a user's
    error, 130 after Ctrl-C, 143 after a training that SIGTERM stopped."""
    # Set before torch is imported: two OpenMP teams on the same cores slow each other down many times over.
    for key, value in (("OMP_NUM_THREADS", "1"), ("MKL_NUM_THREADS", "1"), ("OMP_WAIT_POLICY", "PASSIVE")):
        os.environ.setdefault(key, value)
    arguments = _parse(sys.argv[1:] if argv is None else list(argv))
    level = logging.DEBUG if arguments.debug else logging.INFO
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
    for noisy in _NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        status = arguments.run(arguments)
        # Only now would a full disk or a closed pipe show.
        sys.stdout.flush()
        return status or 0
    except KeyboardInterrupt as stop:
        if os.environ.get("RANK", "0") == "0":
            print(f"\n{str(stop) or _STOPPED}", file=sys.stderr)
        # A training that stopped of itself says by which signal.
        return getattr(stop, "status", INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    # The user's own files: a full disk, a folder that may not be read.
    except (UserError, OSError) as error:
        if arguments.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except Exception as error:
        error.add_note(_where_to_look(error))
        raise


def _where_to_look(error: Exception) -> str:
    """Names the last line that is flashwam's or a plug-in's, not that of a library which either called."""
    libraries = tuple(str(Path(sysconfig.get_path(name)).resolve()) for name in ("stdlib", "purelib", "platlib"))
    ours = str(Path(__file__).resolve().parent)
    frames = traceback.extract_tb(error.__traceback__)
    places = [(str(Path(frame.filename).resolve()), frame) for frame in frames if Path(frame.filename).is_file()]
    file, frame = next(
        place for place in reversed(places) if place[0].startswith(ours) or not place[0].startswith(libraries)
    )
    return f"This is a mistake in code, not in what was given: look at {file}, line {frame.lineno}, in {frame.name}."


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="flashwam", description=_TOP, epilog=_TOP_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"flashwam {_version()}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_to(commands)
    arguments, rest = parser.parse_known_args(argv)
    # argparse gives up on positionals after the first option; overrides may stand anywhere.
    late = [text for text in rest if "=" in text and not text.startswith("-")]
    if late != rest or (rest and not hasattr(arguments, "overrides")):
        unknown = [text for text in rest if text not in late or not hasattr(arguments, "overrides")]
        arguments.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if late:
        arguments.overrides = [*arguments.overrides, *late]
    return arguments


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("flashwam")
    except PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
