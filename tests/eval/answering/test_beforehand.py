"""What cannot be had is said in one sentence, before anything is loaded, and leaves nothing behind."""

import os
import subprocess
import sys

import pytest
import torch

from eval.answering import early
from eval.cli import main
from eval.core import versions
from eval.speed.drawn import build
from eval.speed.shapes import SHAPES, Architecture


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--keep", "0"], "--keep 0 leaves nothing of a picture"),
        (["--keep", "1000"], "sees a picture as 36 tokens; give at most so many, or a share"),
        (["--layer", "99"], "cannot cut before layer 99: llava has layers 0 to 3"),
        (["--method", "vispruner", "--arms", "none,both"], "it has the arms none and padding"),
        (["--method", "random", "--arms", "trend"], "it has the arms none and padding"),
        (["--device", "cuda:99"], "cuda:99 is not there: torch"),
        (["--device", "tpu"], "expected cpu, cuda, cuda:1 or auto, not tpu"),
    ],
)
def test_a_run_that_cannot_be_is_refused_at_once(checkpoints, world, tmp_path, capsys, flags, message):
    model = ["--model", str(checkpoints["image"]), "--data", str(world), "--benchmarks", "pope", "--device", "cpu"]
    assert main(["run", *model, "--out", str(tmp_path / "run"), *flags]) in (1, 2)
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
    assert "loading" not in err
    assert not (tmp_path / "run").exists()


WRONG = """
import sys, time
from pathlib import Path
from eval.answering import early
from eval.cli import main
from eval.forks.setup import Setup
Setup.python = Path("nowhere")  # no environment of the authors' code is here
if "poor" in sys.argv:
    early.available = lambda: 1000.0
for words in sys.stdin.read().splitlines():
    began = time.process_time()
    assert main(words.split()) in (1, 2), words
    assert "torch" not in sys.modules, words
    assert time.process_time() - began < 1, words
"""
FLAGS = """run --keep 0
run --keep lots
run --keep 1.5
run --layer 99
run --method pyramiddrop --layers 1 99
run --mode hide
run --method deeplayer --scores rato
run --method vispruner --arms both
run --arms nope
run --benchmarks popo
run --data /nowhere
run --model /nowhere
run --trend nope
run --padding nope
run --option nope
run --device tpu
run --keep 1000
run --method evs --benchmarks tgif --layer 99
run --attention flashy
run --as-released --arms trend
run --as-released --method vispruner
run --as-released --stages all
run --as-released --trend online
run --as-released --padding area
run --trend unrotated --backend fork
run --padding sink --backend fork
run --fill black
run --fill mirror --backend fork
run --max-patches 4
run --zero
run --out README.md/below
run --out /dev/full
run --out /dev/full/below
run --backend fork
run --backend fork --method grid
run --limit 0
run --draws many
run --data docs --benchmarks pope
run --judge-url http://localhost:1
run --method fastvv
run --method all --keep nothing
fit --keep 1000
fit --out README.md/below
diagnose --out README.md/below
compare /nowhere --out README.md/below
throughput --keep 1000
show assets/example.png What? --keep 1000
serve --keep 1000
show nothing.png What?
show README.md What? --out x.jpg
serve --arm nope
demo --method vispruner --arm both
throughput --layer 99
fit --layer 99
fit --each
fit --method random
study nope
diagnose --layers 99
diagnose --limit 3
diagnose --keep -1
diagnose --keep 0
diagnose --text-only --video
diagnose --prompts nothing.txt
run --method pyramiddrop --layers 5 3 1
run --trend unrotated --mode mask
speed --precision int3
score nope --answers x.jsonl
score pope --answers nothing.jsonl
compare /nowhere
report /nowhere
average /nowhere
figures /nowhere
diagnose --model /nowhere
speed --shape nope
speed --method nope
speed --dtype float3
speed --attention flashy
speed --arms noone
speed --keep 1.5
speed --out README.md/below
speed --ragged 99
speed --memory --shared-layers
scale --method nope
scale --speed nothing.json
reproduce nope
parity nope
parity fastv
parity grid"""
POOR = """run
speed --shape llava-1.5-7b --arms both --device cpu
speed --shape llava-1.5-7b --waits --device cpu"""


