"""Several processes under real launchers, on the CPU: shares, a killed rank, another world size, one split model."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eval.answering.store import Folder, numbered
from eval.cli import main

ROOT = Path(__file__).resolve().parent.parent.parent.parent
pytestmark = pytest.mark.long
BATCH = 2


@pytest.fixture(scope="module")
def asked(builders, world, tmp_path_factory):
    """The flags of a run of a two-layer random model: two arms of 22 questions, one batch after the other."""
    model = builders.checkpoint("llava", tmp_path_factory.mktemp("two-layers"), layers=2)
    return [
        "run", "--method", "fastv", "--layer", "1", "--arms", "none,both", "--benchmarks", "pope",
        "--model", str(model), "--data", str(world), "--trend", "online", "--max-new-tokens", "3", "--draws", "50",
        "--batch-size", str(BATCH), "--workers", "1",
    ]  # fmt: skip


HALTING = Path(__file__).with_name("halting")  # its sitecustomize lets one rank stand still


def environment(**more):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    return {
        **clean,
        "PYTHONPATH": f"{HALTING}{os.pathsep}{ROOT}",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        **more,
    }


def launch(*words, **more):
    return subprocess.Popen(
        [str(word) for word in words], cwd=ROOT, env=environment(**more),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def torchrun(ranks, *words, **more):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", ranks]
    return launch(*launcher, "-m", "eval", *words, **more)


def accelerated(ranks, *words, **more):
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", ranks]
    flags = ["--num_machines", 1, "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", 0]
    return launch(*launcher, *flags, "-m", "eval", *words, **more)


def deepspeed(ranks, *words, **more):
    """DEEPSPEED_PYTHON, or this Python, where deepspeed is installed."""
    python = os.environ.get("DEEPSPEED_PYTHON", sys.executable)
    script = Path(python).with_name("deepspeed")
    if not script.exists():
        pytest.skip("deepspeed is not installed; DEEPSPEED_PYTHON may name a Python that has it")
    path = f"{script.parent}{os.pathsep}{os.environ['PATH']}"
    return launch(script, "--num_gpus", ranks, "--module", "eval", *words, PATH=path, DS_ACCELERATOR="cpu", **more)


SHARE = r"this process holds (\S+) of (\S+) weights"
LAUNCHERS = {"torchrun": torchrun, "accelerate": accelerated, "deepspeed": deepspeed}


def lines(folder, rank="*"):
    return sum(path.read_bytes().count(b"\n") for path in folder.glob(f"pope/*.{rank}.jsonl"))


def finished(folder, rank):
    """Answers of the batches that a rank had ended, as it wrote down beside the rows."""
    path = folder / f"timings.{rank}.jsonl"
    return sum(json.loads(line)["n"] for line in path.read_text().splitlines()) if path.exists() else 0


def child_of_rank(process, rank):
    """The pid of one rank of a launcher, which may have started another process that starts the ranks."""
    waiting = [process.pid]
    while waiting:
        pid = waiting.pop(0)
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            words = Path(f"/proc/{child}/environ").read_text().split("\0")
            if f"RANK={rank}" in words:
                return int(child)
            waiting.append(child)
    raise AssertionError(f"no rank {rank} below {process.pid}")


def every_row_once(folder, reference):
    """No row lost, none doubled, and all with the answers of the run by one process."""
    for arm in ("none", "both"):
        keys = [row["metadata"]["key"] for path in folder.glob(f"pope/{arm}.*.jsonl") for _, row in numbered(path)]
        assert len(keys) == len(set(keys))
        expected = {row["metadata"]["key"]: row for row in Folder(reference).rows("pope", arm)}
        assert {row["metadata"]["key"]: row for row in Folder(folder).rows("pope", arm)} == expected
    assert (folder / "scores.json").read_bytes() == (reference / "scores.json").read_bytes()


@pytest.fixture(scope="module")
def reference(asked, tmp_path_factory):
    """The run of one process."""
    folder = tmp_path_factory.mktemp("reference") / "run"
    assert main([*asked, "--out", str(folder)]) == 0
    return folder


@pytest.mark.parametrize(("launcher", "ranks", "then"), [("torchrun", 3, 2), ("accelerate", 2, 3), ("deepspeed", 2, 3)])
def test_a_killed_rank_and_a_restart_with_another_world_size(asked, reference, tmp_path, launcher, ranks, then):
    folder, begin = tmp_path / "run", LAUNCHERS[launcher]
    process = begin(ranks, *asked, "--out", folder, HALTING_RANK="1")
    while lines(folder, 1) < 3:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    os.kill(child_of_rank(process, 1), signal.SIGKILL)
    said, _ = process.communicate(timeout=600)
    assert process.returncode != 0, said  # the launcher stops the other ranks, too
    assert (lines(folder, 1), finished(folder, 1)) == (3, BATCH)  # in the middle of its second batch
    for rank in range(ranks):  # no batch that was answered is lost: at most the one under way, for one arm
        assert finished(folder, rank) <= lines(folder, rank) <= finished(folder, rank) + BATCH
    whole = {path: path.read_bytes() for path in folder.glob("pope/*.jsonl")}
    process = begin(then, *asked, "--out", folder)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    for path, content in whole.items():  # what was there stays as it was, but for a torn last line
        assert path.read_bytes().startswith(content[: content.rfind(b"\n") + 1])
    assert {path.name for path in folder.glob("pope/none.*.jsonl")} >= {f"none.{rank}.jsonl" for rank in range(then)}
    every_row_once(folder, reference)


@pytest.mark.parametrize(
    ("launcher", "flag", "device"),
    [
        ("torchrun", "--tensor-parallel", "cpu, split in 2"),
        ("deepspeed", "--tensor-parallel", "cpu, split in 2"),
        ("deepspeed", "--zero", "cpu"),
    ],
)
def test_two_ranks_hold_one_model_together(asked, reference, tmp_path, launcher, flag, device):
    """Over gloo, half of the heads or half of every weight each, and yet the same tokens are kept."""
    if flag == "--zero":  # in half precision, where a sum that is rounded elsewhere shows
        asked, reference = [*asked, "--dtype", "bfloat16"], tmp_path / "alone"
        assert main([*asked, "--out", str(reference)]) == 0
    process = LAUNCHERS[launcher](2, *asked, "--out", tmp_path / "run", flag, "--json")
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    assert [path.name for path in sorted((tmp_path / "run").glob("pope/*.jsonl"))] == ["both.0.jsonl", "none.0.jsonl"]
    settings = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]
    assert settings["device"] == device
    if flag == "--zero":
        shares = [tuple(int(n.replace(",", "")) for n in words) for words in re.findall(SHARE, said)]
        assert len(shares) == 2
        assert all(whole / 2 <= held < 1.01 * whole / 2 for held, whole in shares)
        every_row_once(tmp_path / "run", reference)  # the very numbers of one process
    for arm in ("none", "both"):
        together, alone = (
            {row["metadata"]["key"]: (row["text"], row["metadata"]["kept"]) for row in Folder(folder).rows("pope", arm)}
            for folder in (tmp_path / "run", reference)
        )
        assert together == alone
