# SPDX-License-Identifier: Apache-2.0
"""Every layout a checkpoint comes in, what is refused, what is said about it, and what is written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file, save_file

from flashwam.commands.describe import describe
from flashwam.commands.info import info_lines
from flashwam.core.consistency import LCM, Linear
from flashwam.recipe.load import load_recipe
from flashwam.student import load_pretrained, load_wam, save_wam
from flashwam.wam.lingbot_va import LingBotVA, WanTransformer3DModel
from flashwam.wam.lingbot_va.checkpoint import find_transformer, load_transformer
from flashwam.wam.lingbot_va.codec import LingBotCodec
from flashwam.wam.lingbot_va.presets import preset

NAME = "diffusion_pytorch_model.safetensors"
TINY: dict[str, Any] = {
    "patch_size": [1, 2, 2],
    "num_attention_heads": 2,
    "attention_head_dim": 20,
    "in_channels": 6,
    "out_channels": 6,
    "action_dim": 30,
    "text_dim": 12,
    "freq_dim": 16,
    "ffn_dim": 64,
    "num_layers": 2,
    "cross_attn_norm": True,
    "eps": 1e-6,
    "rope_max_seq_len": 1024,
    "pos_embed_seq_len": None,
    "attn_mode": "flex",
}


def published_keys(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The released state dict: every key and its shape."""
    d = config["num_attention_heads"] * config["attention_head_dim"]
    patch, freq, text = 4 * config["in_channels"], config["freq_dim"], config["text_dim"]
    keys: dict[str, tuple[int, ...]] = {"scale_shift_table": (1, 2, d)}

    def linear(name: str, out: int, into: int) -> None:
        keys[f"{name}.weight"], keys[f"{name}.bias"] = (out, into), (out,)

    linear("patch_embedding_mlp", d, patch)
    linear("action_embedder", d, config["action_dim"])
    for embedder in ("condition_embedder", "condition_embedder_action"):
        linear(f"{embedder}.time_embedder.linear_1", d, freq)
        linear(f"{embedder}.time_embedder.linear_2", d, d)
        linear(f"{embedder}.time_proj", 6 * d, d)
        linear(f"{embedder}.text_embedder.linear_1", d, text)
        linear(f"{embedder}.text_embedder.linear_2", d, d)
    for i in range(config["num_layers"]):
        block = f"blocks.{i}"
        keys[f"{block}.scale_shift_table"] = (1, 6, d)
        for attention in ("attn1", "attn2"):
            for name in ("to_q", "to_k", "to_v", "to_out.0"):
                linear(f"{block}.{attention}.{name}", d, d)
            keys[f"{block}.{attention}.norm_q.weight"] = keys[f"{block}.{attention}.norm_k.weight"] = (d,)
        keys[f"{block}.norm2.weight"] = keys[f"{block}.norm2.bias"] = (d,)
        linear(f"{block}.ffn.net.0.proj", config["ffn_dim"], d)
        linear(f"{block}.ffn.net.2", d, config["ffn_dim"])
    linear("proj_out", 4 * config["out_channels"], d)
    linear("action_proj_out", config["action_dim"], d)
    return keys


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(11)
    return {key: torch.randn(shape, generator=generator) for key, shape in published_keys(TINY).items()}


