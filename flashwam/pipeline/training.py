# SPDX-License-Identifier: Apache-2.0
"""Trains a teacher and distils a student, as a recipe says."""

from functools import partial
from pathlib import Path

import torch

from flashwam.data.codec import Codec
from flashwam.distillation.methods import find_method
from flashwam.distillation.methods.pairs import Pairs
from flashwam.distillation.pair_source import PairSource
from flashwam.distillation.roles import weightless_copy
from flashwam.distillation.setup import Setup, Source
from flashwam.pipeline.data import prepare_data
from flashwam.pipeline.early import check_loop, check_recipe
from flashwam.pipeline.fetched import fetched
from flashwam.pipeline.norms import refuse_other_norm, say_norm
from flashwam.pipeline.ready import Ready, histories_of, method_of, ready, samples
from flashwam.recipe.build import plain
from flashwam.recipe.sections import LoopConfig, Recipe
from flashwam.run.folder import INFO_FILE, RunFolder, check_run, run_folder
from flashwam.student import load_pretrained
from flashwam.system.errors import InputError
from flashwam.system.imports import foreign_paths, trusting
from flashwam.wam import family
from flashwam.wam.base import WorldActionModel

__all__ = ["distill", "make_pairs", "train"]


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
        recipe = _fetched(recipe, recipe.train, run_dir, given=source is not None)
        if source is None and recipe.data.source == "lerobot":
            say_norm(recipe, choose=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            if recipe.train_from is None:
                model = family(recipe.wam.family).create(**recipe.wam.config)
            else:
                model = load_pretrained(recipe.train_from, recipe.wam, trust=trust)
        codec = prepare_data(recipe, recipe.train) if source is None else None
        return ready(
            recipe,
            recipe.train,
            model,
            codec,
            run_dir,
            source=source,
            accept_changed_inputs=accept_changed_inputs,
            info={"teacher": None, "init": recipe.train.init},
        ).run()


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
    with trusting(trust, named=foreign_paths(plain(recipe))):
        recipe = _fetched(recipe, _distillation(recipe), run_dir, given=source is not None)
        # In a function of its own, so that nothing here holds a teacher that the method does not keep.
        return _ready_to_distil(
            recipe, run_dir=run_dir, source=source, trust=trust, accept_changed_inputs=accept_changed_inputs
        ).run()


def make_pairs(recipe: Recipe, *, trust: bool = False) -> PairSource:
    """Makes the pairs that a recipe's distillation learns from, as far as they are missing; `distill` finds them.

    Any number of processes may do so at once; a killed one goes on where it was.

    Args:
        recipe: What is to be distilled, and how; of method `pairs`.
        trust: As for `train`.

    Raises:
        ValueError: as `distill`, or the method is another.
    """
    with trusting(trust, named=foreign_paths(plain(recipe))):
        check_pairs(recipe)
        check_recipe(recipe, _distillation(recipe))
        recipe = fetched(recipe)
        loop = _distillation(recipe)
        teacher, codec = _teacher_and_data(recipe, loop, trust=trust)
        # No weights of a student are needed to draw from a teacher.
        student = weightless_copy(teacher) if loop.lora is None else teacher
        method = method_of(recipe, loop, student, teacher)
        assert isinstance(method, Pairs)
        histories = histories_of(recipe, loop, codec, teacher)
        return method.source(samples(recipe, codec, teacher), Setup.of(recipe, loop, histories=histories))


def check_pairs(recipe: Recipe) -> None:
    """Refuses a recipe that learns from no stored pairs.

    Raises:
        ValueError: It does not distil, or its method is another, or unknown.
    """
    if recipe.distill is None or not issubclass(find_method(recipe.distill.method), Pairs):
        told = "no distill section" if recipe.distill is None else f"distill.method {recipe.distill.method!r}"
        raise InputError(f"recipe {recipe.name!r}: {told} learns from no stored pairs; take a recipe of method pairs")


def _distillation(recipe: Recipe) -> LoopConfig:
    """The recipe's `distill` section.

    Raises:
        ValueError: there is none, it names no teacher, or nothing that learns from one.
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
    if not find_method(recipe.distill.method).needs_teacher:
        raise InputError(
            f"recipe {recipe.name!r}: distill.method {recipe.distill.method!r} learns from data alone and would "
            "ignore the teacher; set it to pairs, consistency or on_policy, or use flashwam train"
        )
    return recipe.distill


def _fetched(recipe: Recipe, loop: LoopConfig, run_dir: str | Path | None, *, given: bool) -> Recipe:
    """The recipe with its models on this machine; nothing is fetched for a training that cannot be done here, and a run
    that has its result asks for nothing any more."""
    check_recipe(recipe, loop)
    run = RunFolder(run_folder(recipe, run_dir))
    if not (run.result(find_method(loop.method).result) / INFO_FILE).is_file():
        check_loop(recipe, loop, given=given)
    recipe = fetched(recipe)
    # It keeps the folders that models were fetched to.
    check_run(recipe, run_dir)
    return recipe


def _teacher_and_data(
    recipe: Recipe, loop: LoopConfig, *, trust: bool, given: bool = False
) -> tuple[WorldActionModel, Codec | None]:
    """The teacher, and the codec of the recipe's data, which are made where they are missing; not where `given`."""
    if not given and recipe.data.source == "lerobot":
        refuse_other_norm(recipe)
        say_norm(recipe)
    teacher = load_pretrained(_folder_of_teacher(recipe), recipe.wam, trust=trust)
    return teacher, None if given else prepare_data(recipe, loop)


def _folder_of_teacher(recipe: Recipe) -> Path:
    assert recipe.wam.pretrained is not None
    return Path(recipe.wam.pretrained)


def _ready_to_distil(
    recipe: Recipe,
    *,
    run_dir: str | Path | None,
    source: Source | None,
    trust: bool,
    accept_changed_inputs: bool,
) -> Ready:
    loop = _distillation(recipe)
    teacher, codec = _teacher_and_data(recipe, loop, trust=trust, given=source is not None)
    folder_of_teacher = _folder_of_teacher(recipe)
    if loop.lora is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            student = find_method(loop.method).make_student(
                partial(load_pretrained, loop.init or folder_of_teacher, recipe.wam, trust=trust),
                teacher=teacher,
                options=loop.options,
                setup=Setup.of(recipe, loop),
            )
    else:
        student = teacher
    return ready(
        recipe,
        loop,
        student,
        codec,
        run_dir,
        teacher=teacher,
        source=source,
        accept_changed_inputs=accept_changed_inputs,
        info={"teacher": str(folder_of_teacher), "init": loop.init},
    )
