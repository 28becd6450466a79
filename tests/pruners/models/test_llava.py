"""LLaVA-1.5: the authors' padding and prompt, and what a hub checkpoint would do instead."""

from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
import torch
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from debias import Padding
from eval.core.settings import FILLS
from pruners.models import Request, images

SIZES = [(40, 70), (131, 50), (200, 301), (84, 84), (3, 90)]
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


@pytest.mark.parametrize("size", SIZES)
def test_pictures_are_those_of_the_hub_processor_that_pads(size, adapters, builders):
    """Equal to the processor on the hub with do_pad=True; its default crops the sides away instead."""
    picture, edge = builders.picture(*size), {"height": 84, "width": 84}
    ours = adapters("llava").picture(picture).inputs["pixel_values"]
    settings = {"size": {"shortest_edge": 84}, "crop_size": edge, "return_tensors": "pt"}
    padded = LlavaImageProcessorPil(do_pad=True)(picture, **settings)["pixel_values"]
    cropped = LlavaImageProcessorPil()(picture, **settings)["pixel_values"]
    assert LlavaImageProcessorPil().do_pad is False
    assert torch.allclose(ours, padded, atol=1e-5)
    assert torch.allclose(ours, cropped, atol=1e-5) == (size[0] == size[1])


@pytest.mark.parametrize("size", SIZES)
def test_padding_is_the_mean_colour_and_debias_finds_it(size, adapters, builders):
    """A white picture: every pixel that is not white is border, and the patches full of it are those called padding."""
    one = adapters("llava")
    white = builders.Image.new("RGB", size, "white")
    square = images.square(white, images.mean_colour(one.setting("image_mean")))
    border = max(size) ** 2 - size[0] * size[1]
    assert sorted(square.getcolors()) == sorted(
        [(size[0] * size[1], (255,) * 3), (border, (122, 116, 104))][: 1 + bool(border)]
    )
    pixels = one.picture(white).inputs["pixel_values"][0]
    mean, std = (torch.tensor(one.setting(name))[:, None, None] for name in ("image_mean", "image_std"))
    colours = (pixels * std + mean) * 255
    shown = (colours[0] > 188).float().unfold(0, 14, 14).unfold(1, 14, 14).mean((-1, -2)).flatten()
    sure = (shown < 0.4) | (shown > 0.6)  # resizing blurs the edge
    valid = Padding(0.5).valid(size, (6, 6))
    assert torch.equal(valid[sure], shown[sure] > 0.5)


@pytest.mark.parametrize("size", [(40, 70), (131, 50), (3, 90), (64, 1)])
def test_every_filling_of_the_border_leaves_the_picture_as_it_is(size, adapters, builders):
    picture, (width, height), side = builders.picture(*size), size, max(size)
    left, top = (side - width) // 2, (side - height) // 2
    around = ((top, side - height - top), (left, side - width - left), (0, 0))
    whole = np.asarray(picture)
    constant = np.pad(whole, around)
    mirror = np.pad(whole, around, "symmetric")
    border = np.pad(np.zeros(whole.shape, bool), around, constant_values=True)
    found = {fill: np.asarray(images.square(picture, (122, 116, 104), fill)) for fill in get_args(images.Fill)}
    assert get_args(images.Fill) == FILLS
    np.testing.assert_array_equal(found["constant"], constant)
    np.testing.assert_array_equal(found["mirror"], mirror)
    np.testing.assert_array_equal(found["mean"], np.where(border, (122, 116, 104), constant))
    np.testing.assert_array_equal(np.where(border, 0, found["random"]), constant)
    noise = found["random"][border].astype(float)
    assert (noise.mean(), noise.std()) == pytest.approx((127.5, 73.9), abs=8)
    again, other = (images.square(one, (0, 0, 0), "random") for one in (picture, builders.picture(*size, seed=9)))
    np.testing.assert_array_equal(np.asarray(again), found["random"])
    assert (np.asarray(other)[border] != found["random"][border]).mean() > 0.9


@pytest.mark.parametrize("fill", FILLS)
def test_the_model_is_shown_the_filled_square(fill, adapters, builders):
    one, picture = adapters("llava"), builders.picture(100, 50)
    square = images.square(picture, (122, 116, 104), fill)
    try:
        one.fill = fill
        found = one.picture(picture)
    finally:
        del one.fill  # the adapter is shared
    assert torch.equal(found.inputs["pixel_values"], one.picture(square).inputs["pixel_values"])
    assert found.sizes == [(100, 50)]  # so that padding is silenced whatever it shows


