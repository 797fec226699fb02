# SPDX-License-Identifier: Apache-2.0
"""The Dockerfile names what there is, and bakes in nothing that is to be mounted. No image is built here."""

import json
import re
from configparser import ConfigParser
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from string import Template

import pytest

from flashwam.cli import _parse
from flashwam.serve.options import DEFAULT_PORT
from flashwam.sim.gl import BACKENDS

ROOT = Path(__file__).resolve().parents[1]
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
EXTRAS = {"server": {"serve", "lingbot", "cogvideox"}, "demo": {"sim", "report"}}


@dataclass
class Stage:
    """One image: what it begins with, and its instructions in order."""

    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def all(self, word: str) -> list[str]:
        return [rest for name, rest in self.steps if name == word]

    @property
    def environment(self) -> dict[str, str]:
        return dict(pair.split("=", 1) for rest in self.all("ENV") for pair in rest.split())

    @property
    def command(self) -> list[str]:
        """As it runs where nothing is said."""
        return [word for name in ("ENTRYPOINT", "CMD") for word in json.loads(self.all(name)[-1])]


def parsed(text: str) -> dict[str, Stage]:
    """The images by name."""
    kept = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    arguments: dict[str, str] = {}
    stages: dict[str, Stage] = {}
    for line in re.sub(r"\\\n\s*", "", kept).splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            base, name = re.fullmatch(r"(\S+) AS (\S+)", rest).groups()
            stages[name] = Stage(Template(base).substitute(arguments))
        elif stages and word:
            list(stages.values())[-1].steps.append((word, rest))
        elif word:
            assert word == "ARG"
            arguments |= dict([rest.split("=")])
    return stages


@pytest.fixture(scope="module")
def stages() -> dict[str, Stage]:
    return parsed((ROOT / "Dockerfile").read_text())


def copied(stage: Stage) -> list[str]:
    """Paths of the checkout that it takes."""
    return [path for rest in stage.all("COPY") if not rest.startswith("--") for path in rest.split()[:-1]]


def test_two_images_of_one_wheel(stages):
    assert list(stages) == ["wheel", "server", "demo"]
    assert re.fullmatch(r"nvidia/cuda:[\d.]+-base-ubuntu[\d.]+", stages["server"].base)
    assert stages["demo"].base == stages["wheel"].base == "ubuntu:" + stages["server"].base.rpartition("ubuntu")[2]
    for name in EXTRAS:
        assert [rest for rest in stages[name].all("COPY") if "--from" in rest] == ["--from=wheel /wheel /wheel"]
    (built,) = (rest for rest in stages["wheel"].all("RUN") if "pip wheel" in rest)
    assert "--no-deps -w /wheel ." in built


def test_what_is_copied_is_there_and_all_that_is_sent(stages):
    """Weights, data sets and results stay outside, whatever lies in the checkout."""
    taken = {path for stage in stages.values() for path in copied(stage)}
    assert all((ROOT / path).exists() for path in taken)
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert (lines[0], lines[-1]) == ("*", "**/__pycache__")
    assert {line.removeprefix("!") for line in lines[1:-1]} == taken
    assert all(line.startswith("!") for line in lines[1:-1])
    # As much as the wheel's own test takes.
    packed = re.search(r"-cf - ([^|]+) \|", (ROOT / ".ci" / "wheel").read_text())[1].split()
    assert taken - {"constraints.txt"} == set(packed)
    assert set(copied(stages["server"])) == set(copied(stages["demo"])) == {"constraints.txt"}


@pytest.mark.parametrize("name", EXTRAS)
def test_extras_are_the_packages_and_versions_the_tested_ones(stages, name):
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    (install,) = (rest for rest in stages[name].all("RUN") if "pip install" in rest)
    extras = set(re.search(r"\*\.whl\)\[([\w,]+)\]", install)[1].split(","))
    assert extras == EXTRAS[name] <= set(setup["options.extras_require"])
    assert stages[name].environment["PIP_CONSTRAINT"] == "/constraints.txt"
    assert re.search(r"^torch==", (ROOT / "constraints.txt").read_text(), re.M)
    # Without that index torch comes with CUDA.
    assert (CPU_INDEX in install) == (name == "demo")
    assert CPU_INDEX in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("name", EXTRAS)
def test_nobody_is_root_and_writes_where_it_may(stages, name):
    stage = stages[name]
    words = [word for word, _ in stage.steps]
    assert stage.all("USER") == ["ubuntu"]
    assert words.index("USER") > max(place for place, word in enumerate(words) if word in ("RUN", "COPY"))
    own = [rest.split()[-1] for rest in stage.all("RUN") if rest.startswith("install -d -o ubuntu")]
    kept = [value for value in stage.environment.values() if value.startswith(("/cache", "/runs"))]
    assert own
    assert all(any(value.startswith(f"{folder}/") for folder in own) for value in kept)
    assert {"FLASHWAM_CACHE", "TORCHINDUCTOR_CACHE_DIR"} <= stage.environment.keys() or name == "demo"


def test_commands_are_the_packages(stages, capsys):
    program, *words = stages["demo"].command
    assert (program, _parse(words).preset, str(_parse(words).out)) == ("flashwam", "quick", "/runs/demo")
    program, *words = stages["server"].command
    with pytest.raises(SystemExit) as left:
        _parse(words)
    assert left.value.code == 0
    assert "a teacher or student as a policy server" in capsys.readouterr().out
    served = _parse([*words[:-1], "student", "--rollout", "graphed"])
    assert (program, served.host, str(served.checkpoint)) == ("flashwam", "0.0.0.0", "student")
    assert stages["server"].all("EXPOSE") == [str(DEFAULT_PORT)] == [str(served.port)]
    assert f"127.0.0.1:{DEFAULT_PORT}/healthz" in stages["server"].all("HEALTHCHECK")[0]


def test_the_simulator_can_draw(stages):
    installed = " ".join(stages["demo"].all("RUN")).split()
    for backend in ("egl", "osmesa"):
        assert set(BACKENDS[backend].split()) <= set(installed)


def test_the_page_builds_and_runs_these(stages):
    page = (ROOT / "docs" / "real_time.md").read_text()
    for name in EXTRAS:
        assert f"docker build --target {name} -t flashwam-{name} ." in page
        assert re.search(rf"docker run [^`]*flashwam-{name}\b", page)


def test_none_of_the_mounted_is_let_through():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = [line.removeprefix("!") for line in lines if line.startswith("!")]
    for folder in ("checkpoints", "data", "runs", ".venv", "tests", "analysis", ".git"):
        assert not any(fnmatch(folder, one) for one in allowed)
