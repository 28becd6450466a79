"""Content-free pictures: what is measured is the score of that very prompt, once for each shape; and its use."""

import numpy as np
import pytest
import torch

import pruners
from debias import Debias, Padding, Reading, Span, Trend
from pruners.blank import Blanks, blank, first_difference, prompt, shapes
from pruners.models import Request


def test_pictures_without_content_are_what_they_are_called():
    assert blank("black", (5, 3)).getcolors() == [(15, (0, 0, 0))]
    assert blank("mean", (5, 3), (0.5, 0.25, 0.0)).getcolors() == [(15, (127, 63, 0))]
    one, other = (np.asarray(blank("noise", (5, 3))) for _ in range(2))
    assert one.shape == (3, 5, 3)
    assert (one == other).all()
    assert one.std() > 30
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    assert (np.asarray(blank("noise", (64, 48))) == noise).all()
    assert noise.min() == 0
    assert blank("mean", (2, 2)).getcolors() == [(4, (127, 127, 127))]


def test_lists_agree_so_far():
    assert first_difference([1, 2, 3], [1, 2, 4, 5]) == 2
    assert first_difference([1, 2], [1, 2, 3]) == first_difference([1, 2, 3], [1, 2]) == 2


@pytest.mark.parametrize("family", ["llava", "internvl", "qwen2_5_vl", "video_llava"])
@pytest.mark.parametrize("more", [0, 1, 23])
def test_a_prompt_without_content_has_the_shape_that_is_asked_for(get, builders, family, more):
    adapter = get(family)
    batch = adapter.encode([Request("What is it?" + " it" * more, [builders.picture(64, 64)])])
    ((span, behind),) = shapes(adapter, batch)
    made = prompt(adapter, "mean", span, behind, None)
    ids, given = made["input_ids"][0], batch.inputs["input_ids"][0]
    assert len(ids) == len(given)
    at = span.start + span.total
    assert torch.equal(ids[:at], given[:at])  # up to the text nothing differs
    assert made["attention_mask"].tolist() == [[1] * len(given)]
    check_filler(adapter, builders, made, None)


def check_filler(adapter, builders, made, conversation):
    """Without its filler the prompt asks nothing; the filler stands where a question would."""
    ids, shown = made["input_ids"][0].tolist(), [builders.picture(64, 64)]
    empty, word = (
        adapter.encode([Request(text, shown, conversation=conversation)]).inputs["input_ids"][0].tolist()
        for text in ("", "a")
    )
    at, lacking = [*map(int.__eq__, empty, word)].index(False), len(ids) - len(empty)
    assert ids[:at] + ids[at + lacking :] == empty
    words = adapter.tokenizer("Please describe the provided image. ", add_special_tokens=False).input_ids
    assert ids[at : at + lacking] == (words * lacking)[len(words * lacking) - lacking :]
    if "mm_token_type_ids" in made:
        token = adapter.model.config.image_token_id
        assert made["mm_token_type_ids"].tolist() == [[int(one == token) for one in ids]]
    (pixels,) = (value for name, value in made.items() if name.startswith("pixel_values"))
    assert float(pixels.abs().max()) < 0.02  # the mean colour, but for rounding


@pytest.mark.parametrize(("family", "frames"), [("video_llava", 8), ("qwen2_5_vl", 6), ("qwen2_5_vl", 5)])
def test_a_clip_without_content_has_as_many_frames(get, builders, family, frames):
    adapter = get(family)
    shown = [builders.picture(64, 64, seed) for seed in range(frames)]
    batch = adapter.encode([Request("What happens?", video=shown)])
    ((span, behind),) = shapes(adapter, batch)
    made = prompt(adapter, "mean", span, behind, None)
    assert made["input_ids"].shape == batch.inputs["input_ids"].shape
    assert made["pixel_values_videos"].shape == batch.inputs["pixel_values_videos"].shape
    assert float(made["pixel_values_videos"].abs().max()) < 0.02


