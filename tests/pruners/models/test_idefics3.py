"""Idefics3 and SmolVLM: tiles, the words between them, against the hub's processors."""

import random
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers.models.idefics3.image_processing_pil_idefics3 import (
    Idefics3ImageProcessorPil,
    get_resize_output_image_size,
)
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from debias import Padding, Span
from pruners.models import Request
from pruners.models.idefics3 import longest
from pruners.models.smolvlm import spelled

SIZES = [(40, 70), (131, 50), (200, 301), (84, 84), (300, 90), (640, 480), (97, 500), (1001, 999), (5000, 3)]
HUBS = {"idefics3": Idefics3ImageProcessorPil, "smolvlm": SmolVLMImageProcessorPil}


def hub(name, edge, most, picture):
    kind = HUBS[name](size={"longest_edge": most}, max_image_size={"longest_edge": edge})
    return kind([[picture]], return_tensors="pt", return_row_col_info=True)


@pytest.mark.parametrize("name", HUBS)
@pytest.mark.parametrize("size", SIZES)
def test_pictures_are_those_of_the_hub_processor(name, size, adapters, builders):
    one, picture = adapters(name), builders.picture(*size)
    shown, theirs = one.picture(picture), hub(name, 84, 168, picture)
    assert torch.allclose(shown.inputs["pixel_values"], theirs["pixel_values"], atol=1e-5)
    columns, rows = one.arranged(size)
    split = len(shown.inputs["pixel_values"][0]) > 1
    assert (rows, columns) == (theirs["rows"][0][0], theirs["cols"][0][0]) or not split


def test_a_picture_of_a_single_tile_is_that_of_the_hub_processor(builders):
    one, picture = builders.adapter("idefics3"), builders.picture(90, 70)
    one.processor.size = {"longest_edge": 84}
    ours = one.picture(picture).inputs["pixel_values"]
    assert torch.allclose(ours, hub("idefics3", 84, 84, picture)["pixel_values"], atol=1e-5)
    assert ours.shape == (1, 1, 3, 84, 84)
    encoded = one.encode([Request("?", [picture])])
    ((span,),) = one.spans({"input_ids": encoded.inputs["input_ids"]}, encoded.sizes)
    assert one.places(span)[1].tolist() == [0] * 9
    one.processor.size = {"longest_edge": 200}  # no whole number of tiles
    for size in ((131, 50), (50, 131), (80, 80)):
        picture = builders.picture(*size)
        theirs = hub("idefics3", 84, 200, picture)["pixel_values"]
        assert torch.allclose(one.picture(picture).inputs["pixel_values"], theirs, atol=1e-5)


def test_sizes_are_those_of_the_hub_processor():
    """Also where the longer side asked for is more than is allowed."""
    draw = random.Random(0)
    for _ in range(500):
        width, height = draw.randint(1, 3000), draw.randint(1, 3000)
        edge, height = draw.choice([84, 85, 1456, 4096, 4200]), draw.choice([height] * 4 + [width])
        picture = np.broadcast_to(np.uint8(0), (3, height, width))
        assert longest((width, height), edge, 4096) == get_resize_output_image_size(picture, edge)[::-1]


def test_the_shorter_side_stays_even():
    """Also where the longer is as long as it may be."""
    for side in range(2, 300):
        for size in (longest((side, 300), 300, 300), longest((300, side), 300, 300)[::-1]):
            assert size[1] == 300
            assert size[0] % 2 == 0
            assert abs(size[0] - side) <= 1


def words(one, columns, rows):
    """What the hub's processor writes for a picture."""
    tile = "<image>" * one.side**2
    text = ""
    for row in range(rows):
        for column in range(columns):
            text += f"<fake_token_around_image><row_{row + 1}_col_{column + 1}>{tile}"
        text += "\n"
    return f"{text}{chr(10) if rows else ''}<fake_token_around_image><global-img>{tile}<fake_token_around_image>"


@pytest.mark.parametrize(("columns", "rows"), [(0, 0), (2, 1), (1, 2), (3, 2)])
def test_ids_of_a_picture_are_its_words(columns, rows, adapters):
    one = adapters("idefics3")
    ids = one.tokenizer(words(one, columns, rows), add_special_tokens=False).input_ids
    assert one.ids(columns, rows) == ids


def test_pictures_are_told_apart_wherever_they_stand(adapters, builders):
    """Side by side, with words between, in one tile and in many."""
    one = adapters("idefics3")
    sizes = [(80, 40), (40, 80), (60, 60)]
    pictures = [builders.picture(*size) for size in sizes]
    encoded = one.encode([Request("<image><image> and <image>?", pictures), Request("Nothing.")])
    rows = one.spans({"input_ids": encoded.inputs["input_ids"]}, encoded.sizes)
    tiles = [1 + columns * down for columns, down in map(one.arranged, sizes)]
    assert [span.frames for span in rows[0]] == tiles
    assert [span.size for span in rows[0]] == sizes
    assert all(Padding(0.0).valid(span).all() for span in rows[0])  # nothing is padded
    assert rows[1] == []
    one.model(**encoded.inputs)
    one.processor.size = {"longest_edge": 84}
    try:
        encoded = one.encode([Request("<image><image>", pictures[:2])])
        assert [span.frames for span in one.spans({"input_ids": encoded.inputs["input_ids"]})[0]] == [1, 1]
    finally:
        one.processor.size = {"longest_edge": 168}


