"""What holds for every family: spans, prompts, batches, pruning that keeps everything."""

import inspect
import re
from types import SimpleNamespace

import pytest
import torch

import pruners
from debias import Debias, Padding
from pruners.models import Request, adapter, families

FAMILIES = families()
CLIPS = [name for name in FAMILIES if pruners.models.family(name).takes_clips()]
MARKER = re.compile("<image>|<video>")


def requests(builders, family):
    """Image first, images inside, none, and a clip."""
    picture = builders.picture
    asked = [
        Request("What is this?", [picture(40, 70)]),
        Request("Is <image> like <image>, or not at all?", [picture(130, 50, 1), picture(100, 150, 2)]),
        Request("Nothing to see."),
    ]
    if family in CLIPS:
        asked.append(Request("What happens?", video=[picture(70, 90, seed) for seed in range(8)]))
    return asked


def inputs_of_spans(family, encoded):
    names = ("input_ids", *family.media)
    return {name: encoded.inputs[name] for name in names if name in encoded.inputs}


def generate(model, inputs, tokens=4, **options):
    with torch.no_grad():
        return model.generate(
            **inputs,
            max_new_tokens=tokens,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
            **options,
        )


def test_families_are_named_as_transformers_names_them():
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    assert {"llava", "llava_next", "video_llava", "internvl", "qwen2_5_vl", "qwen3_vl"} <= set(FAMILIES)
    assert set(FAMILIES) <= set(CONFIG_MAPPING_NAMES)


def test_unknown_family_names_the_known_ones():
    with pytest.raises(ValueError, match=r"'blip'.*internvl, llava.*docs/new_model\.md"):
        pruners.models.family("blip")


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpoint_round_trip(family, builders, tmp_path):
    """What load() reads from a folder prepares the same batch as the adapter it was written from."""
    folder = builders.checkpoint(family, tmp_path)
    kind = adapter(folder)
    assert kind is pruners.models.family(family)
    loaded, built = kind.load(folder, attention="eager"), builders.adapter(family)
    assert loaded.model.config._attn_implementation == "eager"
    asked = requests(builders, family)
    here, there = loaded.encode(asked), built.encode(asked)
    assert here.sizes == there.sizes
    assert here.inputs.keys() == there.inputs.keys()
    assert all(torch.equal(here.inputs[name], there.inputs[name]) for name in here.inputs)


@pytest.mark.parametrize("family", FAMILIES)
def test_spans_cover_exactly_the_placeholders(family, adapters, builders):
    one, asked = adapters(family), requests(builders, family)
    encoded = one.encode(asked)
    config, ids = one.model.config, encoded.inputs["input_ids"]
    tokens = [config.image_token_id, getattr(config, "video_token_id", -1)]
    rows = one.spans(inputs_of_spans(one, encoded), encoded.sizes)
    slots = one.slots(inputs_of_spans(one, encoded), rows)
    for row, (spans, places) in enumerate(zip(rows, slots, strict=True)):
        placeholders = [at for at, token in enumerate(ids[row].tolist()) if token in tokens]
        assert torch.cat([*places, torch.tensor([], dtype=torch.long)]).tolist() == placeholders
        assert [span.start for span in spans] == sorted(span.start for span in spans)
        assert [span.start for span in spans] == [int(place[0]) for place in places]
        for span in spans:
            patches = span.total - (0 if span.special is None else int(span.special.sum()))
            xy, view = one.places(span)
            assert xy.shape == (span.total, 2)
            assert view.shape == (span.total,)
            assert len({(*at, v) for at, v in zip(xy.tolist(), view.tolist(), strict=True) if at[0] >= 0}) == patches
    assert [len(spans) > 0 for spans in rows] == [bool(asks.images) or asks.video is not None for asks in asked]
    assert len(rows[1]) == 2


