"""Prompts of every kind, and what cannot be done exactly with any."""

import warnings
from types import SimpleNamespace

import pytest
import torch

import pruners
from debias import Debias, Padding, Trend
from pruners.engine.limits import Unsupported


@pytest.fixture(scope="module")
def llava(get):
    return get("llava")


def prompts(adapter, rows):
    """Rows of text (ints) and pictures ("image") as a left-padded batch."""
    token = adapter.model.config.image_token_id
    ids = [[part for piece in row for part in ([token] * 36 if piece == "image" else [piece])] for row in rows]
    longest = max(map(len, ids))
    count = sum(piece == "image" for row in rows for piece in row)
    generator = torch.Generator().manual_seed(5)
    pixels = torch.randn(count, 3, 84, 84, generator=generator)
    inputs = {
        "input_ids": torch.tensor([[0] * (longest - len(row)) + row for row in ids]),
        "attention_mask": torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in ids]),
    }
    return SimpleNamespace(inputs={**inputs, **({"pixel_values": pixels} if count else {})})


ROWS = {
    "start": ["image", 7, 8, 9],
    "middle": [1, 5, 6, "image", 7, 8, 9],
    "end": [1, 5, 6, 7, "image", 9],
    "text": [1, 5, 6, 7],
    "two": [1, "image", 5, "image", 6, 7],
    "adjacent": [1, "image", "image", 6, 7, 8, 9],
}


@pytest.mark.parametrize("method", ["fastv", "pyramiddrop", "sparsevlm", "himap", "vispruner", "illava", "grid"])
def test_any_mixture_of_prompts_is_its_singles(method, llava, make, run):
    batch = prompts(llava, ROWS.values())
    pruner = make(method)
    with pruner(llava) as trace:
        together = run(llava, batch)
        kept, rows = [[k.tolist() for k in stage] for stage in trace.kept], trace.rows
    assert rows == [0, 1, 2, 4, 4, 5, 5]
    picture = 0
    for number, row in enumerate(ROWS.values()):
        alone, count = prompts(llava, [row]), sum(piece == "image" for piece in row)
        if count:
            alone.inputs["pixel_values"] = batch.inputs["pixel_values"][picture : picture + count]
        with pruner(llava) as trace:
            single = run(llava, alone)
        for stage, images in enumerate(trace.kept):
            assert [k.tolist() for k in images] == kept[stage][picture : picture + count]
        picture += count
        for ours, theirs in zip(together.logits, single.logits, strict=True):
            torch.testing.assert_close(ours[number], theirs[0], rtol=0, atol=1e-3)


def test_text_alone_is_the_plain_model(method, llava, make, run):
    batch = prompts(llava, [ROWS["text"], [1, 5]])
    plain = run(llava, batch)
    with make(method)(llava, Debias(Trend.exponential(0.02), Padding()), []) as trace:
        pruned = run(llava, batch)
    assert trace.kept == []
    assert trace.counts == []
    assert torch.equal(torch.stack(plain.logits), torch.stack(pruned.logits))


@pytest.mark.parametrize("keep", [0, 1])
def test_hardly_anything_can_stay(keep, llava, requests, run):
    with pruners.make("fastv", keep=keep)(llava) as trace:
        out = run(llava, llava.encode(requests))
    assert [len(kept) for kept in trace.kept[0]] == [keep] * 3
    assert all(logits.isfinite().all() for logits in out.logits)


