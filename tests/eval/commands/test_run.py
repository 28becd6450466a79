"""The runner, through the real command line: all benchmarks, interruptions, processes, batches, and bad input."""

import json
import os
import random
import shutil
import subprocess
import sys
import time

import pytest

from eval import benchmarks
from eval.answering.store import Folder, numbered
from eval.cli import main

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))


@pytest.fixture(scope="module")
def flags(checkpoints, world):
    """A quick run: short answers, a trend that needs no fitting, few draws."""
    return [
        "--model", str(checkpoints["image"]), "--video-model", str(checkpoints["video"]), "--data", str(world),
        "--trend", "online", "--max-new-tokens", "3", "--draws", "200",
    ]  # fmt: skip


def environment(**more):
    return {**os.environ, "PYTHONPATH": ROOT, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **more}


def start(arguments, **more):
    return subprocess.Popen(
        [sys.executable, "-m", "eval", "run", *map(str, arguments)],
        cwd=ROOT, env=environment(**more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def run(arguments, status=0, **more):
    process = start(arguments, **more)
    out, err = process.communicate(timeout=300)
    assert process.returncode == status, err
    return out, err


def here(arguments, capsys, status=0):
    """The same without a new process."""
    capsys.readouterr()
    assert main(["run", *map(str, arguments)]) == status
    return capsys.readouterr()


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob("*/*.jsonl"))}


@pytest.mark.long
def test_all_benchmarks_in_four_arms(flags, tmp_path):
    out, err = run(["--method", "fastv", "--limit", 4, "--json", "--out", tmp_path / "run", *flags])
    found = json.loads(out)  # one JSON object and nothing else
    assert found["complete"]
    assert set(found["scores"]) == set(benchmarks.NAMES)
    for name, arms in found["scores"].items():
        assert list(arms) == ["none", "trend", "padding", "both", "unpruned"], name
        for arm, score in arms.items():
            assert score["missing"] == score["failed"] == 0, (name, arm)
            assert 0 <= score["value"] <= (2000 if name == "mme" else 100)
    assert {one["benchmark"] for one in found["comparisons"]} >= {"pope", "average", "msvd_em"}
    assert "both − none, 95 %" in err
    assert "unpruned" in err
    rows = [row for _, row in numbered(tmp_path / "run" / "textvqa" / "both.0.jsonl")]
    facts = rows[0]["metadata"]
    assert {"key", "benchmark", "arm", "run", "kept", "counts", "size"} <= facts.keys()
    assert set(rows[0]) >= {"question_id", "prompt", "text", "answer_id", "model_id", "metadata"}
    for name in ("run.json", "scores.json", "table.md", "table.csv", "table.tex"):
        assert (tmp_path / "run" / name).stat().st_size


@pytest.fixture(scope="module")
def reference(flags, tmp_path_factory):
    """One uninterrupted run of two benchmarks, one of them of clips."""
    folder = tmp_path_factory.mktemp("reference") / "run"
    arguments = ["--method", "fastv", "--benchmarks", "pope,msvd", "--limit", 8, "--batch-size", 3, *flags]
    run([*arguments, "--out", folder])
    return arguments, folder


@pytest.mark.long
def test_killed_at_random_points_it_ends_with_the_same_bytes(reference, tmp_path):
    arguments, whole = reference
    total = sum(len(content.splitlines()) for content in files(whole).values())
    points = sorted(random.Random(0).sample(range(1, total - 2), 3))
    folder = tmp_path / "run"
    for point in points:
        process = start([*arguments, "--out", folder])
        while process.poll() is None and sum(c.count(b"\n") for c in files(folder).values()) < point:
            time.sleep(0.005)
        process.kill()
        process.communicate()
    run([*arguments, "--out", folder])
    assert files(folder) == files(whole)
    assert (folder / "scores.json").read_bytes() == (whole / "scores.json").read_bytes()


