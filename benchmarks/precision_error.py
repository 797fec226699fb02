# SPDX-License-Identifier: Apache-2.0
"""Error of a model's chunks in fewer bits: against its own draws in float32, from the same noise and the same past.

    python benchmarks/precision_error.py runs/flash_wam --nfe 1v/1a 1v/2a     writes analysis/results/precision

On held-out windows of the data that the model's recipe names, on the CPU, where float8 is emulated. Two ways that
`rollout.precision: fp8` does not go stand beside it, both calibrated on windows that are not measured: one scale for
all that goes into a layer, and channels evened out between weight and input before both are rounded.
"""

import argparse
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from common import about, keep
from torch import Tensor, nn

from flashwam.core.batch import Batch
from flashwam.core.float8 import FLOAT8, LARGEST, product, round_rows
from flashwam.evaluation.open_loop import chunk_draws
from flashwam.evaluation.policy import Policy, load_policy
from flashwam.wam.base import WorldActionModel
from flashwam.wam.rounded_linear import Float8Linear

CALIBRATION = 8
"""Windows."""
INSIDE = (
    "Root mean square difference to the same model's float32 draw, over the root mean square of that draw: the median "
    "chunk, the 95th percentile of chunks, and all chunks together, in percent."
)


class Calibrated(Float8Linear):
    """A rounded layer whose input has one known scale, or is evened out first."""

    level: Tensor | None = None
    even: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """See `Float8Linear.forward`."""
        rows = x.flatten(0, -2).float()
        rows = rows if self.even is None else rows / self.even
        if self.level is None:
            rounded, scale = round_rows(rows)
        else:
            scale = (self.level / LARGEST).expand(rows.shape[0], 1)
            rounded = (rows / scale).clamp(-LARGEST, LARGEST).to(FLOAT8)
        bias = None if self.bias is None else self.bias.to(torch.bfloat16)
        return product(rounded, scale, self.weight, self.scale, bias).unflatten(0, x.shape[:-1]).to(x.dtype)


def largest_inputs(wam: WorldActionModel, run: Callable[[WorldActionModel], Any]) -> dict[str, Tensor]:
    """Linear layer -> the largest number of each channel that goes into it."""
    found: dict[str, Tensor] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            most = inputs[0].detach().abs().flatten(0, -2).amax(0)
            found[name] = torch.maximum(most, found.get(name, most))

        return hook

    layers = [(name, module) for name, module in wam.named_modules() if isinstance(module, nn.Linear)]
    hooks = [module.register_forward_pre_hook(note(name)) for name, module in layers]
    run(wam)
    for hook in hooks:
        hook.remove()
    return found


def calibrated(wam: WorldActionModel, inputs: dict[str, Tensor], *, evened: bool) -> WorldActionModel:
    """A rounded copy that knows the largest inputs."""
    made = deepcopy(wam)
    made.choose_precision("fp8")
    weights = {name: module.weight for name, module in wam.named_modules() if isinstance(module, nn.Linear)}
    for name, layer in made.named_modules():
        if not isinstance(layer, Float8Linear):
            continue
        layer.__class__ = Calibrated
        if evened:
            layer.even = (inputs[name].clamp(min=1e-5) / weights[name].detach().abs().amax(0).clamp(min=1e-5)).sqrt()
            rounded, layer.scale = round_rows(weights[name].detach() * layer.even)
            layer.weight = nn.Parameter(rounded, requires_grad=False)
        else:
            layer.level = inputs[name].max()
    return made


def variants(wam: WorldActionModel, run: Callable[[WorldActionModel], Any]) -> Iterator[tuple[str, WorldActionModel]]:
    """Name -> copy of a model in other numbers."""
    half, rounded = deepcopy(wam).to(torch.bfloat16), deepcopy(wam)
    rounded.choose_precision("fp8")
    yield "bfloat16", half
    yield "fp8", rounded
    both = deepcopy(half)
    both.choose_precision("fp8")
    yield "fp8, the rest bfloat16", both
    inputs = largest_inputs(wam, run)
    yield "(fp8, one calibrated scale a layer)", calibrated(wam, inputs, evened=False)
    yield "(fp8, channels evened out)", calibrated(wam, inputs, evened=True)


def errors(drawn: list[dict[str, Tensor]], exact: list[dict[str, Tensor]]) -> dict[str, dict[str, float]]:
    """Stream -> relative error of the median chunk, the 95th percentile and all together."""
    found = {}
    for name in exact[0]:
        ours, theirs = (torch.cat([chunk[name] for chunk in part]).float().flatten(1) for part in (drawn, exact))
        each, size = (ours - theirs).square().mean(1), theirs.square().mean()
        middle, high = (each / size).sqrt().quantile(torch.tensor([0.5, 0.95])).tolist()
        found[name] = {"median": middle, "p95": high, "all": float((each.mean() / size).sqrt())}
    return found


def windows_of(policy: Policy, count: int) -> tuple[Batch, Batch]:
    """Held-out windows that are measured, and others to calibrate on."""
    held = policy.held_out()
    return held.batch(range(count)), held.batch(range(count, count + CALIBRATION))


def table(results: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines = [INSIDE, "", "| model | steps | chunks | numbers | action | video |", "|---|---|---:|---|---:|---:|"]
    for one in results:
        cells = [
            " / ".join(f"{100 * one['errors'][name][key]:.2f}" for key in ("median", "p95", "all"))
            for name in ("action", "video")
        ]
        lines.append(f"| {one['model']} | {one['nfe']} | {one['chunks']} | {one['numbers']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="folder of a teacher or student, or a run")
    parser.add_argument("--nfe", nargs="+", default=["1v/1a"], metavar="1v/1a", help="steps of a chunk")
    parser.add_argument("--windows", type=int, default=96)
    parser.add_argument("--out", type=Path, default=Path("analysis/results/precision"))
    arguments = parser.parse_args()
    run, policy = about(__file__, arguments), load_policy(arguments.model)
    measured, other = windows_of(policy, arguments.windows)
    results: list[dict[str, Any]] = []
    for nfe in arguments.nfe:
        samplers = policy.samplers(nfe)
        exact = chunk_draws(policy.wam, samplers, measured, draws=1)
        chunks = len(exact) * arguments.windows
        for numbers, wam in variants(policy.wam, lambda wam, s=samplers: chunk_draws(wam, s, other, draws=1)):
            found = errors(chunk_draws(wam, samplers, measured, draws=1), exact)
            results.append({"model": policy.name, "nfe": nfe, "chunks": chunks, "numbers": numbers, "errors": found})
            keep(arguments.out, policy.name, run, {"results": results}, table(results))
    print(table(results))


if __name__ == "__main__":
    main()
