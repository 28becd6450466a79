"""Prompts, batches, and where pictures stand in them, each against a plain computation."""

import itertools
import json
import math
import random
import struct
from dataclasses import FrozenInstanceError
from types import SimpleNamespace
from typing import ClassVar
from zlib import crc32

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from debias import Span
from pruners.models import images, prompts, request
from pruners.models.base import Adapter, home
from pruners.models.finding import runs, shared, split
from pruners.models.request import Encoded, Request, Shown, asked, cut, left_padded, place
from pruners.parts.canvas import Canvas, grid, padded, tiled
from pruners.parts.tower import Tower, layer_of

CHAT = (
    "A chat between a curious {who} and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the {who}'s questions. USER: Why? ASSISTANT:"
)
QWEN = "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
WRAPPED = {
    "vicuna_v1": CHAT.format(who="user"),
    "llava_v1": CHAT.format(who="human"),
    "mistral_instruct": "[INST] Why? [/INST]",
    "internvl2_5": "<|im_start|>system\n你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位"
    f"联合开发的多模态大语言模型。<|im_end|>\n{QWEN}",
    "qwen2_5_vl": f"<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{QWEN}",
    "chatml": QWEN,
}  # fmt: skip


def test_every_template_is_the_authors_to_the_character():
    assert {name: prompts.wrap("Why?", name, [name]) for name in prompts.TEMPLATES} == WRAPPED
    for wanted, used in ((None, "chatml"), ("mistral_instruct", "mistral_instruct"), ("llava_v1", "chatml")):
        assert prompts.wrap("Why?", wanted, ["chatml", "mistral_instruct"]) == WRAPPED[used]
    with pytest.raises(ValueError, match="unknown conversation 'vicuna'; there are vicuna_v1, llava_v1, mistral"):
        prompts.wrap("Why?", "vicuna", ["chatml"])


def test_media_without_a_place_go_in_front():
    media = {"<image>": 2, "<video>": 1, "<sound>": 0}
    assert prompts.with_media("Why?", media) == "<image>\n<image>\n<video>\nWhy?"
    assert prompts.with_media("Why?", media, "") == "<image><image><video>Why?"
    assert prompts.with_media("<image> <image>?", media) == "<video>\n<image> <image>?"
    with pytest.raises(ValueError, match="the question names 1 <image>, and 2 were given: '<image>"):
        prompts.with_media("<image>" + "?" * 100, media)
    assert Request("", [None] * 2, []).media == {"<image>": 2, "<video>": 1}
    assert Request("", conversation="chatml").media == {"<image>": 0, "<video>": 0}


@settings(max_examples=50)
@given(st.lists(st.sampled_from(["image", "video", "text"]), max_size=6))
def test_a_question_is_put_together_from_its_parts(kinds):
    """Media stand where they stood, unless all words come behind them."""
    if kinds.count("video") > 1:
        return
    parts = [(kind, f" {kind}{number}") for number, kind in enumerate(kinds)]
    found = asked(parts)
    assert found.images == [value for kind, value in parts if kind == "image"]
    assert found.video == next((value for kind, value in parts if kind == "video"), None)
    words, behind = "", "".join(kind[0] for kind in kinds).lstrip("iv")
    for kind, value in parts:
        words += value if kind == "text" else f"<{kind}>" * bool(behind.strip("t"))
    assert found.text == words


def test_a_text_is_cut_where_its_media_stand():
    one, other, film = (Shown([number], {}) for number in range(3))
    pieces = cut("a <image><video> b<image>", {"<image>": [one, other], "<video>": [film]})
    assert pieces == ["a ", one, "", film, " b", other, ""]
    assert cut("no <video>", {"<image>": [], "<video>": []}) == ["no <video>"]
    words = SimpleNamespace(heard=[])

    def tokenizer(text, add_special_tokens=True):
        words.heard.append((text, add_special_tokens))
        return SimpleNamespace(input_ids=[100 + len(text)])

    assert place(pieces, tokenizer) == [102, 0, 2, 102, 1]
    assert words.heard == [("a ", False), (" b", False)]
    with pytest.raises(FrozenInstanceError):
        one.ids = [3]
    assert one.sizes == (None,)


