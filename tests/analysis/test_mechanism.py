# SPDX-License-Identifier: Apache-2.0
"""The study of start against gradient weight: its cells, its search, and the comparison of what was measured."""

import json
from contextlib import suppress
from itertools import pairwise

import libero_study
import mechanism
import mechanism_cells
import mechanism_jobs
import one_step
import pytest
import real_time
from mechanism_cells import FOUR, SEARCHED, TINY, Extent, Place
from mechanism_rows import Gap, read_rows, take_apart
from mechanism_table import gaps_table, write_comparison
from searching import write_rate

from flashwam.core.consistency import LCM, Linear
from flashwam.distillation.methods import ConsistencyDistillation, find_method
from flashwam.system.jobs import check_jobs

SMALL = Extent(anchors=(2,), steps=(400,), seeds=(0, 1))


@pytest.fixture
def place(tmp_path):
    return Place(out=tmp_path / "out", results=tmp_path / "results", data=tmp_path / "episodes")


@pytest.mark.parametrize("varied", mechanism_cells.VARIED)
def test_a_cell_takes_start_and_weight_from_its_two_functions(place, varied):
    (block,) = Extent(varied=(varied,), anchors=(2,), steps=(400,)).blocks()
    kinds = {"linear": Linear, "lcm": LCM}
    for cell in block:
        recipe = place.recipe(cell, TINY, seed=1, rate=1e-4)
        changed = mechanism_cells.VARIED[varied]
        for name, spec in recipe.streams.items():
            assert isinstance(spec.consistency, kinds[cell.start] if name in changed else Linear)
            assert spec.guidance is None
        assert dict(recipe.distill.options["weight_as"]) == dict.fromkeys(changed, cell.weight)
        assert find_method(recipe.distill.method) is ConsistencyDistillation
        assert recipe.data.root == str(place.data)
        assert recipe.wam.pretrained == str(place.demo.teacher)


