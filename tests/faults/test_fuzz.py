"""A little of what `python tests/faults --only fuzz` does for hours."""

from fuzz import bytes_changed, fuzz, targets, values_changed


def test_garbled_inputs_are_read_or_refused(world, checkpoints):
    counted = fuzz(world, checkpoints["image"], seconds=60, seed=7, inputs=2500)
    assert counted["wrong"] == 0
    assert counted["read"] > 0
    assert counted["refused"] > 0
    assert counted["inputs"] == counted["read"] + counted["refused"] >= 2500
    assert counted["readers"] > 40


def test_every_benchmarks_questions_are_among_them(world, checkpoints, tmp_path):
    from eval import benchmarks

    names = [name for name, _, _ in targets(world, checkpoints["image"], tmp_path)]
    assert {name.split(":")[0] for name in names} >= set(benchmarks.NAMES)


def test_inputs_differ_and_come_again():
    import random

    seed = b'{"question_id": 1, "text": "a"}\n{"question_id": 2, "text": "b"}\n'
    for change in (bytes_changed, values_changed):
        found = [change(random.Random(number), seed) for number in range(200)]
        assert len(set(found)) > 50
        assert found == [change(random.Random(number), seed) for number in range(200)]
