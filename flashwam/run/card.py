# SPDX-License-Identifier: Apache-2.0
"""The model card of a folder: what the weights are, how they must be sampled, what was measured and what was not."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashwam.core.streams import StreamSpec
from flashwam.run.card_data import data_lines
from flashwam.run.card_results import driven_among, how_measured, recorded_among, results_section
from flashwam.run.evaluation import Evaluation, read_evaluation
from flashwam.run.folder import CARD_FILE, INFO_FILE, RunFolder
from flashwam.run.model_info import ModelInfo
from flashwam.run.origin import Origin
from flashwam.run.recordings import RecordingNumbers
from flashwam.system.errors import MissingFileError
from flashwam.system.files import final_path, write_whole
from flashwam.system.imports import trusting
from flashwam.system.json_file import built_from, read_mapping
from flashwam.system.paths import user_path
from flashwam.system.released import License

__all__ = ["model_card", "renew_card", "write_card"]

logger = logging.getLogger(__name__)

_MADE_HERE = "<!-- Written by flashwam, and anew after every evaluation; without this line it is left as it is. -->"
_MADE_ELSEWHERE = (
    "<!-- Written by flashwam from evaluations that do not lie here, and so left as it is after others. -->"
)
_UNFINISHED = 'load_wam(".beside-'
"""In every card that an older version wrote, of a folder that had not got its name yet."""
_ON_HUB = re.compile(r'load_wam\("(hf:[\w.-]+/[\w.-]+)"\)')
_USE = """\
## Use
```python
import flashwam
from flashwam.sampling import samplers_for

model, info = flashwam.load_wam("{named}")
samplers = samplers_for(info.streams, steps={steps}, teacher={teacher})
```
"""
_SERVE = """\
It acts by `flashwam serve {named}{base}`, and in Python by
`flashwam.serve.direct.WamPipeline.from_pretrained("{named}"{keyword})`.
"""
_BASE = "`DIR` holds the `vae/`, `text_encoder/` and `tokenizer/` of {base}.\n"
_LAYOUT = """\
`transformer/` has the layout and keys of the original and loads in its own tools; how it is to be sampled is in
`flashwam.json`.
"""
_CODEC = "codec.json"
"""The file with which a model can act, see `flashwam.data.codec`; another tool's encoders, where it names a family."""


def model_card(
    folder: str | Path,
    *,
    evaluations: Sequence[Evaluation] | None = None,
    origin: Origin | None = None,
    license: License | None = None,
    named: str | None = None,
    trust: bool = False,
) -> str:
    """The card of a model folder, from its `flashwam.json` and the evaluations of these weights.

    Args:
        folder: The model's.
        evaluations: To tell of those of these weights; the folder's own and its run's if None.
        origin: Of the model; what its `flashwam.json` says if None.
        license: Of the model; if None, the one that the card which is there states, or else that of what it was made
            from.
        named: Name by which others load it, such as "hf:owner/name"; if None, that of the card which is there, or else
            the folder's.
        trust: Import the classes that its files name beside ours, and run their code.

    Raises:
        FileNotFoundError: There is no `flashwam.json`.
        ValueError: It is not readable, or names a class that would have to be imported without `trust`; or a file of
            the evaluations is none.
    """
    folder = user_path(folder)
    path = folder / INFO_FILE
    if not path.is_file():
        raise MissingFileError(f"{path} is missing: a card needs a folder that flashwam saved")
    with trusting(trust):
        info = ModelInfo.read(folder)
    card = _Card(
        folder=folder,
        info=info,
        evaluations=_of_these(folder, info, evaluations),
        origin=info.origin if origin is None else origin,
        stated=license or License.of_card(folder / CARD_FILE),
        named=named or _name_on_hub(_there(folder / CARD_FILE)) or final_path(folder.resolve()).name,
    )
    mark = _MADE_HERE if evaluations is None else _MADE_ELSEWHERE
    return built_from(path, card.text) + f"\n{mark}\n"


def write_card(
    folder: str | Path, *, evaluations: Sequence[Evaluation] | None = None, trust: bool = False, **told: Any
) -> Path:
    """Writes `README.md`, see `model_card`.

    A card that somebody else wrote is left as it is; so is one that tells of evaluations that were given, unless there
    are such again.

    Args:
        folder, evaluations, trust: See `model_card`.
        told: Its other keywords.

    Raises:
        FileNotFoundError, ValueError, OSError: There is nothing to tell of, or it cannot be written.
    """
    path = user_path(folder) / CARD_FILE
    ours = (_MADE_HERE, _UNFINISHED) if evaluations is None else (_MADE_HERE, _UNFINISHED, _MADE_ELSEWHERE)
    while (text := model_card(folder, evaluations=evaluations, trust=trust, **told)) != (there := _there(path)):
        if there is not None and not any(line in there for line in ours):
            logger.info("%s was not written by flashwam from what lies here, and is left as it is", path)
            break
        # Once more afterwards: another process may have measured and written in between.
        write_whole(path, text)
    return path


