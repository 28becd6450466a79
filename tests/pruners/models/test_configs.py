"""What a family answers from a checkpoint's configuration alone, without weights."""

import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pruners.loading.refused import REFUSED
from pruners.models import Request, adapter, declared, families, family, kind_of, known_checkpoints, picture_tokens
from pruners.models.base import Adapter

LLAVA = {"model_type": "llava", "vision_config": {"image_size": 336, "patch_size": 14}}
TILED = {"model_type": "internvl", "image_seq_length": 16, "vision_config": {"image_size": [112, 112]}}


@pytest.mark.parametrize("name", families())
def test_tokens_of_a_picture_are_what_the_adapter_makes(name, builders):
    one = builders.adapter(name)
    told = picture_tokens(one.model.config.to_dict())
    lengths = {length(one, builders.picture(*size, 0)) for size in ((90, 50), (40, 80), (64, 64))}
    assert told is None if name not in ("llava", "video_llava") else lengths == {told}


def length(adapter, picture):
    return adapter.picture(picture).ids.count(int(adapter.model.config.image_token_id))


def test_a_configuration_without_a_tower_does_not_tell():
    assert picture_tokens(LLAVA) == 576
    assert picture_tokens({"model_type": "llava"}) is None
    assert picture_tokens({**LLAVA, "model_type": "llava_next"}) is None
    assert picture_tokens({**LLAVA, "model_type": "blip"}) is None


@pytest.mark.parametrize("variable", ["one_square", "authors_key", "trend_media", "fills", "cuts_tiles", "known"])
def test_what_is_read_of_a_familys_file_is_what_python_makes_of_it(variable):
    assert declared(variable) == {name: getattr(family(name), variable) for name in families()}


@pytest.mark.parametrize("name", ["llava", "internvl"])
def test_cells_lie_where_the_adapter_places_its_tokens(name, builders):
    """A cell's place in its picture is that of its token, for pictures of every shape."""
    one = builders.adapter(name)
    for size in ((90, 50), (40, 80), (64, 64)):
        encoded = one.encode([Request("What is it?", [builders.picture(*size, 0)])])
        ((span,),) = one.spans({"input_ids": encoded.inputs["input_ids"]}, encoded.sizes)
        canvas = family(name).canvas(one.model.config.to_dict(), vars(one.processor))(size)
        assert len(canvas.cells) == span.total
        xy, view = one.places(span)
        for number in view.unique().tolist():
            cells, places = canvas.cells[view.numpy() == number], xy[view == number].numpy()
            width, height = cells[0, 2] - cells[0, 0], cells[0, 3] - cells[0, 1]
            assert np.allclose(cells[:, 0], places[:, 0] * width)
            assert np.allclose(cells[:, 1], places[:, 1] * height)
            assert np.allclose([cells[:, 2].max(), cells[:, 3].max()], canvas.size)


def test_a_picture_lies_on_its_canvas_as_it_is_prepared():
    canvas = family("llava").canvas(LLAVA, {})((640, 480))
    assert canvas.size == (640, 640)
    assert canvas.box((0, 0, 640, 480)) == (0, 80, 640, 560)
    tiles = family("internvl").canvas(TILED, {})
    assert len(tiles((64, 64)).cells) == 16
    assert tiles((640, 320)).size == (448, 224)  # 4 x 2 tiles
    assert len(tiles((640, 320)).cells) == 9 * 16
    assert family("internvl").canvas({**TILED, "vision_config": {"image_size": 112}}, {})((640, 320)).size == (448, 224)
    assert len(family("internvl").canvas(TILED, {"min_patches": 3})((64, 64)).cells) == 5 * 16
    assert family("internvl").canvas(TILED, {"max_patches": 2})((640, 320)).size == (224, 112)
    few = family("internvl").canvas(TILED, {"max_patches": 12}, 2)((640, 320))
    assert few.size == (224, 112)
    assert few.box((0, 0, 640, 320)) == (0, 0, 224, 112)


