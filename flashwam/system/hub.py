# SPDX-License-Identifier: Apache-2.0
"""Model folders on the Hugging Face Hub: published there, and fetched from there."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from flashwam.system.errors import FailedError, InputError, MissingFileError
from flashwam.system.paths import user_path
from flashwam.system.published import published

__all__ = [
    "HubApi",
    "fetch_folder",
    "hub_name",
    "is_on_hub",
    "is_repo_name",
    "local_folder",
    "push_folder",
    "repo_name",
]

logger = logging.getLogger(__name__)

_NAMED = re.compile(r"hf:([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?/*")
_REPO = re.compile(r"[\w.-]+/[\w.-]+")
_PREFIX = "hf:"
_CLIENTS = ("requests", "httpx", "httpx2")
"""Packages by which versions of huggingface_hub talk to the hub; their errors share no class."""
_HERE: dict[Path, str] = {}
"""Folders that were fetched -> what they were asked for as."""

_MODEL = "wam.json"
"""The file without which no family loads a model, see `flashwam.wam.wam_file`."""
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
    """Uploads a model folder, without the paths of this machine; the repository is made if there is none.

    Args:
        folder: Holds ``wam.json``, as a saved model of every family does, and what belongs to it.
        repo_id: "owner/name", or "hf:owner/name".
        private: Of a repository that is made now; the owner's default if None.
        revision: Branch; the main one if None.
        commit_message: "Upload <folder's name>" if None.
        create_pr: Propose the commit instead of making it.
        token: The one that is stored on this machine if None.
        api: Something like `huggingface_hub.HfApi`; made if None.

    Returns:
        What the hub says of the commit.

    Raises:
        FileNotFoundError: The folder holds no ``wam.json``.
        ValueError: `repo_id` has another form.
        RuntimeError: The hub cannot be reached, or does not take it.
    """
    folder = user_path(folder)
    if not (folder / _MODEL).is_file():
        raise MissingFileError(f"{folder / _MODEL} is missing: expected a model's folder that flashwam saved")
    name = repo_name(repo_id)
    if api is None:
        from huggingface_hub import HfApi

        api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token)
    with _refusals_said(name):
        api.create_repo(name, repo_type="model", private=private, exist_ok=True)
        with published(folder) as shown:
            return api.upload_folder(
                repo_id=name,
                repo_type="model",
                folder_path=str(shown),
                revision=revision,
                commit_message=commit_message or f"Upload {folder.resolve().name}",
                create_pr=create_pr,
                ignore_patterns=list(_LEFT_OUT),
            )


@contextmanager
def _refusals_said(name: str) -> Iterator[None]:
    """Turns whatever the hub, or the way there, has against an upload into a sentence.

    Raises:
        ValueError: The hub has no such names.
        RuntimeError: It cannot be reached, or does not take the upload.
    """
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        yield
    except HFValidationError as error:
        raise InputError(f"the hub has no names such as {name}: {error}") from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        said = f"{status} {error.server_message or ''}".rstrip()
        if status in (401, 403):
            raise FailedError(
                f"the hub does not take {name} ({said}): sign in as somebody who may write there, with a token of the "
                "type write (hf auth login, or HF_TOKEN), or push to a name of your own"
            ) from error
        raise FailedError(f"the hub refused {name}: {said}") from error
    except Exception as error:
        of_client = {base.__module__.partition(".")[0] for base in type(error).__mro__} & {*_CLIENTS}
        if not of_client and not isinstance(error, ConnectionError):
            raise
        at = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
        raise FailedError(
            f"the hub cannot be reached at {at} ({error}), and nothing of {name} was uploaded: try again where it can"
        ) from error


def repo_name(repo_id: str) -> str:
    """The "owner/name" of a repository that is to be written to.

    Args:
        repo_id: That, or "hf:owner/name".

    Raises:
        ValueError: It reads otherwise.
    """
    name = repo_id.removeprefix(_PREFIX)
    if not is_repo_name(name):
        raise InputError(
            f"repo_id must read like owner/name or hf:owner/name, got {repo_id!r}; a branch is named by revision "
            "(--revision)"
        )
    return name


def is_repo_name(text: str) -> bool:
    """Tells whether a text reads like "owner/name", as repositories of the hub are named."""
    return _REPO.fullmatch(text) is not None


def is_on_hub(folder: str | Path) -> bool:
    """Tells whether a model is named by where it lies on the hub: "hf:owner/name"."""
    return str(folder).startswith(_PREFIX)


def fetch_folder(named: str | Path) -> Path:
    """Fetches a model, or finds it where it was fetched before; with HF_HUB_OFFLINE=1 nothing is asked of the hub.

    Args:
        named: "hf:owner/name", or "hf:owner/name@revision".

    Returns:
        Its folder in the cache of huggingface_hub, see HF_HOME.

    Raises:
        ValueError: The name has another form, or nobody has such a model.
        FileNotFoundError: The hub cannot be reached, and it was not fetched before.
    """
    folder = _fetched(str(named))
    _HERE[folder.resolve()] = str(named)
    return folder


def local_folder(named: str | Path) -> Path:
    """A model's folder on this machine: fetched first where it is named as one of the hub, see `fetch_folder`."""
    return fetch_folder(named) if is_on_hub(named) else user_path(named)


def hub_name(folder: Path) -> str | None:
    """The name on the hub of a folder that was fetched; None for any other."""
    named = _HERE.get(folder.resolve())
    return None if named is None else named.removeprefix(_PREFIX).rstrip("/")


@lru_cache
def _fetched(named: str) -> Path:
    parts = _NAMED.fullmatch(named)
    if parts is None:
        raise InputError(f"a model of the hub is named hf:owner/name, or hf:owner/name@revision; got {named!r}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repo_id, revision = parts.groups()
    logger.info("fetching %s from the hub, where it is not here already", repo_id)
    try:
        at = os.environ.get("HF_ENDPOINT")
        return Path(snapshot_download(repo_id, revision=revision, ignore_patterns=list(_LEFT_OUT), endpoint=at))
    except HFValidationError as error:
        raise InputError(f"the hub has no names such as {repo_id}: {error}") from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        what = repo_id if revision is None else f"{repo_id} at {revision}"
        raise InputError(
            f"the hub has no model {what}, or it is not yours to see: check the name, and sign in where it is private "
            "(hf auth login)"
        ) from error
    except LocalEntryNotFoundError as error:
        raise MissingFileError(
            f"{repo_id} was never fetched here, and the hub cannot be reached now ({error.__cause__ or error}); try "
            "again, or fetch it elsewhere: hf download OWNER/NAME --local-dir FOLDER"
        ) from error
