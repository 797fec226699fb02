# SPDX-License-Identifier: Apache-2.0
"""Files and folders that appear whole: what an error, a second writer or a name in use leaves behind."""

import errno
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from flashwam.system import tensor_file
from flashwam.system.files import clear_half_files, final_path, one_at_a_time, whole_file, whole_folder, write_whole
from flashwam.system.tensor_file import write_tensors, write_torch

WEIGHTS = {"a": torch.arange(6.0).view(2, 3)}
WRITERS = {
    "text": lambda path: write_whole(path, "new"),
    "tensors": lambda path: write_tensors(path, WEIGHTS),
    "torch": lambda path: write_torch(path, WEIGHTS),
}


def below(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _begin(path: Path, error: type[BaseException]) -> None:
    path.write_text("ne")
    raise error


def test_a_file_that_fails_half_way_leaves_the_old_one_alone(tmp_path):
    write_whole(tmp_path / "a.json", "old")
    with pytest.raises(KeyboardInterrupt), whole_file(tmp_path / "a.json") as building:
        _begin(building, KeyboardInterrupt)
    assert below(tmp_path) == {"a.json": b"old"}


def test_a_folder_that_fails_half_way_leaves_the_old_one_alone(tmp_path):
    write_whole(tmp_path / "model" / "a", "old")
    for keep in (False, True):
        with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "model", keep=keep) as building:
            _begin(building / "a", ZeroDivisionError)
        assert below(tmp_path) == {"model/a": b"old"}
        assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("keep", [False, True])
def test_a_folder_is_replaced_or_keeps_what_is_not_written_now(keep, tmp_path):
    for name in ("model/weights/old", "model/a", "model/notes"):
        write_whole(tmp_path / name, "old")
    with whole_folder(tmp_path / "model", keep=keep) as building:
        write_whole(building / "weights" / "new", "new")
        write_whole(building / "a", "new")
    kept = {"model/notes": b"old"} if keep else {}
    assert below(tmp_path) == {"model/a": b"new", "model/weights/new": b"new", **kept}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_goes_back_to_its_place_where_the_new_one_cannot_have_it(tmp_path, monkeypatch):
    write_whole(tmp_path / "model" / "a", "old")
    rename = Path.rename

    def refuse(self, target):
        if self.name.startswith(".beside-"):
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with (
        pytest.raises(PermissionError, match=r"model could not be written: Permission denied"),
        whole_folder(tmp_path / "model") as building,
    ):
        write_whole(building / "a", "new")
    assert below(tmp_path) == {"model/a": b"old"}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_folder_that_cannot_be_written_is_said_in_one_line(write, tmp_path):
    write_whole(tmp_path / "file", "")
    for path in (tmp_path / "file" / "a", tmp_path / "file" / "b" / "a"):
        with pytest.raises(OSError, match=rf"^{path} could not be written: {tmp_path / 'file'} is no folder$"):
            write(path)
    with pytest.raises(OSError, match=r"^/proc/flashwam/a could not be written: No such file or directory$"):
        write(Path("/proc/flashwam/a"))
    assert below(tmp_path) == {"file": b""}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_full_disk_is_said_in_one_line_and_keeps_the_old_file(write, tmp_path, monkeypatch):
    def full(*arguments, **keywords):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def full_for_safetensors(*arguments, **keywords):
        raise SafetensorError('I/O error: Os { code: 28, message: "No space left on device" }')

    path = write(tmp_path / "model" / "a")
    old = path.read_bytes()
    monkeypatch.setattr(Path, "write_bytes", full)
    monkeypatch.setattr(tensor_file, "save_file", full_for_safetensors)
    with pytest.raises(OSError, match=rf"^{path} could not be written: .*No space left on device"):
        write(path)
    # While a folder is built, its path is the one that was asked for.
    with (
        pytest.raises(OSError, match=rf"^{path} could not be written: "),
        whole_folder(tmp_path / "model") as building,
    ):
        write(building / "a")
    assert below(tmp_path) == {"model/a": old}


