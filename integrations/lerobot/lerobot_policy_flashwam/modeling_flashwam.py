# SPDX-License-Identifier: Apache-2.0
"""The policy: one of flashwam's sessions for every environment of a batch.

Letters: B environments, T actions of a chunk, U controls.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, Self

import numpy as np
import torch
from huggingface_hub.constants import CONFIG_NAME
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.pretrained import PreTrainedPolicy
from torch import Tensor

from flashwam.serve.model import ServedModel, load_served
from flashwam.serve.session import PolicySession
from flashwam.serve.warm_up import warm_up
from flashwam.system.errors import InputError, MissingFileError

from .configuration_flashwam import NO_TRAINING, FlashwamConfig
from .episode import Episode, actions_between_pictures, first_chunk
from .observations import ObservationReader

__all__ = ["FlashwamPolicy"]


class FlashwamPolicy(PreTrainedPolicy):
    """A student of flashwam that LeRobot's evaluation, rollouts and policy server drive.

    Its weights are no parameters of this module: flashwam places and rounds them.

    Args:
        config: Names the student, see `FlashwamConfig`.
        unused: What LeRobot gives every policy, such as a data set's statistics.

    Attributes:
        model: What was loaded.

    Raises:
        FileNotFoundError, ValueError: the student is not there, or cannot act; or the robot's actions are not its own.
    """

    config_class = FlashwamConfig
    name = "flashwam"

    def __init__(self, config: FlashwamConfig, **unused: Any) -> None:
        super().__init__(config)
        self.model = _load(config)
        self._reader = ObservationReader(
            self.model,
            cameras=config.cameras,
            resize=config.resize,
            mirrored=config.mirrored,
            prompt=config.prompt,
        )
        self._stride = actions_between_pictures(self.model)
        _check_actions(config, self.model)
        self._begun = self._asked = 0
        self.reset()
        self.eval()

    @classmethod
    def from_pretrained(
        cls, pretrained_name_or_path: str | Path, *, config: PreTrainedConfig | None = None, **options: Any
    ) -> Self:
        """Loads a student's folder that ``python -m lerobot_policy_flashwam`` has made one of LeRobot's.

        Args:
            pretrained_name_or_path: The folder, or the name of a repository of the Hub with its content.
            config: What its ``config.json`` says if None.
            options: Of a download: revision, token, cache_dir and the like.

        Raises:
            FileNotFoundError, ValueError: as for the policy itself.
        """
        folder = Path(pretrained_name_or_path)
        if not folder.is_dir():
            from huggingface_hub import snapshot_download

            known = ("revision", "token", "cache_dir", "force_download", "local_files_only")
            told = {name: options[name] for name in known if options.get(name) is not None}
            folder = Path(snapshot_download(str(pretrained_name_or_path), **told))
        if config is None and not (folder / CONFIG_NAME).is_file():
            raise MissingFileError(
                f"{folder} has no {CONFIG_NAME} of LeRobot's: `python -m lerobot_policy_flashwam {folder}` writes it"
            )
        if config is None:
            config = PreTrainedConfig.from_pretrained(folder)
        if not isinstance(config, FlashwamConfig):
            raise InputError(f"{folder} holds a policy of the type {config.type!r}; expected flashwam")
        config.pretrained_path = folder
        return cls(config)

    def reset(self) -> None:
        """Ends the episodes of all environments; the next observations begin new ones."""
        self._episodes: list[Episode] = []
        self._thread: int | None = None

    def select_action(self, batch: Mapping[str, Any], **unused: Any) -> Tensor:
        """Gives the next action of every environment, which counts as executed.

        Args:
            batch: Pictures [B, 3, H, W], "task" and what else the model feels, once every control step.

        Returns:
            float32 [B, U] on the CPU, in the data's units.

        Raises:
            UnsoundError: what was drawn is not finite, or far beyond the data's range: nothing of it may be executed.
            ValueError: the observation is not what the model is shown, or not from where the episodes began.
        """
        with _plain_tensors():
            environments = self._reader.environments(batch)
            self._begin(self._reader.prompts(batch, environments))
            rows = [episode.act(look) for episode, look in zip(self._episodes, self._looks(batch), strict=True)]
            return torch.from_numpy(np.stack(rows))

    def predict_action_chunk(self, batch: Mapping[str, Any], **unused: Any) -> Tensor:
        """Draws the chunk that follows these observations, as if an episode began with them.

        Whoever asks for chunks, like LeRobot's asynchronous inference, tells neither which actions were executed nor
        what was seen meanwhile, so that a model goes without its memory. The episodes of `select_action` go on.

        Args:
            batch: As for `select_action`.

        Returns:
            float32 [B, T, U] on the CPU, in the data's units.

        Raises:
            UnsoundError, ValueError: as for `select_action`.
        """
        with _plain_tensors():
            prompts = self._reader.prompts(batch, self._reader.environments(batch))
            session = PolicySession(self.model)
            chunks = []
            for prompt, look in zip(prompts, self._looks(batch), strict=True):
                chunks.append(first_chunk(session, look(), prompt=prompt, seed=self._seed(self._asked)))
                self._asked += 1
            return torch.from_numpy(np.stack(chunks))

    def forward(self, batch: Mapping[str, Any]) -> NoReturn:
        """Refuses: flashwam trains."""
        raise NotImplementedError(NO_TRAINING)

    def get_optim_params(self) -> NoReturn:
        """Refuses: flashwam trains."""
        raise NotImplementedError(NO_TRAINING)

    def push_to_hub(self, *unused: Any, **options: Any) -> NoReturn:
        """Refuses, and says what to upload."""
        raise NotImplementedError(
            "upload the student's own folder after `python -m lerobot_policy_flashwam STUDENT`: it is whole"
        )

    def _save_pretrained(self, save_directory: Path, state_dict: dict[str, Tensor] | None = None) -> None:
        from .folder import write_policy

        write_policy(self.config, self.model, save_directory, student=_student(self.config))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Loads the model anew where `to` names another device."""
        probe = torch.empty(0, device=self._device)
        moved = fn(probe)
        if moved.dtype != probe.dtype:
            raise InputError(f"the policy cannot be cast to {moved.dtype}: give --policy.dtype when it is loaded")
        if moved.device != probe.device:
            self.config.device = str(moved.device)
            self.model = _load(self.config)
            self.reset()
        return self

    @property
    def _device(self) -> torch.device:
        return next(self.model.wam.parameters()).device

    def _looks(self, batch: Mapping[str, Any]) -> list[Callable[[], dict[str, np.ndarray]]]:
        return [
            partial(self._reader.observation, batch, environment)
            for environment in range(self._reader.environments(batch))
        ]

    def _begin(self, prompts: list[str]) -> None:
        """Begins episodes where there are none, and anew where the instruction has changed."""
        if self._thread not in (None, threading.get_ident()):
            raise InputError(
                "two threads drive one policy, which knows one set of environments: leave --env.max_parallel_tasks at "
                "1, or reset the policy before another thread goes on"
            )
        self._thread = threading.get_ident()
        if not self._episodes:
            self._episodes = [self._episode(prompt) for prompt in prompts]
        if len(prompts) != len(self._episodes):
            raise InputError(
                f"{len(self._episodes)} environment(s) have begun their episodes, and {len(prompts)} sent "
                "observations: reset the policy between them"
            )
        for number, prompt in enumerate(prompts):
            if prompt != self._episodes[number].prompt:
                self._episodes[number] = self._episode(prompt)

    def _episode(self, prompt: str) -> Episode:
        seed, self._begun = self._seed(self._begun), self._begun + 1
        return Episode(self.model, prompt=prompt, seed=seed, stride=self._stride)

    def _seed(self, number: int) -> int | None:
        return None if self.config.seed is None else self.config.seed + number


