# SPDX-License-Identifier: Apache-2.0
"""From a recipe's data to the tokens of a streaming geometry transformer: makes whatever is missing on the way."""

from dataclasses import dataclass
from pathlib import Path

from flashwam.recipe import DataConfig
from flashwam.targets.geometry import GeometryConfig, GeometryTransformer
from flashwam.targets.streaming import CAPACITIES, StreamingGeometry
from flashwam.targets.tokens import TokenStore, encode_tokens

__all__ = ["StreamingTokens"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamingTokens:
    """Which network streams, how large its cache is, and how coarse its tokens are.

    Args:
        pretrained: Folder of a trained geometry transformer, or StreamVGGT's checkpoint file; None trains a tiny one
            on what the simulator knows of the recipe's episodes, `geometry/` below their root.
        width: Of the tiny one; a token has twice as many channels.
        steps: Training steps of the tiny one.
        side: Tokens on a side.
        capacities: Entries of the cache; each sample draws one of them.
    """

    pretrained: str | None = None
    width: int = 64
    steps: int = 800
    side: int = 4
    capacities: tuple[int, ...] = CAPACITIES

    def __post_init__(self) -> None:
        object.__setattr__(self, "capacities", tuple(self.capacities))
        if not self.capacities or min(self.capacities) < 1:
            raise ValueError(
                f"capacities must name sizes of a cache, such as {list(CAPACITIES)}; got {self.capacities}"
            )

    def prepare(self, data: DataConfig) -> TokenStore:
        """Tokens of every episode below the recipe's data root; what is there already is kept.

        Raises:
            ValueError: The data are not the simulator's, and no trained network was named.
        """
        root = Path(data.root)
        if self.pretrained is not None:
            model = GeometryTransformer.from_pretrained(self.pretrained)
        elif data.source == "metaworld":
            model = self._train(root, data)
        else:
            raise ValueError("provider.pretrained must name a trained network: these data are not the simulator's")
        provider = StreamingGeometry(model, side=self.side)
        # Those of the usual sizes too, so that recipes that differ in them share the files.
        made = sorted({*CAPACITIES, *self.capacities})
        return encode_tokens(root, provider, capacities=made, tasks=data.tasks)

    def _train(self, root: Path, data: DataConfig) -> GeometryTransformer:
        from flashwam.sim.privileged import replay_episodes
        from flashwam.targets.geometry_training import train_geometry

        folder = root / "geometry"
        config = GeometryConfig(size=data.image_size, width=self.width)
        if not (folder / "geometry.json").is_file():
            replay_episodes(root, data.tasks, processes=data.processes)
        model = train_geometry(root, folder, config=config, tasks=data.tasks, steps=self.steps, seed=data.seed)
        if model.config != config:
            raise ValueError(f"{folder} holds a network of {model.config}, the recipe asks for {config}; remove it")
        return model
