# SPDX-License-Identifier: Apache-2.0
"""One backbone in every role: the teacher stays the teacher to the bit, and the student leaves as a plain model."""

import copy
from dataclasses import fields

import pytest
import torch
from distill_toys import ToyWam
from safetensors.torch import load_file
from torch.testing import assert_close
from waves import STREAMS, Waves, loop, make, same, velocity

import flashwam
from flashwam.core.streams import StreamSpec
from flashwam.distillation.adapted_model import AdaptedLooker, AdaptedModel, adapted
from flashwam.distillation.adapters import STUDENT, Adapters
from flashwam.distillation.methods import make_method
from flashwam.distillation.roles import Roles
from flashwam.distillation.trainer import train
from flashwam.recipe.sections import LoraConfig
from flashwam.student import load_wam
from flashwam.wam import Layout, LooksInside, RolloutSession, WorldActionModel
from flashwam.wam.lingbot_va import LingBotVA

LORA = LoraConfig(rank=4, alpha=8.0)
HELD = STREAMS | {"video": StreamSpec.from_config("video", {**STREAMS["video"].config, "weight": 0.0})}
"""With the video held, on_policy has a reference too: four roles."""


def session_velocity(session) -> torch.Tensor:
    """The action velocity of a second chunk, after a true first one and a predicted video."""
    data = Waves().batch([0, 1])
    for name in ("video", "action"):
        session.append(name, data.clean[name][:, :, :2], predicted=False)
    session.advance(2)
    session.append("video", data.clean["video"][:, :, 2:], predicted=True)
    return session.velocity({"action": data.clean["action"][:, :, 2:] + 1}, {"action": torch.full((2, 2), 0.7)})[
        "action"
    ]


