# SPDX-License-Identifier: Apache-2.0
"""From a recipe's data to the tokens of a streaming geometry transformer: makes whatever is missing on the way."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flashwam.data.episodes import CAMERA, find_repos, read_info
from flashwam.swiftvla.geometry import GeometryConfig, GeometryTransformer
from flashwam.swiftvla.geometry_training import train_geometry
from flashwam.swiftvla.streaming import CAPACITIES, StreamingGeometry
from flashwam.swiftvla.tokens import TokenStore, encode_tokens
from flashwam.system.errors import InputError

__all__ = ["StreamingTokens"]

_FOLDER = "geometry"


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamingTokens:
    """The settings of streaming tokens: the network, the size of its cache, the coarseness of its tokens.

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
            raise InputError(
                f"capacities must name sizes of a cache, such as {list(CAPACITIES)}; got {self.capacities}"
            )

    def needs_records(self, root: Path) -> bool:
        """Tells whether `prepare` trains a network, which learns depth and the hand's place from records.

        Args:
            root: Folder of the repos.
        """
        return self.pretrained is None and not (root / _FOLDER / "geometry.json").is_file()

    def prepare(self, root: Path, tasks: Sequence[str], *, seed: int = 0) -> TokenStore:
        """Tokens of every episode; what is there already is kept.

        Args:
            root: Folder of the repos.
            tasks: Names of repo folders.
            seed: Of the tiny network's training.
        """
        if self.pretrained is not None:
            model = GeometryTransformer.from_pretrained(self.pretrained)
        else:
            model = self._train(root, tasks, seed)
        provider = StreamingGeometry(model, side=self.side)
        # Those of the usual sizes too, so that recipes that differ in them share the files.
        made = sorted({*CAPACITIES, *self.capacities})
        return encode_tokens(root, provider, capacities=made, tasks=tasks)

    def found(self, root: Path, *, capacity: int) -> tuple[StreamingGeometry, TokenStore]:
        """The network and the statistics of tokens that `prepare` made, for use at rollout.

        Args:
            root: Folder of the repos.
            capacity: K.

        Raises:
            FileNotFoundError: One is not there.
        """
        model = GeometryTransformer.from_pretrained(self.pretrained or root / _FOLDER)
        provider = StreamingGeometry(model, side=self.side, capacity=capacity)
        return provider, TokenStore.load(root, provider.name)

    def _train(self, root: Path, tasks: Sequence[str], seed: int) -> GeometryTransformer:
        folder = root / _FOLDER
        repo = next(repo for repo in find_repos(root) if repo.name in tasks)
        config = GeometryConfig(size=int(read_info(repo)["features"][CAMERA]["shape"][0]), width=self.width)
        model = train_geometry(root, folder, config=config, tasks=tasks, steps=self.steps, seed=seed)
        if model.config != config:
            raise InputError(f"{folder} holds a network of {model.config}, the recipe asks for {config}; remove it")
        return model
