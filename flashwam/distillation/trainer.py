# SPDX-License-Identifier: Apache-2.0
"""The loop: data, loss, gradient, optimiser, target, log, checkpoint. It knows no stream and no model family."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from tqdm import tqdm

from flashwam.core.batch import Batch
from flashwam.distillation.adapters import STUDENT
from flashwam.distillation.checkpoint import Checkpoints
from flashwam.distillation.draws import Draws
from flashwam.distillation.judging import Judge, Judging
from flashwam.distillation.methods.base import Method, MethodOutput, Turn
from flashwam.distillation.methods.handing_on import late_streams
from flashwam.distillation.methods.not_finite import NonFiniteError, gradient_error, gradient_norms, total_error
from flashwam.distillation.metrics import MetricsLog, StepLosses, gradient_metrics
from flashwam.distillation.optimizers import Trained, learning_rate_factor, make_optimizer
from flashwam.distillation.prefetch import read_ahead
from flashwam.distillation.roles import relative_distance
from flashwam.distillation.setup import Source
from flashwam.distillation.start_checks import EmptyMasks, check_weights
from flashwam.distillation.stopping import Stopped, StopSignals
from flashwam.distillation.strategies import check_strategy, make_strategy
from flashwam.distillation.trackers import check_trackers
from flashwam.distillation.watch import Watch
from flashwam.recipe.sections import LoopConfig
from flashwam.run.folder import INFO_FILE, RunFolder
from flashwam.run.inputs import made_from_the_same
from flashwam.run.model_info import read_info
from flashwam.student import save_wam
from flashwam.system.errors import InputError
from flashwam.system.files import clear_leftovers, only_writer, whole_folder
from flashwam.system.json_file import whole_number
from flashwam.system.paths import user_path
from flashwam.wam.base import WorldActionModel

__all__ = ["Source", "is_finished", "train"]

logger = logging.getLogger(__name__)


def train(
    method: Method,
    source: Source,
    loop: LoopConfig,
    *,
    run_dir: Path | str,
    seed: int,
    info: Mapping[str, Any] | None = None,
    extra_files: Callable[[Path], None] | None = None,
    judge: Judge | None = None,
) -> Path:
    """Trains `method` for `loop.steps` optimiser steps, continuing where an earlier call was stopped.

    Args:
        method: The objective with its models.
        source: Samples by draw number.
        loop: Steps, batch, optimiser, intervals.
        run_dir: Gets `checkpoints/`, `metrics.jsonl`, `tensorboard/`, `steps/step_N` for `loop.keep_steps`, `judged/`
            and `best/` where it is judged, and the result.
        seed: Of every draw.
        info: Further entries of the result's `flashwam.json`, such as "teacher" and "recipe".
        extra_files: Writes what else belongs into every exported model folder.
        judge: Measures the model as `loop.judge` says.

    Returns:
        Folder of the result, `<run_dir>/student` or `<run_dir>/teacher`. A finished run returns at once.

    Raises:
        NonFiniteError: a loss or gradient is not finite, or a weight before the first step; nothing is saved after it.
        RuntimeError: another process is training in `run_dir`.
        OSError: a checkpoint or the result could not be written.
        ValueError: no checkpoint is whole, or a whole one is another model's; or `loop.judge` is given and no judge.
        Stopped: SIGINT or SIGTERM came, in any process; it is a KeyboardInterrupt, and a checkpoint is saved.
    """
    run_dir = user_path(run_dir)
    run = RunFolder(run_dir)
    result = run.result(method.result)
    if is_finished(run, method.result, steps=loop.steps):
        return result
    if loop.judge is not None and judge is None:
        raise InputError("the recipe asks for a judge (judge), and none is given to measure with")
    for path in (run_dir, result, run.checkpoints, run.steps, run.best, run.judged):
        # Said now, not after hours, when the folder is needed.
        if (path.exists() or path.is_symlink()) and not path.is_dir():
            raise InputError(f"{path} must be a folder, or not be there; it is a file: move it away")
    run_dir.mkdir(parents=True, exist_ok=True)
    return _Training(
        method, source, loop, run=run, seed=seed, info=dict(info or {}), extra_files=extra_files, judge=judge
    ).run()


def is_finished(run: RunFolder, result: str, *, steps: int) -> bool:
    """Tells whether a run has its result, and says so.

    Args:
        run: The run's folder.
        result: Name of the result's folder, see `Method.result`.
        steps: That the recipe asks for.

    Raises:
        ValueError: The result has more.
    """
    path = run.result(result)
    if not (path / INFO_FILE).is_file():
        return False
    done = whole_number(read_info(path).get("steps", 0), f"{path / INFO_FILE}: steps", most=2**63 - 1)
    if done > steps:
        raise InputError(f"{path} has {done} steps already, the recipe asks for {steps}; use another run folder")
    if done == steps:
        logger.info("%s is finished: %d steps are in %s", run.path, done, path)
    return done == steps


class _Training:
    """One call of `train`."""

    def __init__(
        self,
        method: Method,
        source: Source,
        loop: LoopConfig,
        *,
        run: RunFolder,
        seed: int,
        info: dict[str, Any],
        extra_files: Callable[[Path], None] | None,
        judge: Judge | None,
    ) -> None:
        self.method, self.source, self.loop = method, source, loop
        self.folder, self.seed, self.info, self.extra_files = run, seed, info, extra_files
        for role, model in (("teacher", method.roles.teacher), ("student", method.roles.model)):
            if model is not None:
                check_weights(model, role)
        check_strategy(loop, method.roles.trained)
        check_trackers(loop.trackers)
        if loop.compile:
            method.roles.compile_training()
        if not any(turn.role == STUDENT for step in range(loop.steps) for turn in method.turns(step)):
            raise InputError(
                f"in {loop.steps} steps it is never the student's turn: raise steps, or lower student_every"
            )
        self.watch = method.watch = Watch()
        self.empty_masks = EmptyMasks(steps=min(10, loop.steps))
        self.strategy = make_strategy(loop)
        self.accelerator = self.strategy.accelerator
        self.per_batch = loop.batch_size // self.accelerator.num_processes
        # The source is asked from one thread at a time.
        self.reading = threading.Lock()
        self.ahead = getattr(source, "prefetch", 0) if loop.prefetch is None else loop.prefetch
        # DeepSpeed's hooks bear one backward pass per forward.
        self.diagnoses = loop.diagnose_every > 0 and loop.strategy in ("single", "ddp")
        if loop.diagnose_every > 0 and not self.diagnoses:
            logger.warning("diagnose_every does nothing with strategy %s: no gradient diagnostics", loop.strategy)

        self.trained: dict[str, Trained] = {}

        def wrap(role: str, model: torch.nn.Module) -> torch.nn.Module:
            called, optimizer, bare = self.strategy.prepare(model, partial(make_optimizer, loop))
            self.trained[role] = Trained(model=model, called=called, optimizer=optimizer, bare=bare)
            return called

        method.roles.place(
            wrap,
            self.strategy.place_copy,
            gathered=self.strategy.gathered,
            average_in_place=self.strategy.average_in_place,
        )
        self.checkpoints = Checkpoints(run, self.strategy, method.roles)
        self.judging = None
        if judge is not None:
            self.judging = Judging(judge, loop, run=run, method=method, strategy=self.strategy)

    def run(self) -> Path:
        """All remaining steps, then the result."""
        try:
            with (
                only_writer(self.folder.path) if self.accelerator.is_main_process else nullcontext(),
                StopSignals() as stop,
            ):
                return self._run(stop)
        finally:
            self.method.watch = type(self.method).watch
            self.strategy.close()

    def _run(self, signals: StopSignals) -> Path:
        loop, main = self.loop, self.accelerator.is_main_process
        if main:
            for folder in (self.folder.path, self.folder.steps, self.folder.checkpoints):
                clear_leftovers(folder)
        first = self.checkpoints.restore()
        if first:
            logger.info("continuing %s after step %d", self.folder.path, first)
        else:
            for name, text in late_streams(type(self.method), self.method.streams, loop) if main else ():
                logger.warning("%s: %s", name, text)
            self._keep(0)
        if self.judging is not None:
            self.judging.begin(first, self.info)
        log = MetricsLog(self.folder, first, about=self.info, trackers=loop.trackers) if main else None
        if not first:
            self._measure(0, log)
        began, before = time.monotonic(), first
        draws = (self._indices(step, part) for step in range(first, loop.steps) for part in range(loop.accumulation))
        with (
            read_ahead(self._read, draws, depth=self.ahead * loop.accumulation) as batches,
            tqdm(total=loop.steps, initial=first, disable=None if main else True, mininterval=1.0) as bar,
        ):
            for step in range(first, loop.steps):
                values = self._watched_step(step, batches)
                done = step + 1
                if values is not None and log is not None:
                    rate = (done - before) / (time.monotonic() - began)
                    values |= {"steps_per_second": rate, "seconds_left": (loop.steps - done) / rate}
                    log.write(done, values)
                    # The student's, or that of whose turn it was.
                    shown = "loss" if "loss" in values else next(iter(values))
                    bar.set_postfix_str(f"{shown} {values[shown]:.4g}")
                    left = values["seconds_left"]
                    logger.info("step %d/%d %s %.5g, %.0f s left", done, loop.steps, shown, values[shown], left)
                bar.update()
                if step == first:
                    # It did what later ones find done, such as compiling.
                    began, before = time.monotonic(), done
                # After the last step the result itself is what is kept.
                stop = signals.agreed(self.accelerator) if done < loop.steps else 0
                save = stop or done % loop.save_every == 0 or done == loop.steps
                self._look(before=None if save or done in loop.keep_steps else step)
                self._keep(done)
                self._measure(done, log)
                if save and done < loop.steps:
                    self.checkpoints.save(done)
                if stop:
                    kept = self.checkpoints.path(done)
                    raise Stopped(f"stopped after step {done}: {kept} is saved, and the same command goes on", stop)
        if log is not None:
            log.close()
        if self.judging is not None and main:
            self.judging.say_best()
        result = self.folder.result(self.method.result)
        self._export(result, loop.steps)
        if stop := signals.agreed(self.accelerator):
            raise Stopped(f"stopped after the last step: the result is in {result}", stop)
        return result

    def _watched_step(self, step: int, batches: Iterator[Batch]) -> dict[str, float] | None:
        """`_step`; what fails because an earlier step went wrong is said of that step."""
        self.watch.step = step
        try:
            values = self._step(step, batches)
        except Exception:
            self._look()
            raise
        if values is not None:
            self._look()
        return values

    def _look(self, *, before: int | None = None) -> None:
        """Raises what is known to have gone wrong, in all steps or in those before one; nothing is saved then."""
        try:
            self.watch.look(before=before)
        except NonFiniteError as error:
            describe = getattr(self.source, "describe", None)
            if describe is None or error.sample is None:
                raise
            with self.reading:
                described = describe(error.sample)
            raise NonFiniteError(f"{error} (sample {error.sample}: {described})") from error

    def _step(self, step: int, batches: Iterator[Batch]) -> dict[str, float] | None:
        """One optimiser step of every role whose turn it is; its numbers where they are due."""
        loop = self.loop
        done = step + 1
        due = done % loop.log_every == 0 or step == 0 or done == loop.steps
        diagnosed = self.diagnoses and (done % loop.diagnose_every == 0 or step == 0)
        parts = [next(batches) for _ in range(loop.accumulation)]
        turns = self.method.turns(step)
        values: dict[str, float] | None = None
        for turn in turns:
            found = self._turn(turn, step, parts, due=due, diagnosed=diagnosed)
            if found is not None:
                values = (values or {}) | found
        if any(turn.role == STUDENT for turn in turns):
            self.method.after_step(loop.ema_decay)
        if values is not None and diagnosed and self.method.roles.target is not None:
            values["ema_drift"] = relative_distance(self.method.roles.target, self.method.roles.model)
        return values

    def _turn(
        self, turn: Turn, step: int, parts: Sequence[Batch], *, due: bool, diagnosed: bool
    ) -> dict[str, float] | None:
        """One optimiser step of one role; its numbers where they are due, below the role's name but for the student."""
        loop, accelerator, trained = self.loop, self.accelerator, self.trained[turn.role]
        told, losses, gradients = due or diagnosed, StepLosses(), {}
        lr = (loop.lr * turn.lr_times if turn.lr is None else turn.lr) * learning_rate_factor(step, loop)
        for group in trained.bare.param_groups:
            group["lr"] = lr
        for part, read in enumerate(parts):
            batch = read.to(accelerator.device)
            draws = Draws(seed=self.seed, step=step, positions=self._positions(part), device=accelerator.device)
            with accelerator.accumulate(trained.called), self.method.roles.turn(turn.role):
                output = self._loss(turn, batch, draws)
                total = output.loss.detach()
                if not output.loss.requires_grad:
                    raise InputError(
                        f"the {turn.role}'s loss depends on none of the weights that are trained: does its velocity "
                        "detach them, or compute without gradient?"
                    )
                self.watch.note(torch.isfinite(total), partial(total_error, total, batch.index))
                self.empty_masks.look(output.terms, step)
                if told:
                    losses.add(output)
                if diagnosed and part == loop.accumulation - 1:
                    gradients = gradient_metrics(output, trained.parameters)
                accelerator.backward(output.loss)
                if accelerator.sync_gradients:
                    norms = gradient_norms(trained.model)
                    norm = self.strategy.clip(trained.parameters, loop.clip_norm)
                    self.watch.note(torch.isfinite(norm), partial(gradient_error, norms, step, batch.index))
                trained.optimizer.step()
                trained.optimizer.zero_grad(set_to_none=True)
        if not told:
            return None
        values = losses.values() | gradients | {"lr": lr, "grad_norm": float(norm)}
        return values if turn.role == STUDENT else {f"{turn.role}/{name}": value for name, value in values.items()}

    def _loss(self, turn: Turn, batch: Batch, draws: Draws) -> MethodOutput:
        with self.strategy.autocast(), draws.seeding_torch():
            return turn.loss(batch, draws)

    def _positions(self, part: int) -> range:
        """Places of this process' samples of one accumulated batch, counted over the whole optimiser step."""
        start = part * self.loop.batch_size + self.accelerator.process_index * self.per_batch
        return range(start, start + self.per_batch)

    def _indices(self, step: int, part: int) -> list[int]:
        first = step * self.loop.batch_size * self.loop.accumulation
        return [first + position for position in self._positions(part)]

    def _read(self, indices: list[int]) -> Batch:
        with self.reading:
            return self.source.batch(indices)

    def _keep(self, step: int) -> None:
        path = self.folder.kept_step(step)
        if step in self.loop.keep_steps and not made_from_the_same(path, self.info):
            self._export(path, step)

    def _measure(self, step: int, log: MetricsLog | None) -> None:
        """Judges the model where it is due, and keeps it where it is the best so far."""
        if self.judging is None or not self.judging.due(step):
            return
        self._look()
        told = self.judging.measure(step, self._exported, log)
        if told is not None:
            self._export(self.folder.best, step, **told)

    @property
    def _exported(self) -> WorldActionModel:
        """The role whose weights are the result."""
        roles = self.method.roles
        return roles.target if self.loop.save_weights == "target" and roles.target is not None else roles.model

    def _export(self, path: Path, step: int, **told: Any) -> None:
        """Writes the trained weights as a model folder of their own."""
        exported = self._exported
        weights = "target" if exported is self.method.roles.target else "student"
        self.accelerator.wait_for_everyone()
        with self.strategy.whole(exported) as model:
            if self.accelerator.is_main_process:
                try:
                    with whole_folder(path) as folder:
                        save_wam(
                            folder,
                            model,
                            self.method.streams,
                            kind=self.method.result,
                            info={**self.info, "steps": step, "weights": weights, **told},
                        )
                        if self.extra_files is not None:
                            self.extra_files(folder)
                except (OSError, SafetensorError) as error:
                    raise OSError(
                        f"{path} could not be written ({error}); make room there and give the same command again: it "
                        "goes on from the last checkpoint"
                    ) from error
        self.accelerator.wait_for_everyone()