def write(folder: Path, weights: dict[str, torch.Tensor], *, shards: int = 1, **config: Any) -> Path:
    """A transformer's folder as it is released."""
    folder.mkdir(parents=True)
    content = {"_class_name": "WanTransformer3DModel", "_diffusers_version": "0.36.0", **TINY, **config}
    (folder / "config.json").write_text(json.dumps(content))
    if shards == 1:
        save_file(weights, folder / NAME, metadata={"format": "pt"})
        return folder
    keys, where = sorted(weights), {}
    for i in range(shards):
        name = f"diffusion_pytorch_model-{i + 1:05}-of-{shards:05}.safetensors"
        save_file({key: weights[key] for key in keys[i::shards]}, folder / name, metadata={"format": "pt"})
        where |= dict.fromkeys(keys[i::shards], name)
    (folder / f"{NAME}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder


def released(root: Path, weights: dict[str, torch.Tensor], **options: Any) -> Path:
    write(root / "transformer", weights, **options)
    for part in ("vae", "text_encoder", "tokenizer"):
        (root / part).mkdir()
    return root


def lerobot(root: Path, weights: dict[str, torch.Tensor]) -> Path:
    root.mkdir()
    save_file({f"transformer.{key}": value for key, value in weights.items()}, root / "model.safetensors")
    policy = {"type": "lingbot_va", "height": 128, "width": 128, "attn_window": 30, "dtype": "bfloat16"}
    (root / "config.json").write_text(json.dumps(policy | {k: v for k, v in TINY.items() if v is not None}))
    return root


def release_step(root: Path, weights: dict[str, torch.Tensor]) -> Path:
    write(root / "online_student" / "transformer", weights)
    write(root / "target_student" / "transformer", {key: value + 1 for key, value in weights.items()})
    return root


MAKE: dict[str, Callable[[Path, dict[str, torch.Tensor]], Path]] = {
    "released": released,
    "sharded": lambda root, weights: released(root, weights, shards=3),
    "fine-tune": lambda root, weights: write(root / "transformer", weights).parent,
    "transformer": write,
    "flash-wam": release_step,
    "lerobot": lerobot,
}


def test_our_keys_are_the_published_ones() -> None:
    with torch.device("meta"):
        real = WanTransformer3DModel()
    shapes = {key: tuple(value.shape) for key, value in real.state_dict().items()}
    assert shapes == published_keys(dict(real.config))


@pytest.mark.parametrize("layout", MAKE)
def test_every_layout_loads(layout: str, weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = MAKE[layout](tmp_path / "ckpt", weights)
    source = find_transformer(path)
    assert source.layout == ("released" if layout == "sharded" else layout)
    loaded = load_transformer(path).state_dict()
    assert set(loaded) == set(weights)
    assert all(torch.equal(loaded[key], value) for key, value in weights.items())


def test_either_student_of_the_release(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    step = release_step(tmp_path / "step_2000", weights)
    key = "proj_out.bias"
    assert torch.equal(load_transformer(step).state_dict()[key], weights[key])
    for path, options in ((step, {"role": "target_student"}), (step / "target_student", {})):
        assert torch.equal(load_transformer(path, **options).state_dict()[key], weights[key] + 1)
    with pytest.raises(ValueError, match="role must be one of"):
        load_transformer(step, role="student")
    with pytest.raises(ValueError, match="no step of the Flash-WAM release"):
        load_transformer(step / "online_student", role="online_student")
    with pytest.raises(FileNotFoundError, match="step_2000: give one of them"):
        find_transformer(tmp_path)


def test_dtypes(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    half = {key: value.bfloat16() for key, value in weights.items()}
    path = write(tmp_path / "transformer", half)
    as_saved, single = load_transformer(path), load_transformer(path, dtype=torch.float32)
    assert {p.dtype for p in as_saved.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in single.parameters()} == {torch.float32}
    assert all(torch.equal(value, half[key].float()) for key, value in single.state_dict().items())


def test_attention_mode_of_the_file_changes_nothing(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    for mode in ("flex", "torch", "flashattn"):
        assert load_transformer(write(tmp_path / mode, weights, attn_mode=mode)).attention == "sdpa"


def test_the_unused_text_embedder_is_kept(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    key = "condition_embedder_action.text_embedder.linear_1.weight"
    loaded = load_transformer(write(tmp_path / "transformer", weights))
    assert torch.equal(loaded.state_dict()[key], weights[key])
    loaded.save_pretrained(tmp_path / "again")
    assert torch.equal(load_file(tmp_path / "again" / NAME)[key], weights[key])
    without = {name: value for name, value in weights.items() if name != key}
    with pytest.raises(ValueError, match=f"missing {key}"):
        load_transformer(write(tmp_path / "without", without))


@pytest.mark.parametrize("layout", ["released", "sharded", "lerobot"])
def test_keys_that_do_not_fit_are_listed(layout: str, weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    wrong = dict(weights)
    del wrong["proj_out.bias"]
    wrong["action_embedder.weight"] = torch.zeros(40, 29)
    wrong["blocks.0.attn1.lora"] = torch.zeros(2)
    wrong["blocks.0.attn1.norm_added_q.weight"] = torch.zeros(2)
    path = MAKE[layout](tmp_path / "ckpt", wrong)
    with pytest.raises(ValueError, match=r"\(3 keys\)") as caught:
        load_transformer(path)
    for line in (
        "missing proj_out.bias (24,)",
        "misshapen action_embedder.weight: expected (40, 30), got (40, 29)",
        "unexpected blocks.0.attn1.lora (2,)",
    ):
        assert line in str(caught.value)


def test_keys_without_the_prefix_and_keys_twice(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = lerobot(tmp_path / "policy", weights)
    stored = load_file(path / "model.safetensors")
    save_file(stored | {"vae.weight": torch.zeros(1)}, path / "model.safetensors")
    with pytest.raises(ValueError, match=r"unexpected .*vae\.weight"):
        load_transformer(path)
    path = write(tmp_path / "sharded", weights, shards=2)
    shard = sorted(path.glob("*.safetensors"))[0]
    save_file(load_file(shard) | {"proj_out.bias": weights["proj_out.bias"]}, shard)
    other = sorted(path.glob("*.safetensors"))[1]
    save_file(load_file(other) | {"proj_out.bias": weights["proj_out.bias"]}, other)
    with pytest.raises(ValueError, match=r"in two files: proj_out\.bias"):
        load_transformer(path)


def test_damaged_and_foreign_files(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = write(tmp_path / "a", weights)
    content = (path / NAME).read_bytes()
    for damaged in (content[:-1], content[:100], b"", b"\x80\x04pickle" * 9, b"\xff" * 64):
        (path / NAME).write_bytes(damaged)
        with pytest.raises(ValueError, match=NAME):
            load_transformer(path)
        with pytest.raises(ValueError, match=NAME):
            describe(path)
    (path / NAME).unlink()
    with pytest.raises(FileNotFoundError, match=NAME):
        load_transformer(path)
    index = path / f"{NAME}.index.json"
    index.write_text(json.dumps({"weight_map": {"proj_out.bias": "../../elsewhere.safetensors"}}))
    with pytest.raises(ValueError, match="outside"):
        load_transformer(path)
    index.write_text("[]")
    with pytest.raises(ValueError, match="no index"):
        load_transformer(path)
    for config, message in (("{", "not JSON"), ("[]", "mapping"), ('{"_class_name": "Other"}', "'Other'")):
        (path / "config.json").write_text(config)
        with pytest.raises(ValueError, match=message):
            load_transformer(path)
    (path / "config.json").write_text('{"type": "pi0"}')
    with pytest.raises(ValueError, match="'pi0'"):
        load_transformer(path)
    with pytest.raises(FileNotFoundError, match="hf download"):
        load_transformer("robbyant/lingbot-va-base")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no LingBot-VA transformer"):
        load_transformer(tmp_path / "empty")


def test_presets_say_how_a_foreign_checkpoint_is_run(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = released(tmp_path / "base", weights)
    with pytest.raises(FileNotFoundError, match="preset"):
        LingBotVA.from_pretrained(path)
    with pytest.raises(FileNotFoundError, match="preset"):
        load_wam(path)
    model, info = load_wam(path, preset="libero", dtype=torch.bfloat16)
    assert (info.kind, model.chunk_frames, model.actions_per_frame, model.window_chunks) == ("teacher", 4, 4, 29)
    assert model.config.latent_size == (8, 16)
    assert model.config.used_channels == tuple(range(7))
    video, action = info.streams.values()
    assert (video.schedule.shift, video.teacher_steps, video.guidance_scale) == (5.0, 20, 5.0)
    assert (action.schedule.shift, action.teacher_steps, action.guidance_scale) == (0.05, 50, 1.0)

    student, info = load_wam(release_step(tmp_path / "step_1", weights), preset="robotwin", role="target_student")
    assert info.kind == "student"
    assert [spec.consistency for spec in info.streams.values()] == [LCM(sigma_data=0.5), Linear()]
    assert torch.equal(student.transformer.proj_out.bias, weights["proj_out.bias"] + 1)

    save_wam(tmp_path / "own", model, info.streams, kind="student")
    again, _ = load_wam(tmp_path / "own")
    assert again.config == model.config
    with pytest.raises(ValueError, match="leave preset"):
        load_wam(tmp_path / "own", preset="libero")
    with pytest.raises(ValueError, match="leave preset"):
        LingBotVA.from_pretrained(tmp_path / "own", preset="libero")


def test_a_recipe_adopts_a_released_teacher(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    half = {key: value.bfloat16() for key, value in weights.items()}
    folder = released(tmp_path / "base", half)
    network = {key: TINY[key] for key in ("num_attention_heads", "attention_head_dim", "num_layers", "ffn_dim")}
    network |= {key: TINY[key] for key in ("in_channels", "out_channels", "text_dim", "freq_dim")}
    overrides = [f"wam.pretrained={folder}", *(f"wam.config.{key}={value}" for key, value in network.items())]
    overrides += ["wam.config.attention=sdpa"]
    recipe = load_recipe("lingbot_va/libero/flash_wam", overrides)
    model = load_pretrained(folder, recipe.wam)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(model.transformer.proj_out.weight, half["proj_out.weight"].float())
    assert model.transformer.gradient_checkpointing
    assert (model.config.latent_size, model.config.chunk_frames, model.config.used_channels) == (
        (8, 16),
        4,
        tuple(range(7)),
    )
    wrong = load_recipe("lingbot_va/libero/flash_wam", [*overrides, "wam.config.num_layers=3"])
    with pytest.raises(ValueError, match=r"expected \{'num_layers': 3\}, got \{'num_layers': 2\}"):
        load_pretrained(folder, wrong.wam)
    save_wam(tmp_path / "own", model, recipe.streams, kind="teacher")
    with pytest.raises(ValueError, match=r"num_layers 3 instead of 2.*wam\.config\.num_layers=2"):
        load_pretrained(tmp_path / "own", wrong.wam)
    own = load_pretrained(tmp_path / "own", recipe.wam)
    assert own.config == model.config
    # How it computes is the recipe's to say, also of a folder that flashwam wrote.
    assert own.transformer.gradient_checkpointing
    assert own.transformer.attention == "sdpa"
    flex = load_recipe("lingbot_va/libero/flash_wam", [*overrides, "wam.config.attention=flex"])
    assert load_pretrained(tmp_path / "own", flex.wam).transformer.attention == "flex"


def test_unused_channels_reach_neither_network_nor_cache(make_wam: Callable[..., LingBotVA]) -> None:
    plain, masked = make_wam(), make_wam(used_channels=[3, 0])
    generator = torch.Generator().manual_seed(0)
    x = {name: torch.randn(1, c, 2, *size, generator=generator) for name, (c, *size) in plain.shapes.items()}
    kept = dict(x, action=x["action"] * torch.tensor([1.0, 0, 0, 1, 0]).view(1, 5, 1, 1, 1))
    sigma = {name: torch.full((1, 2), 0.5) for name in x}
    text = torch.randn(1, 6, 12, generator=generator)
    with torch.no_grad():
        ours, expected = masked.velocity(x, sigma, x, {"text": text}), plain.velocity(kept, sigma, kept, {"text": text})
    assert all(torch.equal(ours[name], expected[name]) for name in x)
    drawn = []
    for wam, stream in ((masked, x), (plain, kept)):
        session = wam.session(text)
        session.append("video", stream["video"], predicted=False)
        session.append("action", stream["action"], predicted=False)
        session.advance(2)
        drawn.append(session.velocity({"action": stream["action"]}, {"action": sigma["action"]})["action"])
    assert torch.equal(*drawn)
    with pytest.raises(ValueError, match="below the model's 5"):
        make_wam(used_channels=[5])


def test_a_saved_student_loads_strictly_in_the_original(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    teacher = released(tmp_path / "teacher", {key: value.bfloat16() for key, value in weights.items()})
    model, info = load_wam(teacher, preset="libero")
    save_wam(tmp_path / "student", model, info.streams, kind="student", info={"teacher": "robbyant/base", "steps": 3})
    folder = tmp_path / "student" / "transformer"
    stored = load_file(folder / NAME)
    assert {key: tuple(value.shape) for key, value in stored.items()} == published_keys(TINY)
    assert {value.dtype for value in stored.values()} == {torch.bfloat16}
    config = json.loads((folder / "config.json").read_text())
    assert config["_class_name"] == "WanTransformer3DModel"
    assert {key for key in config if not key.startswith("_")} == set(TINY)
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", NAME]


@pytest.mark.parametrize("layout", ["released", "sharded", "fine-tune", "flash-wam", "lerobot"])
def test_info_of_every_layout(layout: str, weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    half = {key: value.bfloat16() for key, value in weights.items()}
    facts = describe(MAKE[layout](tmp_path / "ckpt", half))
    text = "\n".join(info_lines(facts))
    json.dumps(facts)
    both = [facts["online_student"], facts["target_student"]] if layout == "flash-wam" else [facts]
    for one in both:
        assert one["family"] == "lingbot_va"
        assert one["parameters"] == sum(value.numel() for value in weights.values())
        assert one["network"]["num_layers"] == 2
        assert one["layout"] == ("released" if layout == "sharded" else layout)
        assert one["weights"].endswith(f"in {3 if layout == 'sharded' else 1} file(s)")
        assert one["streams"]["action"].startswith("30 channels")
    assert {one["dtype"] for one in both} == {"BF16"}
    assert ("lcm" in text) == (layout == "flash-wam")
    if layout == "released":
        assert (facts["parts"], facts["missing parts"]) == (["transformer", "vae", "text_encoder", "tokenizer"], [])
        assert facts["diffusers"] == "0.36.0"
    if layout == "lerobot":
        assert facts["rollout"] == {"height": 128, "width": 128, "attn_window": 30}


def test_codec_of_a_checkpoint_and_of_a_student(
    golden: dict[str, Any], weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    base = released(tmp_path / "base", weights)
    for part in ("vae", "text_encoder", "tokenizer"):
        (base / part).rmdir()
    with pytest.raises(FileNotFoundError, match="vae"):
        LingBotCodec.from_pretrained(base, "libero")
    config = {k.removeprefix("vae/config/"): v for k, v in golden.items() if k.startswith("vae/config/")}
    AutoencoderKLWan(**config).save_pretrained(base / "vae")
    codec = LingBotCodec.from_pretrained(base, "libero", dtype=torch.float32)
    student = tmp_path / "student"
    student.mkdir()
    codec.save(student, checkpoint=base)
    again = LingBotCodec.load(student, dtype=torch.float32)
    assert (again.cameras, again.actions) == (codec.cameras, preset("libero").actions())
    ours, theirs = again.vae.model.state_dict(), codec.vae.model.state_dict()
    assert all(torch.equal(ours[key], value) for key, value in theirs.items())
    with pytest.raises(FileNotFoundError, match="no prompts"):
        again.text("cup")
    moved = shutil.move(base, tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match="vae"):
        LingBotCodec.load(student)
    LingBotCodec.load(student, checkpoint=moved)
