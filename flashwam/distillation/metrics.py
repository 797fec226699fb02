# SPDX-License-Identifier: Apache-2.0
"""One set of names and numbers for `metrics.jsonl` and TensorBoard."""

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor

from flashwam.distillation.methods.base import MethodOutput, StreamTerm
from flashwam.distillation.trackers import make_trackers, show_picture
from flashwam.run.folder import SIGMA_BINS, RunFolder
from flashwam.system.files import write_whole

__all__ = ["MetricsLog", "StepLosses", "bin_means", "gradient_metrics"]

logger = logging.getLogger(__name__)

_JUDGED = "judged/"


def bin_means(values: Tensor, sigma: Tensor, mask: Tensor) -> dict[int, float]:
    """Means of `values` over those in each of ten equal bins of sigma; empty bins are left out.

    Args:
        values: Any shape.
        sigma: Levels in [0, 1], same shape.
        mask: Bool, same shape; False leaves a value out.
    """
    sums, counts = _bins(values, sigma, mask)
    return {k: float(sums[k] / counts[k]) for k in range(SIGMA_BINS) if counts[k] > 0}


def _bins(values: Tensor, sigma: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Sums and counts of each bin, see `bin_means`; [10] in double precision each."""
    index = (sigma * SIGMA_BINS).long().clamp(max=SIGMA_BINS - 1)[mask]
    sums = torch.zeros(SIGMA_BINS, dtype=torch.float64, device=values.device)
    counts = sums.clone()
    sums.index_add_(0, index, values[mask].double())
    counts.index_add_(0, index, torch.ones_like(index, dtype=torch.float64))
    return sums, counts


class StepLosses:
    """The losses of an optimiser step: `loss`, per stream `<stream>/loss`, `/gradient_scale` and `/loss_sigma_bin_k`,
    and what its method tells, each the mean over all accumulated batches of all processes."""

    def __init__(self) -> None:
        self._parts: list[dict[str, tuple[Tensor | float, Tensor | float]]] = []

    def add(self, output: MethodOutput) -> None:
        """Takes in an accumulated batch of this process."""
        found: dict[str, tuple[Tensor | float, Tensor | float]] = {"loss": (output.loss.detach(), 1)}
        for name, term in output.terms.items():
            scales = term.gradient_scale[term.frame_mask]
            found[f"{name}/loss"] = (term.loss.detach().sum(), term.loss.numel())
            found[f"{name}/gradient_scale"] = (scales.sum(), scales.numel())
            sums, counts = _bins(term.frame_loss, term.sigma, term.frame_mask)
            found |= {f"{name}/loss_sigma_bin_{k}": (sums[k], counts[k]) for k in range(SIGMA_BINS)}
        self._parts.append(found | {name: (value, 1) for name, value in output.metrics.items()})

    def values(self) -> dict[str, float]:
        """The means; every process must ask for them."""
        here = [{name: (float(total), float(count)) for name, (total, count) in part.items()} for part in self._parts]
        parts = gather_object(here)
        means = {}
        for name in dict.fromkeys(name for part in parts for name in part):
            found = [part[name] for part in parts if name in part]
            if count := sum(count for _, count in found):
                means[name] = sum(total for total, _ in found) / count
        return means


def gradient_metrics(output: MethodOutput, parameters: list[Tensor]) -> dict[str, float]:
    """Measures where each stream's gradient comes from, in this batch; one more backward pass per stream.

    `<stream>/grad_norm` is the norm of the stream's own unweighted loss' gradient with respect to the parameters.
    `<stream>/grad_sigma_bin_k` is the root mean square, over the elements at levels in that bin, of the derivative of
    the element-wise loss with respect to the predicted velocity: at most |b(sigma)| for a pseudo-Huber loss.
    `cosine_<a>_<b>` compares the gradients of two streams on the parameters that both reach.
    """
    values: dict[str, float] = {}
    gradients: dict[str, list[Tensor | None]] = {}
    for name, term in output.terms.items():
        at_output, *at_weights = torch.autograd.grad(
            term.loss.sum(), [term.velocity, *parameters], retain_graph=True, allow_unused=True
        )
        gradients[name] = at_weights
        # The sum's gradient is B times that of the mean over samples.
        norms = [g.norm() for g in at_weights if g is not None]
        if norms:
            values[f"{name}/grad_norm"] = float(torch.stack(norms).norm()) / term.loss.shape[0]
        for k, mean in _output_gradient_bins(at_output, term).items():
            values[f"{name}/grad_sigma_bin_{k}"] = mean**0.5
    names = list(gradients)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            cosine = _shared_cosine(gradients[first], gradients[second])
            if cosine is not None:
                values[f"cosine_{first}_{second}"] = cosine
    return values


def _output_gradient_bins(gradient: Tensor, term: StreamTerm) -> dict[int, float]:
    """Mean squares per bin; each sample's mean over elements is undone by its number of elements."""
    weight = term.mask.to(gradient.dtype).expand_as(gradient)
    elements = weight.sum((1, 2, 3, 4), keepdim=True)
    squares = ((gradient * elements) ** 2 * weight).sum((1, 3, 4)) / weight.sum((1, 3, 4)).clamp(min=1)
    return bin_means(squares, term.sigma, term.frame_mask)


def _shared_cosine(first: list[Tensor | None], second: list[Tensor | None]) -> float | None:
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    if not pairs:
        return None
    dot = sum((a * b).sum() for a, b in pairs)
    norms = [torch.stack([pair[side].norm() for pair in pairs]).norm() for side in (0, 1)]
    return float(dot / (norms[0] * norms[1]).clamp(min=1e-30))


class MetricsLog:
    """`<run>/metrics.jsonl` and `<run>/tensorboard`, continued after `step`, with what is said `about` the run; other
    `trackers` get the same.

    Lines of later steps, which a killed run may have written after its last checkpoint, are dropped; so are damaged
    ones, which is said. Numbers that are not finite are left out, because JSON has none.
    """

    def __init__(
        self, run: RunFolder, step: int, *, about: Mapping[str, Any] | None = None, trackers: Sequence[str] = ()
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.path = run.metrics
        if self.path.exists():
            # What follows the last line's end is a line that a killed run could not finish.
            lines = self.path.read_bytes().split(b"\n")[:-1]
            steps = [_step_of(line) for line in lines]
            if damaged := steps.count(None):
                logger.warning("%s: %d damaged lines are left out", self.path, damaged)
            # One that begins anew measures its beginning anew.
            kept = [line for line, at in zip(lines, steps, strict=True) if at is not None and at <= step and step]
            write_whole(self.path, b"".join(line + b"\n" for line in kept))
        self._file = self.path.open("a")
        self._writer = SummaryWriter(str(run.tensorboard), purge_step=step + 1 if step else 0)
        self._step = step
        self._settings, self._judged = dict(_scalars((about or {}).get("recipe", {}))), dict[str, float]()
        self._trackers = make_trackers(trackers, run, self._settings)
        if about and not step:
            told = json.dumps(about, indent=2, default=str)
            self._writer.add_text("run", "".join(f"    {line}\n" for line in told.splitlines()), 0)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds the numbers after `step` optimiser steps, those that are finite; of measures that are not a warning
        tells, since nobody would miss a line that is not there."""
        lost = [name for name, value in values.items() if name.startswith(_JUDGED) and not math.isfinite(value)]
        if lost:
            logger.warning("step %d: %s came to no finite number and are not logged", step, ", ".join(lost))
        values = {name: value for name, value in values.items() if math.isfinite(value)}
        self._file.write(json.dumps({"step": step, **values}, allow_nan=False) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        for tracker in self._trackers:
            tracker.log(dict(values), step=step)
        self._step = step
        judged = {name: value for name, value in values.items() if name.startswith(_JUDGED)}
        # Those of single controls would crowd a table of runs.
        self._judged |= {name: value for name, value in judged.items() if "/" not in name.removeprefix(_JUDGED)}

    def show(self, step: int, pictures: Mapping[str, Path]) -> None:
        """Adds pictures, PNG files, to TensorBoard."""
        from PIL import Image

        for name, path in pictures.items():
            with Image.open(path) as opened:
                picture = np.asarray(opened.convert("RGB"))
            self._writer.add_image(name, picture, step, dataformats="HWC")
            show_picture(self._trackers, name, picture, step)

    def close(self) -> None:
        """Flushes both; what was judged last stands beside the run's settings among TensorBoard's hparams."""
        if self._judged:
            # At the last step, where they stand already: the curves stay as they are.
            self._writer.add_hparams(self._settings, self._judged, run_name=".", global_step=self._step)
        self._file.close()
        self._writer.close()
        for tracker in self._trackers:
            tracker.finish()


def _scalars(settings: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str | float]]:
    """Dotted name and value of every setting that is a number, a truth or a text; of a list its text."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _scalars(value, f"{above}{name}.")
        elif isinstance(value, list | tuple):
            yield f"{above}{name}", ", ".join(map(str, value))
        elif isinstance(value, bool | int | float | str):
            yield f"{above}{name}", value


def _step_of(line: bytes) -> int | None:
    """Step of a line; None for what is no line of numbers."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        return None
    return step if type(step) is int else None
