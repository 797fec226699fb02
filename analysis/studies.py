# SPDX-License-Identifier: Apache-2.0
"""Keeps what a study measured in a few files that one reads, and takes an unfinished study to another machine.

Below `analysis/results/<study>` lie:

    comparison*/        tables and figures, and what was measured of whole models (latency, costs, learning rates)
    evaluations.jsonl   an evaluation a line, with the outcome of every episode
    curves.parquet      a row for every logged training step, its numbers to five digits: half of the bytes of all
    recipes.jsonl       the resolved recipe of every run
    about.json          the command, seeds, machine, date, the revision of every part, and the seconds of every cell

The files of the study's runs can be had from these, or from an archive, and a study goes on from either. Weights and
data are in neither: a cell that is done needs none of its own, and those of the others are made again from the same
seeds.
"""

import argparse
import io
import json
import math
import tarfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import yaml

from flashwam.recipe.layers import read_yaml
from flashwam.report.metrics import read_metrics
from flashwam.report.study import (
    EVALUATIONS,
    study_curves,
    study_evaluations,
    study_recipes,
    write_study_curves,
    write_study_evaluations,
)
from flashwam.system.errors import InputError, MissingFileError, UserError
from flashwam.system.files import whole_file, write_whole
from flashwam.system.jobs import Job, done_marker
from flashwam.system.json_file import parse_json, read_json, read_mapping
from flashwam.system.provenance import provenance

T = TypeVar("T")