@pytest.mark.parametrize("script", [libero_study, mechanism, one_step, real_time])
def test_a_study_with_settings_of_its_own_has_folders_of_its_own(script, tmp_path, monkeypatch, capsys):
    """The committed results are of other recipes: what they have done must not be taken for what is asked for."""
    results = tmp_path / "analysis" / "results" / script.__name__.removesuffix("_study")
    results.mkdir(parents=True)
    (results / "about.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    asked = ["--set", "distill.batch_size=2", "--compare"]
    monkeypatch.setattr("sys.argv", [f"{script.__name__}.py", *asked])
    with pytest.raises(SystemExit, match=r"was made with --set nothing, not distill\.batch_size=2"):
        script.main()
    monkeypatch.setattr("sys.argv", [f"{script.__name__}.py", *asked, "--out", "mine", "--results", "kept"])
    # Some have nothing to compare then.
    with suppress(SystemExit, ValueError):
        script.main()
    assert json.loads((tmp_path / "mine" / "settings.json").read_text()) == {"settings": asked[1:2]}


def test_ema_and_warm_up_are_the_papers_share_of_every_budget(place):
    for (cell, *_), expected in zip(Extent(anchors=(2,)).blocks(), ((20, 0.975), (200, 0.9975)), strict=True):
        loop = place.recipe(cell, SEARCHED, seed=0, rate=3e-4).distill
        assert (loop.warmup_steps, loop.ema_decay) == expected
        assert (loop.lr, loop.lr_decay) == (3e-4, "cosine")


def test_long_trainings_take_the_rate_that_was_searched_for_short_ones(place):
    short, long = (Extent(anchors=(2,), steps=(steps,)) for steps in (400, 4000))
    ((cell, *_),), ((longer, *_),) = short.blocks(), long.blocks()
    write_rate(place.rate_file(cell), {"lr": 3e-3})
    assert place.rate(longer, SEARCHED) == place.rate(cell, SEARCHED) == 3e-3
    assert place.rate(longer, TINY) == mechanism_cells.TINY_RATE
    jobs = mechanism_jobs.mechanism_jobs(place, long)
    check_jobs(jobs)
    after = {job.name: job.after for job in jobs}
    assert after[f"make/{longer.name}_searched_0"] == (f"choose/{cell.name}",)
    assert [name for name in after if name.startswith("choose/")] == [
        f"choose/{one.name}" for one in next(short.blocks())
    ]


def test_targets_that_follow_faster_have_the_rate_of_few_anchors(place):
    ((few, *_),) = Extent(anchors=(2,), steps=(400,)).blocks()
    usual, fast = Extent(anchors=(25,), steps=(400,), horizons=(10, 40)).blocks()
    assert [cell.block for cell in (usual[0], fast[0])] == [
        "action_25-anchors_400-steps",
        "action_25-anchors_400-steps_40-horizons",
    ]
    write_rate(place.rate_file(few), {"lr": 3e-3})
    assert place.rate(fast[0], SEARCHED) == 3e-3
    decays = [place.recipe(cell, SEARCHED, seed=0, rate=3e-3).distill.ema_decay for cell in (usual[0], fast[0])]
    assert decays == [0.975, 0.9]
    jobs = mechanism_jobs.mechanism_jobs(place, Extent(anchors=(25,), steps=(400,), horizons=(40,)))
    check_jobs(jobs)
    made = [job.name for job in jobs if job.name.startswith("make/")]
    assert made[:4] == [f"make/{fast[0].block}_{s}-start_{w}-weight_searched_0" for s, w in FOUR]
    assert len(made) == 4 * 3


def test_one_kind_of_learning_rate_can_be_made_alone(place):
    jobs = mechanism_jobs.mechanism_jobs(place, Extent(anchors=(25,), steps=(400,), kinds=(TINY,)))
    check_jobs(jobs)
    names = [job.name for job in jobs]
    assert sum(name.startswith("make/") for name in names) == 4 * 3
    assert not any("searched" in name or name.startswith("choose/") for name in names)


def test_jobs_come_after_what_they_need_and_what_tells_most_comes_first(place):
    jobs = mechanism_jobs.mechanism_jobs(place, Extent(varied=("action", "both")))
    check_jobs(jobs)
    names = [job.name for job in jobs]
    made = [name for name in names if name.startswith("make/")]
    assert made[:4] == [f"make/action_2-anchors_400-steps_{s}-start_{w}-weight_tiny_0" for s, w in FOUR]
    steps = [int(name.split("-steps")[0].rpartition("_")[2]) for name in made]
    assert all(one <= next_ for one, next_ in pairwise(steps))
    seeds = {(name.rpartition("_")[2], "_400-" in name) for name in made}
    assert seeds == {("0", True), ("1", True), ("2", True), ("0", False)}
    # The start by itself, once for every choice of streams and set of scenes.
    starts = [name for name in names if "_lcm-start_" in name and "anchors" not in name]
    assert len(starts) == 2 * 3
    # Those whose f is no plain Euler step, in the other samplers as well.
    for sampler in ("euler", "unit"):
        driven = [name for name in names if name.endswith(f"_{sampler}")]
        assert driven
        assert not any("linear-start" in name for name in driven)


def measured(run, *, seed, error=0.1, two_way=(1, 1, 0, 0), one_way=(1, 1), setting="1v/1a", step=400, sampler="own"):
    """An evaluation where it is written by `flashwam evaluate`."""
    tasks = {
        name: {
            "episodes": len(won),
            "success": sum(won),
            "multimodal": several,
            "commitment": 0.5 if several else None,
            "ways": {"-1": 1, "0": 2, "1": 1} if several else {},
            "outcomes": list(won),
        }
        for name, won, several in (("reach-wall", two_way, True), ("button-press", one_way, False))
    }
    kind = "teacher" if run.name == "teacher" else "student"
    told = {
        "run": run.name.partition("_seed")[0],
        "kind": kind,
        "nfe": {"video": 1, "action": 1},
        "setting": setting,
        "sampler": sampler,
        "step": step,
        "seed": seed,
        "tasks": tasks,
        "open_loop": {"action_error_teacher": error},
    }
    path = run / "evaluations" / f"step{step}_{setting.replace('/', '-')}_{sampler}_seed{seed}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told))


@pytest.fixture
def half_done(place):
    """Both seeds of a block at the tiny rate, the first seed of one cell at a searched one."""
    (block,) = SMALL.blocks()
    for seed in (0, 1):
        measured(place.demo.teacher_run, seed=seed, two_way=(1, 1, 1, 1), setting="full", step=5000)
        for cell, error, two_way in zip(
            block, (0.1, 0.3, 0.15, 0.5), ((1, 1, 1, 0), (1, 0, 0, 0), (1, 1, 1, 0), (0, 0, 0, 0)), strict=True
        ):
            measured(place.run(cell, TINY, seed), seed=seed, error=error, two_way=two_way)
        measured(place.run(block[3], TINY, 0), seed=seed, step=0, two_way=(0, 0, 0, 0), one_way=(0, 0))
    path = place.rate_file(block[3])
    path.parent.mkdir(parents=True)
    path.write_text('{"lr": 0.003}')
    measured(place.run(block[3], SEARCHED, 0), seed=0, error=0.2)
    measured(place.run(block[3], SEARCHED, 0), seed=0, error=0.2, sampler="euler", two_way=(1, 1, 1, 1))
    return place


def test_a_gap_is_taken_apart_into_parts_that_add_up(half_done):
    (gap,) = take_apart(read_rows(half_done, SMALL))
    assert gap.kind == TINY
    assert gap.error == pytest.approx({"all": 0.4, "start": 0.2, "weight": 0.05, "together": 0.15})
    assert {part: paired.value for part, paired in gap.two_way.items()} == {"all": -0.75, "start": -0.5, "weight": 0}
    assert all(paired.low <= paired.value <= paired.high for paired in gap.two_way.values())
    assert {paired.trainings for paired in gap.two_way.values()} == {2}


def test_parts_of_a_gap_that_is_none_are_no_shares_of_it():
    (cell, *_), *_ = Extent().blocks()
    parts = {"weight": -0.0001, "start": 0.0003, "together": -0.0002}
    for whole, told in ((0.00003, False), (0.0012, True)):
        table = gaps_table([Gap(cell=cell, kind=SEARCHED, trainings=1, error={"all": whole, **parts}, two_way={})])
        assert ("%" in table) is told


def test_an_interrupted_study_is_compared_with_groups_and_teacher_apart(half_done):
    out = half_done.out / "comparison"
    write_comparison(half_done, SMALL, out)
    lines = (out / "mechanism.md").read_text().splitlines()
    cells = [[part.strip() for part in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    rows = {tuple(line[3:7]): line for line in cells}
    tiny = rows["lcm", "b of lcm", "0.0001 (tiny)", "own"]
    assert (tiny[8], tiny[9], tiny[11], tiny[13]) == ("0.5000", "0/8", "4/2/2", "4/4")
    assert tiny[10].startswith("0.00 [")
    assert tiny[14].startswith("1.00 [")
    assert rows["lcm", "b of lcm", "0.003 (searched)", "euler"][9] == "4/4"
    assert rows["teacher", "", "", "full"][9:11] == ["8/8", ""]
    assert rows["untrained, lcm (action)", "", "", "1v/1a"][9] == "0/8"
    assert any("(12%)" in line and "(50%)" in line for line in lines)
    content = json.loads((out / "mechanism.json").read_text())
    assert len(content["rows"]) == len(rows) - len({row for row in rows if row[3] in ("sampler", "---")}) - 3
    assert (out / "mechanism.png").read_bytes()[:4] == b"\x89PNG"
    assert mechanism.command(half_done, SMALL) == "python analysis/mechanism.py --anchors 2 --steps 400 --seeds 0 1"


def test_a_study_without_evaluations_says_what_to_run(place):
    with pytest.raises(FileNotFoundError, match=r"run python analysis/mechanism\.py first"):
        write_comparison(place, SMALL, place.out / "comparison")