@pytest.mark.parametrize("family", FAMILIES)
def test_prompt_survives_tokenization(family, adapters, builders):
    """Taking the media out of the ids and decoding the rest gives the prompt back."""
    one = adapters(family)
    for asks in requests(builders, family)[:3]:
        ids = one.encode([asks]).inputs["input_ids"][0].tolist()
        ids = ids[len(one.begin()) :]
        pieces = []
        for shown in one.pictures(asks.images):
            length = len(shown.ids)
            at = next(n for n in range(len(ids)) if ids[n : n + length] == shown.ids)
            pieces.append(ids[:at])
            ids = ids[at + length :]
        said = [one.tokenizer.decode(piece) for piece in [*pieces, ids]]
        # Llama's decoder takes the first space off.
        assert [piece.lstrip(" ") for piece in said] == [text.lstrip(" ") for text in MARKER.split(one.prompt(asks))]


class Adding:
    """A tokenizer that adds a token to every text, unless it is told not to."""

    def __init__(self, words):
        self.words = words

    def __getattr__(self, name):
        return getattr(self.words, name)

    def __call__(self, text, add_special_tokens=True):
        found = self.words(text, add_special_tokens=False).input_ids
        return SimpleNamespace(input_ids=[7] * add_special_tokens + found)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_between_pictures_begins_with_nothing_of_its_own(family, adapters, builders):
    one, picture = adapters(family), builders.picture(130, 120)
    adding = type(one)(one.model, one.processor, Adding(one.tokenizer))
    assert adding.picture(picture).ids == one.picture(picture).ids
    if family in CLIPS:
        frames = [picture] * 8
        assert adding.clip(frames).ids == one.clip(frames).ids


