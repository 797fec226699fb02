# SPDX-License-Identifier: Apache-2.0
"""Models of a hub: huggingface_hub itself, asking a server of this process that answers as the hub does."""

import hashlib
import json
import re
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
from tiny_models import TINY, save_tiny_student, tiny_wam
from tiny_windows import Windows

import flashwam
import flashwam.student
from flashwam import wam
from flashwam.cli import main
from flashwam.evaluation.policy import load_model
from flashwam.evaluation.reference import _teacher_folder
from flashwam.pipeline.training import distill
from flashwam.recipe.load import load_recipe
from flashwam.recipe.sections import WamConfig
from flashwam.run.model_info import ModelInfo
from flashwam.serve.direct import WamPipeline
from flashwam.serve.model import load_served
from flashwam.student import load_pretrained
from flashwam.system import hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """One repository, lab/tiny, of the folder `served`, to which nobody may write; `asked` collects paths."""

    served: Path
    asked: list
    refusal = (401, "Invalid username or password.")

    def log_message(self, *words):
        pass

    def _answer(self, status, content=b"", **headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_GET(self):
        type(self).asked.append(self.path)
        path = self.path.partition("?")[0].removeprefix("/")
        if path.startswith("api/models/lab/tiny"):
            files = [p.relative_to(self.served).as_posix() for p in sorted(self.served.rglob("*")) if p.is_file()]
            told = {"id": "lab/tiny", "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
            entries = [
                {"type": "file", "path": n, "size": (self.served / n).stat().st_size, "oid": self._etag(n)}
                for n in files
            ]
            content = json.dumps(entries if "/tree/" in path else told).encode()
            self._answer(200, content, Content_Type="application/json")
            return
        name = path.removeprefix(f"lab/tiny/resolve/{COMMIT}/")
        if name == path or not (self.served / name).is_file():
            self._answer(404, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
            return
        content = (self.served / name).read_bytes()
        self._answer(200, content, ETag=f'"{self._etag(name)}"', X_Repo_Commit=COMMIT)

    do_HEAD = do_GET

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, reason = self.refusal
        self._answer(status, json.dumps({"error": reason}).encode(), Content_Type="application/json")

    def _etag(self, name):
        return hashlib.sha256((self.served / name).read_bytes()).hexdigest()[:40]


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A hub with a student; huggingface_hub asks it, and keeps what it fetches in a cache of this test."""
    folder = save_tiny_student(tmp_path / "lab" / "student")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "large.safetensors").write_bytes(b"not for anybody")
    Hub.served, Hub.asked = folder, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    hub._fetched.cache_clear()
    yield folder
    server.shutdown()
    server.server_close()
    thread.join()
    hub._fetched.cache_clear()


def test_a_model_is_fetched_once_and_loads_as_the_one_that_was_pushed(served, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = load_model("hf:lab/tiny", trust=False)
    own = load_model(served)
    assert all((a == b).all() for a, b in zip(model.wam.parameters(), own.wam.parameters(), strict=True))
    assert (model.info.name, model.info.steps) == ("tiny", 7)
    assert not any("checkpoints" in path and "resolve" in path for path in Hub.asked)
    # What is measured of it lies with the user, not in the cache.
    assert model.evaluations == Path("runs/hub/lab/tiny/evaluations")
    count = len(Hub.asked)
    assert main(["info", "hf:lab/tiny"]) == 0
    assert "student" in capsys.readouterr().out
    assert len(Hub.asked) == count


def test_every_function_that_takes_a_models_folder_takes_its_name_on_the_hub(served):
    own, info = flashwam.load_wam(served)
    loaded, told = flashwam.load_wam("hf:lab/tiny")
    models = [loaded, wam.load("hf:lab/tiny"), load_pretrained("hf:lab/tiny", WamConfig())]
    for model in (*models, load_served("hf:lab/tiny").wam):
        assert all((a == b).all() for a, b in zip(model.parameters(), own.parameters(), strict=True))
    assert told == info == ModelInfo.read("hf:lab/tiny")
    with pytest.raises(ValueError, match="the hub has no model lab/none"):
        flashwam.load_wam("hf:lab/none")


def test_a_recipes_teacher_may_be_of_the_hub(served, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    few = ["distill.steps=2", "distill.warmup_steps=0", "distill.batch_size=2", "distill.method=consistency"]
    config = [f"wam.config.{key}={json.dumps(value)}" for key, value in TINY.items()]

    def student(teacher, name):
        chosen = load_recipe("metaworld/flash_wam", [*few, *config, f"wam.pretrained={teacher}", f"name={name}"])
        return distill(chosen, source=Windows(tiny_wam()))

    own, fetched = student(served, "own"), student("hf:lab/tiny", "fetched")
    weights = [wam.load(folder).state_dict() for folder in (own, fetched)]
    assert all((weights[0][key] == weights[1][key]).all() for key in weights[0])
    # The run is found again by the same words, and says where its teacher lies.
    assert student("hf:lab/tiny", "fetched") == fetched
    assert ModelInfo.read(Path("runs/fetched/student")).teacher == str(hub.fetch_folder("hf:lab/tiny"))
    assert "base_model: lab/tiny" in (Path("runs/fetched/student") / "README.md").read_text()
    assert main(["distill", "flash_wam", *config, "wam.pretrained=hf:lab/tiny", "--dry-run"]) == 0
    assert "hf:lab/tiny (fetched when it begins" in capsys.readouterr().out
    assert main(["distill", "flash_wam", *config, "wam.pretrained=hf:lab/none"]) == 2
    assert "the hub has no model lab/none" in " ".join(capsys.readouterr().err.split())


def test_nothing_is_fetched_for_a_training_that_cannot_be_done_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("metaworld/flash_wam", ["distill.trackers=[diary]", "wam.pretrained=hf:lab/none"])
    with pytest.raises(ValueError, match="unknown tracker 'diary'"):
        distill(recipe)


def test_recordings_are_judged_against_a_teacher_of_the_hub(served):
    student = load_model(served)
    info = replace(student.info, extra={**student.info.extra, "role": "student"})
    assert _teacher_folder(replace(student, info=info), "hf:lab/tiny") == hub.fetch_folder("hf:lab/tiny")
    with pytest.raises(ValueError, match="the hub has no model lab/none"):
        _teacher_folder(student, "hf:lab/none")


def test_a_pushed_models_card_loads_it(served, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", Written)
    flashwam.student.push_to_hub(served, "hf:lab/tiny")
    # A session elsewhere.
    hub._fetched.cache_clear()
    card = (hub.fetch_folder("hf:lab/tiny") / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    said = {}
    exec(code, said)
    own = load_model(served).wam
    assert all((a == b).all() for a, b in zip(said["model"].parameters(), own.parameters(), strict=True))
    assert said["samplers"]["action"].steps == said["info"].streams["action"].steps == 2
    assert 'WamPipeline.from_pretrained("hf:lab/tiny")' in card
    assert (WamPipeline.from_pretrained("hf:lab/tiny").model.metadata["name"]) == "tiny"


def test_without_the_hub_what_was_fetched_is_still_there(served, monkeypatch):
    first = hub.fetch_folder("hf:lab/tiny")
    hub._fetched.cache_clear()
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert hub.fetch_folder("hf:lab/tiny") == first


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("hf:tiny", "is named hf:owner/name"),
        ("hf:lab/tiny/more", "is named hf:owner/name"),
        ("hf:lab/none", "the hub has no model lab/none, or it is not yours to see"),
        ("hf:lab/none@v2", "no model lab/none at v2"),
        ("hf:lab/ti--ny", "the hub has no names such as lab/ti--ny"),
    ],
)
def test_a_name_that_leads_nowhere_is_said(served, named, message, capsys):
    assert main(["info", named]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_hub_out_of_reach_is_said(served, monkeypatch, capsys):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert main(["info", "hf:lab/other"]) == 2
    assert "lab/other was never fetched here, and the hub cannot be reached now" in " ".join(
        capsys.readouterr().err.split()
    )


class Written:
    """The hub's side of an upload that it takes."""

    told: dict

    def __init__(self, **options):
        pass

    def create_repo(self, repo_id, **options):
        type(self).told = {"repo": repo_id, **options}

    def upload_folder(self, **options):
        self.told.update(options)
        return "https://hub/lab/tiny/commit/1"


@pytest.mark.parametrize("named", ["lab/tiny", "hf:lab/tiny"])
def test_the_command_pushes_a_runs_result(served, named, monkeypatch, capsys):
    monkeypatch.setattr(huggingface_hub, "HfApi", Written)
    assert main(["push", str(served.parent), named, "--private", "--message", "first"]) == 0
    told = Written.told
    assert (told["folder_path"], told["private"], told["commit_message"]) == (str(served), True, "first")
    assert (told["repo"], told["repo_id"]) == ("lab/tiny", "lab/tiny")
    assert "is on the hub: https://hub/lab/tiny/commit/1" in capsys.readouterr().out
    assert (served / "README.md").is_file()


def test_what_is_pushed_names_no_folder_of_this_machine(served, tmp_path, monkeypatch):
    path = served / "flashwam.json"
    told = json.loads(path.read_text())
    base = tmp_path / "hub" / "models--lab--base" / "snapshots" / COMMIT
    data = tmp_path / "hub" / "datasets--lab--recordings" / "snapshots" / COMMIT
    told |= {"teacher": str(base), "init": "runs/earlier/student", "note": "/ is no path"}
    told["recipe"]["data"]["root"] = str(data)
    told["recipe"]["wam"] = {"pretrained": str(tmp_path / "runs" / "mine" / "teacher")}
    path.write_text(json.dumps(told))
    (served / "vae").mkdir(exist_ok=True)
    seen = {}

    class Uploaded(Written):
        def upload_folder(self, **options):
            folder = Path(options["folder_path"])
            seen.update({p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()})
            seen["name"] = options["commit_message"]
            return "https://hub/lab/tiny/commit/1"

    monkeypatch.setattr(huggingface_hub, "HfApi", Uploaded)
    flashwam.student.push_to_hub(served, "lab/tiny")
    assert seen.pop("name") == "Upload student"
    shown = json.loads(seen["flashwam.json"])
    assert (shown["teacher"], shown["init"], shown["note"]) == ("hf:lab/base", "runs/earlier/student", "/ is no path")
    assert (shown["recipe"]["data"]["root"], shown["recipe"]["wam"]["pretrained"]) == ("lab/recordings", "mine/teacher")
    assert not any(str(tmp_path).encode() in content for content in seen.values())
    # Everything else as it is, and nothing changed here.
    own = {p.relative_to(served).as_posix(): p.read_bytes() for p in served.rglob("*") if p.is_file()}
    assert own.keys() == seen.keys()
    assert {name for name in own if own[name] != seen[name]} == {"flashwam.json"}
    assert json.loads(path.read_text()) == told


@pytest.mark.parametrize(
    ("named", "refusal", "message"),
    [
        ("lab/new", (401, "Invalid username or password."), "does not take lab/new (401 Invalid username"),
        ("lab/new", (403, "You do not own lab."), "does not take lab/new (403 You do not own lab.)"),
        ("lab/new", (500, "Out of order."), "the hub refused lab/new: 500 Out of order."),
        ("lab/ti--ny", None, "the hub has no names such as lab/ti--ny"),
        ("hf:lab/tiny@v2", None, "must read like owner/name or hf:owner/name, got 'hf:lab/tiny@v2'"),
    ],
)
def test_what_the_hub_has_against_an_upload_is_a_sentence(served, named, refusal, message, monkeypatch, capsys):
    monkeypatch.setattr(Hub, "refusal", refusal)
    assert main(["push", str(served), named]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert message in said
    assert ("hf auth login" in said) == (refusal is not None and refusal[0] in (401, 403))


def test_an_upload_to_a_hub_out_of_reach_is_said(served, monkeypatch, capsys):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert main(["push", str(served), "lab/tiny"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "the hub cannot be reached at http://127.0.0.1:9" in said
    assert "nothing of lab/tiny was uploaded" in said