def told(words, given="", **more):
    """(lines of standard error) of a Python process that was given these words."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", **more}
    done = subprocess.run(
        [sys.executable, *words], input=given, capture_output=True, text=True, env=environment, check=False
    )
    assert not done.stdout
    return done.returncode, done.stderr.splitlines()


def test_a_wrong_flag_is_told_in_one_line_and_without_torch():
    status, lines = told(["-c", WRONG], FLAGS)
    assert status == 0, lines[-3:]
    assert len([line for line in lines if not line.startswith("Try: ")]) == len(FLAGS.splitlines()), lines


@pytest.mark.skipif(not versions.of("torch").endswith("+cpu"), reason="only torch knows what a GPU has free")
def test_too_little_memory_is_told_without_torch():
    status, lines = told(["-c", WRONG, "poor"], POOR)
    assert status == 0, lines[-3:]
    assert [line.partition("needs about")[1] for line in lines] == ["needs about"] * len(POOR.splitlines()), lines


def test_a_budget_of_clips_is_not_held_to_the_tokens_of_a_picture(checkpoints, world, tmp_path, capsys):
    model = ["--model", str(checkpoints["video"]), "--data", str(world), "--benchmarks", "tgif", "--device", "cpu"]
    assert main(["run", *model, "--keep", "100", "--dry-run", "--json"]) == 0
    assert "keep=100" in capsys.readouterr().out


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("command", ["run", "fit", "diagnose", "speed"])
def test_a_folder_that_may_not_be_written_is_told_at_once(command, tmp_path, capsys):
    tmp_path.chmod(0o555)
    assert main([command, "--out", str(tmp_path / "below" / "out")]) == 2
    assert f"cannot be written ({tmp_path} is read-only, or not yours)" in capsys.readouterr().err


def test_an_unreachable_hub_is_told_once_and_at_once():
    refusing = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0", "NO_PROXY": "*"}
    status, lines = told(["-X", "importtime", "-m", "eval", "run", "--model", "llava-hf/llava-1.5-7b"], **refusing)
    imported = [line for line in lines if line.startswith("import time:")]
    assert status == 2
    assert not [line for line in imported if line.endswith(" torch")]
    assert [line for line in lines if line not in imported] == [
        "python -m eval run: llava-hf/llava-1.5-7b: neither a folder nor a model that the hub gives (it cannot be "
        "reached) (did you mean llava-hf/llava-1.5-7b-hf?)"
    ]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("command", ["run", "fit", "diagnose", "speed"])
def test_cuda_without_a_gpu_is_one_sentence(command, capsys):
    assert main([command, "--device", "cuda"]) == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert "cuda is not there: torch" in err[0]
    assert len(err) == 2  # and where help is


def test_a_model_that_does_not_fit_is_refused(checkpoints, world, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(early, "available", lambda: 1000.0)
    model = ["--model", str(checkpoints["image"]), "--data", str(world), "--benchmarks", "pope", "--device", "cpu"]
    assert main(["run", *model, "--out", str(tmp_path / "run")]) == 2
    assert "GiB are free on cpu: use a smaller model" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert main(["speed", "--shape", "llava-1.5-7b", "--device", "cpu"]) == 2
    err = capsys.readouterr().err
    assert "--shape llava-1.5-7b in float32 needs about 26" in err
    assert "--shared-layers keeps one layer's weights for all, --dtype bfloat16 halves them" in err


def test_weights_of_a_checkpoint_are_counted(checkpoints):
    stored = early.weights(str(checkpoints["image"]), "auto")
    assert stored == sum(path.stat().st_size for path in checkpoints["image"].glob("*.safetensors")) > 0
    assert early.weights(str(checkpoints["image"]), "bfloat16") == stored / 2
    assert early.weights("someone/elsewhere", "auto") == 0


def test_a_shape_knows_its_size():
    for shape, shared in (
        (SHAPES["tiny"], False),
        (SHAPES["tiny"], True),
        (Architecture(96, 200, 5, 6, 3, 500, 36), False),
    ):
        model = build(shape, shape.tokens, "meta" if shape.tower else "cpu", torch.float32, "sdpa", shared).model
        counted = sum({id(one): one.numel() for one in model.parameters()}.values())
        assert shape.parameters(shared) == pytest.approx(counted, rel=0.05)
    assert SHAPES["llava-1.5-7b"].parameters() == pytest.approx(7.06e9, rel=0.01)


def test_a_failed_load_leaves_no_folder(checkpoints, world, tmp_path, capsys):
    import shutil

    model = shutil.copytree(checkpoints["image"], tmp_path / "model")
    for path in model.glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:1000])
    words = ["run", "--model", str(model), "--data", str(world), "--benchmarks", "pope", "--out", str(tmp_path / "run")]
    try:
        assert main(words) == 1
    except Exception as error:  # whatever the library raises
        print(error, file=sys.stderr)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks /proc")
def test_free_memory_is_known():
    assert 1 << 20 < early.available() < 1 << 50
