"""Two questions about drawn pictures, for harnesses that bring their own tasks."""

import pytest


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Two portrait pictures of the tiny world, which are padded to a square."""
    from tiny import world

    folder = tmp_path_factory.mktemp("photos")
    found = []
    for number in range(2):
        picture = world.draw(world.scene(2 * 10**9 + number)).resize((64, 96))
        found.append(folder / f"{number}.png")
        picture.save(found[-1])
    return found


@pytest.fixture(scope="session")
def answers(photos):
    """What the library itself says: FastV with 36 tokens, the padding silenced; one question at a time."""
    from PIL import Image

    from debias import Debias
    from eval.answering.backends import greedy
    from eval.embedded import EMBEDDED
    from pruners import make
    from pruners.models import Request, adapter

    family = adapter(EMBEDDED["image"]).load(EMBEDDED["image"], device="cpu")

    def ask(question, longest=5):
        texts, kept = [], []
        for photo in photos:
            batch = family.encode([Request(question, [Image.open(photo)])])
            debias = Debias.paper("fastv", arm="padding")
            with make("fastv", keep=36)(family.model, debias, sizes=batch.sizes) as trace:
                out = family.model.generate(**batch.inputs, generation_config=greedy(family.model, longest))
            texts += family.decode(out[:, batch.inputs["input_ids"].shape[1] :])
            kept.append(sorted(trace.kept[0][0].tolist()))
        return texts, kept

    return ask
