# SPDX-License-Identifier: Apache-2.0
from itertools import combinations

import numpy as np
import pytest
from matplotlib.colors import rgb_to_hsv, to_rgb
from synthetic import contrast, evaluation, write

from flashwam.report.colours import run_colours
from flashwam.report.compare import gather
from flashwam.report.figures import INK, PALETTE, STREAM_COLOURS, readable
from flashwam.report.page import build_page

STUDENTS = (
    *("pairs", "pairs_cooled", "pairs_cooled_actions", "pairs_seed1", "on_policy", "on_policy_400", "best", "best_400"),
    *(f"{name}_{more}" for name in ("naive_lcm", "flash_wam") for more in ("400", "4000", "guided_400")),
    *("linear_both_400", "video_only_400", "video_only_reg_400"),
)


def on_a_dark_page(colour):
    """As the style of a page shows it there: inverted, its hue turned back, and no darker than the card."""
    assert "filter:invert(.9) hue-rotate(180deg);\nmix-blend-mode:lighten" in build_page("T", [])
    grey = np.array([0.213, 0.715, 0.072])
    turned = 2 * grey - np.eye(3)
    return np.maximum(np.clip(turned @ (0.9 - 0.8 * np.asarray(colour)), 0, 1), to_rgb("#1d2126"))


def test_a_method_has_its_colour_on_every_page():
    whole = run_colours((), STUDENTS)
    for name in ("pairs", "pairs_cooled", "pairs_cooled_actions", "on_policy", "best"):
        assert run_colours((), [name]) == {name: whole[name]}
        assert run_colours((), [name, "a", "zz", "naive_lcm"])[name] == whole[name]
        assert run_colours((), [f"study/{name}"]) == {f"study/{name}": whole[name]}


def test_a_name_with_a_number_more_has_its_methods_colour_or_a_neighbour():
    (own,) = run_colours((), ["naive_lcm"]).values()
    for name in ("naive_lcm_400", "naive_lcm_seed1", "naive_lcm 1v/1a", "naive_lcm_400 1v/2a Euler"):
        assert run_colours((), [name, "naive_lcm_guided_400"])[name] == own
    found = run_colours((), ["naive_lcm_400", "naive_lcm_4000", "naive_lcm", "video_only_reg_400"])
    assert found["naive_lcm"] == own
    assert found["video_only_reg_400"] == run_colours((), ["video_only_reg"])["video_only_reg"]
    assert len(set(found.values())) == 4
    assert not {found["naive_lcm_400"], found["naive_lcm_4000"]} & set(PALETTE)


def test_a_name_that_says_more_has_a_neighbour_on_every_page():
    (alone,) = run_colours((), ["on_policy_equal_cost"]).values()
    assert alone not in PALETTE
    assert run_colours((), ["on_policy", "on_policy_400", "on_policy_equal_cost"])["on_policy_equal_cost"] == alone
    (more,) = run_colours((), ["masked_reconstruction with auxiliary"]).values()
    assert more not in PALETTE


def test_unknown_names_have_what_is_left():
    found = run_colours((), ["b", "pairs", "a"])
    assert [found[name] for name in ("pairs", "a", "b")] == list(PALETTE[:3])


def test_sixty_runs_of_a_page_are_told_apart():
    names = [*STUDENTS, *(f"m{k:02}" for k in range(60 - len(STUDENTS)))]
    found = [np.array(to_rgb(colour)) for colour in run_colours((), names).values()]
    assert len(found) == 60
    assert min(abs(one - other).sum() for one, other in combinations(found, 2)) > 0.12
    assert set(run_colours((), [*names, "zz"])) == {*names, "zz"}


@pytest.mark.parametrize("shown", [lambda colour: colour, on_a_dark_page])
def test_every_colour_is_seen_on_white_and_on_a_dark_page(shown):
    page = shown((1.0, 1.0, 1.0))
    for colour in run_colours((), [f"m{k:02}" for k in range(60)]).values():
        assert contrast(shown(to_rgb(colour)), page) > 2.8, colour


@pytest.mark.parametrize("shown", [lambda colour: colour, on_a_dark_page])
def test_letters_are_read_on_white_and_on_a_dark_page_and_keep_their_hue(shown):
    page = shown((1.0, 1.0, 1.0))
    for colour in {*run_colours((), [f"m{k:02}" for k in range(60)]).values(), *STREAM_COLOURS.values()}:
        letters = readable(colour)
        assert contrast(shown(to_rgb(letters)), page) >= 4.5, colour
        if contrast(to_rgb(colour), (1.0, 1.0, 1.0)) >= 4.5:
            assert letters == colour
        else:
            turned = abs(rgb_to_hsv(to_rgb(letters))[0] - rgb_to_hsv(to_rgb(colour))[0])
            assert min(turned, 1 - turned) < 0.05, colour


def test_teachers_are_ink_and_methods_that_were_trained_without_one_are_not(tmp_path):
    told = [
        evaluation("teacher", nfe=(10, 10)),
        evaluation("teacher_guided", nfe=(10, 10)),
        evaluation("random", kind="baseline"),
        *(evaluation(name, kind="teacher") for name in ("masked_reconstruction", "swift_full")),
        evaluation("pairs"),
    ]
    rows = gather([write(tmp_path / one["run"], one) for one in told], tmp_path / "out")[0]
    colours = run_colours(rows)
    assert {run for run, colour in colours.items() if colour == INK} == {"teacher", "teacher_guided", "random"}
    assert len(set(colours.values())) == 4
    alone = gather([write(tmp_path / "big", evaluation("big", kind="teacher"))], tmp_path / "out")[0]
    assert run_colours(alone) == {"big": INK}
