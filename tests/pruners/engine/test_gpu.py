"""On a GPU: every method on every family in half precision and under every kernel, against float32 on the CPU.

`bash scripts/gpu.sh smoke` runs these; with --rehearse (GPU_REHEARSAL=1) some of the pairs run on the CPU.
"""

import copy
import importlib.util
import os

import pytest
import torch

import pruners
import pruners.models
from debias import Debias, Padding, Trend

GPU = torch.cuda.is_available() and not os.environ.get("GPU_REHEARSAL")
DEVICE = torch.device("cuda" if GPU else "cpu")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not (GPU or os.environ.get("GPU_REHEARSAL")), reason="needs a GPU, or GPU_REHEARSAL=1 to run some on the CPU"
    ),
]
PAIRS = [
    (method, family)
    for method in pruners.names()
    for family in pruners.models.families()
    if pruners.find(method).serves(pruners.models.family(family))
][:: 1 if GPU else 37]
HALF = (torch.float16, torch.bfloat16)
KERNELS = [
    *("sdpa", "eager"),
    *(["flash_attention_2"] if GPU and importlib.util.find_spec("flash_attn") else []),
]
DEBIAS = Debias(Trend.exponential(0.01), Padding())
STEPS = 3


def logits(adapter, encoded, tokens=None):
    """[step, row, V] in float32 on the CPU, and what was said; `tokens`: what is said instead."""

    def forced(ids, scores):
        if tokens is None:
            return scores
        step = ids.shape[1] - encoded.inputs["input_ids"].shape[1]
        return torch.full_like(scores, -torch.inf).scatter(1, tokens[:, step : step + 1].to(scores.device), 0)

    inputs = {
        name: value.to(adapter.model.device, adapter.model.dtype if value.is_floating_point() else None)
        for name, value in encoded.inputs.items()
    }
    options = {"do_sample": False, "max_new_tokens": STEPS, "min_new_tokens": STEPS, "disable_compile": True}
    out = adapter.model.generate(
        **inputs, **options, logits_processor=[forced], return_dict_in_generate=True, output_logits=True
    )
    return torch.stack([one.float().cpu() for one in out.logits]), out.sequences[:, -STEPS:].cpu()


def away(found, expected):
    """The mean distance, as a share of the mean size."""
    assert found.isfinite().all()
    return float((found - expected).abs().mean() / expected.abs().mean())


def replayed(pruner, trace):
    """The same method, which scores for itself and keeps what it kept in another run."""
    images = [image.choices[len(image.choices) - len(pruner.cuts(trace.layers)) :] for image in trace.images]

    class Replayed(type(pruner)):
        def select(self, score, view):
            choice = images[view.image][view.stage]
            kept, here = choice.kept, view.tokens.here
            if len(view.tokens) < len(choice.tokens):  # a tile, which is asked for its own share
                kept = torch.isin(here, kept.cpu()).nonzero()[:, 0]
            return kept.to(score.device)

    copied = copy.copy(pruner)
    object.__setattr__(copied, "__class__", Replayed)
    return copied


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_half_precision_follows_float32_on_the_cpu(pair, get, make, requests):
    """With the same tokens kept, logits are as near as the unpruned model's; left to itself a method keeps as many."""
    method, family = pair
    near, pruner = get(family), make(method)
    encoded = near.encode(requests[:2])
    plain, near_said = logits(near, encoded)
    with pruner(near, DEBIAS, encoded.sizes) as trace:
        expected, said = logits(near, encoded)
    for dtype in HALF:
        model = copy.deepcopy(near.model).to(DEVICE, dtype)
        far = type(near)(model, near.processor, near.tokenizer)
        for kernel in KERNELS:
            model.set_attn_implementation(kernel)
            with replayed(pruner, trace)(far, DEBIAS, encoded.sizes):
                found, _ = logits(far, encoded, said)
            unpruned, _ = logits(far, encoded, near_said)
            room = 0.15 if pruner.merges() else 0.01  # what is merged follows the scores, which a last bit may turn
            assert away(found, expected) < 3 * away(unpruned, plain) + room, (dtype, kernel)
            with pruner(far, DEBIAS, encoded.sizes) as own:
                logits(far, encoded, said)
            for one, other in zip(own.images, trace.images, strict=True):
                for mine, theirs in zip(one.choices, other.choices, strict=True):
                    assert len(mine.place) == len(theirs.place)
                    assert torch.equal(mine.kept, mine.kept.unique())


@pytest.mark.parametrize("method", ["fastv", "pyramiddrop", "vispruner"])
def test_in_float32_the_device_keeps_what_the_cpu_keeps(method, get, make, requests):
    near, pruner = get("llava"), make(method)
    encoded = near.encode(requests)
    with pruner(near, DEBIAS, encoded.sizes) as trace:
        expected, said = logits(near, encoded)
    far = type(near)(copy.deepcopy(near.model).to(DEVICE), near.processor, near.tokenizer)
    with pruner(far, DEBIAS, encoded.sizes) as own:
        found, _ = logits(far, encoded, said)
    kept = [[index.tolist() for index in stage] for stage in trace.kept]
    assert [[index.tolist() for index in stage] for stage in own.kept] == kept
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-2)  # on a GPU products may run in TF32


@pytest.mark.parametrize("method", ["fastv", "pyramiddrop"])
def test_a_compiled_step_says_what_an_uncompiled_says(method, get, make, requests):
    """On a GPU generate() compiles it by itself."""
    near = get("llava")
    far = type(near)(copy.deepcopy(near.model).to(DEVICE), near.processor, near.tokenizer)
    encoded = near.encode(requests[:2])
    inputs = {name: value.to(DEVICE) for name, value in encoded.inputs.items()}
    options = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    with make(method)(far, DEBIAS, encoded.sizes):
        expected = far.model.generate(**inputs, **options)
        for _ in range(2):
            assert torch.equal(far.model.generate(**inputs, **options, cache_implementation="static"), expected)
