# SPDX-License-Identifier: Apache-2.0
"""The parts that a video transformer needs to carry actions too.

Letters: B samples, K action tokens, A action channels, d width, T width of the time embedding.
"""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.normalization import AdaLayerNorm
from torch import Tensor, nn

__all__ = ["ActionModule"]


class ActionModule(ModelMixin, ConfigMixin):
    """Actions to tokens, one each, and tokens back to actions.

    Args:
        action_dim: A.
        tokens: K.
        width: d, the transformer's.
        time_dim: T, the transformer's.
        robots: Size of the robots' embedding; 0 for none.
    """

    @register_to_config
    def __init__(self, action_dim: int, tokens: int, width: int, time_dim: int, robots: int = 0) -> None:
        super().__init__()
        self.proj_in = nn.Linear(action_dim, width)
        self.positions = nn.Parameter(torch.zeros(1, tokens, width))
        self.robot = nn.Embedding(robots, width) if robots else None
        # VideoVLA's epsilon; the transformer's own norms have 1e-5.
        self.norm_out = AdaLayerNorm(
            embedding_dim=time_dim, output_dim=2 * width, norm_elementwise_affine=True, norm_eps=1e-6, chunk_dim=1
        )
        self.proj_out = nn.Linear(width, action_dim)
        if self.robot is not None:
            nn.init.normal_(self.robot.weight, std=0.02)
        nn.init.xavier_uniform_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def embed(self, actions: Tensor, robot: Tensor | None = None) -> Tensor:
        """Actions [B, k, A] with k <= K, of robots [B] where there is an embedding, to tokens [B, k, d]."""
        tokens = self.proj_in(actions) + self.positions[:, : actions.shape[1]]
        return tokens if self.robot is None else tokens + self.robot(robot)[:, None]

    def read(self, tokens: Tensor, time: Tensor) -> Tensor:
        """Tokens [B, k, d] at the time embedding [B, T] to outputs [B, k, A]."""
        return self.proj_out(self.norm_out(tokens, temb=time))
