# SPDX-License-Identifier: Apache-2.0
"""The memory of serving is counted: to the byte at tiny size, and within a card of 24 GB at the real one."""

import gc
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from flashwam.cli import main
from flashwam.data.hashed_text import TEXT_LENGTH
from flashwam.plan import plan_serving, plan_training, serving_lines, serving_numbers
from flashwam.plan.rehearsal import counted_bytes
from flashwam.recipe.load import load_recipe
from flashwam.sampling import Rollout, samplers_for
from flashwam.wam import family

GIB = 2**30
PAGE = Path(__file__).resolve().parents[2] / "docs" / "real_time.md"
PARAMETERS, LAYERS, WIDTH, TEXT = 5_088_872_670, 30, 3072, 512
CHUNK = 2 * 120 + 2 * 16
"""Tokens of RoboTwin's chunk, of which the ring of a window of 71 blocks holds 38."""


def keys_and_values(tokens: int) -> int:
    return 2 * 2 * LAYERS * tokens * WIDTH


def test_five_billion_parameters_are_served_on_24_gb() -> None:
    plan = plan_serving(load_recipe("robotwin/flash_wam"), rollout="graphed", memory_gib=24)
    assert plan.weights == 2 * PARAMETERS
    cached = keys_and_values(38 * CHUNK + TEXT)
    assert 0 <= plan.past.stays - cached < 14 * 2**20, "beside the cache there is a mask, and one seen chunk"
    # Wan2.2's autoencoder has .70 billion parameters.
    assert plan.autoencoder == pytest.approx(2 * 0.705e9, rel=0.01)
    assert 0 < plan.pictures.stays < 0.3 * GIB
    hidden = (2 * CHUNK - 32) * WIDTH
    assert 14336 / WIDTH * 2 * hidden < plan.parts["a chunk"] < GIB
    assert plan.peak == sum(plan.parts.values())
    assert plan.peak + 2 * GIB < 24e9, "with what the note says is not counted"
    assert plan.text_encoder == pytest.approx(2 * 5.68e9, rel=0.001)
    assert serving_numbers(plan)["fits"]
    assert not plan.warnings
    two = plan.peak + plan.past.stays + plan.pictures.stays
    parts = (plan.weights, plan.autoencoder, plan.past.stays, plan.peak, two)
    counted = " | ".join(["| RoboTwin's student, bfloat16", *(f"{size / GIB:.1f} GiB" for size in parts)])
    assert counted in PAGE.read_text(), "the page shows what the plan says"


def reachable_bytes(root: Any, model: nn.Module) -> int:
    """Of all tensors that an object leads to, those of the model aside."""
    ours = {x.untyped_storage().data_ptr() for x in (*model.parameters(), *model.buffers())}
    known, left, found = {id(model)}, [root], {}
    while left:
        one = left.pop()
        if id(one) in known or isinstance(one, (type, ModuleType, nn.Module)):
            continue
        known.add(id(one))
        if isinstance(one, Tensor):
            found[one.untyped_storage().data_ptr()] = one.untyped_storage().nbytes()
        elif not callable(one):
            left += gc.get_referents(one)
    return sum(size for place, size in found.items() if place not in ours)


def test_8_bit_weights_are_counted_with_their_scales() -> None:
    """Asked for by the recipe; what is not in a block's linear layers stays in two bytes."""
    recipe = load_recipe("metaworld/flash_wam", ["rollout.precision=fp8"])
    plan = plan_serving(recipe)
    model = family(recipe.wam.family).create(**recipe.wam.config)
    layers = [layer for layer in model.transformer.blocks.modules() if isinstance(layer, nn.Linear)]
    weights, rows = (sum(count) for count in zip(*((x.weight.numel(), x.out_features) for x in layers), strict=True))
    assert plan.weights == weights + 4 * (rows + len(layers)) + 2 * (
        sum(p.numel() for p in model.parameters()) - weights
    )
    assert serving_lines(plan)[0] == "serve flash_wam: student, bfloat16, linear layers in fp8, one GPU"
    exact = plan_serving(recipe, precision="own")
    assert exact.weights == 2 * sum(p.numel() for p in model.parameters())
    assert exact.past.stays == plan.past.stays


@pytest.mark.parametrize("kind", ["student", "teacher"])
def test_a_rehearsal_counts_what_a_rollout_holds(kind: Any) -> None:
    recipe = load_recipe("metaworld/flash_wam", ["wam.config.num_layers=4"])
    plan = plan_serving(recipe, kind, dtype="float32")
    model = family(recipe.wam.family).create(**{**recipe.wam.config, "rollout": "static"}).eval()
    samplers = samplers_for(recipe.streams, steps=dict.fromkeys(model.streams, 1), teacher=kind == "teacher")
    text = torch.zeros(1, TEXT_LENGTH, recipe.wam.config["text_dim"])

    def frames(count: int) -> dict[str, Tensor]:
        return {name: torch.zeros(1, c, count, h, w) for name, (c, h, w) in model.shapes.items()}

    rollout = Rollout(model, samplers, text=text, null_text=text[0], first=frames(1))
    for _ in range(3):
        rollout.predict()
        rollout.observe(frames(model.chunk_frames))
    assert plan.past.stays == reachable_bytes(rollout, model)
    assert plan.weights == sum(4 * p.numel() for p in model.parameters())


RECIPES = Path(__file__).resolve().parents[2] / "recipes"


FEW = 2


