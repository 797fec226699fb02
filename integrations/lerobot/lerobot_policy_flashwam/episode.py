# SPDX-License-Identifier: Apache-2.0
"""One environment's episode: actions come out one at a time, and the model is shown what it is to be shown.

Letters: F latent frames of a chunk, N actions per latent frame, U controls, T actions of a chunk.
"""

from collections.abc import Callable

import numpy as np

from flashwam.serve.client import controls_between_pictures
from flashwam.serve.codec import Observation
from flashwam.serve.model import ServedModel
from flashwam.serve.session import PolicySession

__all__ = ["Episode", "actions_between_pictures", "first_chunk", "rows_of"]


def actions_between_pictures(model: ServedModel) -> int:
    """Counts the actions from one picture that the model is shown to the next; raises as its client would."""
    return controls_between_pictures(model.metadata)


def rows_of(chunk: np.ndarray, *, held: int) -> np.ndarray:
    """Lays out a chunk's controls [U, F, N] in time, without its first `held` frames: [T, U], T = (F - held) N."""
    return np.ascontiguousarray(chunk[:, held:].transpose(1, 2, 0).reshape(-1, chunk.shape[0]))


def first_chunk(session: PolicySession, observation: Observation, *, prompt: str, seed: int | None) -> np.ndarray:
    """Draws the actions that follow one observation without a past, float32 [T, U]."""
    session.reset(prompt, seed=seed)
    return rows_of(session.infer(observation), held=1)


class Episode:
    """An episode from its first observation on.

    Args:
        model: Shared with other episodes; nothing of it is changed.
        prompt: The instruction.
        seed: Of the noise; drawn anew if None.
        stride: See `actions_between_pictures`.

    Attributes:
        prompt: The instruction.
    """

    def __init__(self, model: ServedModel, *, prompt: str, seed: int | None, stride: int) -> None:
        self.prompt = prompt
        self._session = PolicySession(model)
        self._session.reset(prompt, seed=seed)
        self._stride = stride
        self._chunk: np.ndarray | None = None
        self._rows = np.zeros((0, 0), np.float32)
        self._done = 0
        self._seen: list[Observation] = []

    def act(self, look: Callable[[], Observation]) -> np.ndarray:
        """Gives the action to execute now, which counts as executed.

        Args:
            look: Called where the model is to be shown this moment: at the start, and after every `stride` actions.

        Returns:
            float32 [U], in the data's units.

        Raises:
            UnsoundError: what was drawn is not finite, or far beyond the data's range; the episode is over.
            ValueError: what is seen is not what the model is shown.
        """
        if self._chunk is None:
            self._chunk = self._session.infer(look())
            self._take(held=1)
        elif self._done % self._stride == 0:
            self._seen.append(look())
            if self._done == len(self._rows):
                self._session.refresh(self._seen, self._chunk)
                self._seen = []
                self._chunk = self._session.infer()
                self._take(held=0)
        self._done += 1
        row: np.ndarray = self._rows[self._done - 1]
        return row

    def _take(self, *, held: int) -> None:
        if self._chunk is None:
            raise AssertionError("a chunk is taken after it was drawn")
        self._rows, self._done = rows_of(self._chunk, held=held), 0