def test_a_batch_is_padded_on_the_left():
    batch = left_padded([[5, 6, 7], [8], []], 9)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [9, 9, 8], [9, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1], [0, 0, 0]]
    assert set(batch) == {"input_ids", "attention_mask"}


def test_pixels_alone_take_another_dtype(monkeypatch):
    """And what was pinned is copied while the host goes on."""
    pixels = {"pixel_values": torch.ones(2), "pixel_values_videos": torch.ones(1)}
    whole = Encoded({"input_ids": torch.tensor([[1]]), **pixels, "n": 3})
    assert whole.sizes == []
    copies, pinned, real = [], [], torch.Tensor.to

    def noted(self, *args, **options):
        copies.append(options)
        return real(self, *args, **options)

    monkeypatch.setattr(torch.Tensor, "to", noted)
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda self: self.dtype == torch.int64)
    there = Encoded(whole.inputs, [(1, 2)]).to("meta", torch.bfloat16)
    assert {name: (part.dtype, part.is_meta) for name, part in there.inputs.items() if name != "n"} == {
        "input_ids": (torch.int64, True), **dict.fromkeys(pixels, (torch.bfloat16, True)),
    }  # fmt: skip
    assert (there.inputs["n"], there.sizes) == (3, [(1, 2)])
    assert copies == [{"non_blocking": True}, {"non_blocking": False}, {"non_blocking": False}]
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: pinned.append(self) or self.clone())
    held = Encoded(whole.inputs, [(1, 2)]).pinned()
    assert len(pinned) == 3
    assert held.inputs["pixel_values"] is not whole.inputs["pixel_values"]
    assert (held.inputs["n"], held.sizes) == (3, [(1, 2)])


@settings(max_examples=50)
@given(st.lists(st.integers(0, 2), max_size=30), st.integers(1, 3))
def test_stretches_are_those_that_grouping_finds(ids, length):
    expected, at = [], 0
    for token, group in itertools.groupby(ids):
        count = len(list(group))
        expected += [(at, count)] * (token == 1)
        at += count
    row = torch.tensor(ids, dtype=torch.long)
    assert runs(row, 1) == expected
    odd = [(start, count) for start, count in expected if count % length]
    if odd:
        message = f"{odd[0][1]} image tokens side by side at {odd[0][0]}, but every picture or clip has {length}"
        with pytest.raises(ValueError, match=message):
            split(row, 1, length)
    else:
        starts = [at for start, count in expected for at in range(start, start + count, length)]
        assert split(row, 1, length) == starts


def test_values_are_shared_out_in_prompt_order():
    """Rows that beam search repeats share theirs."""
    draw = random.Random(0)
    for _ in range(200):
        rows = [[draw.randint(0, 9) for _ in range(draw.randint(0, 3))] for _ in range(draw.randint(1, 3))]
        beams, total = draw.randint(1, 3), sum(map(len, rows))
        waiting = iter(values := list(range(total)))
        expected = [found for row in rows for found in [[next(waiting) for _ in row]] * beams]
        repeated = [row for row in rows for _ in range(beams)]
        assert shared(repeated, values) == expected
        assert shared(repeated, None) == [[None] * len(row) for row in repeated]
    assert shared([[], []], [1, 2]) == [[], []]
    message = "the prompts hold {} pictures or clips, but sizes or grids of {} were given"
    for wrong, count in (([[1], [2]], 3), ([[1], [2]], 1), ([[1], [1], [1]], 2), ([[1, 2], [1], [2]], 2), ([[1]], 0)):
        with pytest.raises(ValueError, match=message.format(sum(map(len, wrong)), count)):
            shared(wrong, list(range(count)))


