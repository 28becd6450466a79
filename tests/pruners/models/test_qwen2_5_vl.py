"""Qwen2-VL and Qwen2.5-VL: sizes, patches, spans, three-axis positions, its prompt."""

import random
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

import pruners
from debias import Span
from pruners.models import Request
from pruners.models.qwen2_5_vl import whole_tokens
from pruners.parts.patches import Patches

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
    assert whole_tokens((1, 200), 28, limits) == smart_resize(200, 1, 28, 56 * 56, 28 * 28 * 1280)[::-1]
    with pytest.raises(ValueError, match="too narrow"):
        whole_tokens((1, 201), 28, limits)
    for size, least, most in (((95, 60), 1, 6), ((70, 50), 4, 100)):  # as many pixels as allowed, once rounded
        limits = {"shortest_edge": 28 * 28 * least, "longest_edge": 28 * 28 * most}
        hub = smart_resize(size[1], size[0], 28, limits["shortest_edge"], limits["longest_edge"])
        assert whole_tokens(size, 28, limits) == hub[::-1]
        assert hub[0] * hub[1] in limits.values()


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


def test_a_clip_is_as_large_as_its_first_frame_within_the_limits_for_clips(adapters, builders):
    """Those of the tiny checkpoint: at most 24 tokens of a picture, and 48 of each two frames of a clip."""
    for name in ("qwen2_vl", "qwen2_5_vl"):
        one = adapters(name)
        frames = [builders.picture(400, 300), builders.picture(60, 60, 1), builders.picture(90, 60, 2)]
        shown = one.clip(frames)
        time, down, across = shown.inputs["video_grid_thw"][0].tolist()
        assert (time, down // 2, across // 2) == (2, 6, 8)
        assert shown.ids.count(one.model.config.video_token_id) == 2 * 6 * 8


@pytest.fixture
def wide():
    """wide(**said): an adapter without weights, whose tokens show 3 x 3 patches of 4 pixels, and 3 frames."""

    def made(**said):
        vision = SimpleNamespace(spatial_merge_size=3, patch_size=4, temporal_patch_size=3, **said)
        visual = SimpleNamespace(blocks=range(5), merger=lambda patches: patches)
        model = SimpleNamespace(config=SimpleNamespace(vision_config=vision), model=SimpleNamespace(visual=visual))
        prepared = SimpleNamespace(image_mean=[0.0] * 3, image_std=[1.0] * 3)
        return pruners.models.family("qwen2_5_vl")(model, prepared, "words")

    return made


def test_patches_of_a_token_stand_together(wide):
    one, span = wide(), Span(0, (3, 4))
    assert one.packed(span) == 3 * 4 * 9
    assert one.views(Span(0, (3, 4), frames=5)) == 5
    features = torch.rand(2, 9 * 4)
    assert torch.equal(one.project(features), features.view(18, 4))
    patches = Patches(torch.rand(2, 18), torch.rand(18, 5), torch.rand(2, 18, 4), None)
    found = one.joined(patches)
    torch.testing.assert_close(
        found.attention, torch.stack([part.mean(1) for part in patches.attention.split(9, 1)], 1)
    )
    torch.testing.assert_close(found.keys, torch.stack([part.mean(1) for part in patches.keys.split(9, 1)], 1))
    assert torch.equal(found.features, torch.stack([part.flatten() for part in patches.features.split(9)]))


def test_windows_are_undone(wide):
    """Tokens come window by window, each row by row; those at the rim are smaller."""
    states = torch.rand(3 * 4 * 9, 2)
    assert wide().ordered(Span(0, (3, 4)), states) is states
    windows = [(y, x) for y in (0, 2) for x in (0, 2)]
    order = [(y, x) for top, left in windows for y in range(top, min(top + 2, 3)) for x in range(left, left + 2)]
    assert sorted(order) == [(y, x) for y in range(3) for x in range(4)]
    found = wide(window_size=24).ordered(Span(0, (3, 4)), states)
    by_place = {place: states[9 * number : 9 * number + 9] for number, place in enumerate(order)}
    assert torch.equal(found, torch.cat([by_place[place] for place in sorted(order)]))


def test_a_tower_with_windows_is_read_where_it_sees_a_whole_frame(wide):
    one = wide()
    plain = one.tower
    assert (plain.feature_layer, plain.cls, plain.attention, plain.looks, plain.whole) == (4, False, "attn", None, None)
    one.model.model.visual.fullatt_block_indexes = [1, 3]
    assert (one.tower.feature_layer, one.tower.looks, one.tower.whole) == (4, 3, [1, 3])


def test_frames_lie_one_behind_the_other_in_each_patch(wide):
    """The last one is repeated where time does not come out even."""
    shades = [0, 51, 102, 153]
    cells, grid = wide().patches([Image.new("L", (9, 9), shade) for shade in shades], (24, 12))
    assert grid.tolist() == [[2, 3, 6]]
    assert cells.shape == (2 * 3 * 6, 3 * 3 * 4 * 4)
    expected = torch.tensor([[0.0, 0.2, 0.4], [0.6, 0.6, 0.6]])
    torch.testing.assert_close(cells.view(2, 18, 3, 3, 16), expected[:, None, None, :, None].expand(2, 18, 3, 3, 16))
    ramp = Image.fromarray(np.arange(24 * 12, dtype=np.uint8).reshape(12, 24))
    cells, _ = wide().patches([ramp] * 3, (24, 12))
    pixels = torch.arange(24 * 12).remainder(256).view(12, 24)
    blocks = [
        pixels[4 * (3 * row + y) : 4 * (3 * row + y) + 4, 4 * (3 * column + x) : 4 * (3 * column + x) + 4]
        for row in range(1) for column in range(2) for y in range(3) for x in range(3)
    ]  # fmt: skip
    found = (cells.view(18, 9, 4, 4)[:, 0] * 255).round().long()
    assert torch.equal(found, torch.stack(blocks))
