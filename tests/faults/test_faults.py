"""The short form of `python tests/faults`: every fault once, on real evaluations."""

from __future__ import annotations

import os

import pytest
from lab import Lab, decoder, full_disk, judge, judged_kills, kills, nan, out_of_memory, read_only, two_runs

KILLS = int(os.environ.get("FAULT_KILLS", "3"))


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    made = Lab(tmp_path_factory.mktemp("lab"), "gqa,msvd", limit=6)
    yield made
    made.close()


def sound(counted):
    print(dict(counted))
    assert counted["rows"]
    for name in ("lost", "doubled", "wrong", "keys shown"):
        assert counted[name] == 0, (name, counted)
    return counted


@pytest.mark.long
def test_killed_at_random_moments_and_the_end_of_the_disk_lost(lab):
    assert sound(kills(lab, KILLS))["kills"] == KILLS


def test_a_full_disk(lab):
    assert sound(full_disk(lab))["disks that were full"] >= 2


def test_a_read_only_folder(lab):
    counted = read_only(lab)
    if counted["skipped"]:
        pytest.skip("this machine lets root write everywhere, and nobody mount")
    assert counted["folders refused"] == 1


@pytest.mark.long
def test_killed_with_two_processes_clips_and_a_judge(lab):
    assert sound(judged_kills(lab, 3, seed=3))["kills"] == 3


def test_two_runs_on_one_folder(lab):
    assert sound(two_runs(lab))["second runs refused"] == 1


def test_too_little_memory_for_a_batch(lab):
    assert sound(out_of_memory(lab))["batches that did not fit"]


def test_nan(lab):
    assert sound(nan(lab))["answers that were NaN"]


def test_a_decoder_that_crashes(lab):
    assert sound(decoder(lab, ("crash",)))["answers without a clip"]


@pytest.mark.long
def test_a_decoder_that_hangs_or_ends(lab):
    assert sound(decoder(lab, ("hang", "exit")))["answers without a clip"]


def test_a_judge_that_drips_or_lies(lab):
    assert sound(judge(lab, ("drip", "lie")))["verdicts refused"]


@pytest.mark.long
def test_a_judge_whose_bodies_are_no_replies(lab):
    assert sound(judge(lab, ("page", "list", "null", "no choices", "cut")))["verdicts refused"]


@pytest.mark.long
def test_a_judge_that_hangs_breaks_off_floods_or_echoes(lab):
    assert sound(judge(lab, ("hang", "drop", "error", "flood", "echo")))["judges: hang"] == 1