EVALUATED = (
    "runs/**/evaluations/*.json",
    "runs/*/evaluations/real_time/*.json",
    "benchmark/*/evaluations/*.json",
    "steps/*.json",
)
LOGGED, CONFIGURED, DONE = "runs/*/metrics.jsonl", "runs/*/recipe.yaml", "jobs/*.done"
RATES, TRIED = "rates/*.json", "tried/*.json"
TABLES = "comparison*/*.json"
SHOWN = (
    TABLES,
    "comparison*/*.md",
    # Curves, latencies and crossed models are drawn again by flashwam compare.
    "comparison/[!ctl]*.png",
)
# The teacher as it is driven, and the best student: what they imagined beside what happened.
FILMS = (
    "runs/teacher/evaluations/*_full_own_seed0_film.png",
    "runs/pairs/evaluations/*_1v-1a_own_seed0_film.png",
)
_RESTORED = "restored"
"""In the marker of a cell: it was done elsewhere, and of what it left only measurements are here."""
_BITS = 17
"""Of a kept number's fraction."""
RECIPES, ABOUT = "recipes.jsonl", "about.json"
SETTINGS = "settings.json"
"""Beside the runs: recipe settings that all of them were made with."""
CHOSEN, BEGUN = "comparison/rates.json", "comparison/tried.json"
"""Learning rates that were chosen, and the errors of searches that have not ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """The places of a study: where it runs, and where its results are kept.

    Args:
        out: Folder of its runs.
        results: Folder of its results.
        made_again: Cells that leave what is not kept, so that they are never taken for done.
        films: Whether the teacher's and the best student's are kept.
        settings: Recipe settings for every run.
    """

    out: Path
    results: Path
    made_again: tuple[str, ...] = ()
    films: bool = True
    settings: tuple[str, ...] = ()

    def keep(self, command: str) -> None:
        """Writes the results of what there is so far, beside what was kept before, and the command that makes them."""
        if not self.out.is_dir():
            raise MissingFileError(f"{self.out} is missing: there is nothing to keep; run {command} first")
        evaluations = self._kept_evaluations() | {
            name: read_json(path, finite=False) for name, path in self._found(*EVALUATED)
        }
        write_study_evaluations(self.results, evaluations.items())
        curves = self._kept_curves() | {
            str(PurePosixPath(name).parent): read_metrics(path) for name, path in self._found(LOGGED)
        }
        write_study_curves(self.results, {run: [*map(_rounded, rows)] for run, rows in curves.items()})
        recipes = self.kept_recipes() | {
            str(PurePosixPath(name).parent): read_yaml(path.read_bytes(), str(path))
            for name, path in self._found(CONFIGURED)
        }
        lines = (json.dumps({"run": run, "recipe": recipes[run]}) for run in sorted(recipes))
        write_whole(self.results / RECIPES, "".join(f"{line}\n" for line in lines))
        for name, path in self._found(*SHOWN, *(FILMS if self.films else ())):
            write_whole(self.results / name, path.read_bytes())
        rates = self._kept_rates() | {path.stem: read_mapping(path) for _, path in self._found(RATES)}
        if rates:
            _write_json(self.results / CHOSEN, rates)
        tried = self._kept_tries() | {path.stem: read_mapping(path) for _, path in self._found(TRIED)}
        begun = {name: errors for name, errors in tried.items() if name not in rates}
        if begun:
            _write_json(self.results / BEGUN, begun)
        else:
            (self.results / BEGUN).unlink(missing_ok=True)
        cells = self._kept_cells() | {path.stem: read_mapping(path)["seconds"] for _, path in self._found(DONE)}
        told = {**about(command, evaluations.values()), **self._told_settings, "cells": cells}
        _write_json(self.results / ABOUT, told)
        print(f"{len(evaluations)} evaluations of {len(curves)} trainings kept in {self.results}")

    def archive(self, file: Path) -> None:
        """Writes an archive of all that is needed to go on: what is kept, and what has been measured since."""
        files = dict(self.kept()) | {
            name: path.read_bytes()
            for name, path in self._found(*EVALUATED, LOGGED, CONFIGURED, DONE, RATES, TRIED, TABLES, SETTINGS)
        }
        if not files:
            raise MissingFileError(f"neither {self.out} nor {self.results} holds anything to put into {file}")
        with whole_file(file) as building, tarfile.open(building, "w:gz") as archive:
            for name in sorted(files):
                member = tarfile.TarInfo(name)
                member.size = len(files[name])
                archive.addfile(member, io.BytesIO(files[name]))
        print(f"{len(files)} files in {file}")

    def restore(self, jobs: Sequence[Job], archive: Path | None = None) -> None:
        """Puts measurements back where the runs lay, so that their cells are not run again.

        A study that runs here already keeps what it has. Weights are not kept, so whatever a cell of `jobs` that is not
        done needs is made again, from the same seeds, at every call.

        Args:
            jobs: All that are asked for.
            archive: Where they come from; the results that are kept if None.

        Raises:
            ValueError: There are runs already and an archive is named, or it is none; or what there is was made with
                other recipe settings.
        """
        if (self.results / ABOUT).is_file():
            self._refuse_otherwise(self.results, _mapping(self.results / ABOUT).get("settings", []))
        self._refuse_otherwise(self.out, _mapping(self.out / SETTINGS).get("settings"))
        cells = self.out / "jobs"
        if not cells.is_dir():
            self._put_back(archive)
        elif archive is not None:
            raise InputError(f"{self.out} has cells of its own; move it away before {archive} is restored there")
        for name in self.made_again:
            _forget_restored(done_marker(cells, name))
        for job in reversed(jobs):
            if not done_marker(cells, job.name).is_file():
                for name in job.after:
                    # Of what cells need, only a chosen learning rate is a file that is kept.
                    if not name.startswith("choose/"):
                        _forget_restored(done_marker(cells, name))
        _write_json(self.out / SETTINGS, self._told_settings)

    @property
    def _told_settings(self) -> dict[str, list[str]]:
        return {"settings": list(self.settings)}

    def _refuse_otherwise(self, made: Path, noted: Sequence[str] | None) -> None:
        """Refuses what was made with other settings than those that are asked for; earlier runs noted none."""
        if noted is not None and noted != list(self.settings):
            there, now = (" ".join(settings) or "nothing" for settings in (noted, self.settings))
            raise InputError(
                f"{made} was made with --set {there}, not {now}: ask for the same, or give another --out and --results"
            )

    def _put_back(self, archive: Path | None) -> None:
        files = dict(self.kept()) if archive is None else read_archive(archive)
        if SETTINGS in files:
            self._refuse_otherwise(archive or self.results, parse_json(files[SETTINGS], SETTINGS)["settings"])
        for name, content in files.items():
            if name.endswith(".done"):
                content = _json({**parse_json(content, name), _RESTORED: True})
            write_whole(self.out / name, _of_any_weights(name, content))
        if files:
            print(f"{len(files)} files restored from {archive or self.results}")

    def kept(self) -> Iterator[tuple[str, bytes]]:
        """The files of the runs, as the results have them: path below the runs' folder, and content."""
        for name, content in self._kept_evaluations().items():
            yield name, _json(content)
        for run, rows in self._kept_curves().items():
            yield f"{run}/metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode()
        for run, recipe in self.kept_recipes().items():
            yield f"{run}/recipe.yaml", yaml.safe_dump(recipe, sort_keys=False).encode()
        for name, seconds in self._kept_cells().items():
            yield f"jobs/{name}.done", (json.dumps({"seconds": seconds}) + "\n").encode()
        for method, rate in self._kept_rates().items():
            yield f"rates/{method}.json", _json(rate)
        for method, errors in self._kept_tries().items():
            yield f"tried/{method}.json", _json(errors)
        for path in sorted(self.results.glob(TABLES)):
            yield path.relative_to(self.results).as_posix(), path.read_bytes()

    def _found(self, *patterns: str) -> Iterator[tuple[str, Path]]:
        for path in (path for pattern in patterns for path in sorted(self.out.glob(pattern))):
            yield path.relative_to(self.out).as_posix(), path

    def _kept_evaluations(self) -> dict[str, Any]:
        if not (self.results / EVALUATIONS).is_file():
            return {}
        return {path.relative_to(self.results).as_posix(): told for path, told in study_evaluations(self.results)}

    def _kept_curves(self) -> dict[str, Any]:
        return {run.relative_to(self.results).as_posix(): rows for run, rows in study_curves(self.results).items()}

    def kept_recipes(self) -> dict[str, Any]:
        """Run, such as "runs/teacher" -> its resolved recipe."""
        return {run.relative_to(self.results).as_posix(): told for run, told in study_recipes(self.results).items()}

    def _kept_cells(self) -> dict[str, float]:
        return _mapping(self.results / ABOUT).get("cells", {})

    def _kept_rates(self) -> dict[str, Any]:
        return _mapping(self.results / CHOSEN)

    def _kept_tries(self) -> dict[str, Any]:
        return _mapping(self.results / BEGUN)


