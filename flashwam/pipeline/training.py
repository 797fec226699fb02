# SPDX-License-Identifier: Apache-2.0
"""Trains a teacher and distils a student, as a recipe says."""

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from flashwam.data.codec import Codec
from flashwam.data.fingerprint import files_fingerprint, tensors_fingerprint
from flashwam.data.histories import Histories
from flashwam.data.latents import ACTION_NORM
from flashwam.data.lerobot import SegmentDataset
from flashwam.distillation.methods import find_method, make_method
from flashwam.distillation.setup import Setup
from flashwam.distillation.trainer import Source, is_finished
from flashwam.distillation.trainer import train as run_training
from flashwam.pipeline.data import dataset, prepare_data, read_histories
from flashwam.pipeline.norms import action_norm, refuse_other_norm, say_norm
from flashwam.recipe.build import plain
from flashwam.recipe.sections import LoopConfig, Recipe
from flashwam.run.folder import INFO_FILE, RunFolder, check_run, prepare_run
from flashwam.run.inputs import check_inputs
from flashwam.student import load_pretrained
from flashwam.system.errors import InputError, MissingFileError
from flashwam.system.files import write_whole
from flashwam.system.imports import foreign_paths, trusting
from flashwam.system.paths import cache_folder
from flashwam.wam import family
from flashwam.wam.base import WorldActionModel
from flashwam.wam.files import files_of

__all__ = ["distill", "set_precision", "train"]

_AUTOENCODER_FILES = (".json", ".safetensors", ".bin", ".pt", ".pth")


def _run(
    recipe: Recipe,
    loop: LoopConfig,
    student: WorldActionModel,
    codec: Codec | None,
    run_dir: Path,
    *,
    teacher: WorldActionModel | None = None,
    source: Source | None = None,
    accept_changed_inputs: bool,
    info: dict[str, Any],
) -> Path:
    extra_files = None
    if source is None:
        source = dataset(recipe, codec=codec, senses=student.senses)
        extra_files = _codec_writer(recipe, student) if codec is None else codec.save
    if isinstance(source, SegmentDataset):
        _check_shapes(source, student)
    folder = find_method(loop.method).histories(loop.options)
    histories = None if folder is None else read_histories(recipe, folder, codec=codec, senses=student.senses)
    accepted: list[dict[str, Any]] = []
    if (
        os.environ.get("RANK", "0") == "0"
        and not (RunFolder(run_dir).result(find_method(loop.method).result) / INFO_FILE).exists()
    ):
        inputs = _inputs(recipe, loop, source, codec, histories=histories, teacher=teacher, student=student)
        accepted = check_inputs(run_dir, inputs, accept=accept_changed_inputs)
    set_precision(loop, student, teacher)
    method = make_method(loop, recipe.streams, student, teacher=teacher, seed=recipe.seed)
    # Of a finished run nothing is made that its method would make before.
    finished = is_finished(RunFolder(run_dir), method.result, steps=loop.steps)
    return run_training(
        method,
        source if finished else method.source(source, _setup(recipe, loop, histories=histories)),
        loop,
        run_dir=run_dir,
        seed=recipe.seed,
        info={
            "name": recipe.name,
            "recipe": plain(recipe),
            **info,
            **({"accepted_changes": accepted} if accepted else {}),
        },
        extra_files=extra_files,
    )


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
        found["data (data.root)"] = fingerprint()
    if histories is not None:
        found["own episodes (options.histories)"] = histories.fingerprint()
    if teacher is not None:
        found["teacher (wam.pretrained)"] = tensors_fingerprint(teacher.state_dict())
    elif recipe.wam.pretrained is not None:
        found["model (wam.pretrained)"] = tensors_fingerprint(student.state_dict())
    if loop.init is not None and student is not teacher:
        found["initial weights (init)"] = tensors_fingerprint(student.state_dict())
    if codec is not None:
        found["autoencoder"] = tensors_fingerprint(codec.autoencoder.state_dict())
    elif recipe.wam.pretrained is not None and (vae := Path(recipe.wam.pretrained) / "vae").is_dir():
        files = [path for path in vae.rglob("*") if path.suffix in _AUTOENCODER_FILES and path.is_file()]
        found["autoencoder (vae/ of wam.pretrained)"] = files_fingerprint(files, base=vae)
    return found


