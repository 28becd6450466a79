"""What a family answers from a checkpoint's configuration alone, without weights."""

import numpy as np
import pytest

from pruners.models import Request, adapter, families, family, kind_of, known_checkpoints
from pruners.models.base import Adapter
from pruners.models.refused import REFUSED

LLAVA = {"model_type": "llava", "vision_config": {"image_size": 336, "patch_size": 14}}
TILED = {"model_type": "internvl", "image_seq_length": 16, "vision_config": {"image_size": [112, 112]}}


@pytest.mark.parametrize("name", families())
def test_tokens_of_a_picture_are_what_the_adapter_makes(name, builders):
    one = builders.adapter(name)
    told = family(name).picture_tokens(one.model.config.to_dict())
    lengths = {length(one, builders.picture(*size, 0)) for size in ((90, 50), (40, 80), (64, 64))}
    assert told is None if name not in ("llava", "video_llava") else lengths == {told}


def length(adapter, picture):
    return adapter.picture(picture).ids.count(int(adapter.model.config.image_token_id))


def test_a_configuration_without_a_tower_does_not_tell():
    assert family("llava").picture_tokens(LLAVA) == 576
    assert family("llava").picture_tokens({"model_type": "llava"}) is None
    assert family("llava_next").picture_tokens({**LLAVA, "model_type": "llava_next"}) is None


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
    few = family("internvl").canvas(TILED, {"max_patches": 12}, 2)((640, 320))
    assert few.size == (224, 112)
    assert few.box((0, 0, 640, 320)) == (0, 0, 224, 112)


@pytest.mark.parametrize("name", ["video_llava", "idefics3", "smolvlm"])
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
    assert Adapter.picture_tokens(LLAVA) is None
    assert not Adapter.takes_clips()


def test_known_checkpoints_are_hub_ids():
    assert all(checkpoint.count("/") == 1 for checkpoint in known_checkpoints())
    assert len(set(known_checkpoints())) == len(known_checkpoints()) >= len(families())


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