def test_a_language_model_that_chats_in_chatml_keeps_to_it(adapters):
    one = adapters("llava")
    for template, known in (
        ("{{ '<|im_start|>' }}", ("chatml",)),
        ("USER:", ("vicuna_v1", "llava_v1")),
        (None, ("vicuna_v1", "llava_v1")),
    ):
        words = SimpleNamespace(chat_template=template)
        assert type(one)(one.model, one.processor, words).conversations == known
    assert type(one)(one.model, one.processor, SimpleNamespace()).conversations == ("vicuna_v1", "llava_v1")


def test_the_tower_is_read_at_a_single_layer(builders):
    one = builders.adapter("llava")
    assert (one.tower.feature_layer, one.tower.cls) == (1, True)  # the last but one of three
    one.model.config.vision_feature_layer, one.model.config.vision_feature_select_strategy = 1, "full"
    assert (one.tower.feature_layer, one.tower.cls) == (0, False)
    one.model.config.vision_feature_layer = [-2, 1]
    with pytest.raises(
        ValueError, match=r"vision_feature_layer=\[-2, 1\]: methods that prune at the vision tower need"
    ):
        _ = one.tower


def test_prompt_is_vicuna_to_the_character(adapters, builders):
    one, picture = adapters("llava"), builders.picture(20, 20)
    assert one.prompt(Request("What?", [picture])) == f"{SYSTEM} USER: <image>\nWhat? ASSISTANT:"
    assert one.prompt(Request("What?")) == f"{SYSTEM} USER: What? ASSISTANT:"
    assert one.prompt(Request("What?", conversation="llava_v1")) == (
        f"{SYSTEM} USER: What? ASSISTANT:".replace("curious user", "curious human").replace("the user's", "the human's")
    )
    with pytest.raises(ValueError, match="unknown conversation 'vicuna'"):
        one.prompt(Request("What?", conversation="vicuna"))


def test_first_image_token_stands_at_35(adapters, builders):
    """No LLaMA tokenizer is at hand here. This one has just the pieces that it is known to cut the system text in: BOS,
    12 and 18 for its two sentences, then US ER : and the space before the image."""
    one = adapters("llava")
    encoded = one.encode([Request("What is this?", [builders.picture(20, 20)])])
    span = one.spans(encoded.inputs, encoded.sizes)[0][0]
    pieces = one.tokenizer.convert_ids_to_tokens(encoded.inputs["input_ids"][0].tolist())
    assert span.start == 35
    assert pieces[:2] == ["<s>", "▁A"]
    assert pieces[31:35] == ["▁US", "ER", ":", "▁"]
    assert pieces[35 + 36 : 35 + 38] == ["▁", "<0x0A>"]  # the piece behind the image starts anew, as LLaVA tokenizes it


def test_spans_of_a_hand_made_batch(adapters):
    one = adapters("llava")
    image = [one.model.config.image_token_id] * 36
    ids = torch.tensor([[0, 0, 0, *image, 5, *image, 6], [7, *image, *image, 8, 9, 10, 11], [5] * 77])
    rows = one.spans({"input_ids": ids}, [(10, 20), (30, 40), (50, 60), (70, 80)])
    assert [[(span.start, span.size) for span in row] for row in rows] == [
        [(3, (10, 20)), (40, (30, 40))],
        [(1, (50, 60)), (37, (70, 80))],
        [],
    ]
    with pytest.raises(ValueError, match=r"image tokens"):
        one.spans({"input_ids": torch.tensor([[5, *image[:-1], 6]])}, [(10, 20)])


def test_clips_are_refused(adapters, builders):
    with pytest.raises(ValueError, match="take pictures, not clips"):
        adapters("llava").encode([Request("?", video=[builders.picture(8, 8)])])


def test_a_question_is_its_words_alone(adapters):
    """Without what the template puts behind it, and without tokens that are no words."""
    one = adapters("llava")
    words = one.tokenizer("What is it? ASSISTANT:", add_special_tokens=False).input_ids
    pieces = [*words[:3], one.model.config.image_token_id, *words[3:]]
    assert one.question(torch.tensor(pieces)) == "What is it?"


def test_answers_are_decoded_without_special_tokens(adapters):
    one = adapters("llava")
    ids = one.tokenizer(" What is ", add_special_tokens=False).input_ids
    assert one.decode(torch.tensor([[*ids, one.tokenizer.eos_token_id]])) == ["What is"]


def test_noise_reaches_every_patch(adapters, builders):
    """Pixels are not shuffled: patch by patch they follow the picture."""
    ramp = np.tile(np.linspace(0, 255, 84, dtype=np.uint8)[None, :, None], (84, 1, 3))
    pixels = adapters("llava").picture(builders.Image.fromarray(ramp)).inputs["pixel_values"][0]
    assert bool((pixels.diff(dim=-1) >= 0).all())
