# SPDX-License-Identifier: Apache-2.0
"""A streaming provider as a robot's sense: pictures in, the tokens that training was shown out.

Letters: B episodes, F latent frames, H, W pixels, m tokens, C channels.
"""

import time

import numpy as np
import torch
from torch import Tensor

from flashwam.swiftvla.streaming import StreamingGeometry
from flashwam.swiftvla.tokens import TokenStore
from flashwam.system.errors import InputError

__all__ = ["StreamedSense"]


class StreamedSense:
    """Every picture enters the provider's cache; each gives tokens, standardised as they were in training.

    Args:
        provider: Streams the pictures.
        store: Standardises its tokens.

    Attributes:
        seconds: Spent so far.

    Raises:
        ValueError: The tokens of the store were made by another network.
    """

    def __init__(self, provider: StreamingGeometry, store: TokenStore) -> None:
        if provider.fingerprint != store.fingerprint:
            raise InputError(
                f"the tokens a policy was trained with are not this network's: {store.fingerprint} and "
                f"{provider.fingerprint}; name the network that made them"
            )
        self.seconds = 0.0
        self._provider, self._store = provider, store

    @property
    def capacity(self) -> int:
        """Entries of the provider's cache."""
        return self._provider.capacity

    @property
    def parameter_count(self) -> int:
        """Of the network."""
        return sum(p.numel() for p in self._provider.model.parameters())

    def reset(self) -> None:
        """An episode begins."""
        self._provider.reset()

    def sense(self, pictures: np.ndarray) -> Tensor:
        """uint8 [B, F, H, W, 3], oldest first -> [B, m * C, F, 1, 1]."""
        start = time.perf_counter()
        rows = [self._store.standardise(self._provider.step(frame[:, None])) for frame in pictures.swapaxes(0, 1)]
        self.seconds += time.perf_counter() - start
        return torch.stack(rows, 1).flatten(2).transpose(1, 2)[..., None, None]
