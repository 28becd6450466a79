"""Shares, limits and batches: the same for everybody who asks."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.answering.plan import Process, batches, digest, limited, share, this_process
from eval.reading.sample import Sample

counts = st.lists(st.integers(1, 5), min_size=1, max_size=30)


def samples(sizes):
    return [
        Sample(f"{g}-{i}", "word " * ((g * 7 + i) % 9 + 1), image=Path("x.png"), group=str(g))
        for g, size in enumerate(sizes)
        for i in range(size)
    ]


@given(counts, st.integers(1, 5))
def test_shares_are_a_partition(sizes, world_size):
    asked = samples(sizes)
    shares = [share(asked, Process(rank, world_size)) for rank in range(world_size)]
    assert sorted(s.key for part in shares for s in part) == sorted(s.key for s in asked)


@given(counts, st.integers(1, 9))
def test_batches_hold_every_question_once(sizes, size):
    asked = samples(sizes)
    made = batches(asked, size)
    assert sorted(s.key for batch in made for s in batch) == sorted(s.key for s in asked)
    assert all(1 <= len(batch) <= size for batch in made)


def test_batches_group_by_length():
    made = batches(samples([1] * 64), 8)
    spread = [max(len(s.text) for s in batch) - min(len(s.text) for s in batch) for batch in made]
    assert sum(spread) / len(spread) < 10  # words of one to nine times five letters, shuffled over groups


@given(counts, st.integers(1, 60))
def test_limit_keeps_groups_whole_and_file_order(sizes, limit):
    asked = samples(sizes)
    chosen = limited(asked, limit)
    assert chosen == [s for s in asked if s in chosen]
    assert chosen
    assert len(chosen) <= max(limit, *sizes)
    whole = {s.group for s in chosen}
    assert len(chosen) == sum(s.group in whole for s in asked)
    assert limited(asked, limit) == chosen


def test_no_limit_is_all():
    asked = samples([2, 2])
    assert limited(asked, None) == limited(asked, 4) == asked


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Process()),
        ({"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}, Process(2, 4, 1)),
        ({"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "3"}, Process(3, 8, 3)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, Process()),  # a batch script, not a step of srun
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}, Process(1, 2, 0)),
    ],
)
def test_world_from_the_launcher(environment, expected):
    assert this_process(environment) == expected


def test_an_impossible_rank_is_refused():
    with pytest.raises(ValueError, match="RANK=4 with WORLD_SIZE=4"):
        this_process({"RANK": "4", "WORLD_SIZE": "4"})


def test_digest_sees_texts_order_and_targets():
    asked = samples([2, 1])
    assert digest(asked) == digest(samples([2, 1]))
    assert digest(asked) != digest(asked[::-1])
    assert digest(asked) != digest([asked[0].but(text="other"), *asked[1:]])
    assert digest(asked) != digest([asked[0].but(target="yes"), *asked[1:]])