def cells(rows, columns, width, height, left=0, top=0):
    wide, high = width / columns, height / rows
    return [
        [left + x * wide, top + y * high, left + (x + 1) * wide, top + (y + 1) * high]
        for y in range(rows) for x in range(columns)
    ]  # fmt: skip


def test_cells_tile_their_canvas():
    np.testing.assert_allclose(grid(2, 3, 30, 8), cells(2, 3, 30, 8))
    np.testing.assert_allclose(grid(2, 3, 30, 8, 5, 1), cells(2, 3, 30, 8, 5, 1))
    assert Canvas((9, 9), grid(1, 1, 9, 9), (2, 3), (5, 7)).box((1, 2, 3, 4)) == (7, 13, 11, 19)
    for size, offset in (((30, 17), (0, 6)), ((17, 30), (6, 0)), ((8, 8), (0, 0))):
        canvas = padded(size, 4)
        assert (canvas.size, canvas.scale, canvas.offset) == ((max(size),) * 2, (1, 1), offset)
        np.testing.assert_allclose(canvas.cells, cells(4, 4, max(size), max(size)))
    canvas = tiled((60, 50), (3, 2), 10, 2)
    assert (canvas.size, canvas.scale, canvas.offset) == ((30, 20), (0.5, 0.4), (0, 0))
    tiles = [cell for y in (0, 10) for x in (0, 10, 20) for cell in cells(2, 2, 10, 10, x, y)]
    np.testing.assert_allclose(canvas.cells, [*tiles, *cells(2, 2, 30, 20)])
    assert len(tiled((60, 50), (1, 1), 10, 2).cells) == 4
    assert len(tiled((60, 50), (1, 2), 10, 2).cells) == 12
    with pytest.raises(FrozenInstanceError):
        canvas.size = (1, 1)


def test_a_tower_says_which_layers_see_everything():
    plain = Tower(None, range(8), 6)
    assert (plain.cls, plain.attention, plain.looked_at) == (True, "self_attn", 6)
    assert [plain.seeing(layer) for layer in (0, 3)] == [0, 3]
    windows = Tower(None, range(8), 7, looks=5, whole=(1, 3, 5))
    assert windows.looked_at == 5
    assert [windows.seeing(layer) for layer in (0, 1, 2, 5, 6)] == [1, 1, 3, 5, 5]
    assert Tower(None, range(8), 6, looks=0).looked_at == 0
    outputs = ["embeddings", *range(8)]  # as transformers lists hidden states
    assert [layer_of(entry, range(8)) for entry in (1, 2, 8, -1, -2, -8)] == [outputs[i] for i in (1, 2, 8, -1, -2, -8)]
    with pytest.raises(FrozenInstanceError):
        plain.cls = False


def test_what_a_family_need_not_say():
    said = ("pads", "fills", "fill", "renumbers", "media", "frames_apart", "grounding", "authors_key", "known", "gap")
    assert [getattr(Adapter, name) for name in said] == [
        True, False, "mean", True, (), False, "llava", "", (), "\n",
    ]  # fmt: skip
    assert {name: sum(value) for name, value in images.CLIP.items()} == pytest.approx({
        "image_mean": 0.48145466 + 0.4578275 + 0.40821073, "image_std": 0.26862954 + 0.26130258 + 0.27577711,
    })  # fmt: skip
    assert Adapter.prepared is images.CLIP
    one = Adapter(SimpleNamespace(), SimpleNamespace(tokenizer="its own"))
    assert one.tokenizer == "its own"
    assert Adapter(SimpleNamespace(), one.processor, "another").tokenizer == "another"
    assert Adapter(SimpleNamespace()).tokenizer is None
    assert one.conversations == ("vicuna_v1", "llava_v1")
    assert one.hooks(None) == []
    assert one.views(None) == 1
    assert one.packed(None) is None
    states = torch.rand(2)
    assert one.ordered(None, states) is states
    assert one.window("all of it") == "all of it"
    with pytest.raises(TypeError, match=r"Adapter does not say where images stand; define spans\(inputs, sizes\)"):
        one.spans({})
    with pytest.raises(TypeError, match=r"Adapter does not prepare pictures; define picture\(image\)"):
        one.picture(None)
    with pytest.raises(ValueError, match="Adapter does not open its vision tower"):
        _ = one.tower
    with pytest.raises(ValueError, match=r"this adapter has no tokenizer; get one with pruners.models.adapter"):
        Adapter(SimpleNamespace()).encode([])


