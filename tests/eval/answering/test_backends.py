"""The native backend on a random model: shared vision features change nothing but the work."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from debias import Debias
from eval import benchmarks
from eval.answering.backends import Native
from eval.answering.features import Features
from eval.answering.store import decode
from eval.core.settings import UNPRUNED
from eval.reading.media import Shelf
from eval.reading.sample import Sample
from pruners import make
from pruners.models import Request, adapter


@pytest.fixture(scope="module")
def loaded(checkpoints):
    return {
        media: adapter(str(path)).load(str(path), dtype=torch.float32) for media, path in checkpoints.items()
    }  # fmt: skip


def native(bound, method="fastv", **more):
    def debias(benchmark, arm):
        return Debias.paper("fastv", arm="padding").with_arm(arm if arm in ("none", "padding") else "none")

    return Native(bound, make(method, keep=0.25), debias, longest=lambda benchmark: 4, workers=2, **more)


def questions(world, name, count=6):
    benchmark = benchmarks.get(name)
    return benchmark, benchmark.load(world)[:count]


@pytest.mark.parametrize(("media", "name"), [("image", "gqa"), ("video", "msvd")])
def test_shared_features_give_the_answers_of_separate_ones(loaded, world, media, name):
    benchmark, asked = questions(world, name)
    shared, apart = native(loaded[media]), native(loaded[media])
    apart._looks = lambda arm: True
    for arm in (UNPRUNED, "none", "padding"):
        found = list(shared.answer(asked, arm, benchmark))
        assert found == list(apart.answer(asked, arm, benchmark))
        assert [key for key, _, _ in found] == [sample.key for sample in asked]
    pictures = {media.key for media in shared._batch(asked, benchmark).media}
    assert shared.features.encoded == len(pictures) <= len({s.group for s in asked})
    assert apart.features.encoded == 0
    inner = vars(loaded[media].model.model)
    assert "get_image_features" not in inner
    assert "get_video_features" not in inner


def test_the_unpruned_arm_is_the_plain_model(loaded, world):
    benchmark, asked = questions(world, "gqa", 1)
    ((_, text, metadata),) = native(loaded["image"]).answer(asked, UNPRUNED, benchmark)
    from eval.reading.images import open_image

    bound = loaded["image"]
    encoded = bound.encode([Request(asked[0].text, [open_image(asked[0])], conversation="vicuna_v1")])
    out = bound.model.generate(**encoded.inputs, do_sample=False, max_new_tokens=4)
    assert text == bound.decode(out[:, encoded.inputs["input_ids"].shape[1] :])[0]
    assert "kept" not in metadata


def test_methods_that_look_into_the_tower_share_nothing(loaded):
    backend = native(loaded["image"], "vispruner")
    assert backend._looks("none")
    assert not backend._looks(UNPRUNED)
    assert not native(loaded["image"])._looks("none")


def test_pictures_are_made_ready_ahead(loaded, world):
    benchmark, asked = questions(world, "gqa", 6)
    backend = native(loaded["image"])
    plan = [asked[:2], asked[2:4], asked[4:]]
    backend.ahead(plan, benchmark)
    first = list(backend.answer(plan[0], "none", benchmark))
    assert len(backend._ready) == 2  # the other two batches are under way
    rest = [answer for batch in plan[1:] for answer in backend.answer(batch, "none", benchmark)]
    assert first + rest == [a for batch in plan for a in native(loaded["image"]).answer(batch, "none", benchmark)]
    backend.close()


def test_arms_share_what_the_tower_made_where_pictures_become_tiles(world, builders):
    bound = builders.adapter("llava_next")
    _, asked = questions(world, "gqa", 3)
    benchmark = SimpleNamespace(name="gqa", conversation=None)
    shared, apart = native(bound), native(bound, feature_bytes=0)
    for arm in (UNPRUNED, "none", "padding"):
        assert list(shared.answer(asked, arm, benchmark)) == list(apart.answer(asked, arm, benchmark))
    assert (shared.features.encoded, apart.features.encoded) == (1, 0)
    list(shared.answer(asked[:1], "none", benchmark))
    assert shared.features.encoded == 2  # another batch


def test_of_a_clip_with_words_between_its_frames_every_frame_is_noted(world, builders):
    """In a batch as alone: places are counted through all the frames, and numbers of tokens are those of the clip."""
    benchmark, asked = questions(world, "msvd")
    asked = [next(sample for sample in asked if sample.group == group) for group in {s.group: s for s in asked}][:2]
    for family in ("internvl", "qwen3_vl"):
        backend = native(builders.adapter(family), share_arms=False)
        together = list(backend.answer(asked, "none", benchmark))
        for sample, answer in zip(asked, together, strict=True):
            assert list(backend.answer([sample], "none", benchmark)) == [answer]
        encoded = backend._batch(asked, benchmark).encoded
        for spans, (_, _, noted) in zip(backend.adapter.spans(encoded.inputs, encoded.sizes), together, strict=True):
            assert len(spans) > 1
            each = [int(span.total * 0.25) for span in spans]
            kept = decode(noted["kept"][0])
            assert noted["counts"]["after"] == [sum(each)] == [len(kept)]
            first = [sum(span.total for span in spans[:number]) for number in range(len(spans) + 1)]
            assert [sum(a <= place < b for place in kept) for a, b in pairwise(first)] == each


@pytest.mark.parametrize("method", ["fastv", "deeplayer", "sparsevlm", "visionzip"])
def test_arms_that_agree_about_a_question_answer_it_once(loaded, tmp_path, method):
    """Where no picture is padded, silencing padding is no different: not in the answer, and not in what is kept."""
    benchmark = benchmarks.get("gqa")
    shapes = [(40, 40), (60, 30), (30, 30), (30, 60), (50, 50)]
    asked = []
    for number, shape in enumerate(shapes):
        path = tmp_path / f"{number}.png"
        Image.effect_noise(shape, 90).convert("RGB").save(path)
        asked.append(Sample(f"q{number}", f"What is in {'this ' * number}picture?", image=path, root=tmp_path))
    more = {"share_prefix": method in ("fastv", "deeplayer")}
    shared, apart = native(loaded["image"], method, **more), native(loaded["image"], method, share_arms=False)
    generated = []
    generate = shared._generate
    shared._generate = lambda batch, arm, *rest: (
        generated.append((arm, len(batch.samples))) or generate(batch, arm, *rest)
    )
    square = [sample for sample, (width, height) in zip(asked, shapes, strict=True) if width == height]
    for batch in (asked, square):
        for arm in (UNPRUNED, "none", "padding"):
            assert list(shared.answer(batch, arm, benchmark)) == list(apart.answer(batch, arm, benchmark))
    assert generated == [(UNPRUNED, 5), ("none", 5), ("padding", 2), (UNPRUNED, 3), ("none", 3)]
    assert (
        shared.prefix is None or shared.prefix.reused == shared.pruner.cuts(len(shared.adapter.decoder.layers))[0].layer
    )
    alone = native(loaded["image"], method)
    assert list(alone.answer(asked, "padding", benchmark)) == list(apart.answer(asked, "padding", benchmark))


def test_a_shared_prefix_changes_no_answer(loaded, world):
    benchmark, asked = questions(world, "gqa", 6)
    shared, apart = native(loaded["image"], share_prefix=True), native(loaded["image"])
    for batch in (asked[:3], asked[3:]):
        for arm in (UNPRUNED, "none", "padding"):
            assert list(shared.answer(batch, arm, benchmark)) == list(apart.answer(batch, arm, benchmark))
    assert shared.prefix.reused == 2 * 2  # two batches, the second arm's two layers


def test_a_picture_is_read_once_until_its_file_changes(loaded, world, tmp_path):
    _, asked = questions(world, "gqa", 1)
    path = tmp_path / "picture.png"
    Image.new("RGB", (30, 20), "red").save(path)
    sample, shelf = asked[0].but(image=path, root=tmp_path), Shelf(loaded["image"])
    assert shelf(sample) is shelf(sample)
    assert (shelf.read, shelf.held) == (1, shelf(sample).bytes)
    Image.new("RGB", (20, 30), "blue").save(path)
    assert shelf(sample).size == (20, 30)
    tight = Shelf(loaded["image"], budget=1)
    assert tight(sample).size == (20, 30)
    assert tight.held == 0
    path.unlink()
    with pytest.raises(ValueError, match="no such file"):
        shelf(sample)


def test_features_forget_beyond_their_budget():
    features = Features(budget=3 * 4 * 10)
    for name in "abcd":
        features.of(name, lambda: torch.zeros(10))
    assert features.held <= features.budget
    features.of("d", lambda: pytest.fail("d is the newest"))
    features.of("a", lambda: torch.zeros(10))
    assert features.encoded == 5


def test_no_budget_still_answers():
    features = Features(budget=0)
    assert torch.equal(features.of("a", lambda: torch.ones(2)), torch.ones(2))
    assert features.held == 0