@pytest.mark.long
@pytest.mark.parametrize("size", [2, 3])
def test_any_number_of_processes_gives_the_same_results(reference, tmp_path, size):
    arguments, whole = reference
    folder = tmp_path / "run"
    processes = [start([*arguments, "--out", folder], RANK=str(rank), WORLD_SIZE=str(size)) for rank in range(size)]
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0] * size, outputs
    assert (folder / "scores.json").read_bytes() == (whole / "scores.json").read_bytes()
    assert 1 < len(list(folder.glob("pope/none.*.jsonl"))) <= size  # the work was shared
    for name in ("pope", "msvd"):
        for arm in ("none", "both"):
            order = sorted(row["metadata"]["key"] for row in Folder(whole).rows(name, arm))
            assert Folder(folder).rows(name, arm, order) == Folder(whole).rows(name, arm, order)


@pytest.mark.parametrize("size", [1, 8])
def test_batch_size_does_not_change_answers(reference, tmp_path, capsys, size):
    arguments, whole = reference
    here([*arguments, "--out", tmp_path / "run", "--batch-size", size], capsys)
    for name in ("pope", "msvd"):
        for arm in ("none", "trend", "padding", "both"):
            order = sorted(row["metadata"]["key"] for row in Folder(whole).rows(name, arm))
            assert Folder(tmp_path / "run").rows(name, arm, order) == Folder(whole).rows(name, arm, order)


def test_a_finished_run_answers_nothing_again(reference, capsys):
    arguments, whole = reference
    before = files(whole)
    here([*arguments, "--out", whole], capsys)
    assert files(whole) == before


def test_more_arms_and_benchmarks_can_join_a_run(flags, tmp_path, capsys):
    common = ["--method", "fastv", "--limit", 2, "--out", tmp_path / "run", *flags]
    here([*common, "--benchmarks", "gqa", "--arms", "none"], capsys)
    first = files(tmp_path / "run")
    here([*common, "--benchmarks", "gqa,pope", "--arms", "none,both,unpruned"], capsys)
    after = files(tmp_path / "run")
    assert set(after) == {f"{b}/{a}.0.jsonl" for b in ("gqa", "pope") for a in ("none", "both", "unpruned")}
    assert after["gqa/none.0.jsonl"] == first["gqa/none.0.jsonl"]
    _, first = next(numbered(tmp_path / "run" / "gqa" / "unpruned.0.jsonl"))
    assert "kept" not in first["metadata"]


def test_the_authors_names_of_arms_are_accepted(flags, tmp_path, capsys):
    here(["--limit", 1, "--benchmarks", "gqa", "--arms", "paper,before,after", "--out", tmp_path, *flags], capsys)
    assert Folder(tmp_path).arms("gqa") == ["none", "padding", "both"]


def test_dry_run_runs_nothing(flags, tmp_path, capsys):
    out = here(["--benchmarks", "pope,gqa", "--dry-run", "--json", "--out", tmp_path / "run", *flags], capsys)
    assert json.loads(out.out)["benchmarks"] == {"gqa": 12, "pope": 22}
    assert not (tmp_path / "run").exists()


# -- what can go wrong -----------------------------------------------------------------------------------------------


def copied(world, tmp_path, *names):
    for name in names:
        shutil.copytree(world / name, tmp_path / "data" / name, symlinks=True)
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "fastvv"], "unknown method 'fastvv' (did you mean fastv?)"),
        (["--arms", "bth"], "unknown arm 'bth' (did you mean both?)"),
        (["--benchmarks", "poppe"], "unknown benchmark 'poppe' (did you mean pope?)"),
        (["--data", "no/such/folder"], "no/such/folder: no such folder"),
        (["--trend", "nowhere.toml"], "--trend nowhere.toml: no such file"),
        (["--model", "no/such/model/here"], "no/such/model/here: no such folder"),
        (["--full"], "--full belongs to the embedded data"),
        (["--judge-url", "http://localhost:1"], "a judge needs both --judge-url and --judge-model"),
    ],
)
def test_a_wrong_value_is_named(flags, tmp_path, capsys, arguments, message):
    common = ["--benchmarks", "pope", "--limit", 1, "--out", tmp_path / "run"]
    assert message in here([*common, *flags, *arguments], capsys, status=2).err


