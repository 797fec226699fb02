# SPDX-License-Identifier: Apache-2.0
"""Runs the benchmark, or goes on with one that another machine began, and keeps its results under version control.

    python analysis/benchmark.py                      restore what is kept, run the rest (hours), keep the results
    python analysis/benchmark.py --keep-only          keep what there is so far
    python analysis/benchmark.py --archive FILE       write an archive of what there is so far, for another machine
    python analysis/benchmark.py --restore FILE       go on from such an archive
    python analysis/benchmark.py --preset pilot       one seed, one learning rate (an hour)
    python analysis/benchmark.py --family cogvideox   the other family's small model (kept apart)

`analysis/studies.py` says which files are kept. `flashwam compare analysis/results/full --out FOLDER` makes their
tables and figures again.
"""

import argparse
from pathlib import Path

from studies import Study, add_options, or_exit

from flashwam.demo.jobs import preset_jobs
from flashwam.demo.place import DEFAULT_FAMILY
from flashwam.demo.presets import PRESETS
from flashwam.demo.run import demo
from flashwam.report.results import read_evaluations
from flashwam.run.card import write_card
from flashwam.system.paths import ASSETS
from flashwam.wam.files import FAMILY_FILES, files_of

MADE_AGAIN = ("collect", "teacher", "latents")


def main() -> None:
    """Restore, run, keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=("pilot", "full"), default="full")
    parser.add_argument("--family", choices=sorted(FAMILY_FILES), default=DEFAULT_FAMILY)
    parser.add_argument("--keep-only", action="store_true", help="run nothing")
    add_options(parser)
    arguments = parser.parse_args()
    preset, family = arguments.preset, arguments.family
    name, command = preset, f"python analysis/benchmark.py --preset {preset}"
    if family != DEFAULT_FAMILY:
        name, command = f"{family}_{preset}", f"{command} --family {family}"
    study = Study(out=Path("runs") / name, results=Path("analysis/results") / name, made_again=MADE_AGAIN)
    if arguments.archive is not None:
        or_exit(study.archive, arguments.archive)
        return
    if not arguments.keep_only:
        or_exit(study.restore, preset_jobs(PRESETS[preset], study.out, family=family), arguments.restore)
        demo(preset=preset, out=study.out, family=family)
    or_exit(study.keep, command)
    shipped = files_of(family).miniature_teacher
    if shipped is not None and preset == "full":
        evaluations = read_evaluations(study.results / "runs" / "teacher")
        print(f"card of the shipped teacher: {write_card(ASSETS / shipped, evaluations=evaluations)}")


if __name__ == "__main__":
    main()
