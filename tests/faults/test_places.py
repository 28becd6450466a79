"""Only regular files are waited for, read or replaced; a row that is being written is not a broken row."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import threading

import numpy as np
import pytest
from PIL import Image

from eval.answering import store
from eval.cli import main
from eval.core.files import whole
from eval.reading.images import check_image, open_image
from eval.reading.read import read_json, records
from eval.reading.sample import Sample
from eval.reading.video import Clips, playable


@pytest.fixture(params=["pipe", "socket", "folder", "device"])
def odd(request, tmp_path):
    """A path at which there is something that is not a regular file."""
    path = tmp_path / "odd"
    if request.param == "device":
        path.symlink_to("/dev/zero")
        yield path
    elif request.param == "socket":
        short = os.path.relpath(path)  # the name of a socket has at most 108 characters
        if len(short) > 100:
            pytest.skip("the path of a socket would be too long here")
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(short)
            yield path
    else:
        os.mkfifo(path) if request.param == "pipe" else path.mkdir()
        yield path


def in_time(work, seconds=20):
    """What `work` raised or returned; a reader that waits for ever fails the test and not the suite."""
    found = []

    def run():
        try:
            found.append(work())
        except ValueError as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert found, "still waiting"
    return found[0]


@pytest.mark.parametrize(
    "work",
    [
        lambda path: open_image(Sample("q", "?", path)),
        lambda path: ValueError(str(check_image(Sample("q", "?", path)))),
        Clips(),
        playable,
        read_json,
        lambda path: list(records(path)),
    ],
    ids=["picture", "check", "clip", "playable", "json", "records"],
)
def test_nothing_waits_for_what_is_no_file(work, odd):
    found = in_time(lambda: work(odd))
    assert isinstance(found, ValueError)
    assert "expected a regular file" in str(found)


def test_the_check_of_a_run_ends_where_a_picture_is_a_pipe(world, tmp_path, capsys):
    data = shutil.copytree(world / "pope", tmp_path / "data" / "pope")
    victim = sorted((data / "val2014").iterdir())[0]
    victim.unlink()
    os.mkfifo(victim)
    words = ["run", "--data", str(tmp_path / "data"), "--benchmarks", "pope", "--check", "--dry-run", "--device", "cpu"]
    assert in_time(lambda: main(words), 100) == 1
    assert "found a pipe" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["export", "report", "compare", "fit", "diagnose", "speed"])
def test_only_regular_files_are_replaced(command, answered, world, tmp_path, capsys):
    out = tmp_path / "out"
    os.mkfifo(out)
    words = {"export": ["mmvet", "--answers", "x", "--data", str(world)], "report": [str(answered.path)],
             "compare": [str(answered.path)]}  # fmt: skip
    assert in_time(lambda: main([command, *words.get(command, []), "--out", str(out)]), 60) == 2
    assert "neither a regular file nor a folder" in capsys.readouterr().err
    assert stat.S_ISFIFO(out.stat().st_mode)


def test_a_run_without_an_answer_is_named(answered, tmp_path, capsys):
    folder = shutil.copytree(answered.path, tmp_path / "run")
    for path in folder.glob("*/*.jsonl"):
        path.unlink()
    for command in ("report", "compare"):
        assert main([command, str(folder)]) == 1
        assert f"{folder} holds no scored rows" in capsys.readouterr().err


def test_an_export_leaves_a_device_a_device(world, tmp_path):
    from eval import benchmarks
    from eval.commands.export import export

    ids = [sample.id for sample in benchmarks.get("mmvet").load(world, media=False)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"question_id": id, "text": "a"}) + "\n" for id in ids))
    os.mkfifo(tmp_path / "device")
    with pytest.raises(ValueError, match="neither a regular file"):
        export("mmvet", tmp_path / "a.jsonl", world, tmp_path / "device")
    with pytest.raises(ValueError, match="neither a regular file"), whole(tmp_path / "device") as file:
        file.write(b"row\n")
    assert stat.S_ISFIFO((tmp_path / "device").stat().st_mode)


ROW = json.dumps({"text": "x", "metadata": {"key": "k"}}).encode() + b"\n"


def test_a_row_that_is_being_written_is_no_broken_row(tmp_path, monkeypatch):
    """The writer ends the row after the reader has seen its first half: what comes is no row of its own."""
    path = tmp_path / "none.0.jsonl"
    path.write_bytes(ROW + ROW[:20])
    real = open(path, "rb")  # noqa: SIM115 (closed below)

    class Beside:
        """A file that grows once its end was seen."""

        def __enter__(self):
            return self

        def __exit__(self, *error):
            real.close()

        def __iter__(self):
            return self

        def __next__(self):
            line = real.readline()
            if line and not line.endswith(b"\n"):
                with path.open("ab") as writer:
                    writer.write(ROW[20:])
            if not line:
                raise StopIteration
            return line

    monkeypatch.setattr(store, "open", lambda *words: Beside(), raising=False)
    assert len(list(store.numbered(path))) == 1
    monkeypatch.undo()
    assert len(list(store.numbered(path))) == 2


def test_an_answer_file_without_an_end_may_be_in_the_making(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(ROW + ROW[:20])
    with pytest.raises(ValueError, match=r"line 2: expected JSON .*; it has no end, so a run may be writing it"):
        list(records(tmp_path / "a.jsonl"))
    (tmp_path / "a.jsonl").write_bytes(ROW[:20] + b"\n" + ROW)
    with pytest.raises(ValueError, match=r"line 1: expected JSON \(.*\)$"):
        list(records(tmp_path / "a.jsonl"))


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_pictures_of_sixteen_bits_are_scaled(tmp_path, ending):
    values = np.array([[0, 255, 20_000, 32_768, 65_535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f"a.{ending}", None if ending != "pgm" else "PPM")
    shown = np.asarray(open_image(Sample("q", "?", tmp_path / f"a.{ending}")))
    assert shown.shape == (1, 5, 3)
    assert (shown == np.array([0, 1, 78, 128, 255])[None, :, None]).all()
