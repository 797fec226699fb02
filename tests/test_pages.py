# SPDX-License-Identifier: Apache-2.0
"""The pages for released weights, run as they stand: from recordings to a judged, served student.

Networks have a few thousand random weights in the layouts of the released ones, and a training two steps; the words of
every command are the page's.
"""

import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import lerobot_sets
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_models import TINY_NETWORK, tiny_cogvideox
from tiny_released import RELEASED, SHORT, save_released

pytest.importorskip("av")
pytest.importorskip("websockets")
from pages import arguments_of, page_commands, write_files
from raw_sets import write_by_lerobot, write_v2, write_v3

from flashwam.cli import main
from flashwam.recipe import load as recipe_loading
from flashwam.report.metrics import read_metrics
from flashwam.run.folder import RunFolder
from flashwam.run.model_info import ModelInfo
from flashwam.serve.client import PolicyClient
from flashwam.serve.server import serving

DOCS = Path(__file__).resolve().parents[1] / "docs"
PROMPTS = ("fold", "open", "shut", "part 0", "")
COGVIDEOX = {**TINY_NETWORK, "text_embed_dim": 12, "sample_height": 4, "sample_width": 4}


def lingbot_settings(recipe: str) -> dict[str, Any]:
    short = {f"{loop}.{key}": value for loop in ("train", "distill") for key, value in SHORT.items()}
    steps = {f"streams.{name}.teacher_steps": 2 for name in ("video", "action")}
    network = {f"wam.config.{key}": value for key, value in RELEASED.items()}
    own = {"data.held_out_every": 3, "data.processes": 1} if recipe == "towels.yaml" else {}
    own |= {"distill.lora.rank": 2} if recipe.endswith("_lora") else {}
    pixels, latents = ("[128,160]", "[12,10]") if recipe.startswith("robotwin") else ("[64,64]", "[4,8]")
    size = {"data.camera_size": pixels, "wam.config.latent_size": latents, "data.window_frames": 8}
    return {**short, **steps, **network, **size, "wam.config.attention": "sdpa", **own}


def cogvideox_settings(recipe: str) -> dict[str, Any]:
    short = {f"{loop}.{key}": value for loop in ("train", "distill") for key, value in SHORT.items()}
    steps = {f"streams.{name}.teacher_steps": 2 for name in ("video", "action")}
    size = {"data.camera_size": "[32,32]", "wam.config.latent_size": "[4,4]", "distill.shard_teacher": "false"}
    own, released = (
        {"sample_frames": 17},
        {"num_layers": 2, "time_embed_dim": 16, "sample_frames": 9, "chunk_frames": 3},
    )
    of_own = recipe in ("folding.yaml", "videovla/robot/teacher")
    size |= {} if of_own else {"data.window_frames": 3}
    network = {f"wam.config.{key}": value for key, value in {**COGVIDEOX, **(own if of_own else released)}.items()}
    return {**short, **steps, **network, **size, "data.held_out_every": 3, "data.processes": 1}


