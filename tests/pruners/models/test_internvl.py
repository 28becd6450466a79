"""InternVL: tiles and thumbnail, their order, their places, its prompt."""

import random

import numpy as np
import pytest
import torch
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import (
    GotOcr2ImageProcessorPil,
    get_optimal_tiled_canvas,
)

import pruners
from debias import Padding
from pruners.methods.vispruner import important_and_distinct
from pruners.models import Request
from pruners.models.internvl import arranged

SIZES = [(40, 70), (131, 50), (200, 301), (112, 112), (640, 480)]


def test_tiles_are_arranged_as_the_hub_does():
    draw = random.Random(0)
    for _ in range(500):
        size = draw.randint(1, 2500), draw.randint(1, 2500)
        for most in (1, 6, 12):
            assert arranged(size, 448, 1, most) == get_optimal_tiled_canvas(size[::-1], (448, 448), 1, most)
    for size, least, most in (((200, 100), 3, 5), ((500, 800), 4, 5)):  # two grids are as close
        assert arranged(size, 448, least, most) == get_optimal_tiled_canvas(size[::-1], (448, 448), least, most)
    size = (1008, 896)  # half of 3 x 3 tiles to the pixel
    assert arranged(size, 448, 1, 12) == get_optimal_tiled_canvas(size[::-1], (448, 448), 1, 12) == (2, 2)


@pytest.mark.parametrize(
    ("size", "most", "tokens"),
    [
        ((640, 480), 12, 3328),
        ((640, 480), 6, 1792),
        ((640, 427), 12, 1792),
        ((640, 640), 6, 1280),
        ((640, 360), 12, 768),
    ],
)
def test_token_counts_of_real_checkpoints(size, most, tokens):
    columns, rows = arranged(size, 448, 1, most)
    assert (columns * rows + (columns * rows > 1)) * 256 == tokens


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("most", [1, 6, 12])
def test_pictures_are_those_of_the_hub_processor(size, most, builders):
    one, picture = builders.adapter("internvl"), builders.picture(*size)
    one.processor.max_patches = most
    hub = GotOcr2ImageProcessorPil(
        size={"height": 112, "width": 112}, crop_to_patches=True, max_patches=most,
        image_mean=one.setting("image_mean"), image_std=one.setting("image_std"),
    )(picture, return_tensors="pt")  # fmt: skip
    assert torch.allclose(one.picture(picture).inputs["pixel_values"], hub["pixel_values"], atol=1e-5)


