"""Qwen2-VL and Qwen2.5-VL: sizes, patches, spans, three-axis positions, its prompt."""

import random
from dataclasses import dataclass

import pytest
import torch
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

import pruners
from pruners.models import Request
from pruners.models.qwen2_5_vl import whole_tokens

FAMILIES = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"]
SIZES = [(40, 70), (131, 50), (200, 301), (84, 84), (640, 480)]


def test_sizes_are_those_of_the_hub_processor():
    draw = random.Random(0)
    limits = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280}
    for _ in range(2000):
        size = draw.randint(1, 3000), draw.randint(1, 3000)
        if max(size) <= 200 * min(size):
            hub = smart_resize(size[1], size[0], 28, limits["shortest_edge"], limits["longest_edge"])
            assert whole_tokens(size, 28, limits) == hub[::-1]
    with pytest.raises(ValueError, match="too narrow"):
        whole_tokens((1, 201), 28, limits)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", SIZES)
def test_pictures_are_those_of_the_hub_processor(family, size, adapters, builders):
    one, picture = adapters(family), builders.picture(*size)
    settings = builders.preprocessor(family)
    settings = {name: settings[name] for name in ("size", "patch_size", "merge_size", "image_mean", "image_std")}
    hub = Qwen2VLImageProcessorPil(**settings)(picture, return_tensors="pt")
    ours = one.picture(picture).inputs
    assert ours["image_grid_thw"].tolist() == hub["image_grid_thw"].tolist()
    assert torch.allclose(ours["pixel_values"], hub["pixel_values"], atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_still_clip_is_its_picture(family, adapters, builders):
    """Two equal frames make the patches of one picture of that size."""
    one, picture = adapters(family), builders.picture(112, 112)
    still, grid = one.patches([picture], (one.unit * 2, one.unit * 3))
    moving, grids = one.patches([picture] * 5, (one.unit * 2, one.unit * 3))
    assert grid.tolist() == [[1, 6, 4]]
    assert grids.tolist() == [[3, 6, 4]]
    assert torch.equal(moving, still.repeat(3, 1))


def test_spans_of_pictures_and_a_clip(adapters, builders):
    one = adapters("qwen2_5_vl")
    asked = Request(
        "<image> then <video>", [builders.picture(100, 60)], [builders.picture(60, 60, s) for s in range(5)]
    )
    encoded = one.encode([asked])
    spans = one.spans(encoded.inputs, encoded.sizes)[0]
    still, moving = encoded.inputs["image_grid_thw"][0].tolist(), encoded.inputs["video_grid_thw"][0].tolist()
    assert [(span.frames, span.grid) for span in spans] == [
        (1, (still[1] // 2, still[2] // 2)),
        (3, (moving[1] // 2, moving[2] // 2)),
    ]
    types = encoded.inputs["mm_token_type_ids"][0]
    assert [int((types == kind).sum()) for kind in (1, 2)] == [span.total for span in spans]
    assert encoded.inputs["second_per_grid_ts"].tolist() == [1.0]
    assert "second_per_grid_ts" not in adapters("qwen2_vl").encode([asked]).inputs


def test_wrong_grids_are_named(adapters):
    one = adapters("qwen2_5_vl")
    ids = torch.tensor([[5, *[one.model.config.image_token_id] * 7, 5]])
    with pytest.raises(ValueError, match="7 image tokens at 1, but their grid is 1 x 2 x 3"):
        one.spans({"input_ids": ids, "image_grid_thw": torch.tensor([[1, 4, 6]])})


def test_prompts(adapters, builders):
    picture = [builders.picture(30, 30)]
    end = "<|im_end|>\n<|im_start|>assistant\n"
    system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    question = "<|im_start|>user\n<image>Why?"
    assert adapters("qwen2_5_vl").prompt(Request("Why?", picture)) == system + question + end
    assert adapters("qwen3_vl").prompt(Request("Why?", picture)) == question + end
    ids = adapters("qwen3_vl").encode([Request("Why?", picture)]).inputs["input_ids"][0]
    text = adapters("qwen3_vl").tokenizer.decode(ids).replace("<|image_pad|>", "")
    assert text == question.replace("<image>", "<|vision_start|><|vision_end|>") + end


@pytest.mark.parametrize("family", FAMILIES)
def test_kept_tokens_keep_their_three_axis_positions(family, adapters, builders):
    """Behind the cut, every token is turned by the table that the model made for its place in the prompt."""
    one = adapters(family)
    inputs = one.encode([Request("Why?", [builders.picture(100, 60)])]).inputs
    seen = {}

    def watch(number):
        def hook(layer, args, kwargs):
            seen.setdefault(number, kwargs["position_embeddings"][0].clone())

        return one.decoder.layers[number].register_forward_pre_hook(hook, with_kwargs=True)

    first = watch(0)
    with pruners.make("fastv", keep=0.5, layer=3)(one.model) as trace, torch.no_grad():
        last = watch(3)
        one.model.generate(**inputs, max_new_tokens=1)
    first.remove()
    last.remove()
    (span,) = one.spans(inputs)[0]
    total = inputs["input_ids"].shape[1]
    columns = [*range(span.start), *(span.start + trace.kept[0][0]).tolist(), *range(span.start + span.total, total)]
    assert torch.equal(seen[3], seen[0][:, columns])
    assert not torch.allclose(
        seen[0], one.decoder.rotary_emb(torch.zeros(1), torch.arange(total).expand(3, 1, -1))[0], atol=1e-2
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_renumbered(family, adapters, builders):
    """A method that renumbers elsewhere: the same logits as one that does not."""
    one = adapters(family)

    @dataclass(frozen=True)
    class Compact(pruners.find("fastv")):
        positions: str = "compact"

    encoded = one.encode([Request("Why?", [builders.picture(100, 60)]), Request("No picture.")])
    outputs = []
    for pruner in (Compact(keep=0.5, layer=3), pruners.make("fastv", keep=0.5, layer=3)):
        with torch.no_grad(), pruner(one.model):
            settings = {"max_new_tokens": 3, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
            outputs.append(one.model.generate(**encoded.inputs, **settings).logits)
    assert all(torch.equal(a, b) for a, b in zip(*outputs, strict=True))
