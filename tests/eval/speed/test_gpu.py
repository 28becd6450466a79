"""The steps of `eval gpu`: all rehearsed on the CPU, interrupted, judged, and their results put into the pages."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import create_autospec

import pytest
import torch

from eval import cli
from eval.commands import gpu
from eval.core.tables import visible
from eval.speed import waits
from eval.speed.drawn import build
from eval.speed.gpu import pages, running, steps, verdicts
from eval.speed.measure import Variant
from eval.speed.settings import SpeedSettings
from eval.speed.shapes import SHAPES
from pruners import names

ROOT = Path(__file__).parents[3]
MACHINE = {"device": "NVIDIA X", "cuda": "13.0", "torch": "2", "transformers": "5", "python": "3", "commit": "abc",
           "date": "2026-01-01"}  # fmt: skip
DONE = {"name": "tests", "command": "python -m pytest", "seconds": 2.0, "result": {"said": ["3 passed in 1 s"]}}


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.long
@pytest.mark.parametrize("step", gpu.STEPS)
def test_every_step_can_be_rehearsed(step, clone, threads, monkeypatch, capsys):
    """All parts run on the CPU, but for what is not installed here, which is said. The pages can show all of it."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert cli.main(["gpu", step, "--rehearse", "--out", str(clone), "--json", "--seconds", "900"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found == {**json.loads((clone / f"{step}.json").read_text()), "exit": 0}
    assert "measures nothing" in err
    page = (clone / f"{step}.md").read_text()
    for part in found["parts"]:
        assert "result" in part or re.search("not installed here|is not here|not part of this|triton", part["missing"])
        assert ("result" in part) == (f"`{part['command']}` (" in page)
    lacking = [part["name"] for part in found["parts"] if "result" not in part]
    assert step in ("forks", "vllm") or set(lacking) <= {"flash attention", "fused kernels"}
    assert found["verdicts"]
    with pytest.raises(ValueError, match="was not measured on a GPU"):
        pages.take([clone / f"{step}.json"], clone)
    (clone / f"{step}.json").write_text(json.dumps({**found, "rehearsal": False, "machine": MACHINE}))
    assert pages.take([clone / f"{step}.json"], clone) == {"steps": [step]}
    shown, front = (clone / "docs" / "speed.md").read_text(), (clone / "README.md").read_text()
    for part in found["parts"]:
        assert ("result" in part) == (f"`{part['command']}` (" in shown)
    assert all(visible(line["goal"]) in front for line in found["verdicts"])


def test_the_steps_are_those_of_the_command_and_the_script():
    assert set(gpu.STEPS) == set(steps.STEPS) == set(verdicts.JUDGES)
    said = (ROOT / "scripts" / "gpu.sh").read_text()
    assert all(step in said for step in gpu.STEPS)


def test_on_a_gpu_the_steps_ask_for_what_is_wanted(tmp_path):
    """Batch 1 and 8, up to 2,880 tokens, every method and arm; every command of ours can be typed."""
    parts = {step: make(steps.FULL, tmp_path) for step, make in steps.STEPS.items()}
    for part in (part for step in parts.values() for part in step):
        if part.words[0] == "eval":
            args = cli.parse(cli.build(part.words[1])[0], part.words[2:])
            assert getattr(args, "shape", None) in (None, "small", "llava-1.5-7b")
    speed = {part.name: cli.parse(cli.build("speed")[0], part.words[2:]) for part in parts["speed"]}
    assert [speed[name].batch_size for name in ("batch 1", "batch 8")] == [[1], [8]]
    assert set(speed["batch 1"].method.split(",")) == set(names())
    assert len(speed["batch 1"].arms.split(",")) == 4
    assert speed["tokens"].tokens == [2880]
    assert {part.fork for part in parts["forks"]} == {
        *("fastv", "pyramiddrop", "sparsevlm", "himap", "tokencarve", "vispruner")
    }


