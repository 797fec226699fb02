# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from recorded_sets import TINY_VISION
from transformers import SmolVLMConfig, SmolVLMModel

from flashwam.data.layouts import separate
from flashwam.swiftvla.encoders import picture_cells
from flashwam.swiftvla.smolvla import SmolVLA, SmolVLMEncoder
from flashwam.swiftvla.training_policy import PRIMARY, Modality, PrivilegedPolicy
from flashwam.wam import family, load

B = 2
TEXT = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 8,
    "bos_token_id": None,
    "eos_token_id": None,
}
TINY = {"vision_config": TINY_VISION, "text_config": TEXT, "scale_factor": 2}
SIZES = {
    "layers": 2,
    "latent": [3, 16, 16],
    "chunk_frames": 3,
    "actions_per_frame": 2,
    "action_dim": 4,
    "text_dim": 8,
    "expert_width": 24,
}


def policy(**changes) -> SmolVLA:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SmolVLA.create(**{"smolvlm": TINY, **SIZES, **changes}).eval()


@pytest.fixture
def asked():
    generator = torch.Generator().manual_seed(0)
    clean = {"video": torch.rand(B, 3, 3, 16, 16, generator=generator) * 2 - 1}
    noisy = {"action": torch.randn(B, 4, 3, 2, 1, generator=generator)}
    return noisy, {"action": torch.full((B, 3), 0.6)}, clean, {"text": torch.randn(B, 5, 8, generator=generator)}


def test_it_is_saved_and_found_again_without_what_it_was_made_from(asked, tmp_path):
    one = policy()
    one.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert type(again) is family("smolvla") is SmolVLA
    assert torch.equal(again.velocity(*asked)["action"], one.velocity(*asked)["action"])


def test_released_weights_are_taken(asked, tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        released = SmolVLMModel(SmolVLMConfig(**TINY)).eval()
    released.save_pretrained(tmp_path / "released")
    one = SmolVLA.create(pretrained=str(tmp_path / "released"), **{**SIZES, "latent": [3, 32, 32], "text_dim": 32})
    picture = torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        expected = released.get_image_features(picture[:, None]).pooler_output[0]
    torch.testing.assert_close(one.encoder(picture, {}, torch.zeros(1, 1, 32))[0], expected)
    theirs = released.text_model.layers[1].mlp.up_proj.weight
    assert torch.equal(one.trunk.layers[1].mlp.up_proj.weight, theirs)
    assert len(one.trunk.layers) == 2
    # The language model is given the tower's tokens, and text of its own width, as they are.
    seen = one.segments(expected[None], {}, {"text": torch.ones(1, 2, 32)})
    torch.testing.assert_close(seen["primary"].tokens[0], expected)
    torch.testing.assert_close(seen["text"].tokens, torch.ones(1, 2, 32))
    one.save_pretrained(tmp_path / "policy")
    for path in (tmp_path / "released").iterdir():
        path.unlink()
    assert torch.equal(load(tmp_path / "policy").trunk.layers[1].mlp.up_proj.weight, theirs)


def test_pictures_of_other_sides_are_fitted_and_padded():
    encoder = policy().encoder
    wide = encoder._fitted(torch.ones(1, 3, 8, 16))
    assert wide.shape == (1, 3, 32, 32)
    assert (wide[:, :, :16] == 1).all()
    assert (wide[:, :, 16:] == -1).all()


@pytest.mark.parametrize("frozen", [True, False])
def test_what_is_reconstructed_stands_still(asked, frozen):
    noisy, sigma, clean, context = asked
    full = PrivilegedPolicy(
        policy(frozen_vision=frozen),
        auxiliary=Modality(tokens=2, channels=3),
        reconstruct=(PRIMARY,),
        head_width=16,
    )
    full.requires_grad_(True)
    full.freeze()
    masked = {"primary": torch.zeros(B, dtype=torch.bool)}
    told = {**context, "auxiliary": torch.randn(B, 2, 3), "valid": masked, "heads": True}
    out = full.velocity(noisy, sigma, clean, told)
    assert out["reconstruction/primary"].shape == out["target/primary"].shape
    assert not out["target/primary"].requires_grad
    tower = list(full.policy.encoder.parameters())
    assert all(p.requires_grad is not frozen for p in tower)
    with torch.no_grad():
        for parameter in full.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    later = full.velocity(noisy, sigma, clean, told)
    assert torch.equal(later["target/primary"], out["target/primary"])


def test_gradients_reach_a_tower_that_is_trained(asked):
    for frozen in (True, False):
        one = policy(frozen_vision=frozen).requires_grad_(True)
        one.velocity(*asked)["action"].square().sum().backward()
        reached = one.encoder.vision.embeddings.patch_embedding.weight.grad is not None
        assert reached is not frozen


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="give either"):
        SmolVLA.create(**SIZES)
    with pytest.raises(ValueError, match=r"layers must be in 1\.\.3"):
        policy(layers=4)
    with pytest.raises(ValueError, match=r"autoencoder\.kind: pixels"):
        policy(latent=[6, 8, 8])


def test_the_released_size():
    """SmolVLM2-500M: 64 tokens of 960 channels a picture."""
    text = {"hidden_size": 960, "num_attention_heads": 15, "num_key_value_heads": 5, "intermediate_size": 2560}
    vision = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
    config = SmolVLMConfig(
        vision_config={**vision, "image_size": 512, "patch_size": 16},
        text_config={**TEXT, **text, "num_hidden_layers": 16},
        scale_factor=4,
    )
    with torch.device("meta"):
        encoder = SmolVLMEncoder(SmolVLMModel(config))
    assert (encoder.tokens, encoder.width) == (64, 960)


@pytest.mark.parametrize(("layout", "size", "cameras"), [("width", (16, 32), 2), ("tshape", (24, 16), 3)])
def test_every_camera_is_seen_by_itself(layout, size, cameras):
    one = policy(latent=[3, *size], cameras=cameras, layout=layout)
    alone = policy(latent=[3, *size])
    picture = torch.rand(B, 3, *size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    views = separate(layout, picture, cameras=cameras)
    with torch.no_grad():
        tokens = one.encoder(picture, {}, torch.zeros(B, 1, 8))
        expected = torch.cat([alone.encoder(view, {}, torch.zeros(B, 1, 8)) for view in views], 1)
    torch.testing.assert_close(tokens, expected)
    assert one.encoder.tokens == tokens.shape[1] == cameras * alone.encoder.tokens
    moving = policy(latent=[3, *size], cameras=cameras, layout=layout, frozen_vision=False)
    target = moving.encoder.target(picture, tokens)
    assert target.shape == (B, moving.encoder.tokens, moving.encoder.target_width)
    first = target[:, : alone.encoder.tokens]
    assert torch.equal(first, picture_cells(views[0], alone.encoder.tokens))


def test_its_cameras_are_saved(asked, tmp_path):
    one = policy(cameras=2)
    one.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert (again.encoder.cameras, again.encoder.layout) == (2, "width")
    assert torch.equal(again.velocity(*asked)["action"], one.velocity(*asked)["action"])
