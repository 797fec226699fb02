# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from flashwam.swiftvla.masking import MaskPolicy


@pytest.mark.parametrize(("auxiliary", "primary"), [(0.5, 0.2), (0.5, 0.5), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0)])
def test_never_both_and_each_as_often_as_asked(auxiliary, primary):
    masks = MaskPolicy(auxiliary=auxiliary, primary=primary)
    visible = masks.visible(torch.arange(1000) / 1000)
    assert (visible["auxiliary"] | visible["primary"]).all()
    assert (~visible["auxiliary"]).float().mean() == pytest.approx(auxiliary, abs=2e-3)
    assert (~visible["primary"]).float().mean() == pytest.approx(primary, abs=2e-3)
    assert masks.any is (auxiliary + primary > 0)
    assert masks.probability("primary") == primary


@pytest.mark.parametrize("chances", [{"auxiliary": 0.7, "primary": 0.4}, {"primary": -0.1}])
def test_probabilities_that_cannot_be_are_refused(chances):
    with pytest.raises(ValueError, match="never happen together"):
        MaskPolicy(**chances)
