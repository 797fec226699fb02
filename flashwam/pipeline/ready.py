# SPDX-License-Identifier: Apache-2.0
"""The last step before a training: its samples, its method, its inputs compared with those it began with."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from flashwam.data.actions import ActionNorm
from flashwam.data.autoencoder import STATS
from flashwam.data.cameras import CameraLayout
from flashwam.data.codec import Codec
from flashwam.data.dataset import EpisodeDataset
from flashwam.data.fingerprint import autoencoder_fingerprint, tensors_fingerprint, values_fingerprint
from flashwam.data.histories import Histories
from flashwam.data.latents import ACTION_NORM
from flashwam.data.lerobot import SegmentDataset
from flashwam.data.pixels import PixelAutoencoder, load_autoencoder
from flashwam.data.samples import SENSE, check_text
from flashwam.distillation.adapter_file import adapter_fingerprint
from flashwam.distillation.judging import Judge, MeasuredApart
from flashwam.distillation.methods import Method, find_method, make_method
from flashwam.distillation.setup import Setup, Source
from flashwam.distillation.trainer import is_finished
from flashwam.distillation.trainer import train as run_training
from flashwam.pipeline.data import dataset, read_histories
from flashwam.pipeline.judge import check_pictures, make_judge
from flashwam.pipeline.norms import action_norm
from flashwam.recipe.build import plain
from flashwam.recipe.sections import LoopConfig, Recipe
from flashwam.run.folder import INFO_FILE, RunFolder, prepare_run
from flashwam.run.inputs import ACCEPTED, DATA, check_inputs
from flashwam.system.errors import InputError
from flashwam.system.files import write_whole
from flashwam.wam.base import WorldActionModel
from flashwam.wam.files import files_of

__all__ = ["Ready", "histories_of", "method_of", "ready", "samples", "set_precision"]

_INIT, _ADAPTER = "initial weights (init)", "initial adapter (init)"
_GIVEN_AUTOENCODER, _SETTINGS = "autoencoder (autoencoder.pretrained)", "settings of the teacher (wam.json)"
# With adapters, the weights that a training was said to begin with were the backbone's.
_NOTED_LATER = {_ADAPTER: _INIT, _GIVEN_AUTOENCODER: None, _SETTINGS: None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A training that can begin; a teacher that its method does not keep is gone from memory."""

    method: Method
    source: Source
    loop: LoopConfig
    folder: Path
    seed: int
    info: dict[str, Any]
    extra_files: Callable[[Path], None] | None
    judge: Judge | None = None

    def run(self) -> Path:
        """Trains; see `flashwam.distillation.trainer.train`."""
        return run_training(
            self.method,
            self.source,
            self.loop,
            run_dir=self.folder,
            seed=self.seed,
            info=self.info,
            extra_files=self.extra_files,
            judge=self.judge,
        )


def ready(
    recipe: Recipe,
    loop: LoopConfig,
    student: WorldActionModel,
    codec: Codec | None,
    run_dir: str | Path | None,
    *,
    teacher: WorldActionModel | None = None,
    source: Source | None = None,
    accept_changed_inputs: bool,
    info: dict[str, Any],
) -> Ready:
    """Makes a training ready, and its run's folder once the samples have been read."""
    extra_files = None
    if source is None:
        source = samples(recipe, codec, student)
        extra_files = _codec_writer(recipe, student) if codec is None else codec.save
    histories = histories_of(recipe, loop, codec, student)
    accepted: list[dict[str, Any]] = []
    check_pictures(recipe, loop, codec)
    folder = prepare_run(recipe, run_dir)
    run, result = RunFolder(folder), find_method(loop.method).result
    if os.environ.get("RANK", "0") == "0" and not (run.result(result) / INFO_FILE).exists():
        inputs = _inputs(recipe, loop, source, codec, histories=histories, teacher=teacher, student=student)
        accepted = check_inputs(folder, inputs, accept=accept_changed_inputs, noted_later=_NOTED_LATER)
    # Of a finished run nothing is made that its method or its judge would make before.
    finished = is_finished(run, result, steps=loop.steps)
    judge = None
    if loop.judge is not None and not finished:
        judge = make_judge(recipe, loop, result=result, student=student, teacher=teacher, codec=codec, run=run)
    method, setup = method_of(recipe, loop, student, teacher), Setup.of(recipe, loop, histories=histories)
    if not finished:
        source = method.source(source, setup)
    if judge is not None and isinstance(method, MeasuredApart) and method.measured_apart(loop.options):
        apart = method.held_out_measures(judge.windows.source, setup, count=judge.config.windows)
        judge = replace(judge, apart=apart)
    return Ready(
        method=method,
        source=source,
        loop=loop,
        folder=folder,
        seed=recipe.seed,
        info={
            "name": recipe.name,
            "recipe": plain(recipe),
            **info,
            **({ACCEPTED: accepted} if accepted else {}),
        },
        extra_files=extra_files,
        judge=judge,
    )


