# SPDX-License-Identifier: Apache-2.0
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tqdm import tqdm

from flashwam.system.jobs import Job, JobFailed, run_jobs

HERE = Path(__file__).resolve().parent
PATHS = os.pathsep.join([str(HERE), str(HERE.parents[1])])
"""Folders in which a script of its own finds this file and the package, installed or not."""


def append(path, word, wait=0.0):
    time.sleep(wait)
    with path.open("a") as file:
        file.write(word + "\n")


def fail():
    print("about to fail")
    raise ValueError("no luck")


def test_jobs_wait_for_those_they_need_and_are_not_repeated(tmp_path):
    out = tmp_path / "out"
    jobs = [
        Job(name="first", function=append, kwargs={"path": out, "word": "first", "wait": 0.5}),
        Job(name="second", function=append, kwargs={"path": out, "word": "second"}, after=("first",)),
    ]
    seen = []
    run_jobs(jobs, tmp_path / "jobs", on_done=lambda job: seen.append(job.name))
    seconds = run_jobs(jobs, tmp_path / "jobs", on_done=lambda job: seen.append(job.name))
    assert out.read_text().split() == ["first", "second"] == seen
    assert seconds["first"] >= 0.5


def test_one_that_was_done_otherwise_is_not_taken_for_done(tmp_path):
    def job(word, folder="out"):
        return [Job(name="first", function=append, kwargs={"path": tmp_path / folder, "word": word})]

    run_jobs(job("two"), tmp_path / "jobs")
    with pytest.raises(ValueError, match=r"first was done otherwise \(word: 'two' there, 'twenty' now\): give another"):
        run_jobs(job("twenty"), tmp_path / "jobs")
    # A folder may move, and an earlier version noted nothing.
    run_jobs(job("two", "moved"), tmp_path / "jobs")
    (tmp_path / "jobs/first.done").write_text('{"seconds": 1.0}')
    assert run_jobs(job("twenty"), tmp_path / "jobs") == {"first": 1.0}


def test_a_failure_names_the_job_and_shows_its_log_and_a_rerun_goes_on(tmp_path):
    out = tmp_path / "out"
    good = Job(name="a/good", function=append, kwargs={"path": out, "word": "good"})
    with pytest.raises(JobFailed, match=r"job 'bad' failed(.|\n)*about to fail(.|\n)*no luck"):
        run_jobs([good, Job(name="bad", function=fail, after=("a/good",))], tmp_path / "jobs")
    run_jobs([good, Job(name="bad", function=append, kwargs={"path": out, "word": "bad"})], tmp_path / "jobs")
    assert out.read_text().split() == ["good", "bad"]


def test_order_and_names_are_checked(tmp_path):
    early = Job(name="early", function=fail, after=("late",))
    with pytest.raises(ValueError, match="must come after"):
        run_jobs([early, Job(name="late", function=fail)], tmp_path)
    with pytest.raises(ValueError, match="unique"):
        run_jobs([Job(name="x", function=fail)] * 2, tmp_path)


def test_jobs_end_when_the_one_who_started_them_is_killed(tmp_path):
    """A job that lived on would write into the folder in which a new call continues."""
    out = tmp_path / "out"
    code = (
        "from pathlib import Path; from flashwam.system.jobs import Job, run_jobs; from test_jobs import beat\n"
        f"if __name__ == '__main__': run_jobs([Job(name='x', function=beat, kwargs={{'path': Path({str(out)!r})}})], "
        f"Path({str(tmp_path)!r}) / 'jobs')"
    )
    script = tmp_path / "main.py"
    script.write_text(code)
    process = subprocess.Popen([sys.executable, str(script)], env={**os.environ, "PYTHONPATH": PATHS})
    deadline = time.monotonic() + 60
    while not out.is_file() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert out.is_file()
    process.kill()
    process.wait()
    time.sleep(2.5)
    size = out.stat().st_size
    time.sleep(1.0)
    assert out.stat().st_size == size


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """The folder of a process that ran one job, and what it wrote."""
    folder = tmp_path_factory.mktemp("main")
    script = folder / "main.py"
    script.write_text(
        "from pathlib import Path; from flashwam.system.jobs import Job, run_jobs; from test_jobs import bar\n"
        f"out = Path({str(folder)!r})\n"
        "if __name__ == '__main__':\n"
        "    jobs = [Job(name='x', function=bar, kwargs={'path': out / 'out'})]\n"
        "    run_jobs(jobs, out / 'jobs', imported=['no_such_module', 'wave'])"
    )
    environment = {**os.environ, "PYTHONPATH": PATHS}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_jobs_leave_nothing_behind_that_python_complains_about(ended):
    _, done = ended
    assert "leaked" not in done.stderr


def test_modules_that_jobs_import_late_are_there_when_a_job_begins(ended):
    """Imported once for all of them, and one that is not installed stops none."""
    folder, _ = ended
    assert (folder / "out").read_text() == "True"


def bar(path):
    for _ in tqdm(range(3)):
        pass
    path.write_text(str("wave" in sys.modules))


def beat(path):
    while True:
        append(path, "beat")
        time.sleep(0.1)