def test_tiles_lie_where_they_were_cut(adapters, builders):
    one = adapters("idefics3")
    encoded = one.encode([Request("?", [builders.picture(60, 60)])])
    ((span,),) = one.spans({"input_ids": encoded.inputs["input_ids"]}, encoded.sizes)
    xy, view = one.places(span)
    assert span.frames == 5
    assert view.tolist() == [0] * 36 + [1] * 9
    assert xy[:9].tolist() == [[x, y] for y in range(3) for x in range(3)]
    assert xy[9].tolist() == [3, 0]
    assert xy[18].tolist() == [0, 3]
    assert xy[27].tolist() == [3, 3]
    xy, view = one.places(replace(span, size=None))  # then each tile is a view of its own
    assert view.tolist() == [tile for tile in range(5) for _ in range(9)]
    assert xy[27].tolist() == [0, 0]
    columns, rows = one.arranged((80, 40))
    assert columns != rows
    xy, view = one.places(Span(0, (3, 3), frames=columns * rows + 1, size=(80, 40)))
    assert xy[: 9 * columns * rows : 9].tolist() == [[3 * x, 3 * y] for y in range(rows) for x in range(columns)]
    assert view.tolist() == [0] * 9 * columns * rows + [1] * 9


def test_prompts(adapters, builders):
    one, picture = adapters("smolvlm"), [builders.picture(30, 30)]
    assert one.prompt(Request("Why?", picture)) == "User:<image>Why?<end_of_utterance>\nAssistant:"
    assert one.prompt(Request("Why?")) == "User: Why?<end_of_utterance>\nAssistant:"
    assert one.encode([Request("Why?")]).inputs["input_ids"][0, 0] == one.tokenizer.bos_token_id
    with pytest.raises(ValueError, match="the question names 2 <image>, and 1 were given"):
        one.prompt(Request("<image> or <image>?", picture))
    with pytest.raises(ValueError, match="5 image tokens side by side, but a tile of a picture has 9"):
        one.spans({"input_ids": torch.tensor([[3, *[one.model.config.image_token_id] * 5, 4]])})


@pytest.mark.parametrize(("frames", "fps"), [(1, 1.0), (8, 1.0), (8, 1 / 16)])
def test_a_clip_is_told_in_the_words_of_the_hub_processor(frames, fps, adapters, builders, monkeypatch):
    """Frame by frame under its time; the hub's processor reads numbers out with a package of its own."""
    from transformers.models.smolvlm import processing_smolvlm
    from transformers.video_utils import VideoMetadata

    one = adapters("smolvlm")
    monkeypatch.setattr(one, "fps", fps, raising=False)
    pictures = [builders.picture(60, 40, seed) for seed in range(frames)]
    words = {1: "one", 8: "eight"}
    monkeypatch.setattr(processing_smolvlm, "num2words", words.get, raising=False)
    signs = {"image_token": "<image>", "fake_image_token": "<fake_token_around_image>"}
    hub = SimpleNamespace(image_seq_len=one.side**2, global_image_token="<global-img>", **signs)
    told = VideoMetadata(total_num_frames=frames, fps=fps, duration=frames / fps, frames_indices=list(range(frames)))
    given = {"pixel_values": np.zeros((1, frames)), "video_metadata": [told]}
    text = processing_smolvlm.SmolVLMProcessor.replace_video_token(hub, given, 0)
    encoded = one.encode([Request("What happens?", video=pictures)])
    wanted = one.tokenizer(
        f"User: {text}What happens?<end_of_utterance>\nAssistant:", add_special_tokens=False
    ).input_ids
    assert encoded.inputs["input_ids"][0].tolist() == [*one.begin(), *wanted]
    assert encoded.inputs["pixel_values"].shape[:2] == (1, frames)
    assert [(span.frames, len(span)) for span in one.spans(encoded.inputs)[0]] == [(1, one.side**2)] * frames


def test_a_frame_is_squashed_to_a_tile(builders):
    one, picture = builders.adapter("smolvlm"), builders.picture(90, 50)
    one.processor.size = {"longest_edge": 84}
    shown = one.clip([picture, builders.picture(90, 50, 1)]).inputs["pixel_values"]
    assert torch.equal(shown[:, :1], one.picture(picture).inputs["pixel_values"])


def test_numbers_are_spelled():
    said = {
        0: "zero",
        13: "thirteen",
        40: "forty",
        99: "ninety-nine",
        100: "one hundred",
        128: "one hundred and twenty-eight",
    }
    assert {number: spelled(number) for number in said} == said
    small = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
    assert [spelled(number) for number in range(20)] == [*small.split(), "seventeen", "eighteen", "nineteen"]
    tens = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
    assert [spelled(number) for number in range(20, 100, 10)] == tens
