"""A plan is read and refused in words, and only a plan that was committed before the run confirms anything."""

from __future__ import annotations

import shutil
import subprocess
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from eval.papers import study
from eval.papers.study import Comparison

PLAN = Path(__file__).parents[3] / "assets" / "studies" / "smol.toml"
NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)


@pytest.fixture
def clone(tmp_path):
    """A repository of one commit, made at noon, that holds the plan."""
    shutil.copy(PLAN, tmp_path / "plan.toml")
    git(tmp_path, "init", "-q")
    commit(tmp_path, NOON)
    return tmp_path


def git(folder, *words, **variables):
    plain = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}
    done = subprocess.run(
        ["git", "-C", folder, *words], env={**plain, **variables, "PATH": "/usr/bin:/bin:/usr/local/bin"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def commit(folder, when):
    git(folder, "add", "-A")
    date = {"GIT_COMMITTER_DATE": when.isoformat(), "GIT_AUTHOR_DATE": when.isoformat()}
    git(folder, "commit", "-q", "--allow-empty", "-m", "plan", **date)
    return git(folder, "rev-parse", "HEAD")


def later(hours):
    return NOON + timedelta(hours=hours)


def test_the_plan_of_smol_is_what_the_study_was_announced_as():
    plan = study.load(PLAN)
    assert plan.primary == Comparison(4, 64, "both", "none")
    assert {(one.layer, one.keep) for one in plan.secondary} == {(4, 64), (4, 128), (10, 64), (10, 128)}
    assert len(plan.secondary) == 11
    assert plan.pictures["n"] >= 600
    assert plan.pictures["padded"] >= 400
    assert plan.calibration["n"] >= 200


def test_the_pictures_of_the_plan_were_never_trained_on():
    from tiny.drawn.scenes import TEST
    from tiny.smol import train as smol_train

    plan = study.load(PLAN)
    trained = max(smol_train.SEEDS[stage] for stage in ("tower", "bridge", "tune")) + 1000 * smol_train.STEPS["tune"]
    assert trained < TEST <= plan.pictures["first"] < plan.calibration["first"] < smol_train.SEEDS["check"]


def test_a_plan_that_was_committed_first_confirms(clone):
    found = study.verdict(study.load(clone / "plan.toml"), study.head(clone), later(1))
    assert found.confirmed
    assert found.commit == study.head(clone)


def test_a_plan_that_was_committed_after_the_run_began_does_not(clone):
    found = study.verdict(study.load(clone / "plan.toml"), study.head(clone), later(-1))
    assert not found.confirmed
    assert "after the run began" in found.why


def test_a_plan_that_was_changed_since_does_not(clone):
    run = study.head(clone)
    with open(clone / "plan.toml", "a") as file:
        file.write("# another word\n")
    changed = study.load(clone / "plan.toml")
    assert "is in no commit before" in study.verdict(changed, run, later(5)).why
    after = commit(clone, later(2))
    assert not study.verdict(changed, run, later(5)).confirmed  # the run's own code does not descend from it
    assert not study.verdict(changed, after, later(1)).confirmed
    assert study.verdict(changed, after, later(3)).confirmed


def test_an_earlier_version_of_the_plan_still_counts_from_its_own_commit(clone):
    old = (clone / "plan.toml").read_bytes()
    first = study.head(clone)
    (clone / "plan.toml").write_bytes(old + b"# changed\n")
    commit(clone, later(1))
    (clone / "plan.toml").write_bytes(old)
    last = commit(clone, later(2))
    found = study.verdict(study.load(clone / "plan.toml"), last, later(3))
    assert found.confirmed
    assert found.commit == first


def test_no_history_confirms_nothing(tmp_path):
    shutil.copy(PLAN, tmp_path / "plan.toml")
    plan = study.load(tmp_path / "plan.toml")
    assert study.head(tmp_path) == ""
    assert not study.verdict(plan, "", later(1)).confirmed
    assert not study.verdict(plan, "0" * 40, later(1)).confirmed


def test_files_that_are_no_commit_have_no_head(clone):
    assert len(study.head(clone)) == 40
    (clone / "plan.toml").write_text("changed")
    assert study.head(clone) == ""


def test_a_time_without_its_zone_is_refused(clone):
    with pytest.raises(ValueError, match="expected a time with its zone"):
        study.verdict(study.load(clone / "plan.toml"), study.head(clone), datetime(2026, 1, 1))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[primary]", "[second]", "it lacks 'primary'"),
        ('arm = "both"', 'arm = "all"', "is none of those"),
        ("layer = 4\n", "layer = 5\n", "is none of those"),
        ('"none", "trend"', '"none", "trends"', "unknown arm 'trends'"),
        ("first = 1_800_000_000", "first = 1_700_000_500", "share seeds from 1700000500 on"),
        ("[cuts]", "[cuts", "expected the plan of a study as a TOML file"),
    ],
)
def test_a_wrong_plan_is_named(tmp_path, old, new, message):
    text = PLAN.read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "plan.toml").write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=message):
        study.load(tmp_path / "plan.toml")
