"""LLaVA-NeXT: views, unpadding and newlines, against the model's own packing and the hub's processor."""

import random

import pytest
import torch
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

import pruners
from debias import Padding
from pruners.models import Request
from pruners.models.llava_next import deal

SIZES = [(40, 70), (131, 50), (200, 301), (84, 84), (300, 90), (640, 480), (97, 500), (1001, 999)]


def views_of_border(one, size, builders):
    """[views, patches] share of each patch that shows border: pixels of a white picture that are black."""
    pixels = one.picture(builders.Image.new("RGB", size, "white")).inputs["pixel_values"]
    black = (pixels[:, 0] < 0).float()
    return black.unfold(1, 14, 14).unfold(2, 14, 14).mean((-1, -2)).flatten(1)


def packed(one, features, told):
    """What the model itself makes of per-patch values [views, patches]; newlines become -1."""
    sizes = torch.tensor([told[::-1]])
    return one.inner.pack_image_features([features[..., None]], sizes, "default", torch.tensor([-1.0]))[0][0][:, 0]


@pytest.mark.parametrize("size", SIZES)
def test_pictures_are_those_of_the_hub_processor(size, adapters, builders):
    one, picture = adapters("llava_next"), builders.picture(*size)
    ours = one.picture(picture).inputs
    hub = LlavaNextImageProcessorPil(
        size={"shortest_edge": 84}, crop_size={"height": 84, "width": 84},
        image_grid_pinpoints=one.model.config.image_grid_pinpoints,
    )(picture, return_tensors="pt")  # fmt: skip
    assert ours["image_sizes"].tolist() == hub["image_sizes"].tolist()
    assert torch.allclose(ours["pixel_values"], hub["pixel_values"][0], atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_layout_is_the_models_packing(size, adapters, builders):
    one = adapters("llava_next")
    border = views_of_border(one, size, builders)
    layout = one.layout(size, size)
    real = packed(one, border, size)
    assert torch.equal(layout.newline, real < 0)
    assert (layout.xy[layout.newline] == -2).all()
    assert torch.allclose(layout.fraction[~layout.newline], real[real >= 0], atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_places_are_those_of_the_models_packing(size, adapters, builders):
    one = adapters("llava_next")
    _, *tiles = one.picture(builders.picture(*size)).inputs["pixel_values"]
    wide, high = (length // 84 for length in one_canvas(one, size))
    assert len(tiles) == wide * high
    for axis in (0, 1):
        cell = torch.arange(36) % 6 if axis == 0 else torch.arange(36) // 6
        corners = [(t % wide if axis == 0 else t // wide) * 6 for t in range(wide * high)]
        values = packed(one, torch.stack([cell, *(corner + cell for corner in corners)]).float(), size)
        xy, view = one.places(span_of(one, size, builders))
        patches = values >= 0
        assert torch.equal(xy[patches, axis].float(), values[patches])
    assert torch.equal(view == 0, torch.arange(len(view)) < 36)


def one_canvas(one, size):
    from pruners.models.llava_next import fitted

    return fitted(size, one.canvases).canvas


def span_of(one, size, builders):
    encoded = one.encode([Request("?", [builders.picture(*size)])])
    return one.spans(encoded.inputs, encoded.sizes)[0][0]


def test_sizes_need_not_be_given(adapters, builders):
    """The model is told the sizes anyway."""
    one = adapters("llava_next")
    encoded = one.encode([Request("<image> or <image>?", [builders.picture(90, 20), builders.picture(50, 60)])])
    with_sizes, without = (one.spans(encoded.inputs, sizes)[0] for sizes in (encoded.sizes, None))
    assert [span.size for span in without] == [(90, 20), (50, 60)] == [span.size for span in with_sizes]
    assert all(torch.equal(a.fraction, b.fraction) for a, b in zip(with_sizes, without, strict=True))


@pytest.mark.parametrize("size", SIZES)
def test_one_canvas_keeps_the_border(size, builders):
    """VisPruner's layout: base view and 2 x 2 tiles, no token cut off."""
    one = builders.adapter("llava_next", image_grid_pinpoints=[[168, 168]])
    span = span_of(one, size, builders)
    border = views_of_border(one, size, builders)
    real = packed(one, border, (168, 168))
    assert span.total == 5 * 36 + 12
    assert torch.equal(span.special, real < 0)
    assert torch.allclose(span.fraction[~span.special], real[real >= 0], atol=1e-6)
    valid = Padding(0.5).valid(span)
    assert valid[:36].all()
    assert valid.all() == (float(border.max()) <= 0.5)
    with torch.no_grad():
        one.model.generate(**one.encode([Request("?", [builders.picture(*size)])]).inputs, max_new_tokens=1)


def test_prompt_follows_the_language_model(adapters, builders):
    one = adapters("llava_next")
    assert one.prompt(Request("?", [builders.picture(9, 9)])).endswith(" USER: <image>\n? ASSISTANT:")
    kind = one.model.config.text_config.model_type
    try:
        one.model.config.text_config.model_type = "mistral"
        assert (
            one.prompt(Request("?", [builders.picture(9, 9)], conversation="vicuna_v1")) == "[INST] <image>\n? [/INST]"
        )
    finally:
        one.model.config.text_config.model_type = kind


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("pinpoints", [None, [[168, 168]]])
def test_tokens_know_their_patches_in_the_tower(size, pinpoints, builders, adapters):
    """Number all patches of all views; the model packs the numbers."""
    one = (
        adapters("llava_next") if pinpoints is None else builders.adapter("llava_next", image_grid_pinpoints=pinpoints)
    )
    span = span_of(one, size, builders)
    numbers = torch.arange(one.views(span) * 36).view(-1, 36).float()
    told = size if pinpoints is None else (168, 168)
    assert torch.equal(one.shows(span).float(), packed(one, numbers, told))


def by_hand(one, inputs, row, number, keep):
    """VisPruner as the authors run it on tiles: each view by itself, on the eager attention of all its tokens."""
    from pruners.methods.vispruner import important_and_distinct

    tower = one.inner.vision_tower
    kernel = tower.config._attn_implementation
    try:
        tower.set_attn_implementation("eager")
        seen = tower(inputs["pixel_values"][row, :number], output_hidden_states=True, output_attentions=True)
    finally:
        tower.set_attn_implementation(kernel)
    attention = seen.attentions[-2][:, :, 0, 1:].mean(1)
    return important_and_distinct(seen.hidden_states[-2][:, 1:], attention, keep)


def test_vispruner_prunes_each_view_by_itself(builders):
    one = builders.adapter("llava_next", image_grid_pinpoints=[[168, 168]])
    encoded = one.encode([Request("?", [builders.picture(90, 50)]), Request("Why?", [builders.picture(50, 80, 1)])])
    with torch.no_grad(), pruners.make("vispruner", keep=5 * 8)(one.model) as trace:
        out = one.model.generate(**encoded.inputs, max_new_tokens=2, min_new_tokens=2)
    assert out.shape[1] == encoded.inputs["input_ids"].shape[1] + 2
    for row, (span,) in enumerate(one.spans(encoded.inputs, encoded.sizes)):
        with torch.no_grad():
            expected = by_hand(one, encoded.inputs, row, 5, 8)
        shown = one.shows(span)[trace.kept[0][row]]
        assert sorted(shown.tolist()) == sorted((expected + 36 * torch.arange(5)[:, None]).flatten().tolist())
        assert trace.kept[0][row].diff().min() > 0


def test_vispruner_keeps_its_count_where_views_lost_tokens(adapters, builders):
    one = adapters("llava_next")
    encoded = one.encode([Request("?", [builders.picture(300, 50)])])
    (span,) = one.spans(encoded.inputs, encoded.sizes)[0]
    for keep in (10, 60, span.total - 3, 1.0):
        with torch.no_grad(), pruners.make("vispruner", keep=keep)(one.model) as trace:
            one.model.generate(**encoded.inputs, max_new_tokens=1)
        kept = trace.kept[0][0]
        assert len(kept) == (span.total if keep == 1.0 else keep)
        patches = span.total - int(span.special.sum())
        assert int(span.special[kept].sum()) == max(len(kept) - patches, 0)  # newlines only when nothing else is left


def test_image_tokens_are_dealt_in_prompt_order():
    """Images of any length, text of any length between them, rows that beam search repeats."""
    draw, token = random.Random(0), 7
    for _ in range(200):
        rows = [[draw.randint(1, 4) for _ in range(draw.randint(0, 3))] for _ in range(draw.randint(1, 3))]
        beams, written, expected, image = draw.randint(1, 3), [], [], 0
        for row in rows:
            ids, found = [], []
            for length in row:
                ids += [5] * draw.randint(0, 2)
                found.append((image, [*range(len(ids), len(ids) + length)]))
                ids += [token] * length
                image += 1
            for _ in range(beams):
                expected += [(len(written), number, places) for number, places in found]
                written.append(ids + [6] * (20 - len(ids)))
        lengths = [length for row in rows for length in row]
        dealt = [(row, number, places.tolist()) for row, number, places in deal(torch.tensor(written), token, lengths)]
        assert dealt == expected
    for counts, lengths, message in (
        ([4], [3], "the prompts hold 4 image tokens, but the images given make 3"),
        ([0], [3], "the prompts hold 0 image tokens, but the images given make 3"),
        ([4], [], "the prompts hold 4 image tokens, but the images given make 0"),
        ([2, 2, 2], [3], "the prompts hold 6 image tokens, but the images given make 3"),
        ([2, 3], [3, 2], "row 0 of the batch holds 2 image tokens, not a whole number of images"),
        ([2, 1, 3], [2, 3, 1], "row 1 of the batch holds 1 image tokens, not a whole number of images"),
        ([4, 0], [2], "row 0 of the batch holds 4 image tokens, not a whole number of images"),
    ):
        ids = torch.tensor([[token] * count + [5] * (6 - count) for count in counts])
        with pytest.raises(ValueError, match=message):
            list(deal(ids, token, lengths))


def test_sizes_of_one_canvas_are_those_that_are_given(builders):
    """The model is told the canvas alone. Rows that beam search repeats share the sizes of their pictures."""
    one = builders.adapter("llava_next", image_grid_pinpoints=[[168, 168]])
    sizes = [(90, 50), (50, 80)]
    inputs = one.encode([Request("?", [builders.picture(*size)]) for size in sizes]).inputs
    for beams in (1, 2):
        repeated = {name: inputs[name].repeat_interleave(beams, 0) for name in ("input_ids", "image_sizes")}
        found = [span.size for (span,) in one.spans(repeated, sizes)]
        assert found == [size for size in sizes for _ in range(beams)]
    assert [span.size for (span,) in one.spans(inputs)] == [(168, 168)] * 2
    assert [span.size for (span,) in one.spans(inputs, [None, (50, 80)])] == [(168, 168), (50, 80)]
    with pytest.raises(ValueError, match="the prompts hold 2 pictures or clips, but sizes or grids of 3 were given"):
        one.spans(inputs, [*sizes, (1, 1)])