@pytest.mark.parametrize("family", FAMILIES)
def test_question_must_name_its_pictures(family, adapters, builders):
    with pytest.raises(ValueError, match="names 2 <image>, and 1 were given"):
        adapters(family).encode([Request("<image> or <image>?", [builders.picture(30, 30)])])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_keeping_everything_is_the_plain_model(family, attention, adapters, builders):
    one = adapters(family, attention=attention)
    encoded = one.encode(requests(builders, family))
    plain = generate(one.model, encoded.inputs)
    for layer in (1, 2, 3):
        with pruners.make("fastv", keep=1.0, layer=layer)(one.model):
            kept = generate(one.model, encoded.inputs)
        assert torch.equal(kept.sequences, plain.sequences)
        assert all(torch.equal(a, b) for a, b in zip(kept.logits, plain.logits, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layer", [1, 3])
def test_a_batch_equals_its_singles(family, layer, adapters, builders):
    one, asked = adapters(family), requests(builders, family)
    pruner = pruners.make("fastv", keep=0.4, layer=layer)
    with pruner(one.model) as trace:
        together = generate(one.model, one.encode(asked).inputs)
    kept = [index for stage in trace.kept for index in stage]
    singles = []
    for row, asks in enumerate(asked):
        with pruner(one.model) as trace:
            alone = generate(one.model, one.encode([asks]).inputs)
        singles += [index for stage in trace.kept for index in stage]
        for a, b in zip(together.logits, alone.logits, strict=True):
            assert torch.allclose(a[row], b[0], atol=1e-4)
    assert [index.tolist() for index in kept] == [index.tolist() for index in singles]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layer", [1, 3])
def test_decoding_equals_recomputation(family, layer, adapters, builders):
    """Cached decoding and a forward pass over the whole sequence without a cache, tokens chosen by the same prompt."""
    one = adapters(family)
    encoded = one.encode(requests(builders, family)[:2])
    pruner, length = pruners.make("fastv", keep=0.4, layer=layer), encoded.inputs["input_ids"].shape[1]
    with pruner(one.model) as trace:
        cached = generate(one.model, encoded.inputs, tokens=3)
        kept = trace.kept[0]

    class Again(type(pruner)):
        """The same tokens again, whatever the last row looks at."""

        def score(self, view):
            score = torch.zeros(len(view.span))
            score[kept[view.image]] = 1.0
            return score

    for step in range(1, 3):
        ids = cached.sequences[:, : length + step]
        extra = {
            "input_ids": ids,
            "attention_mask": torch.nn.functional.pad(encoded.inputs["attention_mask"], (0, step), value=1),
        }
        if "mm_token_type_ids" in encoded.inputs:
            extra["mm_token_type_ids"] = torch.nn.functional.pad(encoded.inputs["mm_token_type_ids"], (0, step))
        with Again(keep=0.4, layer=layer)(one.model), torch.no_grad():
            again = one.model(**{**encoded.inputs, **extra}, use_cache=False).logits[:, -1]
        assert torch.allclose(again, cached.logits[step], atol=1e-4)


@pytest.mark.parametrize("family", ["llava", "llava_next", "video_llava"])
def test_silencing_padding_needs_sizes(family, adapters, builders):
    one, debias = adapters(family), Debias(padding=Padding())
    encoded = one.encode([Request("?", [builders.picture(80, 20)])])
    pruner = pruners.make("fastv", keep=0.5, layer=2)
    with pytest.raises(ValueError, match="sizes"), pruner(one.model, debias):
        generate(one.model, encoded.inputs)
    with pruner(one.model, debias, encoded.sizes) as trace:
        generate(one.model, encoded.inputs)
    span = one.spans(inputs_of_spans(one, encoded), encoded.sizes)[0][0]
    valid = Padding().valid(span)
    kept = trace.kept[0][0]
    assert valid.all() == (family == "llava_next")  # whose model cuts off all border but parts of patches
    assert valid[kept].all() or len(kept) > valid.sum()


@pytest.mark.parametrize("family", [name for name in FAMILIES if not pruners.models.family(name).pads])
def test_padding_debias_is_idle_where_nothing_is_padded(family, adapters, builders):
    one = adapters(family)
    encoded = one.encode([Request("?", [builders.picture(80, 20)])])
    pruner, kept = pruners.make("fastv", keep=0.5, layer=3), []
    for debias, sizes in ((Debias(), None), (Debias(padding=Padding()), None), (Debias(padding=Padding()), [(80, 20)])):
        with pruner(one.model, debias, sizes) as trace:
            generate(one.model, encoded.inputs)
        kept.append(trace.kept[0][0].tolist())
    assert kept[0] == kept[1] == kept[2]


def skip_where_beams_mix_tiles(one):
    """transformers 5.17 makes beams before it looks at the pictures: a beam gets tiles of others, pruned or not."""
    if one.cuts_tiles and "mm_encoder_outputs" not in inspect.signature(one.model.forward).parameters:
        pytest.skip("this transformers mixes up InternVL's tiles in beam search")


@pytest.mark.parametrize("family", FAMILIES)
def test_beams_run_and_keep_the_same(family, adapters, builders):
    one = adapters(family)
    skip_where_beams_mix_tiles(one)
    encoded = one.encode(requests(builders, family)[:1])
    pruner = pruners.make("fastv", keep=0.5, layer=3)
    with pruner(one.model) as greedy:
        generate(one.model, encoded.inputs)
    with pruner(one.model, sizes=encoded.sizes) as beams:
        generate(one.model, encoded.inputs, num_beams=2)
    assert beams.kept[0][0].tolist() == greedy.kept[0][0].tolist()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mode", ["gather", "mask"])
def test_beams_share_the_sizes_of_their_pictures(mode, family, adapters, builders):
    one = adapters(family)
    skip_where_beams_mix_tiles(one)
    encoded = one.encode(
        [Request("What?", [builders.picture(90, 40)]), Request("And this?", [builders.picture(40, 90)])]
    )
    pruner, debias = pruners.make("fastv", keep=0.5, layer=3, mode=mode), Debias(padding=Padding())
    with pruner(one.model, debias, encoded.sizes) as greedy:
        generate(one.model, encoded.inputs)
    with pruner(one.model, debias, encoded.sizes) as beams:
        generate(one.model, encoded.inputs, num_beams=2)
    assert [kept.tolist() for kept in beams.kept[0]] == [kept.tolist() for kept in greedy.kept[0]]
    assert beams.counts == greedy.counts
    assert beams.rows == [0, 1]


@pytest.mark.parametrize("family", FAMILIES)
def test_no_hook_stays(family, adapters):
    model = adapters(family).model

    def count():
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())

    def fail():
        with pruners.make("fastv", keep=1, layer=1)(model):
            assert count() > before
            raise RuntimeError("inside")

    before = count()
    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert count() == before
    assert "get_image_features" not in vars(model.model)