def disturb(model: AdaptedModel, seed: int = 0, *, layer: str = "") -> None:
    """Random adapters in the layers whose name holds `layer`."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if layer in name:
                p.copy_(torch.randn(p.shape, generator=generator) * 0.1)


def four_roles(model: LingBotVA) -> Roles:
    adapters = Adapters(model, LORA)
    student, teacher = adapted(adapters, STUDENT), adapted(adapters, None)
    return Roles(student, teacher=teacher, target=True, reference=True)


@pytest.mark.parametrize("matmul_dtype", [None, "bfloat16"])
def test_with_zero_adapters_every_role_is_the_teacher_to_the_bit(matmul_dtype):
    model = make()
    model.transformer.set_matmul_dtype(getattr(torch, matmul_dtype) if matmul_dtype else None)
    # Frozen as the backbone is: some CPUs multiply by another kernel where the weights want a gradient.
    alone = copy.deepcopy(model).eval().requires_grad_(False)
    roles = four_roles(model)
    with torch.no_grad():
        expected = velocity(alone)
        for role in (roles.teacher, roles.student, roles.target, roles.reference):
            assert same(velocity(role), expected)
            text = Waves().batch([0, 1]).text
            assert torch.equal(session_velocity(role.session(text)), session_velocity(alone.session(text)))


@pytest.mark.parametrize("layer", LingBotVA.adapter_targets)
def test_adapters_act_in_every_kind_of_layer_and_merge_into_it(tmp_path, layer):
    """A layer that is computed past its wrapper would ignore its adapter, but not the merged weight."""
    roles = four_roles(make())
    before = velocity(roles.teacher)
    disturb(roles.model, layer=layer)
    adapted = velocity(roles.student)
    roles.model.save_pretrained(tmp_path)
    plain = LingBotVA.from_pretrained(tmp_path)
    for name, value in velocity(plain).items():
        assert float((adapted[name] - before[name]).detach().abs().max()) > 1e-4
        assert_close(adapted[name], value, rtol=0, atol=1e-5)
    assert same(velocity(roles.teacher), before)
    assert same(velocity(roles.target), before)


def test_export_has_the_teachers_layout_and_leaves_all_as_it_was(tmp_path):
    roles = four_roles(make())
    disturb(roles.model)
    disturb(roles.target, 1)
    before = {name: velocity(role) for name, role in vars(roles).items() if isinstance(role, AdaptedModel)}
    for name in before:
        getattr(roles, name).save_pretrained(tmp_path / name)
    teacher, student = (
        load_file(tmp_path / f"{n}/transformer/diffusion_pytorch_model.safetensors") for n in ("teacher", "model")
    )
    assert {k: v.shape for k, v in teacher.items()} == {k: v.shape for k, v in student.items()}
    changed = {k for k in teacher if not torch.equal(teacher[k], student[k])}
    ends = tuple(f".{target}.weight" for target in LingBotVA.adapter_targets)
    assert changed == {k for k in teacher if k.startswith("blocks") and k.endswith(ends)}
    assert same(LingBotVA.from_pretrained(tmp_path / "teacher").state_dict(), make().state_dict())
    for name, expected in before.items():
        assert same(velocity(getattr(roles, name)), expected)
        for stream, value in velocity(LingBotVA.from_pretrained(tmp_path / name)).items():
            assert_close(value, expected[stream], rtol=0, atol=1e-5)


def test_there_is_one_backbone_and_only_the_students_adapter_takes_gradients():
    count = sum(p.numel() for p in make().parameters())
    roles = four_roles(make())
    members = (roles.model, roles.teacher, roles.target, roles.reference)
    tensors = {p.data_ptr(): p for role in members for p in (*role.parameters(), *role.adapters.backbone.parameters())}
    own = sum(p.numel() for p in roles.model.parameters())
    assert sum(p.numel() for p in tensors.values()) == count + 3 * own
    assert sum(p.numel() for p in roles.teacher.parameters()) == count
    assert {id(p) for p in tensors.values() if p.requires_grad} == {id(p) for p in roles.model.parameters()}
    for role in (*members, roles.model):
        velocity(role)
        assert {id(p) for p in tensors.values() if p.requires_grad} == {id(p) for p in roles.model.parameters()}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_those_of_the_low_rank_factors(tmp_path, checkpointing):
    """d/dB = scale (d/dW) A^T and d/dA = scale B^T (d/dW), with d/dW of the merged model; frozen passes in between."""
    model = make()
    roles = four_roles(model)
    disturb(roles.model)
    roles.model.save_pretrained(tmp_path)
    plain = LingBotVA.from_pretrained(tmp_path)
    sum(v.square().sum() for v in velocity(plain).values()).backward()
    if checkpointing:
        model.transformer.enable_gradient_checkpointing()
    loss = sum(v.square().sum() for v in velocity(roles.student).values())
    with torch.no_grad():
        velocity(roles.teacher)
        velocity(roles.target)
    loss.backward()
    adapters = roles.model.adapters.parameters(STUDENT)
    weights = dict(plain.named_parameters())
    scale = LORA.alpha / LORA.rank
    for name, a in adapters.items():
        if "lora_A" in name:
            b, gradient = adapters[name.replace("lora_A", "lora_B")], weights[name.replace("lora_A.", "")].grad
            assert_close(b.grad, scale * gradient @ a.T, rtol=1e-3, atol=1e-4)
            assert_close(a.grad, scale * b.T @ gradient, rtol=1e-3, atol=1e-4)


def test_interleaved_sessions_each_keep_their_role(tmp_path):
    roles = four_roles(make())
    disturb(roles.model)
    roles.model.save_pretrained(tmp_path)
    text = Waves().batch([0, 1]).text
    null, guidance = torch.zeros(2, 8), {"video": 2.0, "action": 3.0}
    opened = [role.session(text, null_text=null, guidance=guidance) for role in (roles.model, roles.teacher)]
    for model, session in zip((LingBotVA.from_pretrained(tmp_path), make()), opened, strict=True):
        expected = session_velocity(model.session(text, null_text=null, guidance=guidance))
        assert_close(session_velocity(session), expected, rtol=0, atol=2e-5)
        assert session.frame_index == 2


def test_compiled_rollouts_follow_the_roles():
    roles = four_roles(make())
    disturb(roles.model)
    text = Waves().batch([0, 1]).text
    members = (roles.model, roles.teacher, roles.target)
    expected = [session_velocity(role.session(text, static=True)) for role in members]
    torch.compiler.reset()
    roles.model.adapters.backbone.transformer.compile_rollout(backend="eager")
    for role, value in zip(members, expected, strict=True):
        # Compilers turn queries and keys by real numbers, in another order than complex ones are multiplied.
        assert_close(session_velocity(role.session(text, static=True)), value, rtol=0, atol=1e-6)
    student, teacher, _ = expected
    assert (student - teacher).abs().max() > 1e-4


@pytest.mark.parametrize(("method", "streams"), [("consistency", STREAMS), ("on_policy", STREAMS), ("on_policy", HELD)])
def test_training_leaves_the_backbone_alone_and_exports_a_plain_student(tmp_path, method, streams):
    model = make()
    kept = copy.deepcopy(model.state_dict())
    built = make_method(loop(method, lora=LORA), streams, model, teacher=model)
    roles = built.roles
    before = velocity(roles.teacher)
    result = train(built, Waves(), loop(method, lora=LORA), run_dir=tmp_path, seed=0, info={"teacher": "t"})
    assert same(velocity(roles.teacher), before)
    with roles.model.adapters.merged(None) as plain:
        assert same(plain.state_dict(), kept)
    student, info = load_wam(result)
    assert info.kind == "student"
    adapted = velocity(roles.model)
    for name, value in velocity(student).items():
        assert_close(value, adapted[name], rtol=0, atol=1e-5)
        assert float((value - before[name]).detach().abs().max()) > 1e-4
    kept = load_file(next((tmp_path / "checkpoints").glob("*/state_00000.safetensors")))
    state = {key.removeprefix("student."): x for key, x in kept.items() if key.startswith("student.")}
    assert set(state) == set(roles.model.state_dict())
    assert sum(value.numel() for value in state.values()) == sum(p.numel() for p in roles.model.parameters())
    if roles.target is not None:
        assert {key.removeprefix("target.") for key in kept if key.startswith("target.")} == set(state)


class Interrupted(Exception):
    pass


class StopsAt(Waves):
    """Interrupts the run when draws from `index` on are asked for."""

    def __init__(self, index: int) -> None:
        self.index = index

    def batch(self, indices):
        if indices[0] >= self.index:
            raise Interrupted
        return super().batch(indices)


@pytest.mark.parametrize(
    ("method", "streams", "save_weights"), [("consistency", STREAMS, "target"), ("on_policy", HELD, "student")]
)
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path, method, streams, save_weights):
    config = loop(method, lora=LORA, save_weights=save_weights, save_every=2, diagnose_every=2, batch_size=2)

    def run(folder, source):
        model = make()
        built = make_method(config, streams, model, teacher=model, seed=1)
        return train(built, source, config, run_dir=tmp_path / folder, seed=0)

    whole = run("whole", Waves())
    for stop in (3, 5):
        with pytest.raises(Interrupted):
            run("parts", StopsAt(stop * 2))
    parts = run("parts", Waves())
    assert same(load_wam(whole)[0].state_dict(), load_wam(parts)[0].state_dict())
    assert not same(load_wam(whole)[0].state_dict(), make().state_dict())


def test_a_bfloat16_backbone_trains_float32_adapters_and_exports_bfloat16(tmp_path):
    model = make().to(torch.bfloat16)
    config = loop("consistency", lora=LORA, precision="bf16", steps=2, batch_size=2)
    built = make_method(config, STREAMS, model, teacher=model)
    kept = copy.deepcopy(list(built.roles.teacher.parameters()))
    assert {p.dtype for p in built.roles.model.parameters()} == {torch.float32}
    student, _ = load_wam(train(built, Waves(), config, run_dir=tmp_path, seed=0))
    assert all(torch.equal(a, b) for a, b in zip(kept, built.roles.teacher.parameters(), strict=True))
    assert {p.dtype for p in student.parameters()} == {torch.bfloat16}
    with torch.no_grad():
        for name, value in velocity(student).items():
            assert_close(value, velocity(built.roles.model)[name], rtol=0, atol=2e-2)


def test_target_is_the_moving_average_of_the_adapter():
    roles = four_roles(make())
    start = [p.clone() for p in roles.target.parameters()]
    disturb(roles.model)
    roles.update_target(0.9)
    roles.update_target(0.9)
    for p, s, end in zip(roles.target.parameters(), start, roles.model.parameters(), strict=True):
        assert_close(p, end - 0.9**2 * (end - s), rtol=0, atol=1e-6)


def test_a_seed_fixes_the_start_and_nothing_else_moves():
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    first, second, third = (AdaptedModel(Adapters(make(), LORA, seed=seed), STUDENT).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.rand(3), expected)
    assert same(first, second)
    assert not same(first, third)


@pytest.mark.parametrize(
    ("lora", "told"),
    [
        (LoraConfig(rank=41), ["lora.rank", "41", "40 x 40"]),
        (LoraConfig(targets=("to_q", "to_z")), ["lora.targets", "'to_z'", "attn1.to_q"]),
        (LoraConfig(targets=("norm_q",)), ["no linear layer", "norm_q"]),
    ],
)
def test_adapters_that_do_not_fit_are_refused(lora, told):
    with pytest.raises(ValueError) as caught:
        make_method(loop("consistency", lora=lora), STREAMS, make(), teacher=None)
    for part in told:
        assert part in str(caught.value)


def test_two_models_are_refused_and_so_is_one_that_has_adapters():
    config = loop("consistency", lora=LORA)
    with pytest.raises(ValueError, match="share one model"):
        make_method(config, STREAMS, make(), teacher=make())
    model = make()
    make_method(config, STREAMS, model)
    with pytest.raises(ValueError, match="carries adapters already"):
        make_method(config, STREAMS, model)


@pytest.mark.parametrize("strategy", ["zero2", "zero3"])
def test_strategies_that_shard_are_refused(strategy):
    with pytest.raises(ValueError, match=r'strategy must be "single" or "ddp" with lora'):
        loop("consistency", lora=LORA, strategy=strategy)


def test_without_peft_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(ImportError, match=r"flashwam\[lora\]"):
        Adapters(make(), LORA)


def test_flow_matching_adapts_a_trained_model_and_refuses_a_fresh_one(tmp_path):
    config = loop("flow_matching", lora=LORA, steps=2)
    built = make_method(config, STREAMS, make())
    teacher, info = load_wam(train(built, Waves(), config, run_dir=tmp_path, seed=0))
    assert info.kind == "teacher"
    adapted = velocity(built.roles.model)
    for name, value in velocity(teacher).items():
        assert_close(value, adapted[name], rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match=r"train\.lora adapts a trained model; set wam\.pretrained"):
        flashwam.train(flashwam.load_recipe("metaworld/teacher", ["train.lora.rank=4"]), run_dir=tmp_path / "fresh")


def public(kind: type) -> set[str]:
    return {name for name in vars(kind) if not name.startswith("_")}


def test_a_role_hands_on_everything_that_its_backbone_says():
    backbone = make()
    role = adapted(Adapters(backbone, LORA), STUDENT)
    assert role.layout is backbone.layout
    facts = {field.name for field in fields(Layout)} | {"layout", "forward"}
    of_the_class = {"adopt", "create", "keywords", "settings", "adapter_targets", "compute_options"}
    of_the_class |= {"built_on", "text_in_blocks"}
    for name in (public(WorldActionModel) | public(LooksInside)) - facts - of_the_class:
        assert any(name in vars(kind) for kind in (AdaptedLooker, AdaptedModel)), f"{name} is not handed on"
    session = role.session(Waves().batch([0, 1]).text)
    for name in public(RolloutSession):
        assert name in vars(type(session)), f"{name} of a session is not handed on"
    assert role.pass_tokens(4) == backbone.pass_tokens(4) > 0
    assert role.text_shape == backbone.text_shape
    assert role.used_channels == backbone.used_channels


def test_a_role_tells_the_seconds_of_its_backbones_parts_and_looks_where_that_can():
    class Timed(ToyWam):
        adapter_targets = ("shared",)

        def session(self, text, **options):
            session = super().session(text, **options)
            session.part_seconds = {"backbone": 1.5}
            return session

    role = adapted(Adapters(Timed(), LORA), STUDENT)
    session = role.session(torch.zeros(2, 1, 3))
    assert session.part_seconds == {"backbone": 1.5}
    session.clock = lambda: 7.0
    assert session.clock() == session._session.clock() == 7.0
    assert not isinstance(role, LooksInside)
