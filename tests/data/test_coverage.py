# SPDX-License-Identifier: Apache-2.0
import json

import numpy as np
import pytest

from flashwam.data.actions import ActionNorm
from flashwam.data.coverage import coverage, coverage_lines, worst


def norm_of(*ranges, clip=1.5):
    low, high = zip(*ranges, strict=True)
    return ActionNorm(q01=low, q99=high, used=tuple(range(len(ranges))), clip=clip)


def test_the_share_of_rows_that_clipping_changes_is_counted():
    """Against normalising and comparing."""
    rows = np.random.default_rng(0).normal(size=(4000, 3))
    norm = norm_of((-1.0, 1.0), (-2.5, 2.0), (-0.1, 0.3))
    for control, fit in enumerate(coverage(rows, norm)):
        low, high = norm.q01[control], norm.q99[control]
        values = (rows[:, control] - low) / (high - low) * 2 - 1
        assert fit.clipped == pytest.approx((values != values.clip(-1.5, 1.5)).mean())
        assert (fit.least, fit.most) == (rows[:, control].min(), rows[:, control].max())
    free = coverage(rows, norm_of((-1.0, 1.0), (-2.5, 2.0), (-0.1, 0.3), clip=None))
    assert [fit.clipped for fit in free] == [0, 0, 0]
    assert free[2].outside > 0.5


def test_the_datas_own_quantiles_fit_and_another_robots_do_not():
    random = np.random.default_rng(0)
    rows = np.stack([random.normal(size=1000), np.full(1000, 0.5), np.zeros(1000)], 1)
    rows[:4, 2] = 1
    own = coverage(rows, ActionNorm.fit(rows, least_range=1e-3))
    assert not any(fit.is_foreign for fit in own)
    assert [fit.basis for fit in own] == ["quantiles", "constant", "minimum and maximum"]
    small, far, wide = coverage(rows, norm_of((-0.1, 0.1), (5.0, 6.0), (-9.0, 9.0)))
    assert (small.is_foreign, far.is_foreign, wide.is_foreign) == (True, True, True)
    assert (small.clipped > 0.8, far.clipped, wide.clipped) == (True, 1, 0)
    assert worst([wide, small, far])[0] is far
    assert not any(fit.is_foreign for fit in coverage(rows, norm_of((-2.0, 2.0), (-9.0, 9.0), (0.0, 1.0))))


def test_a_table_has_a_line_per_control_and_the_numbers_are_json():
    rows = np.random.default_rng(0).normal(size=(500, 2))
    fits = coverage(rows, ActionNorm.fit(rows))
    lines = coverage_lines(fits)
    assert len(lines) == 3
    assert len({len(line.split("  quantiles")[0]) for line in lines[1:]}) == 1
    assert json.loads(json.dumps([fit.to_dict() for fit in fits]))[1]["control"] == 1


def test_another_number_of_controls_is_refused():
    with pytest.raises(ValueError, match="the data have 2 controls a row, the normalisation 1"):
        coverage(np.zeros((3, 2)), norm_of((-1.0, 1.0)))