def test_sampling_follows_the_seed_and_the_pruned_distribution(llava, requests, run):
    encoded = llava.encode(requests[:1])
    fastv, answers = pruners.make("fastv", keep=6), []
    options = {"do_sample": True, "temperature": 2.0, "num_return_sequences": 2, "max_new_tokens": 6}
    for seed in (1, 1, 2):
        with fastv(llava) as trace:
            torch.manual_seed(seed)
            answers.append(run(llava, encoded, **options))
        assert trace.stages == 1
    same, again, other = (answer.sequences for answer in answers)
    assert torch.equal(same, again)
    assert not torch.equal(same, other)
    first = encoded.inputs["input_ids"].shape[1]
    with fastv(llava):  # what was drawn, read again token by token
        out = llava.model(**{name: value.repeat_interleave(2, 0) for name, value in encoded.inputs.items()})
        for step, logits in enumerate(answers[0].logits):
            torch.testing.assert_close(logits, out.logits[:, -1], rtol=0, atol=1e-5)
            out = llava.model(input_ids=same[:, first + step, None], past_key_values=out.past_key_values)


def test_what_cannot_be_done_exactly_is_refused(llava, builders, requests, run):
    encoded = llava.encode(requests[:1])
    fastv = pruners.make("fastv", keep=6)

    def refused(words, use):
        with pytest.raises(Unsupported, match=words), fastv(llava):
            use()

    length = encoded.inputs["input_ids"].shape[1]
    refused("chunked prefill", lambda: run(llava, encoded, prefill_chunk_size=length - 4))
    echo = prompts(llava, [[1, "image", 5, 6, 7, 8, 5, 6]])
    refused("assisted decoding", lambda: run(llava, echo, prompt_lookup_num_tokens=2, max_new_tokens=8))
    embeds = llava.model.get_input_embeddings()(encoded.inputs["input_ids"])
    refused("pass input_ids", lambda: llava.model(inputs_embeds=embeds))
    cache = llava.model(**encoded.inputs).past_key_values
    refused("outside this `with` block", lambda: llava.model(input_ids=torch.tensor([[5]]), past_key_values=cache))

    def second_turn():
        out = llava.model(**encoded.inputs)
        llava.model(input_ids=torch.tensor([[5, 6]]), past_key_values=out.past_key_values)

    def picture_in_a_second_part():
        ids, shown = encoded.inputs["input_ids"], encoded.inputs["pixel_values"]
        cache = llava.model(input_ids=ids[:, :1]).past_key_values
        llava.model(input_ids=ids[:, 1:], pixel_values=shown, past_key_values=cache)

    refused("second turn", second_turn)
    refused("where there is a picture", picture_in_a_second_part)
    right = dict(llava.encode(requests[:2]).inputs)
    right["attention_mask"] = right["attention_mask"].flip(1)
    refused("padding must be on the left", lambda: llava.model(**right))
    refused("being pruned already", lambda: fastv(llava).__enter__())
    for name, value, words in (
        ("_attn_implementation", "flex_attention", "attention 'flex_attention'"),
        ("sliding_window", 16, "sliding-window"),
    ):
        other = builders.adapter("llava")
        setattr(other.decoder.config, name, value)
        with pytest.raises(Unsupported, match=words):
            fastv(other).__enter__()
    with pytest.raises(ValueError, match="no adapter for models of type 'llama'"):
        fastv(llava.decoder).__enter__()


def test_a_picture_at_the_very_end_is_refused(method, llava, make):
    """The answer is read at the last token, which must not leave; of a batch, whichever row it is."""
    for rows, number in (([["image"]], 0), ([[1, "image", 5], [1, 5, "image"]], 1), ([[1, "image", 5, "image"]], 0)):
        with pytest.raises(Unsupported, match=f"row {number} ends with a picture"), make(method)(llava):
            llava.model(**prompts(llava, rows).inputs)


def test_decoding_without_a_cache_warns(llava, make, run, requests):
    encoded = llava.encode(requests[:1])
    with make("fastv")(llava), warnings.catch_warnings():
        warnings.simplefilter("error")
        run(llava, encoded)
        run(llava, encoded)
        llava.model(**encoded.inputs, use_cache=False)  # one prompt, and nothing after it
    with make("fastv")(llava), pytest.warns(UserWarning, match="use_cache=False: every new token"):
        run(llava, encoded, use_cache=False)