def renew_card(folder: str | Path, *, trust: bool = False, **told: Any) -> None:
    """Writes a model's card anew after something was measured, see `write_card`; what cannot be written is a warning.

    A folder without `flashwam.json`, such as another tool's checkpoint, gets none.
    """
    if not (user_path(folder) / INFO_FILE).is_file():
        return
    try:
        write_card(folder, trust=trust, **told)
    except Exception as error:
        # A card tells of weights and measurements that are safe; nothing about it may lose them.
        logger.warning("the card %s was not written anew: %s", user_path(folder) / CARD_FILE, error)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Card:
    """The content of a card."""

    folder: Path
    info: ModelInfo
    evaluations: Sequence[Evaluation]
    origin: Origin
    stated: License | None
    named: str

    @property
    def license(self) -> License | None:
        """The licence that it states."""
        return self.stated or self.origin.license

    @property
    def teacher(self) -> str | None:
        """The model that it was made from, by a name and no path of a machine."""
        told = self.info.teacher
        return self.origin.teacher or (None if told is None else RunFolder.of_model(Path(told)).name)

    @property
    def parent(self) -> str:
        """The same as a reader finds it: linked where it lies on the hub."""
        if self.teacher is None or self.teacher == self.origin.base_model:
            return self.base or "an unnamed teacher"
        return f"`{self.teacher}`"

    @property
    def base(self) -> str | None:
        """A link to the released model that it descends from."""
        name = self.origin.base_model
        return None if name is None else f"[{name}](https://huggingface.co/{name})"

    def text(self) -> str:
        """The whole of it, without the mark of who wrote it."""
        sections = [
            f"# {self.info.name or final_path(self.folder.resolve()).name}\n\n{self.sentence()}\n",
            _streams(self.info),
            self.training(),
            "## Data\n" + "\n".join(f"- {line}" for line in data_lines(self.info.recipe, self.origin)) + "\n",
            results_section(self.evaluations),
            "## Known limits\n" + "\n".join(f"- {limit}" for limit in _limits(self.info, self.evaluations)) + "\n",
            f"## Licence\n{self.licence()}\n",
            self.use(),
        ]
        layout = _LAYOUT if (self.folder / "transformer").is_dir() else ""
        return self.header() + "\n" + "\n".join(sections) + layout

    def header(self) -> str:
        """The block by which the hub files it."""
        told = {} if self.license is None else self.license.to_json()
        told |= {} if self.origin.base_model is None else {"base_model": self.origin.base_model}
        lines = ["library_name: flashwam", *(f"{key}: {value}" for key, value in told.items())]
        if self.origin.datasets:
            lines += ["datasets:", *(f"- {name}" for name in self.origin.datasets)]
        lines += ["pipeline_tag: robotics", "tags:", "- robotics", "- world-action-model", f"- {self.info.kind}"]
        return "\n".join(["---", *lines, "---", ""])

    def sentence(self) -> str:
        """Tells what the weights are and what they were made from."""
        info = self.info
        if info.role == "teacher":
            base = "" if self.base is None else f", trained from {self.base}"
            return f"A world-action model: a velocity network over video and actions, sampled in many steps{base}."
        made = self.parent if self.base in (None, self.parent) else f"{self.parent} (which descends from {self.base})"
        if info.kind == "teacher":
            return f"A policy made from {made}: a velocity network, sampled in its own steps."
        steps = ", ".join(f"{spec.steps} for {name}" for name, spec in info.streams.items())
        return f"A world-action model distilled from {made} to few network evaluations per chunk: {steps}."

    def training(self) -> str:
        """Tells how it was trained."""
        recipe, told = self.info.recipe, self.info.extra
        facts: dict[str, Any] = {"teacher": self.teacher if self.info.teacher else None}
        if recipe is not None:
            loop = recipe.train if self.info.role == "teacher" or recipe.distill is None else recipe.distill
            facts |= {
                "recipe": recipe.name,
                "method": loop.method,
                "samples per step": loop.batch_size * loop.accumulation,
                "learning rate": loop.lr,
            }
        facts |= {
            "optimiser steps": self.info.steps or None,
            **{key.replace("_", " "): told.get(key) for key in ("weights", "flashwam", "git_revision", "time")},
        }
        lines = [f"- {key}: {value}" for key, value in facts.items() if value is not None]
        return "## Training\n" + "\n".join(lines) + "\n"

    def licence(self) -> str:
        """Tells under which licence it is, and who says so."""
        before = self.base or (self.parent if self.teacher else None)
        if self.license is None:
            why = f"nothing here says under which licence {before} is" if before else "nobody has chosen one yet"
            return (
                f"None is stated: {why}. Whoever publishes these weights states one with "
                "`flashwam push MODEL OWNER/NAME --license ID`."
            )
        told = " ".join(
            f"`{value}`" if key != "license_link" else f"({value})" for key, value in self.license.to_json().items()
        )
        if self.license == self.origin.license:
            return f"{told}, that of {before}, from which it was made."
        of_base = "" if self.origin.license is None else f"; {before} is under `{self.origin.license.identifier}`"
        return f"{told}, as those say who publish it{of_base}."

    def use(self) -> str:
        """Tells how it is loaded and served."""
        info, codec = self.info, self.folder / _CODEC
        teacher = info.kind == "teacher"
        steps = None if teacher else {stream: spec.steps for stream, spec in info.streams.items()}
        text = _USE.format(named=self.named, steps=steps, teacher=teacher)
        if not codec.is_file():
            return text
        if read_mapping(codec).get("family") is None:
            return text + _SERVE.format(named=self.named, base="", keyword="")
        base = self.base or "the checkpoint that it was made from"
        return (
            text + _SERVE.format(named=self.named, base=" --base DIR", keyword=', base="DIR"') + _BASE.format(base=base)
        )