def test_a_folder_without_benchmarks_is_named(flags, tmp_path, capsys):
    assert "holds none of the benchmarks" in here([*flags, "--data", tmp_path], capsys, status=2).err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--limit", "0"], "expected a whole number of at least 1, not 0"),
        (["--limit", "many"], "whole number"),
        (["--backend", "other"], "invalid choice: 'other'"),
        (["--kepe", "3"], "unknown flag --kepe (did you mean --keep?)"),
        (["--benchmark", "pope"], "unknown flag --benchmark (did you mean --benchmarks?)"),
        (["--seed", "3"], "FastV has no flag --seed"),
        (["--keep", "many"], "many"),
    ],
)
def test_wrong_usage_is_status_2(flags, tmp_path, capsys, arguments, message):
    err = here(["--benchmarks", "pope", "--out", tmp_path / "run", *flags, *arguments], capsys, status=2).err
    assert message in err


def test_other_settings_in_the_same_folder_are_refused(reference, capsys):
    arguments, whole = reference
    before = files(whole)
    err = here([*arguments, "--keep", "5", "--out", whole], capsys, status=1).err
    assert "holds a run of other settings (method: FastV(keep=0.22" in err
    assert files(whole) == before


def test_other_answers_lengths_in_the_same_folder_are_refused(reference, capsys):
    arguments, whole = reference
    err = here([*arguments, "--max-new-tokens", "4", "--out", whole], capsys, status=1).err
    assert "is not what this run began with (max_new_tokens: 3 there, 4 here" in err


