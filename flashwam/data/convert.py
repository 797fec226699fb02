# SPDX-License-Identifier: Apache-2.0
"""Raw LeRobot episodes to the layout LingBot-VA trains from: latents per segment and camera, beside the rows.

Every file appears whole or not at all and is never made twice, so a killed conversion goes on where it was. A repo's
`meta/info.json` is written last: what has one is complete.
"""

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path

import torch

from flashwam.data.alike import unlike_sets
from flashwam.data.bad_files import BadFiles
from flashwam.data.conversion import ConversionPlan, EpisodeConverter, EpisodeJob, EpisodeResult, result_names
from flashwam.data.coverage import ControlFit
from flashwam.data.encoders import Encoders
from flashwam.data.episodes import CHUNK, read_info
from flashwam.data.hashed_text import say_cut
from flashwam.data.latents import EMPTY_TEXT
from flashwam.data.preflight import ActionRules, inspect
from flashwam.data.raw import RawEpisode, list_episodes
from flashwam.data.segments import name_below, select_repos
from flashwam.data.targets import PICTURES, PLAN_FILE, check_targets, take_back, target_of
from flashwam.system.changed_settings import changed_settings
from flashwam.system.errors import InputError
from flashwam.system.files import clear_half_files, write_whole
from flashwam.system.json_file import read_mapping
from flashwam.system.paths import user_path
from flashwam.system.tensor_file import write_torch
from flashwam.system.workers import done_by_processes, worker_context

__all__ = ["Conversion", "convert"]

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Conversion:
    """The summary of a call.

    Attributes:
        written: Latent files made.
        kept: Latent files that were there.
        episodes: Episodes in the result.
        bad: What was skipped -> why.
        controls: How the quantiles that were measured fit the data, where they were.
        given: Where a training takes its quantiles from, if not from the data.
        given_controls: How those fit the data.
        unlike: What is not alike in the data sets, see `flashwam.data.alike.unlike_sets`.
    """

    written: int = 0
    kept: int = 0
    episodes: int = 0
    bad: dict[str, str] = field(default_factory=dict)
    controls: list[ControlFit] = field(default_factory=list)
    given: str | None = None
    given_controls: list[ControlFit] = field(default_factory=list)
    unlike: list[str] = field(default_factory=list)


def convert(
    raw: Path | str,
    out: Path | str,
    plan: ConversionPlan,
    make_encoders: Callable[[], Encoders],
    *,
    processes: int = 1,
    skip_bad: bool = False,
    progress: bool = True,
    rules: ActionRules | None = None,
    depth: bool = False,
) -> Conversion:
    """Converts every data set below `raw` into one of the same relative path below `out`.

    Args:
        raw: Any folder above LeRobot v2.x or v3.x data sets.
        out: Folder of the result; run again with the same arguments, what is missing is made.
        plan: What to encode.
        make_encoders: Called once in every process, so it must be importable (a function, or a `functools.partial`).
        processes: Episodes at a time; 1 works in this process.
        skip_bad: Leave out what cannot be read, and list it, instead of stopping.
        progress: Show a progress bar with the time left.
        rules: What the actions must be; None: what most episodes have.
        depth: Cameras of depth maps are meant, and taken as grey pictures.

    Returns:
        Counts, and what was skipped.

    Raises:
        FileNotFoundError, ValueError: Something is missing or damaged; the message names file and reason. Or `out`
            holds a conversion made otherwise or of other recordings, or data that no conversion made, or lies inside
            `raw`.
        RuntimeError: A process died.
    """
    raw, out = user_path(raw), user_path(out)
    if processes < 1:
        raise InputError(f"processes must be at least 1, got {processes}")
    bad, repos = BadFiles(skip=skip_bad), select_repos(raw)
    check_targets(raw, out, repos)
    rules = replace(rules or ActionRules(), key=plan.action_key)
    episodes: dict[Path, list[RawEpisode]] = {}
    for repo in repos:
        try:
            episodes[repo] = list_episodes(repo, cameras=plan.cameras, depth=depth, bad=bad)
        except (ValueError, FileNotFoundError) as error:
            bad.add(str(repo), error)
    unlike = unlike_sets(episodes, raw, key=plan.action_key)
    for told in unlike:
        logger.warning("%s: %s", raw, told)
    episodes = inspect(episodes, rules, bad, root=raw)
    _refuse_nothing(raw, any(episodes.values()), bad)
    encoders = make_encoders()
    if not encoders.clips:
        plan = replace(plan, window=None, hop=None)
    jobs_of = {
        repo: _jobs(repo, target_of(raw, out, repo), group, plan, encoders, bad, name=name_below(repo, raw))
        for repo, group in episodes.items()
    }
    _refuse_nothing(raw, any(jobs_of.values()), bad)
    _keep_plan(out, plan, encoders)
    jobs = [job for group in jobs_of.values() for job in group]
    _refuse_other_recordings(raw, jobs, plan)
    result, done = Conversion(unlike=unlike), {}
    for one in _run(jobs, plan, encoders, make_encoders, processes, progress):
        for what, reason in one.bad.items():
            bad.add(what, InputError(reason))
        result.written += one.written
        result.kept += one.kept
        done[one.job.table] = one
    for repo in repos:
        kept = _write_meta(repo, [done[job.table] for job in jobs_of.get(repo, [])], plan.action_key)
        if not kept:
            take_back(target_of(raw, out, repo))
        result.episodes += kept
    _refuse_nothing(raw, result.episodes > 0, bad)
    result.bad = dict(bad.reasons)
    logger.info(
        "%d latent files written, %d kept, %d episodes below %s, %d things skipped",
        *(result.written, result.kept, result.episodes, out, len(result.bad)),
    )
    return result


