# SPDX-License-Identifier: Apache-2.0
"""Passes of a rollout that are recorded once and replayed, their blocks compiled: `rollout: graphed`."""

from functools import partial
from typing import Any

from torch import Tensor, nn

from flashwam.wam.cogvideox.network import CogVideoXActionNetwork, run_block
from flashwam.wam.compiling import compiled as compiled_function
from flashwam.wam.recorded_function import RecordedFunction
from flashwam.wam.recording import Recorder, Recordings

__all__ = ["RecordedNetwork"]


class RecordedNetwork:
    """Runs the network of one model from recordings; what cannot be compiled is recorded as it is.

    Args:
        recorder: Records passes; CUDA graphs if None, which need the model on a GPU.
        compiled: Whether the blocks are compiled too.
        options: For `torch.compile`.

    Attributes:
        recordings: Those of the model.
    """

    def __init__(self, recorder: Recorder | None = None, *, compiled: bool = True, **options: Any) -> None:
        self.recordings = Recordings(recorder)
        self._made = (recorder, compiled, options)
        self._recorded = RecordedFunction(self.recordings)
        self._run = compiled_function(run_block, **options) if compiled else None

    def __deepcopy__(self, memo: Any) -> "RecordedNetwork":
        """None of the recordings: they run the model that this was made for."""
        recorder, compiled, options = self._made
        return RecordedNetwork(recorder, compiled=compiled, **options)

    def begin(self, model: nn.Module, network: CogVideoXActionNetwork) -> None:
        """Begins a session of a model.

        Args:
            model: Holds the weights.
            network: Its network.

        Raises:
            CannotRecordError: Nothing of it can be recorded.
        """
        self.recordings.check(network.transformer.proj_out.weight.device, network.transformer)
        self._recorded.begin(model)

    def __call__(self, network: CogVideoXActionNetwork, *arguments: Tensor | None, **named: Any) -> Any:
        """See `CogVideoXActionNetwork.forward`."""
        by_compiler = None if self._run is None else partial(network, run=self._run)
        return self._recorded(network, *arguments, compiled=by_compiler, **named)
