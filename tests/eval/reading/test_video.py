"""Frames of clips: which, in what order, once, and what is said about files that are none."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from eval.reading.images import check_image
from eval.reading.sample import Sample
from eval.reading.video import Clips, places, read_frames

av = pytest.importorskip("av")


def clip(path, count, size=(32, 24)):
    """A lossless clip whose frame i is a flat grey of 10 i."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = *size, "bgr0"
        for i in range(count):
            frame = av.VideoFrame.from_image(Image.new("RGB", size, (10 * i,) * 3))
            for packet in stream.encode(frame):
                out.mux(packet)
        for packet in stream.encode():
            out.mux(packet)
    return path


def shades(frames):
    return [round(np.asarray(frame).mean() / 10) for frame in frames]


@given(st.integers(1, 5000), st.integers(1, 64))
def test_places_are_numpys_linspace(count, frames):
    assert places(count, frames) == np.linspace(0, count - 1, frames, dtype=int).tolist()


@pytest.mark.parametrize("count", [8, 9, 20, 25])
def test_the_right_frames_are_read(tmp_path, count):
    frames = read_frames(clip(tmp_path / "a.mkv", count))
    assert shades(frames) == places(count)
    assert {frame.mode for frame in frames} == {"RGB"}


def test_a_short_clip_shows_frames_twice_and_is_named(tmp_path, caplog):
    assert shades(read_frames(clip(tmp_path / "short.mkv", 3))) == [0, 0, 0, 0, 1, 1, 1, 2]
    assert "short.mkv has 3 frames" in caplog.text


@pytest.mark.parametrize("content", [b"", b"not a video", b"\x1aE\xdf\xa3" + bytes(100)])
def test_what_is_no_clip_is_named(tmp_path, content):
    path = tmp_path / "broken.mkv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.mkv"):
        read_frames(path)
    with pytest.raises(ValueError, match=r"broken\.mkv"):
        Clips()(path)
    fault = check_image(Sample(7, "What?", video=path))
    assert "question '7'" in str(fault)
    assert str(path) in str(fault)


def test_a_whole_clip_passes_the_check(tmp_path):
    assert check_image(Sample(7, "What?", video=clip(tmp_path / "good.mkv", 3))) is None


def test_a_missing_clip_is_named(tmp_path):
    for reader in (read_frames, Clips()):
        with pytest.raises(ValueError, match=r"gone\.mkv"):
            reader(tmp_path / "gone.mkv")


def test_a_clip_is_decoded_once_by_content(tmp_path, monkeypatch):
    import eval.reading.video

    calls = []
    monkeypatch.setattr(eval.reading.video, "read_frames", lambda path, n: calls.append(path) or read_frames(path, n))
    first = clip(tmp_path / "a.mkv", 9)
    (tmp_path / "b.mkv").write_bytes(first.read_bytes())
    clips = Clips()
    assert clips(first) is clips(first) is clips(tmp_path / "b.mkv")
    assert len(calls) == 1
    clips(clip(tmp_path / "a.mkv", 12))  # the same name, another content
    assert len(calls) == 2


def test_memory_for_clips_is_bounded(tmp_path):
    clips = Clips(budget=3 * 8 * 32 * 24 * 2)
    for count in (8, 9, 10, 11):
        clips(clip(tmp_path / f"{count}.mkv", count))
    assert clips.held <= clips.budget