def test_an_error_of_reading_is_not_taken_for_one_of_writing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"elsewhere"), whole_file(tmp_path / "a") as building:
        building.write_bytes((tmp_path / "elsewhere").read_bytes())
    assert not list(tmp_path.iterdir())


def test_threads_may_write_one_file_at_once(tmp_path):
    texts = [letter * 100_000 for letter in "abcdefgh"]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda text: write_whole(tmp_path / "a", text), texts))
    assert below(tmp_path)["a"].decode() in texts
    assert len(below(tmp_path)) == 1


def test_a_model_that_reads_the_old_weights_goes_on_reading_them(tmp_path):
    write_tensors(tmp_path / "a", WEIGHTS)
    read = load_file(tmp_path / "a")["a"]
    write_tensors(tmp_path / "a", {"a": torch.zeros(2, 3)})
    assert torch.equal(read, WEIGHTS["a"])
    assert not load_file(tmp_path / "a")["a"].any()


def test_tensors_of_one_memory_and_parts_of_others_are_written_as_they_are(tmp_path):
    whole = torch.arange(12.0).view(3, 4)
    tensors = {"a": whole, "b": whole, "row": whole[1], "column": whole[:, 2], "none": whole[:0]}
    read = load_file(write_tensors(tmp_path / "a", tensors, metadata={"made": "here"}))
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[key], x) for key, x in tensors.items())


def test_a_pipe_and_the_name_of_an_open_file_are_written_to_themselves(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor(1) as pool:
        got = pool.submit((tmp_path / "pipe").read_text)
        write_whole(tmp_path / "pipe", "text")
        assert got.result(timeout=10) == "text"
    assert (tmp_path / "pipe").is_fifo()
    with (tmp_path / "out").open("w") as out:
        (tmp_path / "stdout").symlink_to(f"/proc/self/fd/{out.fileno()}")
        write_whole(tmp_path / "stdout", "text")
    assert (tmp_path / "stdout").is_symlink()
    assert (tmp_path / "out").read_text() == "text"


def test_a_link_to_a_file_is_replaced_and_what_it_leads_to_stays(tmp_path):
    write_whole(tmp_path / "others", "theirs")
    (tmp_path / "link").symlink_to("others")
    write_whole(tmp_path / "link", "mine")
    assert below(tmp_path) == {"link": b"mine", "others": b"theirs"}


def test_only_dead_processes_lose_their_half_written_files(tmp_path):
    dead = tmp_path / "deep" / f".a.json.1.{2**22 + 1}.tmp"
    mine = tmp_path / "deep" / f".a.json.1.{os.getpid()}.tmp"
    for path in (dead, mine, tmp_path / "deep" / ".notes.tmp"):
        write_whole(path, "half")
    clear_half_files(tmp_path)
    assert below(tmp_path).keys() == {str(mine.relative_to(tmp_path)), "deep/.notes.tmp"}


def test_a_path_reads_as_it_will_once_all_is_whole(tmp_path):
    with whole_folder(tmp_path / "run") as run, whole_folder(run / "student") as student:
        assert final_path(student / "a") == tmp_path / "run" / "student" / "a"
        assert final_path(tmp_path / "a.beside-b") == tmp_path / "a.beside-b"


def test_of_many_who_fill_a_folder_one_does_and_the_others_find_it_full(tmp_path):
    made = []

    def fill(_) -> bytes:
        with one_at_a_time(tmp_path / "new" / "folder"):
            path = tmp_path / "new" / "folder" / "content"
            if not path.is_file():
                made.append(1)
                # Others get their turn now, if they ever do.
                time.sleep(0.05)
                write_whole(path, "whole")
            return path.read_bytes()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(fill, range(4))) == [b"whole"] * 4
    assert made == [1]