def _refuse_nothing(raw: Path, some: bool, bad: BadFiles) -> None:
    """Refuses to go on where nothing is left, and says why."""
    if not some:
        why = next(iter(bad.reasons.values()), "there are no episodes")
        more = f" ({len(bad.reasons)} things were left out)" if len(bad.reasons) > 1 else ""
        raise InputError(f"nothing below {raw} could be converted: {why}{more}")


def _jobs(
    repo: Path,
    target: Path,
    episodes: list[RawEpisode],
    plan: ConversionPlan,
    encoders: Encoders,
    bad: BadFiles,
    *,
    name: str,
) -> list[EpisodeJob]:
    """The episodes with their segments cut into samples; what is too short for any is left out."""
    features = read_info(repo)["features"].items()
    pictures = tuple(key for key, feature in features if isinstance(feature, dict) and feature.get("dtype") in PICTURES)
    jobs = []
    for episode in episodes:
        parts: dict[tuple[int, int], str] = {}
        job = EpisodeJob(episode=episode, target=target, pictures=pictures, name=name)
        for first, last, text in episode.segments:
            for start, end in plan.samples(first, last, encoders):
                try:
                    plan.check_length(start, end, encoders.unit)
                except ValueError as error:
                    told = f"{episode.table}: rows {start} to {end} of episode {episode.index} {error}"
                    bad.add(str(job.segment(start, end)), InputError(told))
                    continue
                # A file has its rows in its name: of overlapping segments cut into clips, a clip is made once.
                if parts.setdefault((start, end), text) != text:
                    told = (
                        f"{episode.table}: rows {start} to {end} of episode {episode.index} belong to two "
                        f"instructions, {parts[start, end]!r} and {text!r}: cut the rows of overlapping segments "
                        "apart"
                    )
                    bad.add(f"{job.segment(start, end)}: {text}", InputError(told))
        if parts:
            segments = tuple((start, end, text) for (start, end), text in parts.items())
            jobs.append(replace(job, episode=replace(episode, segments=segments)))
    return jobs


def _keep_plan(out: Path, plan: ConversionPlan, encoders: Encoders) -> None:
    """Notes how this result is made, or refuses to go on with one made otherwise."""
    made = {**asdict(plan), "encoders": encoders.name, "per_frame": encoders.pictures_per_frame}
    path = out / PLAN_FILE
    if path.is_file():
        # Conversions from before a field was there were made with its default.
        before = {f.name: f.default for f in fields(ConversionPlan) if f.default is not MISSING}
        before |= read_mapping(path)
        if changed := changed_settings({**dict.fromkeys(made), **before}, made):
            raise InputError(f"{out} holds a conversion made otherwise ({changed}); give another folder")
        clear_half_files(out)
    else:
        write_whole(path, (json.dumps(made, indent=2) + "\n").encode())
    if not (out / EMPTY_TEXT).is_file():
        write_torch(out / EMPTY_TEXT, encoders.text("").to(torch.bfloat16))