def test_a_prompt_may_be_the_empty_one_and_is_in_its_own_words(get, builders):
    adapter = get("llava")
    for text, conversation in (("", None), ("What is it?", "llava_v1")):
        batch = adapter.encode([Request(text, [builders.picture(64, 64)], conversation=conversation)])
        ((span, behind),) = shapes(adapter, batch)
        made = prompt(adapter, "mean", span, behind, conversation)
        check_filler(adapter, builders, made, conversation)
        assert text or torch.equal(made["input_ids"], batch.inputs["input_ids"])
    with pytest.raises(ValueError, match="a prompt of 2 tokens behind its picture is not one of this model's prompts"):
        prompt(adapter, "mean", span, 2, None)


def test_words_must_stand_behind_the_picture(get):
    """They may begin right there."""
    adapter = get("llava")

    class Close(type(adapter)):
        gap = ""

    class Behind(type(adapter)):
        def prompt(self, request):
            return f"{request.text}<image>."

    close, behind = (kind(adapter.model, adapter.processor, adapter.tokenizer) for kind in (Close, Behind))
    assert prompt(close, "mean", Span(35, (6, 6)), 30, None)["input_ids"].shape[1] == 35 + 36 + 30
    with pytest.raises(ValueError, match="is not one of this model's prompts"):
        prompt(behind, "mean", Span(35, (6, 6)), 30, None)


def test_pictures_of_every_size_that_could_fit_are_tried(get, monkeypatch):
    """Those that become as many tokens as asked for where a token has 28, 14, 32 or 448 pixels along a side."""
    adapter, tried = get("llava"), []
    real = type(adapter).picture

    def noted(self, image):
        tried.append(image.size)
        return real(self, image)

    monkeypatch.setattr(type(adapter), "picture", noted)
    with pytest.raises(ValueError, match=r"no blank picture lies as this one does \(2 tokens, grid \(1, 2\)\)"):
        prompt(adapter, "mean", Span(0, (1, 2)), 30, None)
    assert tried[::2] == tried[1::2] == [(336, 336), *((2 * side, side) for side in (28, 14, 32, 448))]


@pytest.mark.parametrize("name", ["fastv", "pyramiddrop", "sparsevlm", "himap"])
def test_the_trend_is_the_score_of_that_prompt(get, requests, name):
    """A picture's score is divided by, or loses, the raw score of a blank picture in a prompt as long as its own."""
    adapter, method = get("llava"), pruners.make(name, keep=0.5)
    blanks = Blanks(adapter, method)
    batch = adapter.encode(requests)
    for picture, subtract in (("black", False), ("mean", True)):
        debias = Debias(Trend.blank(picture, subtract))
        trends = blanks(debias, batch)
        with method(adapter, debias, batch.sizes, trends=trends) as trace:
            adapter.model.generate(**batch.inputs, max_new_tokens=1)
        for number, (span, behind) in enumerate(shapes(adapter, batch)):
            with method(adapter) as probe:
                adapter.model(**prompt(adapter, picture, span, behind, None))
            empty = probe.scores[0][0][0].double()
            raw, score = (one.double() for one in trace.scores[0][number])
            if subtract:
                torch.testing.assert_close(score, raw - empty, rtol=0, atol=1e-4)
            else:
                ratio = raw / (empty + 1e-7)
                torch.testing.assert_close(score / score.sum(), ratio / ratio.sum(), rtol=1e-3, atol=1e-7)
    lengths = {behind for _, behind in shapes(adapter, batch)}
    assert blanks.measured == 2 * len(lengths)
    blanks(Debias(Trend.blank("mean", True)), batch)
    assert blanks.measured == 2 * len(lengths)  # nothing is measured twice


def test_a_question_about_a_blank_picture_has_no_score_left(get):
    """The identity: the prompt that the trend was measured on scores alike everywhere."""
    adapter, method = get("llava"), pruners.make("fastv", keep=0.5)
    inputs = prompt(adapter, "mean", Span(0, (6, 6)), 30, None)
    trend = Blanks(adapter, method)
    for subtract in (False, True):
        debias = Debias(Trend.blank("mean", subtract))
        found = [debias.trend.measured_as(trend.score("mean", Span(0, (6, 6)), 30))]
        with method(adapter, debias, trends=found) as trace:
            adapter.model(**inputs)
        raw, score = trace.scores[0][0]
        assert float(score.max() - score.min()) < 1e-3 * float(raw.max())
        assert float(raw.max() - raw.min()) > 1e-2 * float(raw.max())


