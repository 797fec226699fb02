# SPDX-License-Identifier: Apache-2.0
"""Publishing a model folder on the Hugging Face Hub."""

from pathlib import Path
from typing import Any, Protocol

from flashwam.system.errors import InputError, MissingFileError
from flashwam.system.paths import user_path

__all__ = ["HubApi", "push_folder"]

_UNFINISHED = ("*.part", "*.partial", "*.tmp", "*.beside-*", "*.leaving-*")
_LEFT_OUT = (*_UNFINISHED, "text_cache/*", "checkpoints/*", "training_state*")


class HubApi(Protocol):
    """The part of `huggingface_hub.HfApi` that is needed."""

    def create_repo(self, repo_id: str, **options: Any) -> Any:
        """Makes a repository."""

    def upload_folder(self, **options: Any) -> Any:
        """Commits a folder to it."""


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
    token: str | None = None,
    api: HubApi | None = None,
) -> Any:
    """Uploads a model folder; the repository is made if there is none.

    Args:
        folder: Holds ``transformer/`` and what belongs to it.
        repo_id: "owner/name".
        private: Of a repository that is made now; the owner's default if None.
        revision: Branch; the main one if None.
        commit_message: "Upload <folder's name>" if None.
        create_pr: Propose the commit instead of making it.
        token: The one that is stored on this machine if None.
        api: Something like `huggingface_hub.HfApi`; made if None.

    Returns:
        What the hub says of the commit.

    Raises:
        FileNotFoundError: The folder holds no ``transformer/config.json``.
        ValueError: `repo_id` has another form.
    """
    folder = user_path(folder)
    if not (folder / "transformer" / "config.json").is_file():
        raise MissingFileError(f"{folder / 'transformer' / 'config.json'} is missing: expected a saved model's folder")
    if len([part for part in repo_id.split("/") if part]) != 2 or repo_id.count("/") != 1:
        raise InputError(f"repo_id must read like 'owner/name', got {repo_id!r}")
    if api is None:
        from huggingface_hub import HfApi

        api = HfApi(token=token)
    api.create_repo(repo_id, repo_type="model", private=private, exist_ok=True)
    return api.upload_folder(
        repo_id=repo_id,
        repo_type="model",
        folder_path=str(folder),
        revision=revision,
        commit_message=commit_message or f"Upload {folder.resolve().name}",
        create_pr=create_pr,
        ignore_patterns=list(_LEFT_OUT),
    )
