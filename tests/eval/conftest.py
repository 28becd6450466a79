"""What the tests of evaluation share: random checkpoints and the tiny world's data."""

import pytest


@pytest.fixture(scope="session")
def checkpoints(builders, tmp_path_factory):
    """{"image": folder, "video": folder} of tiny random models."""
    root = tmp_path_factory.mktemp("checkpoints")
    for family in ("llava", "video_llava"):
        builders.checkpoint(family, root / family)
    return {"image": root / "llava", "video": root / "video_llava"}


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A data root with a dozen questions of every benchmark."""
    from tiny.benchmarks import ensure

    return ensure(tmp_path_factory.mktemp("world") / "data", size="ci")


EVIL = "</script><script>alert(1)</script><img src=http://x.invalid/y onerror=alert(2)>"


@pytest.fixture(scope="session")
def answered(world, tmp_path_factory):
    """A made-up run of two benchmarks: arm both is always right, every other answer of arm none is hostile."""
    from eval import benchmarks
    from eval.answering.plan import digest
    from eval.answering.store import Folder
    from eval.reading.sample import make_row

    folder = Folder(tmp_path_factory.mktemp("answered") / "run")
    info = {"run": "r", "settings": {"method": "FastV(keep=16)", "limit": None}, "benchmarks": {}}
    for name in ("pope", "gqa"):
        samples = benchmarks.get(name).load(world)
        info["benchmarks"][name] = {"n": len(samples), "digest": digest(samples), "data": str(world), "tokens": 36}
        for arm, kept in (("none", "0-11"), ("both", "3,7,20-29")):
            shard = folder.shard(name, arm)
            for number, sample in enumerate(samples):
                size = [(96, 96), (96, 48), (48, 96)][number % 3]
                facts = {"key": sample.key, "run": "r", "arm": arm, "kept": [kept], "size": size}
                text = EVIL if arm == "none" and number % 2 else str(sample.target)
                shard.append(make_row(sample, text, "m", facts))
            shard.close()
    folder.save("run.json", info)
    return folder
