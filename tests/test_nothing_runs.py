# SPDX-License-Identifier: Apache-2.0
"""No file of a model or run folder runs, whatever is put in its place."""

import json
import pickle
import sys
from contextlib import suppress

import policy_toys
import pytest
from distill_toys import GaussianTeacher, ToySource, ToyWam
from papers import need
from pickles import bombs, run_by
from tiny_models import TINY_FORESIGHT, tiny_codec, tiny_wam

from flashwam.commands.describe import describe
from flashwam.core.edm import EDMSchedule
from flashwam.core.noise import NoiseSchedule
from flashwam.core.streams import StreamSpec
from flashwam.data.pictures import FramePictures
from flashwam.distillation.methods import make_method
from flashwam.distillation.trainer import train
from flashwam.evaluation.policy import load_policy
from flashwam.recipe.sections import LoopConfig
from flashwam.serve.model import load_served
from flashwam.student import load_wam, save_wam

STREAMS = {name: StreamSpec(name=name, schedule=NoiseSchedule(1.0)) for name in ("video", "action")}


def test_the_pickles_here_do_run_where_they_are_unpickled(tmp_path):
    raw, *_ = bombs(tmp_path, tmp_path / "ran")
    pickle.loads(raw)
    assert (tmp_path / "ran").is_dir()


def student(folder):
    save_wam(folder, tiny_wam(), STREAMS, kind="student", info={"teacher": "t"})
    tiny_codec().save(folder)


def fusion(folder):
    save_wam(folder, policy_toys.policy(), policy_toys.specs(), kind="teacher")
    tiny_codec().save(folder)


def foresight(folder):
    need("foresight")
    from flashwam.foresight.policy import ForesightPolicy
    from flashwam.foresight.scene import SceneEncoder

    streams = {
        "video": StreamSpec(name="video", schedule=NoiseSchedule(5.0)),
        "action": StreamSpec(name="action", schedule=EDMSchedule()),
    }
    providers = {"semantic": SceneEncoder(labels="colours", classes=8, width=6)}
    decoder = FramePictures(tiny_codec().autoencoder)
    policy = ForesightPolicy(tiny_wam(num_layers=3), providers, decoder, blocks=[0, 1], **TINY_FORESIGHT)
    save_wam(folder, policy, streams, kind="teacher", info={"teacher": "t"})
    tiny_codec().save(folder)


def read_all(folder):
    for read in (describe, load_policy, load_served):
        with suppress(Exception):
            read(folder)


@pytest.mark.parametrize("make", [student, fusion, foresight])
def test_no_file_of_a_model_is_unpickled(make, tmp_path):
    make(tmp_path / "model")
    (tmp_path / "scratch").mkdir()
    assert run_by(tmp_path / "model", read_all, scratch=tmp_path / "scratch") == []


def trained(folder, steps):
    loop = LoopConfig(method="consistency", steps=steps, batch_size=2, save_every=2, ema_decay=0.9)
    method = make_method(loop, STREAMS, ToyWam.create(seed=1), teacher=GaussianTeacher())
    return train(method, ToySource(), loop, run_dir=folder, seed=3)


def test_no_file_of_a_run_is_unpickled_when_it_goes_on(tmp_path):
    whole = tmp_path / "whole"
    with pytest.raises(KeyboardInterrupt):
        stopped(whole)
    assert sorted(path.name for path in (whole / "checkpoints").glob("step_*"))
    (tmp_path / "scratch").mkdir()
    assert run_by(whole, lambda folder: trained(folder, 4), scratch=tmp_path / "scratch") == []


def stopped(folder):
    class Stops(ToySource):
        drawn = 0

        def batch(self, indices):
            Stops.drawn += 1
            if Stops.drawn > 3:
                raise KeyboardInterrupt
            return super().batch(indices)

    loop = LoopConfig(method="consistency", steps=4, batch_size=2, save_every=2, ema_decay=0.9)
    method = make_method(loop, STREAMS, ToyWam.create(seed=1), teacher=GaussianTeacher())
    train(method, Stops(), loop, run_dir=folder, seed=3)


EVIL = "from pathlib import Path\nPath(__file__).with_name('ran').touch()\n"


@pytest.mark.parametrize(
    ("file", "keys"),
    [
        ("flashwam.json", ("streams", "video", "consistency")),
        ("flashwam.json", ("streams", "action", "consistency", "name")),
        ("flashwam.json", ("streams", "video", "schedule")),
        ("wam.json", ("family",)),
        ("codec.json", ("family",)),
        ("decoder.json", ("decoder",)),
        ("providers/semantic/provider.json", ("provider",)),
    ],
)
def test_a_module_beside_a_model_is_not_imported(file, keys, tmp_path, monkeypatch):
    (foresight if file.startswith(("decoder", "providers")) else student)(tmp_path)
    (tmp_path / "evil.py").write_text(EVIL)
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / file
    content = json.loads(path.read_text())
    at = content
    for key in keys[:-1]:
        at = at[key]
    at[keys[-1]] = "evil:Evil"
    if "schedule" in keys:
        del at["shift"]
    path.write_text(json.dumps(content))
    for read in (describe, load_wam, load_policy, load_served):
        with suppress(OSError):
            message = refusal(read, tmp_path)
            # Information names classes without loading them.
            assert message is None or ("'evil'" in message and "--trust" in message)
            assert message is not None or read is not load_policy
        assert not (tmp_path / "ran").exists()
    assert "evil" not in sys.modules


def refusal(read, folder):
    try:
        read(folder)
    except ValueError as error:
        return str(error)
    return None