# What each family says of itself: opens, features, fills, pads, renumbers, cuts tiles, frames apart, media.
SAID = {
    "idefics3": ("views", "together", False, False, True, False, False, ()),
    "internvl": ("views", "together", False, False, True, True, True, ()),
    "llava": ("tokens", "listed", True, True, True, False, False, ()),
    "llava_next": ("views", "together", False, True, True, False, False, ("image_sizes",)),
    "llava_onevision": (
        "views", "together", False, True, True, False, False,
        ("image_sizes", "batch_num_images", "pixel_values_videos"),
    ),
    "qwen2_5_vl": ("views", "together", False, False, False, False, False, ("image_grid_thw", "video_grid_thw")),
    "qwen2_vl": ("views", "together", False, False, False, False, False, ("image_grid_thw", "video_grid_thw")),
    "qwen3_vl": ("views", "together", False, False, False, False, True, ("image_grid_thw", "video_grid_thw")),
    "smolvlm": ("views", "together", False, False, True, False, True, ()),
    "video_llava": ("nothing", "stacked", True, True, True, False, False, ("pixel_values_videos",)),
}  # fmt: skip
HALF = {"image_mean": (0.5, 0.5, 0.5), "image_std": (0.5, 0.5, 0.5)}
OPENAI = {"image_mean": (0.48145466, 0.4578275, 0.40821073), "image_std": (0.26862954, 0.26130258, 0.27577711)}
QWEN = {"shortest_edge": 3136, "longest_edge": 1003520}
QWEN = {**OPENAI, "size": QWEN, "video_size": {"shortest_edge": 100352, "longest_edge": 602112}}
# How pictures are prepared where a checkpoint does not say: the numbers that the families' checkpoints have on the hub.
PREPARED = {
    "idefics3": {**HALF, "size": {"longest_edge": 1456}, "max_image_size": {"longest_edge": 364}},
    "internvl": {
        "image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225), "min_patches": 1, "max_patches": 12,
    },
    "llava": OPENAI, "llava_next": OPENAI, "video_llava": OPENAI, "llava_onevision": HALF,
    "qwen2_5_vl": QWEN, "qwen2_vl": QWEN,
    "qwen3_vl": {
        **HALF, "size": {"shortest_edge": 65536, "longest_edge": 16777216},
        "video_size": {"shortest_edge": 4096, "longest_edge": 25165824},
    },
    "smolvlm": {**HALF, "size": {"longest_edge": 1536}, "max_image_size": {"longest_edge": 384}},
}  # fmt: skip


