# SPDX-License-Identifier: Apache-2.0
"""The page about a model of one's own: it shows the notebook's class, which keeps the contract, and fits a page."""

import re
import sys
from pathlib import Path

import pytest
import torch

from flashwam.recipe.load import load_recipe

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "wrap_your_own.md").read_text()


@pytest.fixture
def my_wam(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "notebooks")
    import my_wam

    yield my_wam
    sys.modules.pop("my_wam", None)


def test_the_page_fits_a_page_and_shows_the_class_as_it_is():
    assert len(PAGE.splitlines()) <= 100
    (shown,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert shown in (ROOT / "notebooks" / "my_wam.py").read_text()


def test_the_pages_recipe_describes_the_pages_model(my_wam):
    recipe = load_recipe(ROOT / "notebooks" / "my_wam_metaworld.yaml")
    assert recipe.wam.family == "my_wam:MyWAM"
    assert recipe.data.window_frames % my_wam.MyWAM(**recipe.wam.config).chunk_frames == 0


@torch.no_grad()
def test_a_masked_pass_over_a_window_equals_the_rollout_chunk_by_chunk(my_wam):
    torch.manual_seed(0)
    model = my_wam.MyWAM(video=(3, 2, 2), action=(4, 2, 1), width=16)
    size, text = model.chunk_frames, torch.zeros(2, 1, 1)
    noisy, clean = ({n: torch.randn(2, c, 3 * size, h, w) for n, (c, h, w) in model.shapes.items()} for _ in range(2))
    sigma = {name: torch.rand(2, 3 * size) for name in model.streams}
    whole = model.velocity(noisy, sigma, clean, {"text": text})
    session = model.session(text)
    for k in range(3):
        chunk = slice(k * size, (k + 1) * size)
        for name in model.streams:
            got = session.velocity({name: noisy[name][:, :, chunk]}, {name: sigma[name][:, chunk]})[name]
            torch.testing.assert_close(got, whole[name][:, :, chunk])
            session.append(name, clean[name][:, :, chunk], predicted=True)
        session.drop_predicted()
        for name in model.streams:
            session.append(name, clean[name][:, :, chunk], predicted=False)
        session.advance(size)