def test_tokens_of_a_tile_come_in_raster_order(adapters):
    """The model joins 2 x 2 patches; what the joined ones have in common is their place."""
    patches = torch.stack(torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij"), -1)
    joined = adapters("internvl").inner.pixel_shuffle(patches[None].float(), 0.5)[0]
    rows, columns = joined.view(4, 4, 4, 2).mean(2).unbind(-1)
    assert torch.equal(rows, torch.arange(4.0)[:, None].expand(4, 4) * 2 + 0.5)
    assert torch.equal(columns, torch.arange(4.0)[None].expand(4, 4) * 2 + 0.5)


@pytest.mark.parametrize("size", [(300, 200), (100, 330)])
def test_places_on_the_canvas(size, adapters):
    """A picture that says in its colours where each pixel is."""
    one = adapters("internvl")
    ramp = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    ramp[..., 0], ramp[..., 1] = np.linspace(0, 255, size[0])[None], np.linspace(0, 255, size[1])[:, None]
    from PIL import Image

    shown = one.picture(Image.fromarray(ramp))
    ids = torch.tensor([shown.ids])
    (span,) = one.spans({"input_ids": ids}, shown.sizes)[0]
    xy, view = one.places(span)
    columns, rows = one.tiles(size)
    std, mean = (torch.tensor(one.setting(name))[:, None, None] for name in ("image_std", "image_mean"))
    tokens = (shown.inputs["pixel_values"] * std + mean).unfold(2, 28, 28).unfold(3, 28, 28).mean((-1, -2))
    seen = tokens.permute(0, 2, 3, 1).reshape(-1, 3)[:, :2]  # share of the way across and down
    canvas = view == 0
    assert canvas.sum() == columns * rows * 16
    assert torch.allclose(seen[canvas] * torch.tensor([columns, rows]) * 4, xy[canvas] + 0.5, atol=0.2)
    assert torch.allclose(seen[~canvas] * 4, xy[~canvas] + 0.5, atol=0.2)
    with pytest.warns(UserWarning, match=r"^how InternVL's tiles lie is told by .*; pass sizes=\[\.\.\.\]$") as told:
        alone, views = one.places(one.spans({"input_ids": ids})[0][0])
    assert told[0].filename == __file__
    assert torch.equal(views, torch.arange(len(views)) // 16)
    assert torch.equal(alone[~canvas], xy[~canvas])


def test_nothing_is_padding(adapters, builders):
    one = adapters("internvl")
    encoded = one.encode([Request("?", [builders.picture(300, 20)])])
    (span,) = one.spans(encoded.inputs, encoded.sizes)[0]
    assert Padding(0.0).valid(span).all()
    assert one.pads is False


def test_prompt_is_chatml_with_the_authors_system_message(adapters, builders):
    one, pictures = adapters("internvl"), [builders.picture(9, 9)] * 2
    start = (
        "<|im_start|>system\n你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的"
        "多模态大语言模型。<|im_end|>\n<|im_start|>user\n"
    )
    end = "<|im_end|>\n<|im_start|>assistant\n"
    assert one.prompt(Request("Why?", pictures[:1], conversation="vicuna_v1")) == f"{start}<image>\nWhy?{end}"
    assert one.prompt(Request("Why?", pictures)) == f"{start}Image-1: <image>\nImage-2: <image>\nWhy?{end}"
    assert one.prompt(Request("<image>, <image>", pictures)) == f"{start}<image>, <image>{end}"


def test_frames_of_a_clip_are_numbered(adapters, builders):
    one = adapters("internvl")
    encoded = one.encode([Request("Why?", video=[builders.picture(30, 20, seed) for seed in range(3)])])
    text = one.tokenizer.decode(encoded.inputs["input_ids"][0]).replace("<IMG_CONTEXT>", "")
    assert "user\nFrame1: <img></img>\nFrame2: <img></img>\nFrame3: <img></img>\nWhy?<|im_end|>" in text
    spans = one.spans(encoded.inputs, encoded.sizes)[0]
    assert [(span.frames, span.total) for span in spans] == [(1, 16)] * 3


def test_llama_language_model(builders):
    """InternVL 2.5 (2B, 8B, 26B): its tokenizer starts with BOS."""
    one = builders.adapter("internvl", text="llama")
    encoded = one.encode([Request("Why?", [builders.picture(30, 20)])])
    assert encoded.inputs["input_ids"][0, 0] == one.tokenizer.bos_token_id
    assert adapters_begin(builders) == []
    with torch.no_grad():
        assert one.model.generate(**encoded.inputs, max_new_tokens=2).shape[1] > encoded.inputs["input_ids"].shape[1]


def adapters_begin(builders):
    return builders.adapter("internvl").begin()


def test_stray_image_tokens_are_named(adapters):
    one = adapters("internvl")
    with pytest.raises(ValueError, match="15 image tokens at 1"):
        one.spans({"input_ids": torch.tensor([[3, *[one.model.config.image_token_id] * 15, 4]])})


def test_vispruner_prunes_each_tile_by_itself(builders):
    """As on the eager attention of the whole tower, four patches to a token; tiles and thumbnail share the budget."""
    one = builders.adapter("internvl")
    with torch.no_grad():  # layers that do something
        for layer in one.inner.vision_tower.encoder.layer:
            layer.lambda_1.uniform_(0.5, 1.5)
    encoded = one.encode(
        [Request("Why?", [builders.picture(20, 20)]), Request("Why?", [builders.picture(300, 100, 1)])]
    )
    spans = [row[0] for row in one.spans(encoded.inputs, encoded.sizes)]
    assert [span.frames for span in spans] == [1, 4]
    with torch.no_grad(), pruners.make("vispruner", keep=0.5)(one.model, sizes=encoded.sizes) as trace:
        one.model.generate(**encoded.inputs, max_new_tokens=2)
    tower = one.inner.vision_tower
    tower.set_attn_implementation("eager")
    with torch.no_grad():
        seen = tower(encoded.inputs["pixel_values"], output_attentions=True)
        cls = seen.attentions[-1].mean(1)[:, 0, 1:].view(-1, 8, 8)
        scores = torch.nn.functional.avg_pool2d(cls[:, None], 2).flatten(1)
        features = one.inner.pixel_shuffle(seen.last_hidden_state[:, 1:].reshape(-1, 8, 8, 32), 0.5).flatten(1, 2)
    expected = important_and_distinct(features, scores, 8)
    assert trace.kept[0][0].tolist() == expected[0].tolist()
    assert trace.kept[0][1].tolist() == (expected[1:] + 16 * torch.arange(4)[:, None]).flatten().tolist()


@pytest.mark.parametrize("text", ["qwen3", "llama"])
def test_other_language_models_prune_as_well(text, builders):
    """InternVL 3.5 has Qwen3, whose queries and keys are normed; 2.5 has InternLM2 in the class of Llama."""
    one = builders.adapter("internvl", text=text)
    assert one.model.config.text_config.model_type == text
    encoded = one.encode([Request("Why?", [builders.picture(90, 50)])])
    with torch.no_grad():
        plain = one.model(**encoded.inputs).logits[:, -1]
        for name in ("fastv", "vispruner"):
            with pruners.make(name, keep=1.0)(one, sizes=encoded.sizes):
                assert torch.equal(one.model(**encoded.inputs).logits[:, -1], plain)
            with pruners.make(name, keep=9)(one, sizes=encoded.sizes) as trace:
                one.model(**encoded.inputs)
            assert len(trace.kept[0][0]) == 9
    one = builders.adapter("internvl", text=text, attention="eager")
    with torch.no_grad(), pruners.make("fastv", keep=9, layer=2)(one, sizes=encoded.sizes) as trace:
        seen = one.model(**encoded.inputs, output_attentions=True).attentions[1]
    (span,) = one.spans(encoded.inputs, encoded.sizes)[0]
    own = slice(span.start, span.start + span.total)
    torch.testing.assert_close(trace.scores[0][0][0], seen[0, :, -1, own].mean(0), rtol=1e-4, atol=1e-6)