def test_another_reading_is_measured_as_it_is_read(get, requests):
    adapter, method = get("llava"), pruners.make("fastv", keep=0.5)
    blanks = Blanks(adapter, method)
    batch = adapter.encode(requests[:1])
    plain = blanks(Debias(Trend.blank()), batch)
    read = blanks(Debias(Trend.blank(), reading=Reading(rope=False)), batch)
    assert plain != read
    assert blanks.measured == 2
    ((span, behind),) = shapes(adapter, batch)
    with method(adapter, Debias(reading=Reading(rope=False))) as probe:
        adapter.model(**prompt(adapter, "mean", span, behind, None))
    bare = blanks.score("mean", span, behind, reading=Reading(rope=False))
    torch.testing.assert_close(bare, probe.scores[0][0][0], rtol=1e-3, atol=1e-9)
    assert not torch.allclose(blanks.score("mean", span, behind), bare, rtol=1e-2)


def test_an_offset_is_taken_off_and_a_token_that_is_no_patch_is_left():
    score = torch.tensor([3.0, 2.0, 1.0])
    debias = Debias(Trend.offset([0.5, 1.0, 4.0]))
    assert debias(score, Span(0, (1, 3))).tolist() == [2.5, 1.0, -3.0]
    assert debias(score, Span(0, (1, 3)), role="weigh").tolist() == [2.5, 1.0, 0.0]
    index = torch.tensor([2, -1, 0])
    assert debias(score, Span(0, (1, 3), index=index)).tolist() == [-1.0, 2.0, 0.5]
    assert Debias(Trend.offset([0.0, 0.0, 0.0]))(score, Span(0, (1, 3))).tolist() == score.tolist()


def test_padding_stays_silenced(get, requests):
    adapter, method = get("llava"), pruners.make("fastv", keep=8)
    batch = adapter.encode(requests[:1])
    debias = Debias(Trend.blank("noise", True), Padding())
    with method(adapter, debias, batch.sizes, trends=Blanks(adapter, method)(debias, batch)) as trace:
        adapter.model(**batch.inputs)
    assert Padding().valid(batch.sizes[0], (6, 6))[trace.kept[0][0]].all()


def test_what_cannot_be_measured_is_refused(get, requests, builders):
    adapter, method = get("llava"), pruners.make("fastv", keep=0.5)
    batch = adapter.encode(requests[:1])
    debias = Debias(Trend.blank())
    with pytest.raises(ValueError, match=r"it is measured, by pruners\.blank"), method(adapter, debias, batch.sizes):
        adapter.model(**batch.inputs)
    with (
        pytest.raises(ValueError, match="holds 1 pictures or clips, but 2 trends"),
        method(adapter, debias, batch.sizes, trends=[Trend.exponential(0.1)] * 2),
    ):
        adapter.model(**batch.inputs)
    with pytest.raises(ValueError, match=r"expected a debias with a Trend\.blank"):
        Blanks(adapter, method)(Debias(), batch)
    with pytest.raises(ValueError, match="has no trend to divide by"):
        Blanks(adapter, pruners.make("vispruner"))
    two = adapter.encode([Request("<image>\nWhat? <image>\nIs it?", [builders.picture(64, 64)] * 2)])
    with pytest.raises(ValueError, match="needs prompts of one picture"):
        shapes(adapter, two)
    with pytest.raises(ValueError, match="no blank picture lies as this one does"):
        prompt(adapter, "mean", Span(0, (5, 7)), 30, None)
    with pytest.raises(ValueError, match="known: black, mean, noise"):
        Trend.blank("white")
    with pytest.raises(ValueError, match="the authors' release has no blank trend"):
        Debias(Trend.blank(), release=Debias.paper("fastv", arm="none", as_released=True).release)