def test_a_broken_picture_stops_the_check_and_skip_broken_goes_on(flags, world, tmp_path, capsys):
    data = copied(world, tmp_path, "pope", "coco")
    picture = next(path for path in sorted((data / "pope" / "val2014").resolve().iterdir()))
    content = picture.read_bytes()
    picture.write_bytes(content[: len(content) // 2])
    common = [*flags, "--benchmarks", "pope", "--data", data, "--out", tmp_path / "run", "--arms", "none"]
    err = here([*common, "--check"], capsys, status=1).err
    assert picture.name in err
    assert "--skip-broken" in err
    assert not (tmp_path / "run").exists()  # found before a model was loaded
    err = here(common, capsys, status=1).err  # without the check: when its turn comes, and nothing is lost
    assert picture.name in err
    assert "--skip-broken" in err
    seen = here([*common, "--skip-broken", "--json"], capsys)
    score = json.loads(seen.out)["scores"]["pope"]["none"]
    assert score["failed"] == score["missing"] > 0
    said = f"{score['failed']} questions have no answer in some arm"
    assert seen.err.count(said) == 1
    both = here([*common, "--skip-broken", "--arms", "none,both", "--json"], capsys)
    assert both.err.count(said) == 1  # once, not once an arm
    rows = Folder(tmp_path / "run").rows("pope", "none")
    broken = [row for row in rows if "error" in row["metadata"]]
    assert len(broken) == score["failed"]
    assert picture.name in broken[0]["metadata"]["error"]


def test_a_broken_clip_is_named(flags, world, tmp_path, capsys):
    data = copied(world, tmp_path, "GPT_Zero_Shot_QA")
    clip = next(iter(sorted((data / "GPT_Zero_Shot_QA" / "MSVD_Zero_Shot_QA" / "videos").iterdir())))
    clip.write_bytes(b"not a video")
    common = [*flags, "--benchmarks", "msvd", "--data", data, "--out", tmp_path / "run", "--arms", "none"]
    assert clip.name in here(common, capsys, status=1).err


def test_nan_is_reported_and_never_an_answer(flags, checkpoints, world, tmp_path, capsys):
    from safetensors.torch import load_file, save_file

    sick = shutil.copytree(checkpoints["image"], tmp_path / "sick")
    weights = load_file(sick / "model.safetensors")
    head = next(name for name in weights if "lm_head" in name)
    weights[head] = weights[head] * float("nan")
    save_file(weights, sick / "model.safetensors", metadata={"format": "pt"})
    common = [*flags, "--benchmarks", "pope", "--limit", 3, "--out", tmp_path / "run", "--arms", "none", "--json"]
    score = json.loads(here([*common, "--model", sick], capsys).out)["scores"]["pope"]["none"]
    assert score["failed"] == score["missing"] == score["n"]
    assert score["value"] == 0  # POPE's parser would take an empty answer for yes
    assert "NaN" in Folder(tmp_path / "run").rows("pope", "none")[0]["metadata"]["error"]


def test_out_of_memory_halves_the_batch(flags, tmp_path, capsys, monkeypatch):
    import torch

    from eval.answering.backends import Native

    whole, sizes = Native._generate, []

    def small(self, batch, arm, benchmark):
        sizes.append(len(batch.samples))
        if len(batch.samples) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(self, batch, arm, benchmark)

    monkeypatch.setattr(Native, "_generate", small)
    common = [*flags, "--benchmarks", "gqa", "--arms", "none", "--batch-size", "8"]
    here([*common, "--out", tmp_path / "small"], capsys)
    assert sizes == [8, 4, 2, 2, 2, 2, 2, 2]
    monkeypatch.setattr(Native, "_generate", whole)
    here([*common, "--out", tmp_path / "whole"], capsys)
    assert files(tmp_path / "small") == files(tmp_path / "whole")


def test_one_question_too_many_for_memory_is_said(flags, tmp_path, capsys, monkeypatch):
    import torch

    from eval.answering.backends import Native

    def never(self, batch, arm, benchmark):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Native, "_generate", never)
    err = here([*flags, "--benchmarks", "gqa", "--limit", 1, "--out", tmp_path], capsys, status=1).err
    assert "does not fit into memory even alone" in err


def test_missing_pictures_are_named_before_a_model_is_loaded(flags, world, tmp_path, capsys):
    data = copied(world, tmp_path, "gqa")
    picture = next(path for path in sorted((data / "gqa").rglob("*.jpg")))
    picture.unlink()
    common = [*flags, "--benchmarks", "gqa", "--data", data, "--out", tmp_path / "run", "--arms", "none"]
    seen = here(common, capsys, status=1)
    assert "gqa: 1 of " in seen.err
    assert f"files are missing, first {picture}" in seen.err
    assert not (tmp_path / "run").exists()
    score = json.loads(here([*common, "--skip-broken", "--json"], capsys).out)["scores"]["gqa"]["none"]
    assert score["failed"] == score["missing"] > 0


def test_a_split_without_public_answers_is_answered_and_left_to_export(flags, tmp_path, capsys):
    common = [
        *flags,
        "--benchmarks",
        "vqav2",
        "--option",
        "vqav2.split=test-dev",
        "--limit",
        4,
        "--out",
        tmp_path / "run",
    ]
    seen = here([*common, "--arms", "none", "--json"], capsys)
    found = json.loads(seen.out)
    assert found["complete"]
    assert found["scores"] == {}
    assert "vqav2: the answers are not public" in seen.err
    assert len(list(numbered(tmp_path / "run" / "vqav2" / "none.0.jsonl"))) >= 1
    err = here(
        [*common[:-4], "--limit", 4, "--out", tmp_path / "run", "--option", "vqav2.split=val2014"], capsys, status=1
    ).err
    assert "vqav2 is not what this run began with" in err


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("vqav2", "expected BENCHMARK.NAME=VALUE"),
        ("vqav2.splt=val2014", "vqav2 has no option 'splt' (did you mean split?)"),
    ],
)
def test_a_wrong_option_is_named(flags, tmp_path, capsys, option, message):
    common = [*flags, "--benchmarks", "vqav2", "--option", option, "--out", tmp_path / "run"]
    assert message in here(common, capsys, status=1 if "=" in option else 2).err


def test_several_methods_in_one_command(flags, tmp_path, capsys):
    common = [*flags, "--benchmarks", "gqa,pope", "--limit", 1, "--out", tmp_path / "runs", "--json"]
    seen = here([*common, "--method", "random,fastv"], capsys)
    found = json.loads(seen.out)
    assert list(found["methods"]) == ["random", "fastv"]
    assert (tmp_path / "runs" / "random" / "run.json").exists()
    # It has no attention to debias; and the unpruned model is asked once, with the first method.
    assert Folder(tmp_path / "runs" / "random").arms("gqa") == ["none", "padding", "unpruned"]
    assert "unpruned" not in Folder(tmp_path / "runs" / "fastv").arms("gqa")
    assert "All methods" in seen.err
    assert (tmp_path / "runs" / "table.md").exists()
    assert "unknown method 'fastvv'" in here([*common, "--method", "random,fastvv"], capsys, status=2).err