def test_without_a_gpu_a_step_is_refused(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.main(["gpu", "smoke", "--out", str(tmp_path / "out")]) == 1
    assert "there is no GPU here" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def parted(monkeypatch, *words):
    """The step of these parts; commands of `eval` are done at once, unless they measure."""
    inside = running.inside
    monkeypatch.setattr(
        running, "inside", lambda part: {"said": ["1 passed"]} if "quick" in part.words else inside(part)
    )
    made = [steps.Part(f"part {number}", (*word.split(),)) for number, word in enumerate(words)]
    monkeypatch.setitem(steps.STEPS, "vllm", lambda scale, out: made)


def test_a_step_that_runs_out_of_time_keeps_what_is_done_and_goes_on(monkeypatch, tmp_path, capsys):
    parted(monkeypatch, "eval quick", "timeit -n 1 -r 1 __import__('time').sleep(99)", "eval quick 2")
    begun = time.monotonic()
    found = running.run("vllm", tmp_path, rehearse=True, seconds=3)
    assert time.monotonic() - begun < 20
    assert ["result" in part for part in found["parts"]] == [True, False, False]
    assert [part["missing"] for part in found["parts"][1:]] == ["the step's 3 s were up"] * 2
    assert json.loads((tmp_path / "vllm.json").read_text()) == found
    parted(monkeypatch, "eval quick", "eval quick 2")
    monkeypatch.setattr(running, "inside", lambda part: {"said": ["3 passed, anew"]})
    again = running.run("vllm", tmp_path, rehearse=True)
    assert again["parts"][0] == found["parts"][0]
    assert again["parts"][1]["result"] == {"said": ["3 passed, anew"]}
    (tmp_path / "vllm.json").write_text("[]")
    with pytest.raises(ValueError, match=r"vllm\.json is not what this command writes"):
        running.run("vllm", tmp_path, rehearse=True)


def test_a_step_that_is_ended_from_outside_keeps_what_is_done(monkeypatch, tmp_path):
    parted(monkeypatch, "eval quick", "timeit -n 1 -r 1 __import__('time').sleep(99)")
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(running, "beside", lambda *_: os.kill(os.getpid(), signal.SIGTERM) or time.sleep(99))
    found = running.run("vllm", tmp_path, rehearse=True)
    assert "result" in found["parts"][0]
    assert found["parts"][1]["missing"] == "the step was ended from outside"
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_part_that_fails_ends_nothing_else(monkeypatch, tmp_path, capsys):
    parted(monkeypatch, "eval speed --shape huge", "timeit -n", "eval quick")
    assert cli.main(["gpu", "vllm", "--rehearse", "--out", str(tmp_path)]) == 1
    found = json.loads((tmp_path / "vllm.json").read_text())
    assert "unknown shape 'huge'" in found["parts"][0]["failed"]
    assert "status" in found["parts"][1]["failed"]
    assert "result" in found["parts"][2]
    assert [line["met"] for line in found["verdicts"] if line["goal"].endswith("runs")] == [False, False]


def test_verdicts_follow_the_numbers():
    def row(method, reached, memory, decode=1.0):
        return {"method": method, "variant": method or "unpruned", "batch": 1, "tokens": 576, "reached": reached,
                "memory": memory, "decode_speed_up": decode, "decode_spread": 0.01}  # fmt: skip

    def judged(step, **parts):
        made = [{"name": name.replace("_", " "), "result": result} for name, result in parts.items()]
        return {line["goal"]: line for line in verdicts.verdicts({"step": step, "parts": made})}

    rows = [row(None, 1, 1), row("fastv", 0.97, 0.8), row("himap", 0.94, 1.01)]
    found = judged("speed", **{"batch_1": {"rows": rows}, "batch_8": {"rows": rows[:2]}})
    assert [line["met"] for line in found.values()] == [False, False, True, True]
    assert "1 of 2 variants; least 0.94 (himap" in found["batch 1: 0.95 of the possible speed-up"]["found"]
    for speed, met in ((1.0, True), (0.995, True), (0.98, False)):
        (line,) = judged("speed", decoding={"rows": [row(None, 1, 1), row("fastv", 1, 1, speed)]}).values()
        assert line["met"] == met
    percents = [{"variant": "a", "batch": 1, "tokens": 9, "percent": {"score": 0.1, "select": s, "debias": 0.05}}
                for s in (0.1, 0.3)]  # fmt: skip
    assert [line["met"] for line in judged("speed", parts={"rows": percents}).values()] == [False, True]
    assert [line["met"] for line in judged("speed", parts={"rows": percents[:1]}).values()] == [True, True]
    ratios = {"rows": [{"ratio": 1.2}, {"ratio": 0.9}]}
    assert judged("forks", fastv=ratios)["fastv: ahead of the authors' code"]["met"] is False
    seen = {"variant": "fastv", "unknown": {}, "in_layers": "", "profiled": 3}
    for change, met in (({}, True), ({"unknown": {"methods/fastv.py:score": 1}}, False), ({"in_layers": "x"}, False)):
        found = judged("smoke", waits={"device": "NVIDIA X", "rows": [seen, {**seen, **change}]})
        assert found["nothing waits for the device unless it must"]["met"] is met
    assert judged("smoke", tests={"said": ["2 skipped in 1 s"]}).popitem()[1]["met"] is False


@pytest.fixture
def clone(tmp_path):
    """The pages that an import writes to."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "assets").mkdir()
    for name in ("docs/speed.md", "README.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_the_pages_say_what_was_measured_and_what_was_not():
    found = pages.kept()
    for name, block in (("docs/speed.md", pages.docs(found)), ("README.md", pages.readme(found))):
        page = (ROOT / name).read_text(encoding="utf-8")
        placed = pages.placed(page, pages.MARKS, block, name)
        assert placed == page, f"{name} differs from assets/speed: import its files again"
    assert found or pages.NOTHING in (ROOT / "README.md").read_text(encoding="utf-8")


def test_an_import_writes_tables_with_machine_and_command(clone):
    result = {"step": "smoke", "rehearsal": False, "machine": MACHINE, "parts": [DONE], "verdicts": []}
    result["verdicts"] = verdicts.verdicts(result)
    path = clone / "smoke.json"
    path.write_text(json.dumps(result))
    assert pages.take([path], clone) == {"steps": ["smoke"]}
    page, front = (clone / "docs" / "speed.md").read_text(), (clone / "README.md").read_text()
    assert "### smoke\n\nNVIDIA X, CUDA 13.0, torch 2, transformers 5, 2026-01-01, commit abc" in page
    assert "`python -m pytest` (2 s):" in page
    assert "Not yet measured on a GPU: speed, forks, throughput, train, vllm." in page
    assert "- `smoke` on NVIDIA X" in front
    assert pages.NOTHING not in page + front
    result["machine"] = {**MACHINE, "device": "NVIDIA Y"}
    path.write_text(json.dumps(result))
    pages.take([path], clone)  # the newer one takes its place
    assert "NVIDIA X" not in (clone / "docs" / "speed.md").read_text()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rehearsal": True}, "a rehearsal is no measurement"),
        ({"machine": {**MACHINE, "cuda": "none"}}, "was not measured on a GPU"),
        ({"machine": {}}, "no result of"),
        ({"step": "other"}, "expected one of smoke, speed"),
    ],
)
def test_what_is_no_measurement_is_not_imported(clone, change, said, capsys, monkeypatch):
    path = clone / "smoke.json"
    path.write_text(json.dumps({"step": "smoke", "rehearsal": False, "machine": MACHINE, "parts": [], "verdicts": [],
                                **change}))  # fmt: skip
    before = (clone / "docs" / "speed.md").read_text()
    monkeypatch.setattr(pages, "ROOT", clone)
    with pytest.raises(ValueError, match=said):
        pages.take([path], clone)
    assert (clone / "docs" / "speed.md").read_text() == before
    assert cli.main(["speed", "--import", str(clone / "none.json")]) == 1
    assert "none.json is no result of" in capsys.readouterr().err


GPU = SimpleNamespace(type="cuda")


@pytest.fixture
def modes(monkeypatch):
    """What torch.cuda.set_sync_debug_mode was told; in "warn" and "error" mode, `wait` behaves as CUDA does."""
    told = []
    spied = create_autospec(torch.cuda.set_sync_debug_mode, side_effect=told.append)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", spied)
    return told


def test_waits_are_noted_with_their_place(modes):
    def prefill():
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)

    with waits.noted(GPU) as found:
        prefill()
        prefill()
        warnings.warn("something else", stacklevel=1)
    assert found == {"speed/test_gpu.py:prefill": 2}
    assert modes == ["warn", "default"]


def test_error_mode_is_on_in_the_decoders_layers_alone(modes):
    family = build(SHAPES["tiny"], 64, "cpu", torch.float32, "sdpa")
    far = SimpleNamespace(decoder=family.decoder, model=SimpleNamespace(device=GPU))
    inputs = waits.prompt(family, 1)
    with torch.inference_mode(), waits.strict(far), Variant("fastv", 8).around(family, 1):
        family.model(**inputs)
    assert modes == ["error", "default", "default"]
    handle = family.decoder.layers[2].register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError), torch.inference_mode(), waits.strict(far):
        family.model(**inputs)
    handle.remove()
    assert modes[-1] == "default"
    assert not family.decoder.layers[0]._forward_pre_hooks


def test_a_wait_that_is_not_listed_is_unknown(modes, monkeypatch):
    """FastV scores with a read of a number: noted in warn mode, and the end of the run in error mode."""
    family = build(SHAPES["tiny"], 64, "cpu", torch.float32, "sdpa")
    score = type(Variant("fastv", 8).pruner(64)).score

    def reading(self, view):
        if modes[-1:] == ["warn"]:
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        if modes[-1:] == ["error"]:
            raise RuntimeError("called a synchronizing CUDA operation")
        return score(self, view)

    device = property(lambda self: torch.device("cpu"))
    monkeypatch.setattr(waits, "OURS", ("speed",))
    monkeypatch.setattr(waits, "change", lambda device, to: modes.append(to))
    monkeypatch.setattr(type(Variant("fastv", 8).pruner(64)), "score", reading)
    assert device
    base, row = waits.measure(family, [Variant(), Variant("fastv", 8, "both")], 1, SpeedSettings())
    assert (base["unknown"], base["in_layers"]) == ({}, "")
    assert row["unknown"] == {"speed/test_gpu.py:reading": 1}
    assert row["in_layers"] == "called a synchronizing CUDA operation"


def test_the_script_hands_everything_on(tmp_path):
    asked, python = tmp_path / "asked", tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\ncase "$*" in "-m eval "*) echo "$@" >> {asked};; *) exec {sys.executable} "$@";; esac\n'
    )
    python.chmod(0o755)
    env = {**os.environ, "DEBIAS_PYTHON": str(python), "OUT": str(tmp_path / "out")}
    subprocess.run(["bash", str(ROOT / "scripts" / "gpu.sh"), "smoke", "--rehearse"], env=env, check=True)
    assert asked.read_text() == f"-m eval gpu --out {tmp_path / 'out'} smoke --rehearse\n"


def test_a_page_shows_every_kind_of_table():
    assert pages.table_of({"command": "python -m pytest", "result": {"said": []}}) is None
    assert pages.on(MACHINE).startswith("NVIDIA X, CUDA 13.0")
