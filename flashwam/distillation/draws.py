# SPDX-License-Identifier: Apache-2.0
"""Random numbers that depend on nothing but the seed, the step, the sample's place in the step and the purpose.

A resumed run therefore draws what an uninterrupted one draws, and neither the number of processes nor the split of a
step into accumulated batches changes a single number. Dropout alone, which asks torch itself, follows the split.
"""

import hashlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["Draws", "keyed_seed"]


def keyed_seed(*key: object) -> int:
    """A 63-bit seed for a generator from any printable key; torch's on the CPU keeps the lower 32 of its bits."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """The random numbers of some samples of one optimiser step.

    Args:
        seed: Of the run.
        step: Optimiser step, from 0.
        positions: Place of each sample in the step's global batch (all processes, all accumulated batches).
        device: Where the numbers go; they are drawn on the CPU.
    """

    seed: int
    step: int
    positions: Sequence[Hashable]
    device: torch.device | str = "cpu"

    def again(self, time: int) -> "Draws":
        """Other numbers for the same samples, as often as one step needs them; these ones at time 0."""
        return replace(self, positions=[(position, time) for position in self.positions]) if time else self

    def normal(self, purpose: str, shape: Sequence[int]) -> Tensor:
        """Unit Gaussian noise per sample: [B, *shape], float32."""
        return self._per_sample(purpose, lambda generator: torch.randn(tuple(shape), generator=generator))

    def uniform(self, purpose: str, shape: Sequence[int] = ()) -> Tensor:
        """Uniform numbers in [0, 1) per sample: [B, *shape], float32."""
        return self._per_sample(purpose, lambda generator: torch.rand(tuple(shape), generator=generator))

    def integers(self, purpose: str, low: int, high: int, shape: Sequence[int] = ()) -> Tensor:
        """Uniform integers in low..high - 1 per sample: [B, *shape], int64."""
        return self._per_sample(purpose, lambda generator: torch.randint(low, high, tuple(shape), generator=generator))

    def shared(self, purpose: str) -> torch.Generator:
        """A generator whose numbers are the same for every sample of the step."""
        return torch.Generator().manual_seed(keyed_seed(self.seed, self.step, "step", purpose))

    def shared_uniform(self, purpose: str) -> float:
        """One number in [0, 1) for the whole step."""
        return float(torch.rand((), generator=self.shared(purpose)))

    def shared_integer(self, purpose: str, low: int, high: int) -> int:
        """One integer in low..high - 1 for the whole step."""
        return int(torch.randint(low, high, (), generator=self.shared(purpose)))

    @contextmanager
    def seeding_torch(self) -> Iterator[None]:
        """A context in which torch's own generators, which dropout asks, depend on nothing else, and on the first of
        these positions: a resumed run drops what an uninterrupted one drops, another split of the step other things."""
        device = torch.device(self.device)
        seed = keyed_seed(self.seed, self.step, self.positions[0], "torch")
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            # torch.manual_seed also formats the stack, for milliseconds, for every kind of device not in use.
            torch.default_generator.manual_seed(seed)
            if device.type == "cuda":
                index = torch.cuda.current_device() if device.index is None else device.index
                torch.cuda.default_generators[index].manual_seed(seed)
            yield

    def _per_sample(self, purpose: str, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
        generator = torch.Generator()
        drawn = []
        for position in self.positions:
            generator.manual_seed(keyed_seed(self.seed, self.step, position, purpose))
            drawn.append(draw(generator))
        return torch.stack(drawn).to(self.device)
