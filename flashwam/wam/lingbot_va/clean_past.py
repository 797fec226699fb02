# SPDX-License-Identifier: Apache-2.0
"""Keys and values that teacher-forced passes under the same clean tokens and text share.

Clean tokens never see noise, so what they and the text are in every block is the same at every noise level: the first
pass keeps it, later ones run their noisy tokens alone.

Shapes: B batch, S tokens of a pass, Q noisy tokens (they come first), d head dimension.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from flashwam.wam.lingbot_va.layers import Attention, KeyValue
from flashwam.wam.lingbot_va.masks import Attend

__all__ = ["CleanPast"]


class CleanPast:
    """The clean tokens' keys and values and the text's, block by block in the order in which blocks run.

    Args:
        tokens: Stream name -> clean tokens of the pass that fills it, in the order of the pass.
    """

    def __init__(self, tokens: Mapping[str, int]) -> None:
        self._tokens = dict(tokens)
        self._clean: list[dict[str, KeyValue]] = []
        self._text: list[KeyValue] = []

    def covers(self, tokens: Mapping[str, int]) -> bool:
        """Tells whether a pass that needs so many leading clean tokens of every stream finds them here."""
        return bool(self._clean) and all(count <= self._tokens.get(stream, 0) for stream, count in tokens.items())

    def filling(self, attend: Attend) -> Attend:
        """The next block's `attend` over noisy and clean tokens, which keeps the clean ones' keys and values."""

        def fill(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            begin = k.shape[2] - sum(self._tokens.values())
            held = {}
            for stream, count in self._tokens.items():
                # Copies, since views would keep the noisy tokens' too.
                held[stream] = tuple(x[:, :, begin : begin + count].clone() for x in (k, v))
                begin += count
            self._clean.append(held)
            return attend(q, k, v)

        return fill

    def reading(self, block: int, attend: Attend, tokens: Mapping[str, int]) -> Attend:
        """A block's `attend` for noisy tokens alone, over them and so many leading clean tokens of every stream."""

        def read(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            held = self._clean[block]
            k, v = (
                torch.cat([own, *(held[stream][side][:, :, :count] for stream, count in tokens.items())], 2)
                for side, own in enumerate((k, v))
            )
            return attend(q, k, v)

        return read

    def text(self, block: int, embedded: Tensor | None) -> Callable[[Attention], KeyValue]:
        """Gives what makes a block's keys and values of the text: from embedded text [B, L, D] at first, then kept."""

        def key_value(attention: Attention) -> KeyValue:
            if embedded is not None:
                self._text.append(attention.key_value(embedded))
            return self._text[block]

        return key_value