def served_recipes() -> list[str]:
    """One recipe of every model: those that differ in how it is trained alone are served alike."""
    found: dict[str, str] = {}
    for path in sorted(RECIPES.rglob("*.yaml")):
        recipe = load_recipe(str(path))
        needed = {key for key, required in family(recipe.wam.family).keywords().items() if required}
        if needed <= recipe.wam.config.keys():
            key = repr((recipe.wam, recipe.data.cameras, recipe.rollout, recipe.distill is None))
            found.setdefault(key, path.relative_to(RECIPES).with_suffix("").as_posix())
    return list(found.values())


@pytest.mark.parametrize("name", served_recipes())
def test_every_recipe_s_model_is_planned_or_refused_in_a_sentence(name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = str(RECIPES / f"{name}.yaml")
    # Blocks are alike, and every one takes its time.
    deep = load_recipe(path).wam.config.get("num_layers", 0) > FEW
    recipe = load_recipe(path, [f"wam.config.num_layers={FEW}"] if deep else [])
    # A model around another one, which is not here.
    if "pretrained" in {**recipe.wam.config, **recipe.wam.config.get("primary", {})}:
        with pytest.raises(FileNotFoundError, match="is missing: expected"):
            plan_serving(recipe)
        return
    if recipe.wam.family == "smolvla":
        with pytest.raises(ValueError, match=r"asks for them as it draws .*: serve it, and read the GPU's memory off"):
            plan_serving(recipe)
        return
    plan = plan_serving(recipe)
    assert plan.peak > plan.weights > 0
    # Families whose past is kept in a cache of fixed size tell of the other.
    assert any("'dynamic'" in text for text in plan.warnings) == (
        recipe.wam.family == "lingbot_va" and recipe.wam.config.get("rollout", "dynamic") == "dynamic"
    )


def test_a_policy_is_not_planned_as_the_model_that_it_is_built_on(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"'foresight' makes a policy .* not counted: serve it, and read"):
        plan_serving(load_recipe("metaworld/foresight"))
    plan_serving(load_recipe("metaworld/foresight"), "teacher")
    recipe = load_recipe("metaworld/foresight_one_step")
    for plan in (plan_serving(recipe), plan_training(recipe)):
        assert any("runs/foresight/teacher, which cannot be read here" in text for text in plan.warnings)
    folder = tmp_path / "runs/foresight/teacher"
    folder.mkdir(parents=True)
    (folder / "wam.json").write_text(json.dumps({"family": "foresight"}))
    (folder / "backbone").mkdir()
    (folder / "backbone" / "wam.json").write_text(json.dumps({"family": "lingbot_va"}))
    with pytest.raises(ValueError, match="runs/foresight/teacher holds a policy that is built on the planned model"):
        plan_serving(recipe)
    assert any("teacher holds a policy" in text for text in plan_training(recipe).warnings)


def test_more_episodes_take_more_pasts_and_one_chunk_at_a_time() -> None:
    recipe = load_recipe("metaworld/flash_wam")
    one, three = (plan_serving(recipe, sessions=n, dtype="float32", rollout="static") for n in (1, 3))
    assert three.peak - one.peak == 2 * (one.past.stays + one.pictures.stays)


def test_a_cache_that_grows_is_counted_as_it_is_at_most() -> None:
    """Twice the past for each of its sessions, and twice it once more while one moves; two sessions run in graphs."""
    recipe = load_recipe("metaworld/flash_wam")
    fixed = plan_serving(recipe, rollout="static")
    past, chunk = fixed.past.stays, fixed.parts["a chunk"]
    for rollout, sessions, growing in ((None, 1, 1), ("dynamic", 3, 3), ("graphed", 2, 0), ("graphed", 5, 3)):
        plan = plan_serving(recipe, rollout=rollout, sessions=sessions)
        assert plan.parts["past"] == (sessions + growing) * past
        assert plan.parts["a chunk"] == chunk + (2 * past if growing else 0)
        assert any(f"{growing} session(s) run 'dynamic'" in text for text in plan.warnings) == bool(growing)
    between = (fixed.peak + past) / GIB
    assert serving_numbers(plan_serving(recipe, rollout="static", memory_gib=between))["fits"]
    assert not serving_numbers(plan_serving(recipe, memory_gib=between))["fits"]
    with pytest.raises(ValueError, match="rollout must be one of"):
        plan_serving(recipe, rollout="quick")


def test_what_is_freed_is_not_counted_and_attention_holds_no_scores() -> None:
    layer = nn.Linear(8, 8, device="meta")
    with counted_bytes(layer) as live:
        x = torch.empty(2, 4, 100, 8, device="meta")
        start = live.now
        assert start == x.nbytes
        y = functional.scaled_dot_product_attention(x, x, x)
        assert live.now == live.peak == 2 * start
        layer.weight.t()
        assert live.now == 2 * start, "a view of what was there before"
        del x, y
        assert (live.now, live.peak) == (0, 2 * start)


def test_the_command_says_what_fits(capsys: pytest.CaptureFixture) -> None:
    arguments = ["plan", "metaworld/flash_wam", "--serve"]
    assert main([*arguments, "--memory", "0.001"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("serve flash_wam: student, bfloat16, one GPU of 0.001 GiB")
    assert "does NOT fit" in text
    assert main([*arguments, "--stage", "train", "--dtype", "float32", "--json", "-"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert (numbers["kind"], numbers["fits"]) == ("teacher", None)
    assert numbers["peak_bytes"] == sum(numbers["bytes"].values())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--serve", "--gpus", "2"], "a model is served on one GPU"),
        (["--serve", "--rank", "8"], "a model is served on one GPU"),
        (["--precision", "fp8"], "--precision say how a model is served: add --serve"),
        (["--sessions", "2"], "--sessions say how a model is served: add --serve"),
    ],
)
def test_numbers_of_another_kind_are_refused(arguments: list[str], said: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["plan", "metaworld/flash_wam", *arguments]) == 2
    assert said in capsys.readouterr().err