def _setup(recipe: Recipe, loop: LoopConfig, *, histories: Histories | None = None) -> Setup:
    teacher, init = (None if folder is None else Path(folder) for folder in (recipe.wam.pretrained, loop.init))
    # Episodes that were collected here lie in a folder of ours; others were only given to be read.
    kept = None if recipe.data.source == "metaworld" else cache_folder()
    return Setup(
        data=Path(recipe.data.root),
        streams=recipe.streams,
        seed=recipe.seed,
        teacher=teacher,
        init=init,
        kept=kept,
        batch_size=loop.batch_size,
        batches=loop.steps * loop.accumulation,
        histories=histories,
    )


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


def _check_shapes(source: SegmentDataset, model: WorldActionModel) -> None:
    """Refuses data that the model cannot take, before anything is placed on a device."""
    for name, shape in model.shapes.items():
        if source.shapes[name] != tuple(shape):
            raise InputError(
                f"stream {name!r}: the data has (channels, rows, columns) {source.shapes[name]}, the model "
                f"{tuple(shape)}; see data.cameras, data.layout and data.stride, and wam.config"
            )
    if model.conditions_on_first and source.factor > 1 and "alone" not in source.shapes:
        raise InputError(
            f"every chunk of this model begins with a picture that is encoded alone, but {source.root} has whole "
            "segments: convert the raw data with this model's autoencoder, see `flashwam convert`"
        )


def _codec_writer(recipe: Recipe, model: WorldActionModel) -> Callable[[Path], None]:
    """Puts beside a model what it is driven with: the actions' normalisation, and what its family notes of pictures."""
    norm, given = action_norm(recipe), recipe.wam.pretrained
    text = json.dumps(norm.to_dict(), indent=2) + "\n"
    files = files_of(recipe.wam.family)

    def write(folder: Path) -> None:
        write_whole(folder / ACTION_NORM, text.encode())
        if files is not None:
            pretrained = None if given is None else Path(given)
            files.note_codec(folder, model=model, data=recipe.data, actions=norm, pretrained=pretrained)

    return write


def _check_folders(recipe: Recipe, loop: LoopConfig) -> None:
    """Refuses a recipe that names folders which are not there, before anything is made from it."""
    needed = {"wam.pretrained": recipe.wam.pretrained}
    section = "distill" if loop is recipe.distill else "train"
    needed[f"{section}.init"] = loop.init
    histories = find_method(loop.method).histories(loop.options)
    if histories is not None and not histories.is_dir():
        raise MissingFileError(
            f"{section}.options.histories: {histories}: no such folder. Record one first: flashwam record MODEL OUT"
        )
    if recipe.data.source == "metaworld" and recipe.wam.pretrained is None:
        needed["autoencoder.pretrained"] = recipe.autoencoder.pretrained
    for key, folder in needed.items():
        if folder is None or Path(folder).is_dir():
            continue
        told = "is a file, not a model's folder" if Path(folder).exists() else "no such folder"
        raise MissingFileError(
            f"{key}: {folder}: {told}. Train it first (flashwam train), or download it: "
            "hf download OWNER/NAME --local-dir FOLDER"
        )


