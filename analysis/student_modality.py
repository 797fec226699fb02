# SPDX-License-Identifier: Apache-2.0
"""The one place of the comparison that needs SwiftVLA's own folder: cells with a modality in training import it when
they run, and the others do without."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from student_cells import Place

from flashwam.evaluation.latency import latency_label
from flashwam.swiftvla.evaluation import evaluate_with_auxiliary, latency_with_auxiliary, load_with_auxiliary
from flashwam.swiftvla.geometry import GeometryTransformer
from flashwam.swiftvla.geometry_training import train_geometry
from flashwam.swiftvla.streaming import StreamingGeometry
from flashwam.swiftvla.streaming_tokens import StreamingTokens
from flashwam.swiftvla.tokens import encode_tokens

__all__ = ["evaluate_with_auxiliary", "latency_timer", "prepare_tokens", "time_tokens"]


def prepare_tokens(place: Place) -> None:
    """Makes the tokens of the benchmark's episodes, which all cells share."""
    recipe = place.recipe("swift_full", 0)
    StreamingTokens(**recipe.train.options["provider"]).prepare(place.benchmark / "data", recipe.data.tasks, seed=0)


def latency_timer(run: Path) -> tuple[str, Callable[[], dict[str, float]]]:
    """Label of a run's model, and the timer of its chunk with the modality there too."""
    policy, sense = load_with_auxiliary(run)
    samplers = policy.samplers("full")
    timer = partial(latency_with_auxiliary, policy, sense, samplers, chunks=3)
    return latency_label(policy, samplers), timer


def time_tokens(place: Place, few: Path, share: float, clock: Callable[[Callable[[], Any]], float]) -> float:
    """Core seconds of the geometry network and the tokens of all episodes.

    Args:
        place: Of the data, whose network is trained already.
        few: Folder of a few of its episodes, with their records.
        share: All episodes, in those few.
        clock: Seconds of a call.
    """
    provider = StreamingTokens(**place.recipe("swift_full", 0).train.options["provider"])
    trained = GeometryTransformer.from_pretrained(place.benchmark / "data" / "geometry")
    learn = partial(train_geometry, few, config=trained.config, progress=False)
    start, more = (clock(partial(learn, folder=few / f"geometry_{steps}", steps=steps)) for steps in (20, 60))
    stream = StreamingGeometry(trained, side=provider.side)
    encode = clock(partial(encode_tokens, few, stream, capacities=provider.capacities, progress=False))
    return (more - start) / 40 * provider.steps + share * encode
