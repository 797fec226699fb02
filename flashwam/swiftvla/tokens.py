# SPDX-License-Identifier: Apache-2.0
"""Tokens of a streaming provider for every latent frame of every episode and every size of its cache, on disk.

Beside `latents/` of a repo: `targets/<name>-<fingerprint>-k<K>-<K>/chunk-000/episode_000000.safetensors` with a tensor
"k<K>" [F, m, C] per cache size, and `targets/<name>.json` below the root, which says what was asked for last and
standardises it. Tokens of other networks, sides or cache sizes lie beside each other, since a run may be reading them.
Earlier versions had one folder `targets/<name>` for all of them, which is read where it holds the right ones.
Letters: F latent frames, m tokens, C channels, K cache entries.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm import tqdm

from flashwam.data.episodes import CHUNK, find_repos, read_episode_list, read_frames, read_info, video_path
from flashwam.data.fingerprint import file_fingerprint
from flashwam.data.samples import Window
from flashwam.swiftvla.streaming import StreamingGeometry
from flashwam.system.errors import InputError, MissingFileError
from flashwam.system.files import one_at_a_time, write_whole
from flashwam.system.json_file import build, read_mapping
from flashwam.system.paths import user_path
from flashwam.system.tensor_file import write_tensors

__all__ = ["TokenStore", "encode_tokens"]

logger = logging.getLogger(__name__)

_FOLDER = "targets"
_OF_POLICY = "auxiliary.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenStore:
    """Reads tokens, a row at a time and standardised.

    Attributes:
        name: The provider's.
        fingerprint: Tells its features from others.
        tokens: m.
        channels: C.
        capacities: Values of K that there are.
        mean: Of each channel, length C.
        std: Likewise.
        tasks: Names of the repo folders that both were measured over; None if earlier versions did not say.
    """

    name: str
    fingerprint: str
    tokens: int
    channels: int
    capacities: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    tasks: tuple[str, ...] | None = None

    @property
    def made_by(self) -> str:
        """All that decides an episode's tokens beside its pictures."""
        return _made_by(self.fingerprint, self.capacities)

    def path(self, repo: Path, episode: int) -> Path:
        """The file that an episode's tokens belong in."""
        return _token_path(repo, _folder_name(self.name, self.made_by), episode)

    def read(self, repo: Path, episode: int, frame: int, capacity: int) -> Tensor:
        """[m, C], float32, of about zero mean and unit variance per channel.

        Raises:
            FileNotFoundError, ValueError: They are not there; the message names the file.
        """
        path = self.path(repo, episode)
        if not path.is_file() and (earlier := _token_path(repo, self.name, episode)).is_file():
            path = earlier
        elif not path.is_file():
            raise MissingFileError(f"{path} is missing: encode the episodes' tokens first")
        try:
            with safe_open(path, framework="pt") as file:
                made_by = (file.metadata() or {}).get("made_by", self.made_by)
                if made_by != self.made_by:
                    raise MissingFileError(
                        f"{path} holds tokens of {made_by}, not of {self.made_by}: encode the episodes' tokens first"
                    )
                row = file.get_slice(f"k{capacity}")[frame].float()
        except (SafetensorError, IndexError) as error:
            raise InputError(f"{path} has no tokens of frame {frame} for a cache of {capacity} ({error})") from error
        return self.standardise(row)

    def of(self, window: Window, capacity: int) -> Tensor:
        """As `read`, at a window's first frame."""
        return self.read(window.repo, window.episode, window.frame, capacity)

    def standardise(self, tokens: Tensor) -> Tensor:
        """Tokens [..., C] as a provider gives them -> about zero mean and unit variance per channel."""
        return (tokens - tokens.new_tensor(self.mean)) / tokens.new_tensor(self.std)

    @classmethod
    def load(cls, root: Path | str, name: str) -> "TokenStore":
        """Reads the notes that `encode_tokens` left below `root`.

        Raises:
            FileNotFoundError: No tokens of that name were made there.
        """
        path = _note(root, name)
        return build(path, cls, read_mapping(path, missing="encode the episodes' tokens first"))

    def save(self, folder: Path) -> None:
        """Writes these notes beside a policy that was trained with the tokens."""
        write_whole(folder / _OF_POLICY, self._text())

    @classmethod
    def of_policy(cls, folder: Path | str) -> "TokenStore | None":
        """Reads the notes that `save` wrote; None if there are none, as in policies of earlier versions."""
        path = user_path(folder) / _OF_POLICY
        return build(path, cls, read_mapping(path)) if path.is_file() else None

    def _text(self) -> str:
        return json.dumps(asdict(self)) + "\n"


