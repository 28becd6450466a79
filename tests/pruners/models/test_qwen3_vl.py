"""Qwen3-VL: DeepStack follows the kept tokens; clips stand in pieces under their times."""

import random
from types import SimpleNamespace

import pytest
import torch

import pruners
from pruners.models import Request


def logits(one, inputs, pruner=None):
    with torch.no_grad():
        if pruner is None:
            return one.model(**inputs).logits, None
        with pruner(one.model) as trace:
            return one.model(**inputs).logits, trace


def pruned_by_hand(one, inputs, layer, kept, span):
    """The decoder run layer by layer, DeepStack rows and columns chosen in plain sight."""
    inner, config = one.inner, one.model.config
    ids = inputs["input_ids"]
    with torch.no_grad():
        vision = inner.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"], return_dict=True)
        hidden = inner.get_input_embeddings()(ids).clone()
        visual = ids[0] == config.image_token_id
        hidden[0, visual] = torch.cat(vision.pooler_output)
        positions, _ = inner.get_rope_index(
            ids, inputs["mm_token_type_ids"], inputs["image_grid_thw"], attention_mask=inputs["attention_mask"]
        )
        tables = one.decoder.rotary_emb(hidden, positions)
        columns = torch.arange(ids.shape[1])
        for number, block in enumerate(one.decoder.layers):
            if number == layer:
                stay = torch.ones(ids.shape[1], dtype=torch.bool)
                stay[span.start : span.start + span.total] = False
                stay[span.start + kept] = True
                columns = stay.nonzero()[:, 0]
                hidden, tables = hidden[:, columns], tuple(table[:, columns] for table in tables)
            length = len(columns)
            mask = torch.full((length, length), torch.finfo(hidden.dtype).min).triu(1)[None, None]
            hidden = block(hidden, position_embeddings=tables, attention_mask=mask)
            if number < len(vision.deepstack_features):
                extra = torch.zeros(ids.shape[1], hidden.shape[-1])
                features = torch.cat(
                    tuple(vision.deepstack_features[number])
                )  # in transformers 5.17 not yet by picture
                extra[visual] = features.view(-1, hidden.shape[-1])
                hidden = hidden + extra[columns]
        return one.model.lm_head(one.decoder.norm(hidden))


@pytest.mark.parametrize("layer", [1, 2, 3])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_deepstack_follows_the_kept_tokens(layer, attention, adapters, builders):
    """Cuts before, between and behind the layers that it adds to (it adds behind layers 0, 1 and 2)."""
    one = adapters("qwen3_vl", attention=attention)
    inputs = one.encode([Request("Why?", [builders.picture(100, 60)])]).inputs
    (span,) = one.spans(inputs)[0]
    ours, trace = logits(one, inputs, pruners.make("fastv", keep=0.5, layer=layer))
    assert torch.allclose(ours, pruned_by_hand(one, inputs, layer, trace.kept[0][0], span), atol=1e-4)


def test_by_hand_without_a_cut_is_the_plain_model(adapters, builders):
    one = adapters("qwen3_vl")
    inputs = one.encode([Request("Why?", [builders.picture(100, 60)])]).inputs
    (span,) = one.spans(inputs)[0]
    plain, _ = logits(one, inputs)
    assert torch.allclose(plain, pruned_by_hand(one, inputs, 1, torch.arange(span.total), span), atol=1e-4)


def test_deepstack_matters(adapters, builders):
    """Otherwise the tests above could not fail."""
    one = adapters("qwen3_vl")
    inputs = one.encode([Request("Why?", [builders.picture(100, 60)])]).inputs
    plain, _ = logits(one, inputs)
    handle = one.decoder.register_forward_pre_hook(
        lambda module, args, kwargs: (args, {**kwargs, "deepstack_visual_embeds": None}), with_kwargs=True
    )
    try:
        without, _ = logits(one, inputs)
    finally:
        handle.remove()
    assert not torch.allclose(plain, without, atol=1e-2)


def test_a_clip_stands_in_pieces_under_their_times(adapters, builders):
    one = adapters("qwen3_vl")
    asked = Request("Why?", video=[builders.picture(64, 96, seed) for seed in range(5)])
    encoded = one.encode([asked])
    text = one.tokenizer.decode(encoded.inputs["input_ids"][0]).replace("<|video_pad|>", "")
    pieces = [f"<{seconds} seconds><|vision_start|><|vision_end|>" for seconds in ("0.2", "1.2", "2.0")]
    assert text.startswith("<|im_start|>user\n" + "".join(pieces) + "Why?")
    spans = one.spans(encoded.inputs, encoded.sizes)[0]
    assert [span.grid for span in spans] == [spans[0].grid] * 3
    assert encoded.sizes == [None] * 3


def test_sizes_of_clips_are_those_of_the_hub_processor(builders):
    """Any number of frames, also smaller than a token or too many pixels; the first frame decides."""
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize

    one, draw, sizes = builders.adapter("qwen3_vl"), random.Random(0), []

    def noted(frames, size):
        sizes.append(size)
        return None, torch.tensor([[1, size[1] // 16, size[0] // 16]])

    one.patches = noted
    limits = one.setting("size", video=True)
    for drawn in range(150):
        count, width, height = draw.randint(2, 12), draw.randint(4, 900), draw.randint(4, 900)
        if drawn == 0:
            count, width, height = 2, 175, 100  # 15 tokens, of which two such groups would be too many
        frames = [SimpleNamespace(size=(width, height)), *[SimpleNamespace(size=(64, 64))] * (count - 1)]
        one.clip(frames)
        hub = smart_resize(count, height, width, 2, 32, limits["shortest_edge"], limits["longest_edge"])
        assert sizes.pop() == hub[::-1], (count, width, height)


def test_clip_limits_are_for_all_frames(adapters, builders):
    one = adapters("qwen3_vl")
    limit = one.setting("size", video=True)["longest_edge"]
    for count in (2, 8, 24):
        grid = one.clip([builders.picture(400, 300)] * count).inputs["video_grid_thw"][0].tolist()
        assert grid[0] * 2 * grid[1] * grid[2] * 16 * 16 <= limit