def histories_of(recipe: Recipe, loop: LoopConfig, codec: Codec | None, model: WorldActionModel) -> Histories | None:
    """A model's own episodes that the recipe's method learns from; None where it learns from none."""
    folder = find_method(loop.method).histories(loop.options)
    return None if folder is None else read_histories(recipe, folder, codec=codec, senses=model.senses)


def samples(recipe: Recipe, codec: Codec | None, student: WorldActionModel) -> Source:
    """The recipe's samples, of shapes that the model takes."""
    source = dataset(recipe, codec=codec, senses=student.senses)
    _check_shapes(source, student)
    if isinstance(source, SegmentDataset):
        _check_channels(recipe, student)
    return source


def method_of(recipe: Recipe, loop: LoopConfig, student: WorldActionModel, teacher: WorldActionModel | None) -> Method:
    set_precision(loop, student, teacher)
    return make_method(loop, recipe.streams, student, teacher=teacher, seed=recipe.seed)


def set_precision(loop: LoopConfig, student: WorldActionModel, teacher: WorldActionModel | None) -> None:
    """Float32 for what is trained; what is not needs no more digits than the passes compute with, in place.

    Args:
        loop: Gives precision and whether adapters are trained, in which case the student's own weights are not.
        student: The model to train, or the one that adapters go to.
        teacher: The frozen model, the student itself with adapters.
    """
    if loop.lora is None:
        student.float()
    frozen = teacher if loop.lora is None else student
    if frozen is not None and loop.precision == "bf16":
        frozen.to(torch.bfloat16)


def _inputs(
    recipe: Recipe,
    loop: LoopConfig,
    source: Source,
    codec: Codec | None,
    *,
    histories: Histories | None,
    teacher: WorldActionModel | None,
    student: WorldActionModel,
) -> dict[str, str]:
    """Fingerprints a run's inputs as they are now, by name. Weights that are drawn anew are no input."""
    found: dict[str, str] = {}
    if (fingerprint := getattr(source, "fingerprint", None)) is not None:
        found[DATA] = fingerprint()
    if histories is not None:
        found["own episodes (options.histories)"] = histories.fingerprint()
    if teacher is not None:
        found["teacher (wam.pretrained)"] = tensors_fingerprint(teacher.state_dict())
        found[_SETTINGS] = values_fingerprint(dict(teacher.decided_by))
    elif recipe.wam.pretrained is not None and recipe.train_from == recipe.wam.pretrained:
        found["model (wam.pretrained)"] = tensors_fingerprint(student.state_dict())
    if loop.init is not None and loop.lora is None:
        found[_INIT] = tensors_fingerprint(student.state_dict())
    elif loop.init is not None:
        found[_ADAPTER] = adapter_fingerprint(loop.init)
    if codec is not None:
        found["autoencoder"] = tensors_fingerprint(codec.autoencoder.state_dict())
    elif recipe.wam.pretrained is not None and (vae := Path(recipe.wam.pretrained) / "vae").is_dir():
        found["autoencoder (vae/ of wam.pretrained)"] = autoencoder_fingerprint(vae)
    elif (given := recipe.autoencoder.pretrained) is not None and Path(given).is_dir():
        found[_GIVEN_AUTOENCODER] = autoencoder_fingerprint(Path(given))
    return found


