# SPDX-License-Identifier: Apache-2.0
"""Evaluates a model on a suite of LIBERO: it is served in this process, and driven as any served one."""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from flashwam.core.sampler_name import measured_suffix
from flashwam.core.steps import nfe_text
from flashwam.core.temperature import Temperature
from flashwam.evaluation.libero_episodes import Place
from flashwam.evaluation.libero_suite import Chosen, SuiteJob, check_model, choose, driven
from flashwam.evaluation.policy import evaluations_of, said_beside_weights
from flashwam.evaluation.served_model import described_by_server, served_how
from flashwam.run.card import renew_card
from flashwam.run.evaluation import Evaluation, evaluation_name, measure_once
from flashwam.run.folder import INFO_FILE, RunFolder
from flashwam.run.model_info import ModelInfo, model_folder
from flashwam.serve.model import ServedModel, load_served
from flashwam.serve.options import ServerOptions
from flashwam.serve.server import serving
from flashwam.sim.libero import Convention, get_convention
from flashwam.system.imports import trusting
from flashwam.system.paths import user_path
from flashwam.wam.devices import device_named
from flashwam.wam.files import files_for_preset, files_that_say_how

__all__ = ["evaluate_model_on_libero"]

logger = logging.getLogger(__name__)

_PRESET = "libero"
"""Settings of the newest released checkpoints for LIBERO."""


def evaluate_model_on_libero(
    checkpoint: str | Path,
    *,
    suite: str,
    tasks: Sequence[str] | None = None,
    episodes: int | None = None,
    nfe: Sequence[str] | None = None,
    temperature: Temperature | None = None,
    precision: str | None = None,
    preset: str | None = None,
    base: str | Path | None = None,
    rollout: str | None = None,
    device: str = "cpu",
    dtype: str | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    convention: Convention | None = None,
    processes: int = 1,
    progress: bool = True,
    trust: bool = False,
) -> list[dict[str, Any]]:
    """Drives tasks of a suite by a model that is served in this process, by the traffic of any served one.

    Episode i begins in a task's initial state i. Every episode is written down when it has ended, and an evaluation
    that was stopped goes on with those that are missing. A setting that was measured before is read, not run again.

    Args:
        checkpoint: A teacher's or student's folder, a run folder, or another tool's checkpoint that its family knows.
        suite, tasks, episodes, seed, convention, processes, progress: See `evaluate_on_libero`.
        nfe: Steps per stream and chunk, one setting after another, such as "1v/2a"; "full" for the teacher's own; the
            recipe's if None, or those that the model is deployed with.
        temperature, precision, preset, base, rollout, device, dtype, trust: See `load_served`. A checkpoint that does
            not say how it is sampled is taken for one of preset "libero" if None is given, with a warning.
        out: Folder for the results; see `evaluations_of` if None.

    Returns:
        One result per setting, as written. Its `model` tells what was driven, its `simulator` the convention, and every
        instruction that was given.

    Raises:
        FileNotFoundError: There is no such model.
        ImportError: LIBERO is not installed.
        RuntimeError: Another process is driving the same episodes, or the model draws what no robot may do.
        ValueError: A suite, task, number of episodes or device is not there, the model has other cameras or controls or
            cannot be loaded so, or what was begun or measured before was something else.
    """
    # Before gigabytes are fetched for it.
    device_named(device)
    chosen = choose(suite, tasks, episodes)
    folder = model_folder(checkpoint)
    preset, settings = _preset_of(folder, preset), _settings(folder, nfe, trust=trust)
    request = _Request(
        folder=folder,
        chosen=chosen,
        convention=convention or get_convention("lingbot_va"),
        seed=seed,
        out=user_path(out) if out is not None else evaluations_of(folder),
        preset=preset,
        processes=processes,
        progress=progress,
    )
    model = load_served(
        folder,
        nfe=settings[0],
        device=device,
        preset=preset,
        base=base,
        rollout=rollout,
        dtype=dtype,
        precision=precision,
        temperature=temperature,
        trust=trust,
    )
    check_model(model.metadata, f"in {folder}")
    results = []
    for steps, drawn in [(steps, model.at(steps)) for steps in settings]:
        results.append(request.measured(drawn, steps).to_json())
        if request.out.resolve() == RunFolder.of_model(folder).evaluations.resolve():
            renew_card(folder, trust=trust)
    return results


def _preset_of(folder: Path, given: str | None) -> str | None:
    """The preset that a folder is loaded with: none for one that says itself how it is sampled."""
    if given is not None or (folder / INFO_FILE).is_file() or files_that_say_how(folder) is not None:
        return given
    try:
        files_for_preset(_PRESET).check(folder)
    except (FileNotFoundError, ValueError):
        # Whoever loads it says best what is wrong.
        return None
    logger.warning(
        "%s does not say how it is sampled: it is taken for a checkpoint of preset %s; give --preset where it is one "
        "of another",
        folder,
        _PRESET,
    )
    return _PRESET


def _settings(folder: Path, nfe: Sequence[str] | None, *, trust: bool) -> tuple[str | None, ...]:
    """Steps to drive at; None for those that the model is deployed with."""
    if nfe:
        return tuple(nfe)
    if not (folder / INFO_FILE).is_file():
        return (None,)
    with trusting(trust):
        recipe = ModelInfo.read(folder).recipe
    return (None,) if recipe is None else recipe.evaluate.nfe


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """A model's suite, at any steps."""

    folder: Path
    chosen: Chosen
    convention: Convention
    seed: int
    out: Path
    preset: str | None
    processes: int
    progress: bool

    def measured(self, model: ServedModel, steps: str | None) -> Evaluation:
        """One setting, measured now or before."""
        told = model.metadata
        setting = steps or ("full" if told["kind"] == "teacher" else nfe_text(told["nfe"]))
        rounded = [] if told["precision"] == "own" else [told["precision"]]
        how = "_".join([served_how(told, self.chosen.under(self.convention)), *rounded])
        path = self.out / f"{evaluation_name(told['step'], setting, how, self.seed)}.json"
        asked = self.chosen.asked(**self._decisive(model))
        parts = {"stages": tuple(map(tuple, model.wam.stages)), "parameters": model.wam.deployed_parameters()}
        with ExitStack() as stack:

            def measure() -> Evaluation:
                server = stack.enter_context(serving(model, ServerOptions(port=0, max_sessions=self.processes)))
                job = SuiteJob(
                    told=told,
                    described={**described_by_server(told), **parts},
                    setting=setting,
                    how=measured_suffix(told["sampler"], told["precision"]),
                    asked=asked,
                    chosen=self.chosen,
                    place=Place(url=server.url, token=None, convention=self.convention, seed=self.seed, path=path),
                    more={"model": {"folder": str(self.folder), "preset": self.preset, **told}},
                )
                return stack.enter_context(driven(job, processes=self.processes, progress=self.progress))

            return measure_once(path, asked, measure)

    def _decisive(self, model: ServedModel) -> dict[str, str]:
        """Settings that decide the numbers beside tasks and episodes: name -> value."""
        told, convention = model.metadata, self.convention
        values = asdict(convention) | {"max_steps": convention.steps(self.chosen.suite)}
        return {
            "model": told["weights"],
            "preset": self.preset or "none",
            "dtype": told["dtype"],
            "device": torch.device(told["device"]).type,
            **said_beside_weights(self.folder, model.wam, model.samplers, preset=self.preset),
            **{name: str(value) for name, value in values.items() if name != "name"},
        }