def train(
    recipe: Recipe,
    *,
    run_dir: str | Path | None = None,
    source: Source | None = None,
    trust: bool = False,
    accept_changed_inputs: bool = False,
) -> Path:
    """Trains a teacher, from data on; continues where an earlier call was stopped.

    Args:
        recipe: What to train, and how.
        run_dir: The run's folder; `runs/<name>` if None.
        source: Samples from elsewhere instead of the recipe's `data`; what they are encoded with is then not saved
            beside the model.
        trust: Import the classes that the files of models it begins from name beside ours, and run their code. What
            the recipe names itself is imported either way.
        accept_changed_inputs: Go on with an interrupted run although data, model or autoencoder are not those that it
            began with; the run's `inputs.json`, `provenance.json` and result say so.

    Returns:
        Folder of the teacher, `<run_dir>/teacher`.

    Raises:
        ValueError: the recipe adapts a model (`train.lora`) but names none, or its normalisation is not of such data
            and `data.norm` does not choose it; or the run began with other inputs.
    """
    if recipe.train.lora is not None and recipe.wam.pretrained is None:
        raise InputError(
            f"recipe {recipe.name!r}: train.lora adapts a trained model; set wam.pretrained to its folder, or "
            "train.lora to null"
        )
    with trusting(trust, named=foreign_paths(plain(recipe))):
        _check_folders(recipe, recipe.train)
        check_run(recipe, run_dir)
        codec = prepare_data(recipe, recipe.train) if source is None else None
        if source is None and recipe.data.source == "lerobot":
            say_norm(recipe, choose=True)
        folder = prepare_run(recipe, run_dir)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            if recipe.wam.pretrained is None:
                model = family(recipe.wam.family).create(**recipe.wam.config)
            else:
                model = load_pretrained(recipe.wam.pretrained, recipe.wam, trust=trust)
        return _run(
            recipe,
            recipe.train,
            model,
            codec,
            folder,
            source=source,
            accept_changed_inputs=accept_changed_inputs,
            info={"teacher": None},
        )


def distill(
    recipe: Recipe,
    *,
    run_dir: str | Path | None = None,
    source: Source | None = None,
    trust: bool = False,
    accept_changed_inputs: bool = False,
) -> Path:
    """Distils the recipe's teacher; continues where an earlier call was stopped.

    Args:
        recipe: What to distil, and how.
        run_dir, source, trust, accept_changed_inputs: As for `train`.

    Returns:
        Folder of the student, `<run_dir>/student`.

    Raises:
        ValueError: the recipe has no `distill` section or names no teacher; or the run began with other inputs.
    """
    if recipe.distill is None:
        raise InputError(
            f"recipe {recipe.name!r} cannot be distilled: it has no distill section, so it trains a teacher (flashwam "
            "train); name a student's recipe, such as flash_wam"
        )
    if recipe.wam.pretrained is None:
        raise InputError(
            f"recipe {recipe.name!r} cannot be distilled: wam.pretrained names no teacher; set it to the folder of one "
            "(flashwam train makes one)"
        )
    with trusting(trust, named=foreign_paths(plain(recipe))):
        method = find_method(recipe.distill.method)
        if not method.needs_teacher:
            raise InputError(
                f"recipe {recipe.name!r}: distill.method {recipe.distill.method!r} learns from data alone and would "
                "ignore the teacher; set it to pairs, consistency or on_policy, or use flashwam train"
            )
        _check_folders(recipe, recipe.distill)
        check_run(recipe, run_dir)
        teacher_folder = Path(recipe.wam.pretrained)
        teacher = load_pretrained(teacher_folder, recipe.wam, trust=trust)
        codec = prepare_data(recipe, recipe.distill) if source is None else None
        if source is None and recipe.data.source == "lerobot":
            refuse_other_norm(recipe)
            say_norm(recipe)
        if recipe.distill.lora is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(recipe.seed)
                student = method.make_student(
                    partial(load_pretrained, recipe.distill.init or teacher_folder, recipe.wam, trust=trust),
                    teacher=teacher,
                    options=recipe.distill.options,
                    setup=_setup(recipe, recipe.distill),
                )
        else:
            student = teacher
        folder = prepare_run(recipe, run_dir)
        info = {"teacher": str(teacher_folder), "init": recipe.distill.init}
        return _run(
            recipe,
            recipe.distill,
            student,
            codec,
            folder,
            teacher=teacher,
            source=source,
            accept_changed_inputs=accept_changed_inputs,
            info=info,
        )
