# SPDX-License-Identifier: Apache-2.0
"""The inputs of a run: noted when it begins, held against what is there when it goes on."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from flashwam.run.folder import INFO_FILE, RunFolder
from flashwam.system.errors import InputError
from flashwam.system.files import write_whole
from flashwam.system.json_file import read_mapping

__all__ = ["ACCEPTED", "DATA", "began", "check_inputs", "made_from_the_same", "noted_data"]

DATA = "data (data.root)"
"""The input that the samples of a training are."""

ACCEPTED = "accepted_changes"
"""The key under which a run's provenance and its models say what it went on with although it had changed."""


def check_inputs(
    run_dir: Path,
    inputs: Mapping[str, str],
    *,
    accept: bool = False,
    noted_later: Mapping[str, str | None] = MappingProxyType({}),
) -> list[dict[str, Any]]:
    """Holds what a run is about to go on with to what it began with, or notes that at its begin.

    Args:
        run_dir: The run's folder; gets `inputs.json`, and its `provenance.json` the changes that are accepted.
        inputs: What -> its fingerprint.
        accept: Go on with what has changed.
        noted_later: What earlier versions did not note -> the name of what they noted in its place, or None. A run that
            began with one of them tells nothing of it: what is there now is noted, and held to from then on.

    Returns:
        The changes that were accepted so far: when, and what.

    Raises:
        ValueError: something has changed and is not accepted; the message names it.
    """
    run = RunFolder(run_dir)
    path = run.inputs
    kept: dict[str, Any] = {"inputs": dict(inputs), "accepted": []}
    if path.exists() or run.checkpoint_names:
        try:
            kept = json.loads(path.read_bytes())
            before, accepted = dict(kept["inputs"]), list(kept["accepted"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            if not accept:
                raise InputError(
                    f"{path} is missing or damaged, so that nobody can tell whether this run would go on with "
                    "what it began with; go on nevertheless with --accept-changed-inputs"
                ) from error
            before, accepted = {}, []
        untold = [name for name in inputs if name in noted_later and name not in before]
        replaced = {noted_later[name] for name in untold}
        changed = sorted(
            name for name in {*before, *inputs} - {*untold, *replaced} if before.get(name) != inputs.get(name)
        )
        if not changed and not untold:
            return accepted
        if changed and not accept:
            raise InputError(
                f"{run_dir} was begun with other inputs, and a run goes on only as what it was; changed since: "
                f"{', '.join(changed)}. Put back what it began with, use another run folder, or go on nevertheless "
                "with --accept-changed-inputs"
            )
        if changed:
            accepted.append({"time": datetime.now(UTC).isoformat(timespec="seconds"), "changed": changed})
            _note(run.provenance, accepted)
        kept = {"inputs": dict(inputs), "accepted": accepted}
    write_whole(path, (json.dumps(kept, indent=2) + "\n").encode())
    return list(kept["accepted"])


def made_from_the_same(folder: Path, info: Mapping[str, Any]) -> bool:
    """Tells whether a model that a run has kept was made from the inputs that it has now, see `check_inputs`.

    Args:
        folder: The model's; it may not be there.
        info: Of the training that goes on, as for `train`.
    """
    path = folder / INFO_FILE
    if not path.is_file():
        return False
    return bool(read_mapping(path).get(ACCEPTED, []) == info.get(ACCEPTED, []))


def began(run: RunFolder) -> bytes | None:
    """Gives a run's provenance as it was written when the run began, whatever was accepted since; None without one."""
    if not run.provenance.is_file():
        return None
    content = run.provenance.read_bytes()
    values = _values(content)
    if ACCEPTED not in values:
        return content
    return _text({name: value for name, value in values.items() if name != ACCEPTED})


def noted_data(run: RunFolder) -> str | None:
    """Gives the fingerprint of the samples that a run was trained on; None where it notes none, or went on with others
    than it began with."""
    try:
        kept = json.loads(run.inputs.read_bytes())
        changed = [name for accepted in kept["accepted"] for name in accepted["changed"]]
        fingerprint = kept["inputs"].get(DATA)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return fingerprint if isinstance(fingerprint, str) and DATA not in changed else None


def _note(path: Path, accepted: Sequence[Mapping[str, Any]]) -> None:
    """Adds accepted changes to a run's provenance."""
    values = _values(path.read_bytes()) if path.is_file() else {}
    write_whole(path, _text({**values, ACCEPTED: accepted}))


def _values(content: bytes) -> dict[str, Any]:
    try:
        return dict(json.loads(content))
    except (ValueError, TypeError, RecursionError):
        return {}


def _text(values: Mapping[str, Any]) -> bytes:
    """Values as `flashwam.run.folder.prepare_run` writes them."""
    return (json.dumps(values, indent=2) + "\n").encode()
