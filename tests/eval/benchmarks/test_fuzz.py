"""Whatever stands in a benchmark's files, they are read, or the fault is named: nothing else is raised."""

from __future__ import annotations

import random
import re
import shutil

import pytest

from eval.benchmarks import NAMES, get

PATTERNS = ("*.json", "*.jsonl", "*.tsv", "coco/*.json", "data/*.json", "MME_Benchmark_release_version/*/*.txt")
INSERTED = [b"null", b"[]", b"{}", b"-1", b'"', b"\n", b"\t", b"1e999", b"\\ud800", b"true", b"\x00", b"nan", b"\xff"]
VALUES = [b"null", b"[]", b"{}", b"-1", b'"../../etc/passwd"', b"true", b"1.5", b"[1, 2]", b'"\\u0000"', b'"\\ud800"']


@pytest.fixture(scope="module")
def annotations(world, tmp_path_factory):
    """The tiny world's files without its pictures."""
    root = tmp_path_factory.mktemp("fuzz") / "data"
    shutil.copytree(world, root, ignore=shutil.ignore_patterns("*.jpg", "*.png", "*.mp4", "*.avi"))
    return root


def mutated(data: bytes, rng: random.Random) -> bytes:
    new = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(new) + 1)
        match rng.randrange(5):
            case 0:
                new[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                del new[at : at + rng.randint(1, 50)]
            case 2:
                new[at:at] = rng.choice(INSERTED)
            case 3:
                del new[at:]
            case 4 if found := list(re.finditer(rb':\s*("[^"]*"|\d+|\[|\{)', bytes(new))):
                place = rng.choice(found)
                new[place.start() : place.end()] = b": " + rng.choice(VALUES)
    return bytes(new)


@pytest.mark.parametrize("name", NAMES)
def test_broken_files_are_read_or_named(name, annotations):
    rng, benchmark = random.Random(name), get(name)
    home = benchmark.home(annotations)
    files = sorted(path for pattern in PATTERNS for path in home.glob(pattern))
    refused = 0
    for _ in range(25):
        path = rng.choice(files)
        whole = path.read_bytes()
        path.write_bytes(mutated(whole, rng))
        try:
            samples = benchmark.load(annotations, media=False)
            rows = [{"question_id": s.id, "prompt": s.meta.get("prompt", s.text), "text": "A"} for s in samples]
            assert 0 <= benchmark.score(rows, samples).value <= 2000
        except ValueError as error:
            assert str(error)  # noqa: PT017 - any message will do, any other exception will not
            refused += 1
        finally:
            path.write_bytes(whole)
    assert refused
    assert benchmark.load(annotations, media=False)


@pytest.mark.parametrize("name", NAMES)
def test_the_tiny_world_is_read_whole(name, world):
    """Its files were written from the description of the layouts alone, not for these loaders."""
    benchmark = get(name)
    assert not [str(fault) for fault in benchmark.check(world) if not fault.warning]
    samples = benchmark.load(world)
    score = benchmark.score([], samples)
    assert (score.value, score.missing) == (0, score.n)