def lingbot_stand_ins(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the place of the downloads, and of somebody's recordings."""
    for name in ("lingbot-va-posttrain-libero-long", "lingbot-va-posttrain-robotwin"):
        save_released(here / "checkpoints" / name, PROMPTS, tokens=5, dtype=torch.float32)
    monkeypatch.setattr(lerobot_sets, "CHANNELS", 48)
    monkeypatch.setattr(lerobot_sets, "TEXT", (5, 12))
    # A quarter of the released ones' pixels.
    sizes = {"libero": [(4, 4), (4, 4)], "robotwin": [(8, 10), (4, 5), (4, 5)]}
    monkeypatch.setattr(lerobot_sets, "SIZES", sizes)
    libero, robotwin = [(33, [(0, 33, 0, 9)])], [(130, [(0, 130, 0, 8)])]
    lerobot_sets.write_set(here / "data/libero", "libero", {"libero-long-lerobot": libero * 20})
    lerobot_sets.write_set(here / "data/another_day", "libero", {"libero-long-lerobot": libero * 2}, seed=1)
    sets = ("lerobot_robotwin_eef_clean_50", "lerobot_robotwin_eef_aug_500")
    lerobot_sets.write_set(here / "data/robotwin", "robotwin", dict.fromkeys(sets, robotwin * 2))


def cogvideox_stand_ins(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_cogvideox(here / "checkpoints/CogVideoX-5b-I2V", text_width=12)
    weights = load_file(Path(__file__).parent / "golden/videovla.safetensors")
    prefix = "state_dict/"
    own = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    # The golden network knows positions of 5 text tokens before those of its video; the released one has 226.
    table = "mixins.pos_embed.pos_embedding"
    own[table] = torch.cat([torch.zeros(221, own[table].shape[-1]), own[table].flatten(0, -2)])[None]
    torch.save(own, here / "checkpoints/pretrain_ckpt_light.pt")


PAGES: dict[str, tuple[Callable[..., None], Callable[[str], dict[str, Any]]]] = {
    "lingbot_va.md": (lingbot_stand_ins, lingbot_settings),
    "videovla.md": (cogvideox_stand_ins, cogvideox_settings),
}


class Reader:
    """Types the commands of a page, and looks at what is served.

    Args:
        settings: Recipe -> what makes a run of it small.
        monkeypatch: For what the commands load and serve.
    """

    SMALL: ClassVar[Mapping[str, list[str]]] = {
        "evaluate": ["--windows", "1", "--draws", "2"],
        "import": ["latent_size=[4,4]", "chunk_frames=3"],
    }

    def __init__(self, settings: Callable[[str], dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
        self.settings, self.served = settings, 0
        load = recipe_loading.load_recipe

        def small(recipe: str, overrides: Any = (), **options: Any) -> Any:
            # A run's folder says all; a recipe says what it would take of a real machine.
            if Path(recipe).is_dir():
                return load(recipe, overrides, **options)
            more = dict(self.settings(str(recipe)))
            if any(text.startswith("distill.judge") for text in overrides):
                more |= {"distill.judge.windows": 1, "distill.judge.draws": 2}
            return load(recipe, [*overrides, *(f"{key}={value}" for key, value in more.items())], **options)

        monkeypatch.setattr(recipe_loading, "load_recipe", small)
        monkeypatch.setattr("flashwam.serve.server.serve", self.visit)

    def visit(self, model: Any, options: Any) -> None:
        """In the place of serving until somebody ends it: two chunks of an episode, as a client asks for them."""
        with serving(model, options) as server, PolicyClient(server.url) as client:
            told = client.metadata
            seen = {camera: np.zeros((48, 64, 3), np.uint8) for camera in told["cameras"]}
            client.reset("fold")
            controls = client.infer(seen)
            assert controls.ndim == 3
            assert np.isfinite(controls).all()
            self.served += 1

    def type(self, words: list[str]) -> None:
        """One line of the page."""
        if words[0] == "hf":
            assert Path(words[words.index("--local-dir") + 1]).is_dir()
        elif words[0] in ("ln", "cp"):
            subprocess.run(words, check=True)
        else:
            arguments = arguments_of(words)
            assert arguments is not None, words
            arguments += self.SMALL.get(arguments[0], [])
            assert main(arguments) in (0, None), words


@pytest.mark.parametrize(
    ("page", "write"), [("lingbot_va.md", write_v2), ("videovla.md", write_v3), ("lingbot_va.md", write_by_lerobot)]
)
def test_a_page_runs_as_it_stands(page, write, tmp_path, monkeypatch, capsys):
    if write is write_by_lerobot:
        pytest.importorskip("lerobot", reason="needs LeRobot, whose recorder writes: pip install 'lerobot[dataset]'")
    stand_ins, settings = PAGES[page]
    text = (DOCS / page).read_text()
    monkeypatch.chdir(tmp_path)
    stand_ins(tmp_path, monkeypatch)
    write(tmp_path / "raw/towels/monday")
    assert len(write_files(text, tmp_path)) == 1
    reader = Reader(settings, monkeypatch)
    commands = page_commands(text)
    assert len(commands) > 15
    for words in commands:
        reader.type(words)
    assert "error:" not in capsys.readouterr().err
    assert reader.served == sum("serve" in words for words in commands) > 0
    # The last model of the page is a judged student of somebody's own recordings.
    run = RunFolder(Path(commands[-1][-1]))
    assert len(run.recording_files) == 2
    assert run.best.is_dir()
    judged = [line for line in read_metrics(run.metrics) if "judged/all_error_teacher" in line]
    assert [line["step"] for line in judged] == [0, 2]
    assert {f"step_{step}_{kind}.png" for step in (0, 2) for kind in ("video", "trajectories")} <= {
        path.name for path in run.judged.iterdir()
    }
    least = min(judged, key=lambda line: line["judged/all_error_teacher"])
    assert ModelInfo.read(run.best).steps == least["step"]
    told = json.loads(run.recording_files[0].read_text())
    assert told["recordings"]["held_out"]
    assert told["recordings"]["measures"]["all_error_teacher"] > 0
    assert ModelInfo.read(run.result("student")).teacher.endswith("_teacher/teacher")