def encode_tokens(
    root: Path | str,
    provider: StreamingGeometry,
    *,
    capacities: Sequence[int],
    tasks: Sequence[str] | None = None,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> TokenStore:
    """Streams every episode through a provider, once for all K; files that it has made of these pictures are kept.

    Of several processes one makes them, the others wait.

    Args:
        root: Folder of the repos.
        provider: Makes the tokens.
        capacities: Values of K.
        tasks: Names of repo folders; None for all.
        device: Where the network runs.
        progress: Show a progress bar.
    """
    with one_at_a_time(user_path(root) / _FOLDER):
        return _encode_all(root, provider, capacities, tasks, device, progress)


def _encode_all(
    root: Path | str,
    provider: StreamingGeometry,
    capacities: Sequence[int],
    tasks: Sequence[str] | None,
    device: torch.device | str,
    progress: bool,
) -> TokenStore:
    root, made_by = user_path(root), _made_by(provider.fingerprint, capacities)
    repos = [repo for repo in find_repos(root) if tasks is None or repo.name in tasks]
    jobs = [(repo, episode) for repo in repos for episode in read_episode_list(repo)]
    total, squares, count = torch.zeros(provider.channels), torch.zeros(provider.channels), 0
    for repo, episode in tqdm(jobs, desc=f"{provider.name} tokens", unit="episode", disable=not progress):
        index = episode["episode_index"]
        path = _token_path(repo, _folder_name(provider.name, made_by), index)
        earlier = _token_path(repo, provider.name, index)
        video = video_path(repo, index)
        pictures = file_fingerprint(video) if video.is_file() else None
        tokens = _read_current(path if path.is_file() else earlier, made_by, pictures)
        if tokens is None:
            provider.model.to(device)
            tokens = _encode(repo, episode, provider, capacities)
            write_tensors(path, tokens, metadata={"made_by": made_by, "pictures": file_fingerprint(video)})
        every = torch.cat([x.double().flatten(0, 1) for x in tokens.values()])
        total, squares, count = total + every.sum(0), squares + every.square().sum(0), count + len(every)
    mean = total / count
    std = (squares / count - mean**2).clamp(min=1e-8).sqrt()
    store = TokenStore(
        name=provider.name,
        fingerprint=provider.fingerprint,
        tokens=provider.tokens,
        channels=provider.channels,
        capacities=tuple(sorted(capacities)),
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        tasks=tuple(sorted(repo.name for repo in repos)),
    )
    write_whole(_note(root, provider.name), store._text())
    return store


def _note(root: Path | str, name: str) -> Path:
    return user_path(root) / _FOLDER / f"{name}.json"


def _made_by(fingerprint: str, capacities: Sequence[int]) -> str:
    return f"{fingerprint} {sorted(capacities)}"


def _folder_name(name: str, made_by: str) -> str:
    """Tokens that were made otherwise have another: <name>-<fingerprint>-k3-4."""
    fingerprint, _, capacities = made_by.partition(" ")
    return "-".join([name, fingerprint, "k" + capacities.strip("[]").replace(", ", "-")])


def _token_path(repo: Path, folder: str, index: int) -> Path:
    return Path(repo) / _FOLDER / folder / f"chunk-{index // CHUNK:03d}" / f"episode_{index:06d}.safetensors"


def _read_current(path: Path, made_by: str, pictures: str | None) -> dict[str, Tensor] | None:
    """A file that does not say of which pictures it is, or whose pictures are gone, is taken as it is."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            told = file.metadata() or {}
            if told.get("made_by") != made_by or (pictures and told.get("pictures", pictures) != pictures):
                return None
            return {key: file.get_tensor(key) for key in file.keys()}
    except SafetensorError:
        logger.warning("%s is damaged and made anew", path)
        return None


def _encode(repo: Path, episode: dict, provider: StreamingGeometry, capacities: Sequence[int]) -> dict[str, Tensor]:
    every = int(read_info(repo).get("render_every", 1))
    pictures = read_frames(video_path(repo, episode["episode_index"]), range(0, episode["length"], every))
    steps = list(provider.stream_each(pictures[:, None], sorted(capacities)))
    return {f"k{capacity}": torch.stack([x[capacity] for x in steps]).half().cpu() for capacity in sorted(capacities)}
