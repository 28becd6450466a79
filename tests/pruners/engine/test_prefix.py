"""Arms that share the layers before the first cut: the same answers, to the last bit, and the layers run once."""

import pytest
import torch

import pruners
from debias import Debias, Padding, Trend
from pruners.engine.limits import Unsupported
from pruners.engine.prefix import Prefix, check_shared
from pruners.models import families

FULL = Debias(Trend.exponential(0.02), Padding())
METHODS = sorted(pruners.names())
FAMILIES = families()
ARMS = ("none", "trend", "padding", "both")


def apart(pruner):
    """Why the arms of a method share no layer; None: they do."""
    if pruner.prunes_tower():
        return "inside the vision"
    return None if pruner.cuts(32)[0].layer else "before the first layer"


def answers(pruner, adapter, encoded, run, prefix, arms=ARMS, **options):
    """Of each arm: what was generated, its logits, what was kept, and the scores."""
    found = []
    for arm in arms:
        with pruner(adapter, FULL.with_arm(arm), encoded.sizes, prefix=prefix) as trace:
            out = run(adapter, encoded, **options)
        scores = [part for stage in trace.scores for pair in stage if pair for part in pair]
        found.append([out.sequences, *out.logits, *(kept for stage in trace.kept for kept in stage), *scores])
    return found


def equal(one, other):
    return all(
        len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
        for a, b in zip(one, other, strict=True)
    )


CASES = [  # every method once, every family once, and the kinds of cut on the other kernel and cache
    *((method, None, "sdpa", "dynamic") for method in METHODS),
    *(("fastv", family, "eager", "dynamic") for family in FAMILIES if family != "llava"),
    *((method, "llava", "sdpa", "static") for method in ("fastv", "pyramiddrop", "tokencarve")),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_arms_that_share_answer_as_those_that_do_not(case, get, home, make, requests, run):
    name, family, kernel, cached = case
    adapter, pruner = get(family or home(name), kernel), make(name)
    encoded = adapter.encode(requests)
    options = {"cache_implementation": "static"} if cached == "static" else {}
    prefix = Prefix()
    if apart(pruner):
        sharing = pruner(adapter, FULL, encoded.sizes, prefix=prefix)
        with pytest.raises(Unsupported, match=f"{type(pruner).__name__} .*{apart(pruner)}"), sharing:
            pass
        return
    alone = answers(pruner, adapter, encoded, run, None, **options)
    shared = answers(pruner, adapter, encoded, run, prefix, **options)
    assert equal(alone, shared)
    assert prefix.reused == 3 * pruner.cuts(len(adapter.decoder.layers))[0].layer
    assert any(not equal(alone[:1], [arm]) for arm in alone[1:])  # the arms do differ
    assert all("forward" not in vars(layer) for layer in adapter.decoder.layers)
    assert not any(layer.self_attn._forward_pre_hooks for layer in adapter.decoder.layers)


@pytest.mark.parametrize("mode", ["gather", "mask"])
def test_both_modes_of_fastv(mode, get, make, requests, run):
    adapter, prefix = get("llava"), Prefix()
    encoded, pruner = adapter.encode(requests), make("fastv", mode=mode)
    assert equal(
        answers(pruner, adapter, encoded, run, None), answers(pruner, adapter, encoded, run, prefix, max_new_tokens=3)
    )
    assert prefix.reused == 6


def test_illava_without_its_tower_shares(get, make, requests, run):
    adapter, prefix = get("llava"), Prefix()
    encoded, pruner = adapter.encode(requests), make("illava", tower_keep=1.0)
    assert equal(answers(pruner, adapter, encoded, run, None), answers(pruner, adapter, encoded, run, prefix))
    assert prefix.reused


def test_beams_share(get, make, requests, run):
    adapter, prefix = get("llava"), Prefix()
    encoded, pruner = adapter.encode(requests[:2]), make("fastv")
    both = [answers(pruner, adapter, encoded, run, one, num_beams=2) for one in (None, prefix)]
    assert equal(*both)
    assert prefix.reused == 6


def test_another_batch_is_never_taken_for_the_last(get, make, requests, run):
    adapter, pruner, prefix = get("llava"), make("fastv"), Prefix()
    other = [requests[0], requests[2], requests[1]]
    for asked in (requests, other, requests[:2], requests):
        encoded = adapter.encode(asked)
        before = prefix.reused
        assert equal(
            answers(pruner, adapter, encoded, run, None, arms=("both",)),
            answers(pruner, adapter, encoded, run, prefix, arms=("both",)),
        )
        assert prefix.reused == before  # nothing could be taken over
    deeper = make("fastv", layer=3)
    encoded = adapter.encode(requests)
    assert equal(
        answers(deeper, adapter, encoded, run, None, arms=("both",)),
        answers(deeper, adapter, encoded, run, prefix, arms=("both",)),
    )
    assert not prefix.reused


def test_text_alone_runs_as_it_is(get, make, requests, run):
    from pruners.models import Request

    adapter, prefix = get("llava"), Prefix()
    encoded = adapter.encode([Request("What is it?")])
    plain = run(adapter, encoded)
    for _ in range(2):
        with make("fastv")(adapter, prefix=prefix):
            assert torch.equal(run(adapter, encoded).sequences, plain.sequences)
    assert not prefix.reused


def test_without_a_cache_it_is_refused(get, make, requests, run):
    adapter = get("llava")
    with make("fastv")(adapter, prefix=Prefix()), pytest.raises(Unsupported, match="use_cache"):
        run(adapter, adapter.encode(requests), use_cache=False)


def test_check_needs_no_model(make):
    check_shared(make("fastv"), 32)
    with pytest.raises(Unsupported, match="VisionZip"):
        check_shared(make("visionzip"), 32)