def test_what_each_family_says_of_itself(builders):
    names = ("opens", "features", "fills", "pads", "renumbers", "cuts_tiles", "frames_apart", "media")
    assert {name: tuple(getattr(family(name), fact) for fact in names) for name in families()} == SAID
    assert {name: dict(family(name).prepared) for name in families()} == PREPARED
    assert {name for name in families() if family(name).trend_media == "video"} == {"video_llava"}
    assert {name: family(name).grounding for name in families()} == dict.fromkeys(families(), "llava") | {
        "internvl": "internvl"
    }
    assert [name for name in families() if family(name).gap == ""] == ["qwen2_5_vl", "qwen2_vl", "qwen3_vl"]
    assert {family(name).fill for name in families()} == {"mean"}
    frames = {"qwen2_5_vl": 2.0, "qwen2_vl": 2.0, "qwen3_vl": 2.0, "smolvlm": 1.0}
    assert {name: family(name).fps for name in families() if hasattr(family(name), "fps")} == frames
    assert family("idefics3").largest == family("smolvlm").largest == 4096


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("size", [(90, 50), (40, 80), (300, 64)])
def test_cells_share_out_a_picture_that_keeps_its_shape(name, size, builders):
    one = builders.adapter(name)
    encoded = one.encode([Request("What is it?", [builders.picture(*size, 0)])])
    ((span,),) = one.spans(encoded.inputs, encoded.sizes)
    canvas = family(name).canvas(one.model.config.to_dict(), vars(one.processor))(size)
    (rows, columns), (width, height) = span.grid, size
    assert (canvas.size, canvas.scale, canvas.offset) == (size, (1, 1), (0, 0))
    steps = np.stack([np.arange(rows * columns) % columns, np.arange(rows * columns) // columns], 1)
    unit = np.array([width / columns, height / rows])
    np.testing.assert_allclose(canvas.cells, np.concatenate([steps * unit, (steps + 1) * unit], 1))
    whole = family(name).canvas(one.model.config.to_dict(), {})((560, 560))  # as its checkpoints on the hub say
    side = round(560 / 28) if name == "qwen2_5_vl" else 560 // 32 + 1
    assert len(whole.cells) == side**2


@pytest.mark.parametrize("size", [(90, 50), (41, 80), (300, 64)])
@pytest.mark.parametrize("pinpoints", [None, [[168, 168]], [[84, 252]]])
def test_cells_of_tiles_lie_over_the_canvas_and_the_base_view_over_the_picture(size, pinpoints, builders):
    one = builders.adapter("llava_next", **({"image_grid_pinpoints": pinpoints} if pinpoints else {}))
    encoded = one.encode([Request("What is it?", [builders.picture(*size, 0)])])
    ((span,),) = one.spans(encoded.inputs, encoded.sizes)
    canvas = family("llava_next").canvas(one.model.config.to_dict(), {})(size)
    # How it lies: as large as fits, in the middle.
    grow = min(canvas.size[0] / size[0], canvas.size[1] / size[1])
    shown = [min(math.ceil(edge * grow), most) for edge, most in zip(size, canvas.size, strict=True)]
    left, top = (canvas.size[0] - shown[0]) // 2, (canvas.size[1] - shown[1]) // 2
    assert canvas.offset == (left, top)
    assert canvas.scale == (shown[0] / size[0], shown[1] / size[1])
    assert pinpoints is None or canvas.size == tuple(pinpoints[0][::-1])
    xy, view = (part.numpy() for part in one.places(span))
    line, base = span.special.numpy(), view == 0
    assert len(canvas.cells) == span.total
    assert not canvas.cells[line].any()
    tile = canvas.cells[~line & ~base] / 14
    np.testing.assert_allclose(tile, np.concatenate([xy[~line & ~base], xy[~line & ~base] + 1], 1))
    unit = np.array(shown) / 6
    corners = np.concatenate([xy[base] * unit, (xy[base] + 1) * unit], 1) + [left, top] * 2
    np.testing.assert_allclose(canvas.cells[base], corners)


def test_only_the_configuration_of_a_hub_id_is_fetched_to_find_its_family(monkeypatch, tmp_path):
    asked = []
    (tmp_path / "config.json").write_text('{"model_type": "llava"}', encoding="utf-8")
    monkeypatch.setattr("pruners.models.local", lambda path, only="": asked.append((path, only)) or tmp_path)
    assert adapter("somebody/model") is family("llava")
    assert asked == [("somebody/model", "config.json")]


def test_clips_and_pictures_are_told_apart_by_their_first_token():
    one = Adapter(SimpleNamespace(config=SimpleNamespace(video_token_id=7)))
    ids = torch.tensor([[7, 5, 5, 7], [5, 5, 7, 7]])
    slots = [[torch.tensor([1, 2]), torch.tensor([3])], [torch.tensor([2, 3])]]
    assert one.filmed({"input_ids": ids}, slots) == [[False, True], [True]]
    assert Adapter(SimpleNamespace(config=SimpleNamespace())).filmed({"input_ids": ids}, slots) == [
        [False] * 2,
        [False],
    ]
    with pytest.raises(ValueError, match="shorter"):
        one.filmed({"input_ids": ids}, slots[:1])


@pytest.mark.parametrize("name", ["video_llava", "idefics3", "smolvlm", "llava"])
def test_where_no_canvas_is_worked_out_that_is_said(name):
    config = {"model_type": name}
    with pytest.raises(ValueError, match=f"the tokens of {name} lie in a picture is not worked out"):
        family(name).canvas(config, {})


def test_clips_are_taken_by_the_families_that_prepare_them(builders):
    for name in families():
        one, frames = builders.adapter(name), [builders.picture(56, 56, seed) for seed in range(8)]
        if family(name).takes_clips():
            assert one.clip(frames).ids
        else:
            with pytest.raises(ValueError, match="take pictures, not clips"):
                one.clip(frames)


def test_the_authors_own_configuration_is_known_by_what_it_holds():
    assert kind_of(LLAVA) == "llava"
    assert kind_of({"model_type": "llava", "mm_video_tower": "LanguageBind_Video_merge"}) == "video_llava"
    assert kind_of({"model_type": "blip"}) == "blip"
    keys = [family(name).authors_key for name in families() if family(name).authors_key]
    assert len(keys) == len(set(keys))


def test_a_family_that_says_nothing_is_taken_for_the_most_general():
    assert (Adapter.features, Adapter.opens, Adapter.trend_media, Adapter.cuts_tiles) == (
        "together", "nothing", "image", False,
    )  # fmt: skip
    assert not Adapter.one_square
    assert not Adapter.takes_clips()


def test_known_checkpoints_are_hub_ids():
    assert all(checkpoint.count("/") == 1 for checkpoint in known_checkpoints())
    assert len(set(known_checkpoints())) == len(known_checkpoints()) >= len(families())


def test_reasons_go_on_from_what_is_said_before_them():
    assert set(REFUSED) == {
        "gemma3", "gemma3n", "gemma4", "paligemma", "cohere2_vision", "llama4", "mllama", "qwen3_5", "qwen3_5_moe",
        "minicpmv4_6", "minicpmv4_7",
    }  # fmt: skip
    assert all(re.fullmatch("(its|most of its) [a-z].*[a-z]", reason) for reason in REFUSED.values())


@pytest.mark.parametrize("name", REFUSED)
def test_families_that_cannot_be_pruned_are_refused_for_what_they_are(name, tmp_path):
    """The reason is true of the class in transformers, and said before anything is loaded."""
    transformers = pytest.importorskip("transformers")
    if name not in transformers.CONFIG_MAPPING:
        pytest.skip(f"this version of transformers has no {name}")
    assert name not in families()
    text = transformers.CONFIG_MAPPING[name]().get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ())
    reason = REFUSED[name]
    assert ("sliding_attention" in kinds) == ("sliding window" in reason)
    assert ("linear_attention" in kinds) == ("linear attention" in reason)
    assert ("chunked_attention" in kinds) == ("chunks of places" in reason)
    assert hasattr(text, "cross_attention_layers") == ("cross-attention" in reason)
    assert kinds - {"full_attention"} or hasattr(text, "cross_attention_layers") or "both directions" in reason
    (tmp_path / "config.json").write_text(f'{{"model_type": "{name}"}}', encoding="utf-8")
    with pytest.raises(ValueError, match=f"models of type '{name}' cannot be pruned here: "):
        adapter(tmp_path)
