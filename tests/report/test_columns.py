# SPDX-License-Identifier: Apache-2.0
"""Columns of open loop and latency, of files of this version and of earlier ones."""

from synthetic import evaluation, latency, open_loop, write

from flashwam.report.columns import latency_columns, sharpness_ratios
from flashwam.report.compare import compare

DECODED = {"video_decoded_error_teacher": 4.5, "video_decoded_sharpness_ratio": 0.6}


def test_what_was_measured_otherwise_is_not_mixed(tmp_path):
    """Sharpness of decoded chunks is another measure than that of single latent frames, which older files tell."""
    older = open_loop(0.1, sharpness=0.97)
    newer = {name: value for name, value in older.items() if "sharpness" not in name} | DECODED
    teacher = write(tmp_path / "teacher", evaluation("teacher", nfe=(10, 20), rates=0.9, latency=latency(10, 20)))
    runs = [
        write(tmp_path / name, evaluation(name, rates=0.2, open_loop=told, latency=latency(1, 1)))
        for name, told in (("older", older), ("newer", newer))
    ]
    result = compare([teacher, *runs], out=tmp_path / "out")
    told = " ".join(result["verdict"])
    assert "the video is blurred, 0.60 times the teacher's sharpness" in told
    assert told.count("blurred") == 1
    page = (tmp_path / "out" / "compare.html").read_text()
    for text in (
        "latent video error to teacher",
        "video error to teacher, grey levels",
        "decoded video sharpness ratio",
    ):
        assert f"{text}</th>" in page
    assert "sharpness ratio of last latents alone</th>" in page
    assert "Grey levels: mean absolute difference of decoded pictures, of 255." in page


def test_a_caption_tells_of_grey_levels_where_there_are_any(tmp_path):
    run = write(tmp_path / "older", evaluation("older", open_loop=open_loop(0.1)))
    compare([run], out=tmp_path / "out")
    assert "Grey levels" not in (tmp_path / "out" / "compare.html").read_text()


def test_decoded_chunks_go_before_single_latent_frames():
    assert sharpness_ratios({"video_sharpness_ratio": 0.9, "action_variance_ratio": 0.1}) == {"video": 0.9}
    assert sharpness_ratios({"video_sharpness_ratio": 0.9, **DECODED}) == {"video": 0.6}


def test_stages_stand_before_the_chunk_and_parts_behind_it():
    told = [{"chunk_ms": 3.0, "video_ms": 1.0, "action_ms": 2.0}, {"video+action_ms": 4.0, "part/see_ms": 1.0}]
    assert latency_columns(told) == {
        "video_ms": "video ms",
        "action_ms": "action ms",
        "video+action_ms": "joint ms",
        "chunk_ms": "ms a chunk",
        "part/see_ms": "see ms",
    }
