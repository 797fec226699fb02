# SPDX-License-Identifier: Apache-2.0
"""Attention and feed-forward layers that the policies' networks share.

Letters: B samples, S query tokens, T key tokens, D width.
"""

from torch import Tensor, nn
from torch.nn import functional

from flashwam.system.errors import InputError

__all__ = ["Attention", "feed_forward", "initialise"]


class Attention(nn.Module):
    """Multi-head attention of queries over keys.

    Args:
        width: D.
        heads: Heads.
        inner: Width of all heads together; D if None.
        bias: Whether the projections have biases.
        dropout: Share of attention weights dropped in training.

    Raises:
        ValueError: the inner width is no multiple of the heads.
    """

    def __init__(
        self, width: int, heads: int, *, inner: int | None = None, bias: bool = True, dropout: float = 0.0
    ) -> None:
        super().__init__()
        inner = width if inner is None else inner
        if inner % heads:
            raise InputError(f"the heads' width must be a multiple of their number; got {inner} and {heads} heads")
        self.heads, self.dropout = heads, dropout
        self.to_q = nn.Linear(width, inner, bias=bias)
        self.to_kv = nn.Linear(width, 2 * inner, bias=bias)
        self.to_out = nn.Linear(inner, width, bias=bias)

    def forward(self, x: Tensor, context: Tensor | None = None, *, causal: bool = False) -> Tensor:
        """Attends from x [B, S, D] to `context` [B, T, D], or to x itself; returns [B, S, D].

        Args:
            x: Queries.
            context: Keys and values.
            causal: Token i sees the first i + 1 of x alone.
        """
        q = self.to_q(x)
        k, v = self.to_kv(x if context is None else context).chunk(2, -1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))
        dropout = self.dropout if self.training else 0.0
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=causal, dropout_p=dropout)
        return self.to_out(attended.transpose(1, 2).flatten(2))


def feed_forward(
    width: int, ratio: int = 4, *, bias: bool = True, dropout: float = 0.0, out: int | None = None
) -> nn.Sequential:
    """Two linear layers with a GELU between them, D -> ratio D -> D (or `out`)."""
    hidden, out = ratio * width, width if out is None else out
    layers = [nn.Linear(width, hidden, bias=bias), nn.GELU(), nn.Linear(hidden, out, bias=bias)]
    return nn.Sequential(*layers, *([nn.Dropout(dropout)] if dropout else []))


def initialise(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases in every linear layer."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