def test_settings_are_the_checkpoints_or_else_the_familys():
    class Own(Adapter):
        prepared: ClassVar = {"size": 1, "video_size": 2, "image_mean": 3, "video_image_mean": 4}

    def told(**processor):
        one = Own(None, SimpleNamespace(**processor), "words")
        return [one.setting(name, video) for name in ("size", "image_mean") for video in (False, True)]

    still, moving = SimpleNamespace(size=5), SimpleNamespace(size=6)
    assert told() == [1, 2, 3, 4]
    assert told(size=5, video_processor=moving) == [5, 6, 3, 4]
    assert told(image_processor=still, video_processor=moving, size=7) == [5, 6, 3, 4]
    assert told(size=5, image_mean=8) == [5, 2, 8, 4]  # what holds for pictures says nothing of clips
    assert Own(None, None, "words").setting("size") == 1


def test_a_model_that_is_spread_is_at_home_where_it_runs():
    cpu, other = torch.device("cpu"), torch.device("meta")
    assert home(SimpleNamespace(), cpu) == cpu
    assert home(SimpleNamespace(_hf_hook=SimpleNamespace()), cpu) == cpu
    for there, device in ((1, torch.device("cuda", 1)), (0, torch.device("cuda", 0)), ("meta", other), (other, other)):
        assert home(SimpleNamespace(_hf_hook=SimpleNamespace(execution_device=there)), cpu) == device
    assert Adapter(SimpleNamespace(device=other)).device == other


def test_rotation_by_angles_and_back():
    """Also by tables that are scaled, as some kinds of rotary embedding have them."""
    one, angle = Adapter(None), torch.rand(5, 3) * 6
    states = torch.randn(2, 5, 6)
    cos, sin = 1.3 * angle.cos().repeat(1, 2), 1.3 * angle.sin().repeat(1, 2)
    turned = torch.view_as_complex(states.unflatten(-1, (2, 3)).transpose(-1, -2).contiguous())
    turned = torch.view_as_real(1.3 * turned * torch.exp(1j * angle)).transpose(-1, -2).flatten(-2)
    torch.testing.assert_close(one.rotate(states, cos, sin), turned)
    torch.testing.assert_close(one.unrotate(turned, cos, sin), states)


def test_media_words():
    assert (request.IMAGE, request.VIDEO) == ("<image>", "<video>")


def test_how_pictures_are_prepared_is_read_from_one_file_or_from_two(tmp_path):
    def written(name, **said):
        (tmp_path / f"{name}.json").write_text(json.dumps(said), encoding="utf-8")

    def read():
        found = images.settings(str(tmp_path))
        return getattr(found, "a", None), getattr(found.video_processor, "a", None)

    assert read() == (None, None)
    written("preprocessor_config", a=1)
    assert read() == (1, None)
    written("video_preprocessor_config", a=2)
    assert read() == (1, 2)
    written("processor_config", image_processor={"a": 3}, video_processor={"a": 4}, a=5)
    assert read() == (3, 4)
    written("processor_config", image_processor={"a": 3})
    assert read() == (3, 2)


