# SPDX-License-Identifier: Apache-2.0
"""Bytes that one GPU needs under every way of sharing the work. Closed forms; nothing is built or measured.

P parameters of the model, A of one set of adapters, N GPUs, e bytes of the pass' precision (2 in bf16, else 4).

| engine | weights | gradients | AdamW | target | teacher |
|---|---|---|---|---|---|
| torch (single, DDP) | 4 P | 4 P | 8 P | 4 P | e P |
| DeepSpeed (ZeRO) | e P | e P | 12 P: two moments and the float32 weights | 4 P | e P |
| FSDP2 | 4 P | 4 P | 8 P | 4 P | e P |
| LoRA | e P of the backbone + 4 A | 4 A | 8 A | 4 A | the backbone |

A critic, which is trained beside the student, needs its own weights, gradients and AdamW. What a strategy shards is
divided by N and rounded up.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

from flashwam.system.errors import InputError

__all__ = ["STRATEGIES", "Footprint", "Strategy", "footprint", "strategy_for"]

# DeepSpeed's defaults: gradients reduced, parameters alive and fetched ahead at once, parameters updated at once.
REDUCED, LIVE, UPDATED = 500_000_000, 1_050_000_000, 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """A way for N processes to share the work.

    Args:
        name: Of a recipe's `strategy`, or "lora".
        engine: What runs it.
        sharded: Parts of which every GPU holds one Nth; the others are whole on every GPU.
        lora: One frozen backbone for all roles; what is trained are adapters.
    """

    name: str
    engine: Literal["torch", "deepspeed", "fsdp"]
    sharded: frozenset[str] = frozenset()
    lora: bool = False

    @property
    def label(self) -> str:
        """The name, and whether the roles beside the student are sharded where that is a choice."""
        if "weights" not in self.sharded:
            return self.name
        if "teacher" in self.sharded:
            return f"{self.name}, teacher sharded"
        return f"{self.name}, {'teacher' if 'target' in self.sharded else 'teacher and target'} whole"


_OPTIMISER = frozenset({"optimiser"})
_STUDENT = frozenset({"weights", "gradients", "optimiser"})
_ROLES = frozenset({"target", "teacher", "reference"})
STRATEGIES = (
    Strategy(name="ddp", engine="torch"),
    Strategy(name="zero2", engine="deepspeed", sharded=_OPTIMISER | {"gradients"}),
    Strategy(name="zero3", engine="deepspeed", sharded=_STUDENT),
    Strategy(name="zero3", engine="deepspeed", sharded=_STUDENT | _ROLES),
    Strategy(name="fsdp", engine="fsdp", sharded=_STUDENT | {"target"}),
    Strategy(name="fsdp", engine="fsdp", sharded=_STUDENT | _ROLES),
    Strategy(name="lora", engine="torch", lora=True),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Bytes on one GPU.

    Args:
        strategy: Of which.
        resident: Part -> bytes that stay all the time.
        buffers: Of a pass: casts, communication buckets, gathered parameters.
        activations: Kept between forward and backward pass.
        step: Of an optimiser step, when buffers and activations are gone.
    """

    strategy: Strategy
    resident: Mapping[str, int] = field(default_factory=dict)
    buffers: int
    activations: int
    step: int

    @property
    def peak(self) -> int:
        """The most that is needed at once."""
        return sum(self.resident.values()) + max(self.buffers + self.activations, self.step)


def strategy_for(name: str, *, lora: bool = False, shard_teacher: bool = False) -> Strategy:
    """The strategy a recipe's `strategy` names, as the trainer runs it; "single" is DDP of one process.

    Raises:
        ValueError: for a name without a plan.
    """
    name = "lora" if lora else "ddp" if name == "single" else name
    for strategy in STRATEGIES:
        if strategy.name == name and ("teacher" in strategy.sharded) == shard_teacher:
            return strategy
    raise InputError(f"no memory plan for strategy {name!r}; expected one of {sorted({s.name for s in STRATEGIES})}")


def footprint(
    strategy: Strategy,
    *,
    parameters: int,
    adapters: int,
    unit: int,
    roles: Collection[str],
    half: bool,
    gpus: int,
    activations: int = 0,
) -> Footprint:
    """Counts the bytes that one of `gpus` GPUs holds.

    Args:
        strategy: How the work is shared.
        parameters: P.
        adapters: A; used with LoRA alone.
        unit: Parameters that FSDP gathers at once.
        roles: Which of "target", "teacher", "critic" and "reference" there are beside the student.
        half: Passes in bf16.
        gpus: N.
        activations: Bytes of `activation_bytes`.

    Raises:
        ValueError: for a number below 1.
    """
    if min(parameters, gpus, unit) < 1:
        raise ValueError(f"parameters, unit and gpus must be at least 1; got {parameters}, {unit}, {gpus}")
    e = 2 if half else 4
    engine = strategy.engine

    def held(part: str, count: int, each: int) -> int:
        return each * (-(-count // gpus) if part in strategy.sharded else count)

    if strategy.lora:
        resident = {"weights": e * parameters + 4 * adapters, "gradients": 4 * adapters, "optimiser": 8 * adapters}
        trained = (4 + 4 + 8) * adapters
        resident |= {role: {"teacher": 0, "critic": trained}.get(role, 4 * adapters) for role in roles}
    else:
        each = {
            "weights": e if engine == "deepspeed" else 4,
            "gradients": e if engine == "deepspeed" else 4,
            "optimiser": 12 if engine == "deepspeed" else 8,
        }
        resident = {part: held(part, parameters, size) for part, size in each.items()}
        trained = sum(resident.values())
        resident |= {
            role: trained if role == "critic" else held(role, parameters, e if role == "teacher" else 4)
            for role in roles
        }
    buffers, step = 0, 0
    if engine == "torch":
        # Autocast keeps every trained weight's bf16 copy until the pass is over.
        buffers = (2 * (adapters if strategy.lora else parameters)) if half else 0
    elif engine == "deepspeed":
        buffers = e * min(parameters, REDUCED)
        # The gradients that are being applied, flat and in float32.
        step = (6 if half else 4) * -(-parameters // gpus)
        if "weights" in strategy.sharded:
            buffers += e * min(parameters, LIVE)
            step = (6 if half else 4) * min(UPDATED, -(-parameters // gpus))
            if "target" not in strategy.sharded:
                # The student is gathered whole for the moving average and for saving.
                step = max(step, e * parameters)
    else:
        # One unit in use, one fetched ahead, and one unit's gradients in float32 on their way to their owners.
        buffers = (2 * e + 4) * unit
    return Footprint(strategy=strategy, resident=resident, buffers=buffers, activations=activations, step=step)
