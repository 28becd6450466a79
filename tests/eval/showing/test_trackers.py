"""What TensorBoard and Weights & Biases get of a run, read back from what the real packages wrote without a network."""

import json
import shutil
import struct
import sys
from pathlib import Path

import pytest

from eval.cli import main
from tiny.benchmarks import ensure

KEPT = Path(__file__).parents[1] / "old_run"


@pytest.fixture
def run(tmp_path):
    return Path(shutil.copytree(KEPT, tmp_path / "run"))


def report(run, *words):
    return main(["report", str(run), "--data", str(ensure()), "--samples", "0", "--draws", "50", *map(str, words)])


def scores():
    found = json.loads((KEPT / "scores.json").read_text())["scores"]
    return {f"{name}/{arm}": one["value"] for name, arms in found.items() for arm, one in arms.items()}


def test_tensorboard_reads_every_score_and_the_verdict(run, tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="extra `trackers`")
    assert report(run, "--tensorboard", tmp_path / "events") == 0
    read = events.EventAccumulator(str(tmp_path / "events"))
    read.Reload()
    found = {tag: read.Scalars(tag)[0].value for tag in read.Tags()["scalars"]}
    assert {name: found[name] for name in scores()} == pytest.approx(scores(), rel=1e-6)
    assert found["pope/both − none"] == pytest.approx(scores()["pope/both"] - scores()["pope/none"], abs=1e-4)
    assert {"verdict/text_summary", "tables/text_summary"} <= set(read.Tags()["tensors"])


def test_wandb_gets_every_score_offline(run, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="needs the extra `trackers`")
    records = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    assert report(run, "--wandb", "pruning") == 0
    wandb.teardown()  # writes what is still on its way
    (kept,) = (run / "wandb").glob("offline-run-*/*.wandb")
    written, at, record, found = kept.read_bytes(), 7, b"", {}
    while at + 7 <= len(written):  # LevelDB's log: a checksum, a length, and which part of a record it is
        _, size, part = struct.unpack("<IHB", written[at : at + 7])
        record, at = record + written[at + 7 : at + 7 + size], at + 7 + size
        if part in (1, 4):
            for entry in records.Record.FromString(record).summary.update:
                found[entry.key] = json.loads(entry.value_json)
            record = b""
    assert {name: found[name] for name in scores()} == pytest.approx(scores())
    assert "differ" in found["verdict"]


@pytest.mark.parametrize(("flag", "package"), [("--tensorboard", "torch.utils.tensorboard"), ("--wandb", "wandb")])
def test_a_missing_package_is_one_sentence(run, monkeypatch, capsys, flag, package):
    monkeypatch.setitem(sys.modules, package, None)
    assert report(run, flag, "x") == 1
    assert "pip install 'attention-debiasing[trackers]'" in capsys.readouterr().err.splitlines()[-1]