def _refuse_other_recordings(raw: Path, jobs: list[EpisodeJob], plan: ConversionPlan) -> None:
    """Refuses to go on where an episode's number belongs to another recording now; nothing is overwritten."""
    found = [(job, told) for job in jobs if (told := job.differences(plan))]
    if not found:
        return
    job, told = found[0]
    name = f"episode_{job.episode.index:06d}"
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    raise InputError(
        f"{job.target} holds {name} of another recording than {raw} has now ({'; '.join(told)}){more}: convert into "
        f"another folder, or remove the files of such episodes ({job.target}/**/{name}*) to have them made anew"
    )


def _run(
    jobs: list[EpisodeJob],
    plan: ConversionPlan,
    encoders: Encoders,
    make_encoders: Callable[[], Encoders],
    processes: int,
    progress: bool,
) -> Iterator[EpisodeResult]:
    """Every job, those first that were done before."""
    from tqdm import tqdm

    ready = [job for job in jobs if job.is_done(plan)]
    rest = [job for job in jobs if not job.is_done(plan)]
    for job in ready:
        segments = list(job.episode.segments)
        yield EpisodeResult(job=job, kept=len(segments) * len(plan.cameras), segments=segments)
    if encoders.prepare is not None and rest:
        encoders.prepare(sorted({text for job in rest for _, _, text in job.episode.segments}))
    with tqdm(total=len(jobs), initial=len(ready), desc="convert", unit="episode", disable=not progress) as bar:
        if processes > 1 and len(rest) > 1:
            done = _in_processes(rest, plan, make_encoders, processes)
        else:
            done = map(EpisodeConverter(plan, encoders).convert, rest)
        for one in done:
            bar.update()
            yield one


def _in_processes(
    jobs: list[EpisodeJob], plan: ConversionPlan, make_encoders: Callable[[], Encoders], processes: int
) -> Iterator[EpisodeResult]:
    context = worker_context(__name__, getattr(make_encoders, "func", make_encoders).__module__)
    begin = partial(_start, plan, make_encoders)
    return done_by_processes(_convert, jobs, processes=processes, what="converting", context=context, begin=begin)


_converter: EpisodeConverter | None = None


def _start(plan: ConversionPlan, make_encoders: Callable[[], Encoders]) -> None:
    """Makes a process ready to convert episodes."""
    global _converter
    torch.set_num_threads(1)
    # What there is to say of prompts, the caller said when it prepared them.
    logging.getLogger(say_cut.__module__).setLevel(logging.ERROR)
    _converter = EpisodeConverter(plan, make_encoders())


def _convert(job: EpisodeJob) -> EpisodeResult:
    assert _converter is not None
    return _converter.convert(job)


def _write_meta(source: Path, done: list[EpisodeResult], action_key: str) -> int:
    """Writes a repo's `meta/` for the episodes with at least one segment; returns how many there are."""
    kept = [one for one in done if one.segments]
    if not kept:
        return 0
    info, target = read_info(source), kept[0].job.target
    tasks: dict[str, int] = {}
    lines = []
    for one in kept:
        episode = one.job.episode
        for task in episode.tasks:
            tasks.setdefault(task, len(tasks))
        config = [{"start_frame": start, "end_frame": end, "action_text": text} for start, end, text in one.segments]
        record = {"episode_index": episode.index, "tasks": list(episode.tasks), "length": episode.length}
        lines.append(record | {"action_config": config})
    names, pictures = result_names(action_key), kept[0].job.pictures
    features = {names.get(key, key): value for key, value in info["features"].items() if key not in pictures}
    info = {
        "codebase_version": "v2.1",
        "robot_type": info.get("robot_type"),
        "total_episodes": len(kept),
        "total_frames": sum(one.job.episode.length for one in kept),
        "total_tasks": len(tasks),
        "total_videos": 0,
        "chunks_size": CHUNK,
        "fps": info["fps"],
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": None,
        "features": features,
    }
    named = [{"task_index": number, "task": task} for task, number in tasks.items()]
    for name, content in (("tasks.jsonl", named), ("episodes.jsonl", lines)):
        write_whole(target / "meta" / name, "".join(json.dumps(line) + "\n" for line in content).encode())
    write_whole(target / "meta" / "info.json", (json.dumps(info, indent=2) + "\n").encode())
    return len(kept)