def _rounded(row: Mapping[str, Any]) -> dict[str, Any]:
    """A step's numbers to the nearest of 17 binary digits, at most 8e-6 of them away."""
    return {key: _to_digits(value) if isinstance(value, float) else value for key, value in row.items()}


def _to_digits(value: float) -> float:
    if not math.isfinite(value):
        return value
    fraction, exponent = math.frexp(value)
    return math.ldexp(round(fraction * 2**_BITS), exponent - _BITS)


def about(command: str, evaluations: Collection[Mapping[str, Any]]) -> dict[str, Any]:
    """The provenance of a study: the command that makes all of it, and the revision of every part."""
    made = {**provenance(), "command": command, "date": date.today().isoformat()}
    seeds = sorted({one["seed"] for one in evaluations if "seed" in one})
    return {**made, "seeds": seeds, "parts": parts(evaluations, made)}


def parts(evaluations: Collection[Mapping[str, Any]], made: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The provenance of the evaluations: revision and command, with how many and when, and what differs from `made`."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    told = (one["provenance"] for one in evaluations if one.get("provenance"))
    for one in sorted(told, key=lambda one: one["time"]):
        found.setdefault(json.dumps({key: one[key] for key in one if key != "time"}), []).append(one)
    return [
        {
            "git_revision": some[0]["git_revision"],
            "command": " ".join(some[0]["command"]),
            "evaluations": len(some),
            "from": some[0]["time"],
            "to": some[-1]["time"],
            **{
                key: value
                for key, value in some[0].items()
                if key not in ("git_revision", "command", "time") and value != made.get(key)
            },
        }
        for some in found.values()
    ]


def read_archive(file: Path) -> dict[str, bytes]:
    """Reads an archive by `Study.archive`: path below the runs' folder -> content.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is no such archive.
    """
    kinds = {".json", ".jsonl", ".yaml", ".done"}
    files = {}
    try:
        with tarfile.open(file, "r:gz") as archive:
            for member in archive:
                path = PurePosixPath(member.name)
                if not member.isfile() or path.is_absolute() or ".." in path.parts or path.suffix not in kinds:
                    raise InputError(f"{file} holds {member.name}, which no study leaves; expected one by --archive")
                files[path.as_posix()] = archive.extractfile(member).read()
    except FileNotFoundError as error:
        raise MissingFileError(f"{file} is missing; expected an archive by --archive") from error
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InputError(f"{file} is no archive of a study ({error}); expected one by --archive") from error
    return files


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that take a study from one machine to another."""
    parser.add_argument("--archive", type=Path, metavar="FILE", help="write what is needed to go on, and run nothing")
    parser.add_argument("--restore", type=Path, metavar="FILE", help="go on from an archive, not from what is kept")


def or_exit(call: Callable[..., T], *arguments: Any) -> T:
    """Calls; an error that its message explains ends the program with that message."""
    try:
        return call(*arguments)
    except UserError as error:
        raise SystemExit(str(error)) from error


def _forget_restored(marker: Path) -> None:
    if _mapping(marker).get(_RESTORED):
        marker.unlink()


def _of_any_weights(name: str, content: bytes) -> bytes:
    """The content of a file; an evaluation without the fingerprints of its weights and its autoencoder's, since those
    that are made again from the same seeds may differ in the last bit and are to be taken for them."""
    told = parse_json(content, name, finite=False) if name.endswith(".json") else None
    asked = told.get("asked") if isinstance(told, Mapping) else None
    if not isinstance(asked, Mapping) or "model" not in (settings := asked.get("settings") or {}):
        return content
    others = {key: value for key, value in settings.items() if key not in ("model", "vae/")}
    return _json({**told, "asked": {**asked, "settings": others}})


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()


def _write_json(path: Path, content: Any) -> None:
    write_whole(path, _json(content))


def _mapping(path: Path) -> dict[str, Any]:
    return read_mapping(path, finite=False) if path.is_file() else {}
