# SPDX-License-Identifier: Apache-2.0
"""The second stage keeps the vision models of the first, and a recipe that names others is refused."""

import pytest

from flashwam.foresight.each_camera import EachCamera
from flashwam.foresight.providers import refuse_others
from flashwam.foresight.scene import SceneEncoder


@pytest.fixture(params=[False, True], ids=["one picture", "each camera"])
def kept(request):
    scene = SceneEncoder(labels="segmentation", classes=4, width=8)
    return {"semantic": EachCamera(scene, layout="width", cameras=2) if request.param else scene}


def test_the_same_or_none_are_taken(kept):
    refuse_others({}, kept)
    refuse_others({"semantic": {"name": "scene", "labels": "segmentation"}}, kept)
    refuse_others({"semantic": {"name": "scene", "steps": 3}}, kept)


def test_others_are_refused(kept):
    with pytest.raises(ValueError, match=r"\['depth'\] are not \['semantic'\], which distill\.init was trained with"):
        refuse_others({"depth": {"name": "scene"}}, kept)
    with pytest.raises(ValueError, match=r"providers\.semantic .* was trained with {'labels': 'segmentation'}"):
        refuse_others({"semantic": {"name": "scene", "labels": "colours"}}, kept)