def test_prompts_of_a_batch_are_those_of_the_requests():
    """Padded with the tokenizer's own padding, opened by its own beginning, on the device that is asked for."""

    class Words:
        bos_token_id, pad_token_id = None, 9

        def __call__(self, text, add_special_tokens=True):
            return SimpleNamespace(input_ids=[len(word) for word in text.split()])

    class Bare(Adapter):
        def prompt(self, request):
            return request.text

    one = Bare(SimpleNamespace(device=torch.device("cpu"), dtype=torch.float32), tokenizer=Words())
    asks = [Request("to be or not"), Request("to")]
    for begin, pad, expected in (
        (None, 9, [[2, 2, 2, 3], [9, 9, 9, 2]]), (None, None, [[2, 2, 2, 3], [0, 0, 0, 2]]),
        (7, 9, [[7, 2, 2, 2, 3], [9, 9, 9, 7, 2]]), (2, 9, [[2, 2, 2, 3], [9, 9, 9, 2]]),  # one is there already
    ):  # fmt: skip
        Words.bos_token_id, Words.pad_token_id = begin, pad
        assert one.encode(asks).inputs["input_ids"].tolist() == expected
    assert one.encode(asks, "meta").inputs["input_ids"].is_meta


def test_places_of_frames_with_tokens_that_are_no_patch():
    special = torch.tensor([True, False, False, True, False, False])
    xy, view = Adapter(None).places(Span(4, (1, 2), frames=2, special=special))
    assert xy.tolist() == [[-2, -2], [0, 0], [1, 0], [-2, -2], [0, 0], [1, 0]]
    assert view.tolist() == [0, 0, 0, 0, 1, 1]
    assert view.dtype == torch.long


def bands_of(side, edge, room, monkeypatch):
    """The bands in which a picture is made square, or None: it is made square as a whole."""
    made, real = [], images.bands

    def noted(*given):
        rows = real(*given)
        return lambda first, height: made.append((first, height)) or rows(first, height)

    monkeypatch.setattr(images, "BAND", room)
    monkeypatch.setattr(images, "bands", noted)
    monkeypatch.setattr(images, "square", lambda image, *more: made.append(None) or image)
    images.square_resized(Image.new("RGB", (side, 3)), (0, 0, 0), edge)
    return made


def test_no_more_of_a_square_is_held_than_there_is_room_for(monkeypatch):
    for side, edge, room, made in (
        (10, 5, 100, [None]), (10, 10, 99, [None]), (10, 5, 99, [(0, 9), (9, 1)]),
        (10, 5, 5, [(n, 1) for n in range(10)]), (10, 5, 39, [(0, 3), (3, 3), (6, 3), (9, 1)]),
    ):  # fmt: skip
        with monkeypatch.context() as patch:
            assert bands_of(side, edge, room, patch) == made
    assert images.BAND == 1 << 24


def test_noise_is_drawn_row_by_row_from_a_seed_of_the_picture():
    """Each row of the square begins with a new number of 64 bits."""
    for width, height in ((7, 3), (8, 5), (2, 9)):
        image = Image.effect_noise((width, height), 90).convert("RGB")
        side = max(width, height)
        numbers = np.random.PCG64(crc32(image.tobytes())).random_raw(side * math.ceil(side * 3 / 8))
        rows = np.frombuffer(struct.pack(f"<{len(numbers)}Q", *numbers.tolist()), np.uint8).reshape(side, -1)
        whole = Image.fromarray(rows[:, : side * 3].reshape(side, side, 3).copy())
        whole.paste(image, ((side - width) // 2, (side - height) // 2))
        assert images.square(image, (0, 0, 0), "random").tobytes() == whole.tobytes()


def test_numbers_of_pixels_are_those_of_double_precision():
    image = Image.effect_noise((5, 4), 90).convert("RGB")
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    found = images.normalised(image, mean, std)
    expected = (np.asarray(image).astype(float) / 255 - mean) / std
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected.transpose(2, 0, 1), rtol=1e-5, atol=1e-6)
    assert found.is_contiguous()