@contextmanager
def _plain_tensors() -> Iterator[None]:
    """Leaves LeRobot's inference mode: what is compiled, captured or kept in a cache must serve outside of it too."""
    with torch.inference_mode(False), torch.no_grad():
        yield


def _student(config: FlashwamConfig) -> Path:
    folder = config.student or config.pretrained_path
    if folder is None:
        raise InputError(
            "no student is named: give --policy.student=FOLDER with --policy.type=flashwam, or --policy.path=FOLDER "
            "after `python -m lerobot_policy_flashwam FOLDER`"
        )
    return Path(folder).expanduser().absolute()


def _load(config: FlashwamConfig) -> ServedModel:
    model = load_served(
        _student(config),
        nfe=config.nfe,
        device=config.device or "cpu",
        base=config.base,
        rollout=config.rollout,
        encoder=config.encoder,
        dtype=config.dtype,
        precision=config.precision,
        trust=config.trust,
    )
    warm_up(model)
    return model


def _check_actions(config: FlashwamConfig, model: ServedModel) -> None:
    """Refuses a robot or environment whose actions are not the model's."""
    expected, feature = int(model.metadata["controls"]), config.action_feature
    if feature is not None and tuple(feature.shape) != (expected,):
        raise InputError(
            f"{model.metadata['name']} gives {expected} controls; the environment or robot takes actions "
            f"{list(feature.shape)}: it is another robot's student"
        )
