# SPDX-License-Identifier: Apache-2.0
"""A compiler that counts what it is given, and fast enough for tests: forward and backward are traced, not generated."""

from typing import Any

import torch
from torch import Tensor

__all__ = ["CountingCompiler"]


class CountingCompiler:
    """A backend of `torch.compile`; everything compiled before is forgotten when one is made.

    Attributes:
        graphs: What was compiled, one for each kind of call.
    """

    def __init__(self, inner: str = "aot_eager") -> None:
        torch.compiler.reset()
        self.graphs: list[torch.fx.GraphModule] = []
        self._inner = torch._dynamo.lookup_backend(inner)

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor], **options: Any) -> Any:
        """Compiles, as torch calls it."""
        self.graphs.append(graph)
        return self._inner(graph, inputs, **options)

    @property
    def complex_numbers(self) -> bool:
        """True if any value within any graph is complex."""
        values = (node.meta.get("example_value") for graph in self.graphs for node in graph.graph.nodes)
        return any(isinstance(value, Tensor) and value.is_complex() for value in values)
