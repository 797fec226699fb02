# SPDX-License-Identifier: Apache-2.0
"""Evaluates a model behind a policy server on a suite of LIBERO; one JSON file per suite, gone on with by episode."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flashwam.evaluation.libero_episodes import Place
from flashwam.evaluation.libero_suite import SuiteJob, check_model, choose, driven
from flashwam.evaluation.served_model import Greeting, described_by_server, refuse_earlier, served_how
from flashwam.run.evaluation import evaluation_name
from flashwam.serve.client import PolicyClient
from flashwam.sim.libero import Convention, get_convention
from flashwam.system.paths import user_path

__all__ = ["evaluate_on_libero"]


def evaluate_on_libero(
    url: str,
    *,
    suite: str,
    token: str | None = None,
    tasks: Sequence[str] | None = None,
    episodes: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    convention: Convention | None = None,
    processes: int = 1,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Drives tasks of a suite through a policy server.

    Episode i begins in a task's initial state i. Every episode is written down when it has ended, and an evaluation
    that was stopped goes on with those that are missing.

    Args:
        url: Such as "ws://127.0.0.1:29536".
        suite: Such as "libero_10", see `suite_names`.
        token: Where the server asks for one.
        tasks: Numbers or names of tasks; all of the suite if None, but for those without an initial state.
        episodes: Per task; if None, 50, or as many as there are initial states where these are fewer.
        seed: Of the noise alone, where the server takes one.
        out: Folder for the result; `runs/served/<name>/evaluations` if None.
        convention: That of LingBot-VA's published client if None.
        processes: Episodes that are driven at once, each by a process with a session of its own.
        progress: Show a bar with the time left.

    Returns:
        One result, as written. Its `simulator` tells the convention, and every instruction that was given.

    Raises:
        FileExistsError: There is a measurement of this name and step in `out`.
        ImportError: LIBERO is not installed.
        RuntimeError: Another process is driving the same episodes, or the server fails.
        ValueError: A suite, task or number of episodes is not there, the server's model has other cameras or controls,
            or what was begun was something else.
    """
    chosen = choose(suite, tasks, episodes)
    with PolicyClient(url, token) as client:
        told = client.metadata
    check_model(told, f"at {url}")
    greeting = Greeting.read(told)
    convention = convention or get_convention("lingbot_va")
    folder = user_path(out) if out is not None else greeting.run.evaluations
    how = served_how(told, chosen.under(convention))
    path = folder / f"{evaluation_name(greeting.step, greeting.nfe, how, seed)}.json"
    refuse_earlier(path)
    job = SuiteJob(
        told=told,
        described=described_by_server(told),
        setting=greeting.nfe,
        asked=chosen.asked(),
        chosen=chosen,
        place=Place(url=url, token=token, convention=convention, seed=seed, path=path),
        more={"server": {"url": url, "model": dict(told)}},
    )
    with driven(job, processes=processes, progress=progress) as result:
        result.write(path)
    return [result.to_json()]
