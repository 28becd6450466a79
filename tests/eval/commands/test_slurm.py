"""The SLURM script, under a stand-in for srun that starts tasks with the variables the real one sets."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent.parent
SRUN = """#!/usr/bin/env bash
# srun: two tasks, the flags of srun itself left out; status: that of the worst one
[ "$1" = --kill-on-bad-exit=0 ] || exit 99
shift
worst=0
for task in 0 1; do
  SLURM_PROCID=$task SLURM_STEP_NUM_TASKS=2 SLURM_LOCALID=$task "$@" || { s=$?; [ $s -gt $worst ] && worst=$s; }
done
exit $worst
"""
PYTHON = """#!/usr/bin/env bash
# python: notes what the evaluation was asked, and ends as ENDS says, one word for each call
if [ "$1 $2" != "-m eval" ]; then exec {python} "$@"; fi
echo "$SLURM_PROCID/$SLURM_STEP_NUM_TASKS $*" >>"$NOTES"
ends=($ENDS)
status=${{ends[$(($(wc -l <"$NOTES") - 1))]:-0}}
[ "$status" = killed ] && kill -KILL $$
exit "$status"
"""


@pytest.fixture
def slurm(tmp_path):
    """slurm(*flags, ends=...) -> the finished script, and what the tasks were asked."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in (("srun", SRUN), ("python", PYTHON.format(python=sys.executable))):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)

    def run(*flags, ends="", python=tools / "python", path=f"{tools}:{os.environ['PATH']}", **more):
        clean = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
        more |= {"DEBIAS_PYTHON": str(python), "PATH": path, "NOTES": str(tmp_path / "notes"), "ENDS": ends}
        done = subprocess.run(
            ["bash", str(ROOT / "scripts" / "slurm.sh"), *map(str, flags)],
            env={**clean, "SLURM_SUBMIT_DIR": str(ROOT), "HF_HUB_OFFLINE": "1", **more},
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        notes = tmp_path / "notes"
        return done, notes.read_text().splitlines() if notes.exists() else []

    return run


def test_every_task_gets_the_flags_and_its_place(slurm):
    done, asked = slurm("--method", "fastv", "--out", "a folder")
    assert done.returncode == 0, done.stderr
    assert asked == [f"{task}/2 -m eval run --method fastv --out a folder" for task in (0, 1)]


@pytest.mark.parametrize(
    ("ends", "more", "status", "calls"),
    [
        ("0 killed 0 0", {}, 0, 4),  # a dead task: the others go on, and all start once more
        ("1 0 0 0", {}, 0, 4),
        ("2 2", {}, 2, 2),  # wrong flags stay wrong
        ("0 killed 0 killed", {"TRIES": "2"}, 137, 4),
    ],
)
def test_what_is_left_open_is_tried_again(slurm, ends, more, status, calls):
    done, asked = slurm("--method", "fastv", ends=ends, **more)
    assert (done.returncode, len(asked)) == (status, calls), done.stderr
    assert ("what is answered stays" in done.stderr) == (calls > 2)


def test_without_slurm_it_says_what_to_do(slurm, tmp_path):
    few = tmp_path / "few"
    few.mkdir()
    for tool in ("bash", "dirname"):
        (few / tool).symlink_to(next(p for p in map(Path, (f"/bin/{tool}", f"/usr/bin/{tool}")) if p.exists()))
    done, asked = slurm("--method", "fastv", path=str(few))
    assert (done.returncode, asked) == (2, [])
    assert "torchrun" in done.stderr


def test_its_settings_are_those_of_sbatch():
    lines = (ROOT / "scripts" / "slurm.sh").read_text().splitlines()
    assert os.access(ROOT / "scripts" / "slurm.sh", os.X_OK)
    head = [line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH ")]
    assert {"requeue", "gpus-per-task=1", "open-mode=append"} <= set(head)
    assert lines[1 : 1 + len(head)] == [f"#SBATCH --{line}" for line in head]  # sbatch reads them at the top only


@pytest.mark.long
def test_dry_run(slurm, checkpoints, world):
    flags = ["--model", checkpoints["image"], "--data", world, "--benchmarks", "pope", "--trend", "online"]
    done, _ = slurm(*flags, "--dry-run", "--json", python=sys.executable)
    assert done.returncode == 0, done.stderr
    one, other = (json.loads(line) for line in done.stdout.splitlines())
    assert one == other
    assert one["benchmarks"] == {"pope": 22}
