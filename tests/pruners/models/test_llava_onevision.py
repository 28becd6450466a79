"""LLaVA-OneVision: layouts, several pictures, clips, against the model's own packing and the hub's processor."""

import pytest
import torch
from spying import look
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

from debias import Padding
from pruners.models import Request
from pruners.models.llava_next import fitted
from pruners.models.llava_onevision import limit, squared
from pruners.parts.patches import Patches

SIZES = [(40, 70), (131, 50), (200, 301), (84, 84), (300, 90), (640, 480), (97, 500), (1001, 999)]


def hub(one, pictures):
    edge = one.model.config.vision_config.image_size
    settings = {"size": {"height": edge, "width": edge}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    pinpoints = one.model.config.image_grid_pinpoints
    return LlavaOnevisionImageProcessorPil(**settings, image_grid_pinpoints=pinpoints)(pictures, return_tensors="pt")


def packed(one, features, size):
    """What the model itself makes of per-patch values [views, patches]; newlines become -1."""
    sizes, newline = torch.tensor([size[::-1]]), torch.tensor([-1.0])
    return one.inner.pack_image_features([features[..., None]], sizes, newline, one.model.config.vision_aspect_ratio)[
        0
    ][0][:, 0]


@pytest.mark.parametrize("size", SIZES)
def test_pictures_are_those_of_the_hub_processor(size, adapters, builders):
    one, picture = adapters("llava_onevision"), builders.picture(*size)
    ours, theirs = one.picture(picture).inputs, hub(one, [[picture]])
    assert ours["image_sizes"].tolist() == theirs["image_sizes"].tolist()
    assert torch.allclose(ours["pixel_values"], theirs["pixel_values"][0], atol=1e-5)


def test_several_pictures_are_those_of_the_hub_processor(adapters, builders):
    one, pictures = adapters("llava_onevision"), [builders.picture(*size, 3) for size in SIZES[:3]]
    encoded, theirs = one.encode([Request("?", pictures)]), hub(one, [pictures])
    assert encoded.inputs["batch_num_images"].tolist() == theirs["batch_num_images"].tolist() == [3]
    assert torch.allclose(encoded.inputs["pixel_values"][:, 0], theirs["pixel_values"][:, 0], atol=0.05)
    assert (encoded.inputs["pixel_values"] - theirs["pixel_values"]).abs().mean() < 1e-3


@pytest.mark.parametrize("most", [2, 9])
@pytest.mark.parametrize("size", SIZES)
def test_layout_is_the_models_packing(size, most, builders, adapters):
    """Also where the canvas is shrunk; a shrunk token's border is blended as its features are."""
    one = adapters("llava_onevision", vision_aspect_ratio=f"anyres_max_{most}")
    pixels = one.picture(builders.Image.new("RGB", size, "white")).inputs["pixel_values"]
    border = (pixels[:, 0] < 0).float().unfold(1, 14, 14).unfold(2, 14, 14).mean((-1, -2)).flatten(1)
    layout, real = one.layout(size, size), packed(one, border, size)
    assert torch.equal(layout.newline, real < 0)
    assert (layout.xy[layout.newline] == -2).all()
    assert torch.allclose(layout.fraction[~layout.newline], real[real >= 0], atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_places_follow_what_the_model_blends(size, builders, adapters):
    """The model packs columns and rows of patches: the same where nothing is shrunk, else growing with the places."""
    one = adapters("llava_onevision")
    edge, canvas = 84, fitted(size, one.canvases).canvas
    wide, high = (length // edge for length in canvas)
    ((span,),) = one.spans(one.encode([Request("?", [builders.picture(*size)])]).inputs)
    xy, view = one.places(span)
    assert torch.equal(view == 0, torch.arange(len(view)) < 36)
    for axis in (0, 1):
        cell = torch.arange(36) % 6 if axis == 0 else torch.arange(36) // 6
        corners = [(t % wide if axis == 0 else t // wide) * 6 for t in range(wide * high)]
        values = packed(one, torch.stack([cell, *(corner + cell for corner in corners)]).float(), size)
        here = (view == 1) & (values >= 0)
        pairs = sorted(zip(xy[here, axis].tolist(), values[here].tolist(), strict=True))
        steps = sorted({(place, round(value, 3)) for place, value in pairs})
        assert len(steps) == len({place for place, _ in steps})  # one column of patches for each column of tokens
        assert [value for _, value in steps] == sorted({value for _, value in steps})
        if wide * high <= 2:
            assert all(place == value for place, value in steps)


def test_some_canvas_is_shrunk(builders):
    """Otherwise the tests above could not fail."""
    one = builders.adapter("llava_onevision")
    lengths = [len(one.picture(builders.picture(600, 600)).ids), 36 + 18 * 19]
    assert lengths[0] < lengths[1]


def test_spans_of_pictures_and_clips(adapters, builders):
    """Alone a picture is a canvas; among others it is a square with a newline token; a clip ends with one."""
    one = adapters("llava_onevision")
    pictures = [builders.picture(90, 30), builders.picture(30, 90)]
    asked = [
        Request("?", pictures[:1]),
        Request("<image> <video> <image>", pictures, [builders.picture(60, 60, s) for s in range(3)]),
    ]
    encoded = one.encode(asked)
    rows = one.spans(encoded.inputs, encoded.sizes)
    assert [[span.total for span in row] for row in rows] == [[rows[0][0].total], [37, 3 * 9 + 1, 37]]
    assert rows[0][0].total > 37
    assert [span.size for span in rows[1]] == [(90, 30), None, (30, 90)]
    assert all(span.special.nonzero().tolist() == [[span.total - 1]] for span in rows[1])
    square, clip, _ = rows[1]
    assert torch.equal(Padding().valid(square)[:-1], Padding().valid((90, 30), (6, 6)).flatten())
    assert Padding().valid(clip).all()
    one.model(**encoded.inputs)
    counts = encoded.inputs.pop("batch_num_images")
    with pytest.raises(
        ValueError, match="image tokens, but the images given make"
    ):  # told nothing, it takes each picture for a canvas
        one.spans(encoded.inputs)
    with pytest.raises(ValueError, match="shorter"):
        one.spans({**encoded.inputs, "batch_num_images": counts[:1]})
    alone = one.encode(asked[:1]).inputs
    del alone["batch_num_images"]
    assert [[span.total for span in row] for row in one.spans(alone)] == [[rows[0][0].total]]


def test_a_picture_among_others_is_one_padded_square():
    border, newline, xy, view = squared((40, 20), 2)
    assert newline.tolist() == [False] * 4 + [True]
    assert border.tolist() == [0.5] * 4 + [0]
    assert xy.tolist() == [[0, 0], [1, 0], [0, 1], [1, 1], [-2, -2]]
    assert (view.tolist(), view.dtype) == ([0] * 5, torch.long)


def test_a_canvas_is_shrunk_from_a_tenth_more_than_is_allowed():
    assert limit(11, 11, 10, 1) == (11, 11)
    assert limit(11, 12, 10, 1) == (9, 10)
    assert limit(10, 27, 10, 1) == (6, 16)


def test_a_clip_of_frames_with_an_odd_number_of_patches(builders):
    """5 x 5 patches become 3 x 3 tokens, as the model makes them."""
    one = builders.adapter("llava_onevision", image_size=70)
    encoded = one.encode([Request("?", video=[builders.picture(60, 60, seed) for seed in range(2)])])
    ((span,),) = one.spans(encoded.inputs, encoded.sizes)
    assert (span.grid, span.total) == ((3, 3), 2 * 9 + 1)
    ((_, patches),) = look(one, encoded)
    assert patches.attention.shape[1] == span.total


def test_all_that_is_known_of_patches_is_blended_alike(builders):
    one = builders.adapter("llava_onevision", vision_aspect_ratio="anyres_max_1")
    encoded = one.encode([Request("?", [builders.picture(170, 160)])])
    ((span,),) = one.spans(encoded.inputs, encoded.sizes)
    attention = torch.rand(3, len(one.shows(span)))
    patches = Patches(attention, attention[0, :, None], attention[..., None], None, (attention, 2 * attention))
    assert one.blends(span)
    found = one.blended(patches, span)
    assert found.attention.shape == (3, span.total)
    torch.testing.assert_close(found.features[:, 0], found.attention[0])
    torch.testing.assert_close(found.keys[..., 0], found.attention)
    torch.testing.assert_close(found.glances, (found.attention, 2 * found.attention))
    assert torch.equal(found.view < 0, span.special)


def test_clips_of_different_lengths_are_refused(adapters, builders):
    one = adapters("llava_onevision")
    clips = [Request("?", video=[builders.picture(60, 60)] * count) for count in (2, 3)]
    with pytest.raises(ValueError, match="clips of 2, 3 frames in one batch"):
        one.encode(clips)


def test_features_are_blended_as_the_model_blends_tokens(builders):
    """The model's own packing and pooling, given what the tower made."""
    one = builders.adapter("llava_onevision", vision_aspect_ratio="anyres_max_1")
    asked = [
        Request("?", [builders.picture(170, 160)]),
        Request("?", video=[builders.picture(60, 60, s) for s in range(3)]),
        Request("?", [builders.picture(40, 40), builders.picture(50, 40)]),
    ]
    for request in asked:
        encoded, seen = one.encode([request]), []
        handle = one.inner.multi_modal_projector.register_forward_pre_hook(
            lambda _, args, seen=seen: seen.append(args[0])
        )
        found = look(one, encoded)
        handle.remove()
        (features,) = seen
        if request.video is not None:
            expected = [torch.cat([one.inner.apply_pooling(features).flatten(0, 1), torch.zeros(1, 32)])]
        else:
            sizes, ratio = encoded.inputs["image_sizes"], one.model.config.vision_aspect_ratio
            views = [features] if len(request.images) == 1 else list(features[:, None])
            expected = one.inner.pack_image_features(views, sizes, torch.zeros(32), ratio)[0]
        assert len(found) == len(expected)
        for (view, patches), wanted in zip(found, expected, strict=True):
            torch.testing.assert_close(patches.features, wanted, rtol=1e-4, atol=1e-5)
            shown = patches.view >= 0
            assert torch.equal(shown, ~view.span.special)
            assert bool((patches.attention[:, shown] > 0).all())
            assert int(patches.view.max()) + 1 == (3 if request.video else 2 if len(request.images) == 1 else 1)


@pytest.mark.parametrize("size", SIZES)
def test_cells_of_the_canvas_lie_on_what_their_tokens_are_blended_of(size, builders, adapters):
    """The middle of a cell is where the model blends to; all cells together cover what is left of the canvas."""
    one = adapters("llava_onevision")
    canvas = type(one).canvas(one.model.config.to_dict(), vars(one.processor))(size)
    wide, high = (length // 84 for length in canvas.size)
    values = []
    for axis in (0, 1):
        cell = torch.arange(36) % 6 if axis == 0 else torch.arange(36) // 6
        corners = [(t % wide if axis == 0 else t // wide) * 6 for t in range(wide * high)]
        values.append(packed(one, torch.stack([cell, *(corner + cell for corner in corners)]).float() + 0.5, size))
    cells = torch.tensor(canvas.cells)
    shown = values[0] >= 0
    shown[:36] = False
    assert len(cells) == len(shown)
    middle = (cells[:, :2] + cells[:, 2:]) / 2 / 14
    for axis in (0, 1):
        near = values[axis][shown]
        inner = (near > near.min()) & (near < near.max())  # at the rim there is nothing to blend with outside
        assert torch.allclose(middle[shown, axis][inner].float(), near[inner], atol=0.35)
    area = ((cells[shown, 2] - cells[shown, 0]) * (cells[shown, 3] - cells[shown, 1])).sum()
    left, right = cells[shown, :2].min(0).values, cells[shown, 2:].max(0).values
    assert torch.isclose(area, (right - left).prod())
