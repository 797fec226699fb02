# SPDX-License-Identifier: Apache-2.0
"""A second stage of training goes on from the adapter of the first, and from no other's."""

import pytest
from waves import STREAMS, Waves, loop, make, same, velocity

from flashwam.distillation.adapter_file import fingerprint, save_adapter
from flashwam.distillation.adapters import STUDENT
from flashwam.distillation.methods import make_method
from flashwam.distillation.trainer import train
from flashwam.pipeline.ready import set_precision
from flashwam.recipe.sections import LoraConfig

LORA = LoraConfig(rank=4, alpha=8.0)


def test_a_second_stage_goes_on_from_the_first_ones_adapter(tmp_path):
    def stage(method, **changes):
        model = make()
        config = loop(method, lora=LORA, **changes)
        return make_method(config, STREAMS, model, teacher=model), config

    built, config = stage("consistency")
    first = train(built, Waves(), config, run_dir=tmp_path / "first", seed=0)
    second, _ = stage("on_policy", init=str(first))
    assert same(second.roles.model.state_dict(), built.roles.model.state_dict())
    assert same(velocity(second.roles.model), velocity(built.roles.model))
    assert same(velocity(second.roles.teacher), velocity(make().requires_grad_(False)))

    with pytest.raises(ValueError, match=r"rank 4 and alpha 8\.0; this recipe's lora asks for 4 and 9"):
        make_method(loop("on_policy", lora=LoraConfig(rank=4, alpha=9), init=str(first)), STREAMS, make())
    fewer = LoraConfig(rank=4, alpha=8, targets=("attn1.to_q", "ffn.net.2"))
    with pytest.raises(ValueError, match="other layers"):
        make_method(loop("on_policy", lora=fewer, init=str(first)), STREAMS, make())
    with pytest.raises(ValueError, match="another teacher"):
        make_method(loop("on_policy", lora=LORA, init=str(first)), STREAMS, make(seed=1))
    (first / "adapter.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="lora to null"):
        stage("on_policy", init=str(first))


@pytest.mark.parametrize(("before", "after"), [("bf16", "no"), ("no", "bf16")])
def test_a_second_stage_may_have_another_precision(tmp_path, before, after):
    """The backbone of a training in bf16 is rounded, and still the same one."""

    def stage(precision, **changes):
        model, config = make(), loop("consistency", lora=LORA, precision=precision, **changes)
        set_precision(config, model, model)
        return make_method(config, STREAMS, model, teacher=model), config

    built, config = stage(before)
    first = train(built, Waves(), config, run_dir=tmp_path / "first", seed=0)
    second, _ = stage(after, init=str(first))
    ours, theirs = (method.roles.model.adapters.parameters(STUDENT) for method in (second, built))
    assert same(ours, theirs)


def test_an_adapter_of_an_earlier_version_is_known_again(tmp_path):
    """They noted the backbone's own bytes."""
    model = make()
    config = loop("consistency", lora=LORA)
    built = make_method(config, STREAMS, model, teacher=model)
    first = train(built, Waves(), config, run_dir=tmp_path / "first", seed=0)
    adapters = built.roles.model.adapters
    earlier = fingerprint(adapters.telling, rounded=False)
    assert earlier != adapters.fingerprint()
    save_adapter(first, adapters.parameters(STUDENT), LORA, backbone=earlier)
    again = make()
    assert make_method(loop("consistency", lora=LORA, init=str(first)), STREAMS, again, teacher=again)
