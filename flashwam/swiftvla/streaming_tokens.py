# SPDX-License-Identifier: Apache-2.0
"""From a recipe's data to the tokens of a streaming geometry transformer: makes whatever is missing on the way."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from flashwam.data.episodes import CAMERA, find_repos, read_info
from flashwam.data.lerobot import SegmentDataset
from flashwam.data.origin import find_pictures
from flashwam.swiftvla.geometry import GeometryConfig, GeometryTransformer
from flashwam.swiftvla.geometry_training import train_geometry
from flashwam.swiftvla.recorded_tokens import RecordedTokens, encode_recordings
from flashwam.swiftvla.streaming import CAPACITIES, StreamingGeometry
from flashwam.swiftvla.tokens import TokenStore, encode_tokens
from flashwam.system.errors import InputError
from flashwam.system.files import one_at_a_time

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
        unit: What they count, see `StreamingGeometry`.
        raw: For LeRobot data: folder of the raw data sets that were converted; None for data sets that have their
            pictures beside the latents.
        views: For LeRobot data: keys of the cameras in the order in which they refresh the cache; the last one's
            tokens are kept. None for those of the recipe, its first one last.
    """

    pretrained: str | None = None
    width: int = 64
    steps: int = 800
    side: int = 4
    capacities: tuple[int, ...] = CAPACITIES
    unit: str = "frame"
    raw: str | None = None
    views: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "capacities", tuple(self.capacities))
        if self.views is not None:
            object.__setattr__(self, "views", tuple(self.views))
            if not self.views or len(set(self.views)) < len(self.views):
                raise InputError(f"views must name different cameras, at least one; got {list(self.views)}")
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

    def prepare(
        self, root: Path, tasks: Sequence[str], *, seed: int = 0, device: torch.device | str = "cpu"
    ) -> TokenStore:
        """Tokens of every episode of a simulator; what is there already is kept.

        Args:
            root: Folder of the repos.
            tasks: Names of repo folders.
            seed: Of the tiny network's training.
            device: Where the network makes tokens.

        Raises:
            ValueError: `raw` or `views` is set, which a simulator does not have.
        """
        if self.raw is not None or self.views is not None:
            raise InputError("provider.raw and provider.views are for LeRobot data: a simulator has one camera")
        if self.pretrained is not None:
            model = GeometryTransformer.from_pretrained(self.pretrained)
        else:
            with one_at_a_time(root / _FOLDER):
                model = self._train(root, tasks, seed)
        return encode_tokens(root, self._stream(model), capacities=self._made, tasks=tasks, device=device)

    def recorded(
        self, source: SegmentDataset, folder: Path, *, device: torch.device | str = "cpu", progress: bool = True
    ) -> RecordedTokens:
        """Tokens of recorded episodes; what was made of the same pictures is kept.

        Args:
            source: Windows of them; what it cannot read is skipped where it skips that.
            folder: Of all such tokens.
            device: Where the network makes them.
            progress: Show a progress bar.

        Raises:
            FileNotFoundError: Network or pictures are not where the settings say.
            ValueError: There is no network, or the pictures are not those of the data.
        """
        if self.pretrained is None:
            raise InputError(
                "a tiny network learns from depth that a simulator knows, and recordings have none: set "
                "train.options.provider.pretrained to StreamVGGT's checkpoint file, or to the folder of a trained one, "
                "such as data/metaworld/geometry"
            )
        views = self.views or (*source.cameras[1:], source.cameras[0])
        episodes = find_pictures(
            source.root,
            source.segments,
            encoded=source.cameras[0],
            cameras=views,
            # What was encoded of depth maps was meant.
            depth=set(views) <= set(source.cameras),
            raw=self.raw,
            bad=source.bad,
            remedy="auxiliary tokens are made of pictures: set train.options.provider.raw to the folder of raw data "
            "sets that flashwam convert was given, or to null where they lie beside the latents",
        )
        provider = self._stream(GeometryTransformer.from_pretrained(self.pretrained))
        return encode_recordings(
            episodes,
            provider,
            folder,
            capacities=self.capacities,
            bad=source.bad,
            device=device,
            progress=progress,
        )

    def _stream(self, model: GeometryTransformer, **capacity: int) -> StreamingGeometry:
        return StreamingGeometry(model, side=self.side, unit=self.unit, **capacity)

    def found(
        self, root: Path, tasks: Sequence[str], *, capacity: int, store: TokenStore | None = None
    ) -> tuple[StreamingGeometry, TokenStore]:
        """The network and the statistics of tokens that a policy was trained with, for use at rollout.

        Args:
            root: Folder of the repos.
            tasks: Names of the repo folders that it was trained on.
            capacity: K.
            store: That the policy keeps. None for those of earlier versions, which keep none: they have that of the
                data, and where another training measured it over other tasks or cache sizes, it is measured again.

        Raises:
            FileNotFoundError: One is not there.
        """
        model = GeometryTransformer.from_pretrained(self.pretrained or root / _FOLDER)
        provider = self._stream(model, capacity=capacity)
        if store is not None:
            return provider, store
        noted = TokenStore.load(root, provider.name)
        others = noted.tasks is not None and set(noted.tasks) != set(tasks)
        if noted.fingerprint == provider.fingerprint and (others or noted.capacities != self._made):
            return provider, encode_tokens(root, self._stream(model), capacities=self._made, tasks=tasks)
        return provider, noted

    @property
    def _made(self) -> tuple[int, ...]:
        """Those of the usual sizes too, so that recipes that differ in them share the files."""
        return tuple(sorted({*CAPACITIES, *self.capacities}))

    def _train(self, root: Path, tasks: Sequence[str], seed: int) -> GeometryTransformer:
        folder = root / _FOLDER
        repo = next(repo for repo in find_repos(root) if repo.name in tasks)
        config = GeometryConfig(size=int(read_info(repo)["features"][CAMERA]["shape"][0]), width=self.width)
        model = train_geometry(root, folder, config=config, tasks=tasks, steps=self.steps, seed=seed)
        if model.config != config:
            raise InputError(f"{folder} holds a network of {model.config}, the recipe asks for {config}; remove it")
        return model
