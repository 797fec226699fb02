# SPDX-License-Identifier: Apache-2.0
"""A file that anybody may have written is loaded, or refused in one sentence that names it."""

import copy
import json
import shutil
import struct

import pytest
import torch
from policy_toys import policy, specs
from safetensors.torch import load_file, save_file
from tiny_models import tiny_codec, tiny_wam

from flashwam.commands.describe import describe
from flashwam.core.noise import NoiseSchedule
from flashwam.core.streams import StreamSpec
from flashwam.evaluation.policy import load_policy
from flashwam.serve.model import load_served
from flashwam.student import save_wam
from flashwam.system.errors import UserError
from flashwam.system.json_file import parse_json, read_json
from flashwam.system.tensor_file import load_tensors

STREAMS = {name: StreamSpec(name=name, schedule=NoiseSchedule(1.0)) for name in ("video", "action")}
NO_JSON = [
    b"",
    b"{",
    b"\xff\xfe{}",
    b"[]",
    b"null",
    b"3",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'{"kind": 1, "kind": 2}',
    b'{"steps": NaN}',
    b'{"steps": 1e999}',
    b'{"steps": ' + b"9" * 5000 + b"}",
]
ODD = [None, [], {}, "x", -1, 1.5, True, 10**30, 10**8, 1e308, [None], {"name": 3}, "a" * 10_000, [10**9, 10**9]]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Gives the folder of a model by its name; each is made when it is first asked for."""
    root = tmp_path_factory.mktemp("models")
    make = {
        "student": lambda folder: save_wam(folder, tiny_wam(), STREAMS, kind="student", info={"teacher": "t"}),
        "policy": lambda folder: save_wam(folder, policy(), specs(), kind="teacher"),
    }

    def folder(name):
        if not (root / name).is_dir():
            make[name](root / name)
            tiny_codec().save(root / name)
        return root / name

    return folder


@pytest.fixture
def model(models, tmp_path):
    return lambda name="student": shutil.copytree(models(name), tmp_path / "model")


def refused(read, *given):
    """The sentence where something is refused, None where it is not; anything but a sentence to the user fails."""
    try:
        read(*given)
    except (ValueError, OSError) as error:
        found = error
    else:
        return None
    assert isinstance(found, (UserError, OSError))
    assert len(str(found)) < 2000
    return str(found)


@pytest.mark.parametrize("file", ["flashwam.json", "wam.json", "codec.json", "transformer/config.json"])
def test_what_is_no_json_of_ours_is_refused_by_its_name(file, model):
    folder = model()
    for content in NO_JSON:
        (folder / file).write_bytes(content)
        assert str(folder / file) in refused(load_policy, folder)
        refused(describe, folder)
    (folder / file).unlink()
    (folder / file).mkdir()
    assert file in refused(load_policy, folder)


def places(value, at=()):
    """Every place in plain values."""
    yield at
    inner = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, held in inner:
        yield from places(held, (*at, key))


def changed(content, at, value):
    content = copy.deepcopy(content)
    inner = content
    for key in at[:-1]:
        inner = inner[key]
    if value is places:
        del inner[at[-1]]
    else:
        inner[at[-1]] = value
    return content


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("student", "flashwam.json"),
        ("student", "wam.json"),
        ("student", "codec.json"),
        ("student", "transformer/config.json"),
        ("student", "vae/latent_stats.json"),
        ("policy", "wam.json"),
    ],
)
def test_odd_values_are_refused_or_mean_something(name, file, model):
    folder = model(name)
    content = json.loads((folder / file).read_text())
    content.pop("versions", None)
    # Each place with some of the values, all values over the places.
    for number, at in enumerate(places(content)):
        for value in (ODD[number % len(ODD)], places):
            if at:
                (folder / file).write_text(json.dumps(changed(content, at, value)))
                refused(load_policy, folder)
                if file == "flashwam.json":
                    refused(describe, folder)


@pytest.mark.parametrize(
    ("name", "file", "at", "value", "message"),
    [
        ("student", "flashwam.json", ("steps",), 1.5, "steps must be a whole number"),
        ("student", "flashwam.json", ("streams",), [], "streams"),
        ("student", "flashwam.json", ("recipe", "evaluate"), "x", "recipe.evaluate must be a mapping"),
        ("student", "flashwam.json", ("recipe", "data"), [3], "recipe.data must be a mapping"),
        ("student", "flashwam.json", ("recipe", "data"), {"tasks": 5}, "recipe.data.tasks: expected a list"),
        (
            "student",
            "flashwam.json",
            ("recipe", "evaluate", "episodes"),
            10**30,
            "recipe.evaluate.episodes: expected a whole number",
        ),
        ("student", "flashwam.json", ("name",), "\ud800", "half of a character"),
        ("student", "flashwam.json", ("streams", "video"), None, "'video' must be a mapping"),
        ("student", "flashwam.json", ("streams", "video", "steps"), 1.5, "steps"),
        ("student", "flashwam.json", ("streams", "video", "shift"), "1", "shift must be a finite number"),
        ("student", "codec.json", ("actions", "used"), [3.5], "whole numbers"),
        ("student", "codec.json", ("actions", "q01"), ["nan", 0, 0, 0], "no number"),
        ("student", "transformer/config.json", ("num_layers",), 100_000, "its weights cannot fill"),
        ("student", "transformer/config.json", ("ffn_dim",), 10**12, "its weights cannot fill"),
        ("student", "vae/latent_stats.json", ("config", "width"), 10**6, "its weights cannot fill"),
        ("policy", "wam.json", ("settings", "trunk", "layers"), 100_000, "its weights cannot fill"),
    ],
)
def test_a_value_that_cannot_be_is_named(name, file, at, value, message, model):
    folder = model(name)
    content = json.loads((folder / file).read_text())
    if at[0] == "recipe":
        content["recipe"] = {"evaluate": {}}
    (folder / file).write_text(json.dumps(changed(content, at, value)))
    assert message in refused(load_served if file == "flashwam.json" else load_policy, folder)


@pytest.mark.parametrize("line", [b"[1,2]", b"null", b"\xff", b"{", b'{"a": {"b": [NaN]}}', b"[" * 70 + b"]" * 70])
def test_a_line_is_parsed_as_a_file_is(line):
    message = refused(parse_json, line, "metrics.jsonl, line 3")
    assert message is None if line in (b"[1,2]", b"null") else message.startswith("metrics.jsonl, line 3 is")


def test_a_measurement_may_hold_what_is_not_finite(tmp_path):
    (tmp_path / "m.json").write_text('{"error": NaN}')
    with pytest.raises(ValueError, match=r"m\.json is not JSON: NaN is no finite number"):
        read_json(tmp_path / "m.json")
    assert read_json(tmp_path / "m.json", finite=False)["error"] != 0


@pytest.fixture
def tensors(tmp_path):
    """A safetensors file, and a function that writes it anew with another header."""
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4)}, path)
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]

    def write(header, *, size=None, body=body):
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text) if size is None else size) + text + body)

    return path, header, write


@pytest.mark.parametrize("size", [0, 1, 10**6, 2**60, 2**64 - 1])
def test_a_header_longer_than_its_file_is_refused(size, tensors):
    path, header, write = tensors
    write(header, size=size)
    assert str(path) in refused(load_tensors, path)


@pytest.mark.parametrize("header", [*NO_JSON, b'{"a": 1}', b'{"__metadata__": {"a": 1}}', b'{"a": {"dtype": "F32"}}'])
def test_a_header_that_is_none_is_refused(header, tensors):
    path, _, write = tensors
    write(header)
    assert str(path) in refused(load_tensors, path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("dtype", value) for value in ("X", None, 3, "F64", ["F32"])),
        *(("shape", value) for value in ([-2, -3], [2**62, 2**62], [3], "x", None, [2.0, 3], [True, 6], [1] * 99)),
        *(("data_offsets", value) for value in ([0, 2**60], [-8, 16], [24, 0], [0], None, [0, 24, 1], [8, 32])),
    ],
)
def test_a_header_that_lies_about_a_tensor_is_refused(field, value, tensors):
    path, header, write = tensors
    write(header | {"a": header["a"] | {field: value}})
    assert str(path) in refused(load_tensors, path)


def test_every_byte_belongs_to_one_tensor(tensors):
    path, header, write = tensors
    begin = header["b"]["data_offsets"][0]
    for lie in (
        header | {"c": header["b"]},
        {"a": header["a"]},
        header | {"b": header["b"] | {"data_offsets": [begin + 4, begin + 20]}},
    ):
        write(lie)
        assert str(path) in refused(load_tensors, path)
    write(header)
    assert load_tensors(path).keys() == load_file(path).keys() == {"a", "b"}
