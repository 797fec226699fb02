# SPDX-License-Identifier: Apache-2.0
import re
from pathlib import Path

import flashwam

ROOT = Path(__file__).resolve().parents[1]


def test_the_python_example_runs(tmp_path, monkeypatch, capsys):
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    (tmp_path / "analysis").symlink_to(ROOT / "analysis")
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "video 0.8333" in printed
    assert "teacher {'video': (6, 8, 8), 'action': (4, 4, 1)}" in printed
    assert "'episodes': 2" in printed
    assert (tmp_path / "runs" / "analysis" / "schedule.html").is_file()


def test_every_public_name_is_listed_and_there():
    text = (ROOT / "README.md").read_text()
    for name in flashwam.__all__:
        assert f"`{name}`" in text or f"`flashwam.{name}`" in text
        assert callable(getattr(flashwam, name))