def _there(path: Path) -> str | None:
    return path.read_text(errors="replace") if path.exists() else None


def _name_on_hub(card: str | None) -> str | None:
    """The name of the hub by which a card loads its model."""
    found = None if card is None else _ON_HUB.search(card)
    return None if found is None else found[1]


def _streams(info: ModelInfo) -> str:
    if info.kind == "teacher":
        lines = ["| stream | schedule | steps | guidance |", "|---|---|---|---|"]
        lines += [
            f"| {name} | {spec.schedule.label} | {spec.teacher_steps} | {spec.guidance_scale:g} |"
            for name, spec in info.streams.items()
        ]
    else:
        lines = [
            "| stream | consistency function | schedule | steps | anchors | teacher's guidance | weight | "
            "regulariser |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for name, spec in info.streams.items():
            guidance = "-" if not spec.guidance else "{:g} to {:g}".format(*spec.guidance)
            lines.append(
                f"| {name} | {_function(spec)} | {spec.schedule.label} | {spec.steps} | {spec.anchors} | {guidance} | "
                f"{spec.weight:g} | {spec.regulariser:g} |"
            )
    return "## Streams, in the order they are drawn\n" + "\n".join(lines) + "\n"


def _function(spec: StreamSpec) -> str:
    function = spec.consistency
    parameters = ", ".join(f"{key} {value}" for key, value in function.config.items() if key != "name")
    return f"`{function.name}`" + (f" ({parameters})" if parameters else "")


def _limits(info: ModelInfo, evaluations: Sequence[Evaluation]) -> list[str]:
    limits = []
    for name, spec in info.streams.items() if info.kind == "student" else ():
        state, velocity = spec.consistency.sampler_mismatch()
        if abs(state) + abs(velocity) > 1e-9:
            limits.append(
                f"{name} was distilled with its own function, and flashwam samples it so. A plain Euler step, as "
                f"LingBot-VA's own server takes, differs from it by {state:+.3f} x {velocity:+.3f} v at sigma = 1."
            )
        if spec.guidance:
            limits.append(f"{name}: guidance is in the weights; its strength cannot be chosen any more.")
        if not spec.weight:
            limits.append(f"{name} was not distilled: it needs the teacher's steps.")
    driven, recorded = driven_among(evaluations), recorded_among(evaluations)
    if recorded:
        limits.append(_of_recordings(recorded))
    if not driven:
        limits.append("Success in closed loop is unknown.")
    else:
        seeds = sorted({one.seed for one in driven if one.seed is not None})
        tasks = sorted({task for one in driven for task in one.tasks})
        limits.append(f"Measured on {', '.join(tasks)} alone; nothing is known of other tasks, robots or cameras.")
        limits.append(f"Evaluation seeds {seeds}, one training run: the intervals do not hold the spread of trainings.")
    return limits


def _of_recordings(numbers: Sequence[RecordingNumbers]) -> str:
    """Tells what numbers on recordings leave open."""
    seen = {one.held_out for one in numbers}
    whose = (
        "Some of the recordings were trained on, which flatters their numbers."
        if False in seen
        else "The recordings were held out of this model's training; its teacher's may have seen them."
        if seen == {True}
        else "Nobody here knows whether the recordings were trained on."
    )
    return f"{whose} Distances to what was recorded do not tell whether a task would have succeeded."


def _of_these(folder: Path, info: ModelInfo, evaluations: Sequence[Evaluation] | None) -> list[Evaluation]:
    """The evaluations of these weights, in the order they are shown."""
    run = RunFolder.of_model(final_path(folder.resolve()))
    if evaluations is None:
        places = dict.fromkeys((RunFolder(folder.resolve()), run))
        files = [path for place in places for path in (*place.evaluation_files, *place.recording_files)]
        evaluations = [read_evaluation(path) for path in files]
    name = info.name or run.name
    these = [one for one in evaluations if (one.run, one.kind, one.step or 0) == (name, info.role, info.steps)]
    return sorted(these, key=lambda one: (one.setting, how_measured(one), one.seed or 0))