def _check_shapes(source: EpisodeDataset | SegmentDataset, model: WorldActionModel) -> None:
    """Refuses data that the model cannot take, before anything is placed on a device."""
    for name, shape in model.shapes.items():
        # Streams that a method makes itself are not in the data.
        if name in source.shapes and source.shapes[name] != tuple(shape):
            raise InputError(
                f"stream {name!r}: the data has (channels, rows, columns) {source.shapes[name]}, the model "
                f"{tuple(shape)}; see data.cameras, data.layout and data.stride, and wam.config"
            )
    for name, told in model.senses.items():
        if source.shapes[f"{SENSE}{name}"] != (told,):
            raise InputError(
                f"sense {name!r}: the data has {source.shapes[f'{SENSE}{name}'][0]} numbers a row in the column "
                f"observation.{name}, the model is told {told}; see wam.config (of the state: state_dim)"
            )
    check_text(source.shapes["text"], model.text_shape[1])
    whole = isinstance(source, SegmentDataset) and source.factor > 1 and "alone" not in source.shapes
    if model.conditions_on_first and whole:
        raise InputError(
            f"every chunk of this model begins with a picture that is encoded alone, but {source.root} has whole "
            "segments: convert the raw data with this model's autoencoder, see `flashwam convert`"
        )


def _check_channels(recipe: Recipe, model: WorldActionModel) -> None:
    """Refuses controls on channels that the model has zeros for: nothing of them would be learnt."""
    known, put = model.used_channels, recipe.data.used_channels
    if known is not None and (lost := sorted(set(put) - set(known))):
        raise InputError(
            f"data.used_channels puts controls on channels {lost}, which the model never sees: it uses {list(known)}. "
            "Set wam.config.used_channels alike, and data.q01 and data.q99 of these channels"
        )


def _codec_writer(recipe: Recipe, model: WorldActionModel) -> Callable[[Path], None]:
    """Puts beside a model what it is driven with: the actions' normalisation, and what its family notes of pictures."""
    norm, given = action_norm(recipe), recipe.wam.pretrained
    text = json.dumps(norm.to_dict(), indent=2) + "\n"
    files = files_of(recipe.wam.family)
    codec = None if files is not None else _frame_codec(recipe, norm)

    def write(folder: Path) -> None:
        if codec is not None:
            codec.save(folder)
        write_whole(folder / ACTION_NORM, text.encode())
        if files is not None:
            pretrained = None if given is None else Path(given)
            files.note_codec(folder, model=model, data=recipe.data, actions=norm, pretrained=pretrained)

    return write


def _frame_codec(recipe: Recipe, norm: ActionNorm) -> Codec | None:
    """The codec of recordings whose pictures were encoded one by one; None where nobody says by what."""
    data, config, given = recipe.data, recipe.autoencoder, recipe.wam.pretrained
    of_model = None if given is None else Path(given) / "vae"
    if of_model is not None and (of_model / STATS).is_file():
        autoencoder = load_autoencoder(of_model)
    elif config.pretrained is not None:
        autoencoder = load_autoencoder(config.pretrained)
    elif config.kind == "pixels":
        autoencoder = PixelAutoencoder().eval()
    else:
        return None
    cameras = CameraLayout(
        cameras=data.cameras,
        image_size=data.camera_size,
        arrangement=data.layout,
        factor=autoencoder.factor,
        resize=data.resize,
    )
    return Codec(autoencoder=autoencoder, actions=norm, cameras=cameras)
