"""The fused kernels against the plain way, on random shapes: on a GPU, or in triton's interpreter.

TRITON_INTERPRET=1 python -m pytest tests/pruners/engine/test_fused.py     with triton, and numpy below 2.4
"""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pruners
from debias import Debias, Padding, Span, Trend
from pruners.cut import top
from pruners.engine import attention
from pruners.models import Request

GPU = torch.cuda.is_available()
kernels = pytest.mark.skipif(bool(attention.lacking()), reason=attention.lacking())
DEVICE = torch.device("cuda" if GPU else "cpu")
SETTINGS = settings(max_examples=200 if GPU else 25)


def dice(seed):
    return torch.Generator().manual_seed(seed)


def plainly(query, keys, scale, slots, allowed, shares):
    """In float64, head by head and row by row, from the definition."""
    heads, rows, _ = query.shape
    found = torch.zeros(keys.shape[1], dtype=torch.float64)
    for head in range(heads):
        for row in range(rows):
            logits = keys[head // (heads // len(keys))].double() @ query[head, row].double() * scale
            if allowed is not None:
                logits[~allowed[min(row, len(allowed) - 1)]] = -torch.inf
            found += logits.softmax(0) * (1 if shares is None else float(shares[row])) / heads
    return found[slots]


@kernels
@SETTINGS
@given(
    seed=st.integers(0, 2**31),
    groups=st.integers(1, 3),
    each=st.integers(1, 7),
    rows=st.sampled_from([1, 1, 2, 5, 17]),
    size=st.sampled_from([4, 8, 16, 40]),
    columns=st.integers(1, 150),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    hides=st.sampled_from(["nothing", "padding", "later columns"]),
    shared=st.booleans(),
)
def test_scores_equal_the_plain_ones(seed, groups, each, rows, size, columns, dtype, hides, shared):
    """Groups of heads, several rows, hidden columns, keys that are a part of a longer cache, any number of tokens."""
    rolled = dice(seed)
    query = (3 * torch.randn(rows, groups * each, size, generator=rolled)).to(dtype).transpose(0, 1)
    cache = torch.randn(2, groups, columns + 9, size, generator=rolled).to(dtype)
    keys, tokens = cache[1, :, :columns], int(torch.randint(1, columns + 1, (1,), generator=rolled))
    slots = torch.randperm(columns, generator=rolled)[:tokens].sort().values
    shares = torch.rand(rows, generator=rolled) if shared else None
    allowed, left = None, torch.arange(columns) >= int(torch.randint(0, columns, (1,), generator=rolled))
    if hides == "padding":
        allowed = left[None]
    if hides == "later columns":
        allowed = torch.arange(columns) <= torch.randint(0, columns, (rows, 1), generator=rolled)
    asked = [one if one is None else one.to(DEVICE) for one in (query, keys, slots, allowed, shares)]
    with attention.fusing():
        found = attention.attended(*asked[:2], size**-0.5, *asked[2:]).cpu()
    with attention.fusing(False):
        plain = attention.attended(*asked[:2], size**-0.5, *asked[2:]).cpu()
    torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-6)
    expected = plainly(query, keys, size**-0.5, slots, allowed, shares)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-6)


@kernels
@SETTINGS
@given(
    seed=st.integers(0, 2**31),
    tokens=st.integers(1, 300),
    share=st.floats(0, 1),
    few=st.booleans(),
    odd=st.sampled_from([(), (float("nan"),), (float("inf"), -float("inf")), (0.0, -0.0, 1e-40, -1e-40)]),
    trend=st.sampled_from([None, Trend.exponential(0.02), Trend.exponential(-0.02), "offset"]),
    padding=st.sampled_from([None, (40, 9), (9, 40)]),
    later=st.booleans(),
)
def test_choices_equal_the_plain_ones(seed, tokens, share, few, odd, trend, padding, later):
    """Bit for bit: trends, padding, many equal scores, and every float that there is."""
    rolled = dice(seed)
    raw = torch.randint(-2, 3, (tokens,), generator=rolled) / 4 if few else torch.randn(tokens, generator=rolled)
    for value in odd:
        raw[torch.randint(0, tokens, (max(1, tokens // 9),), generator=rolled)] = value
    index = torch.randperm(2 * tokens, generator=rolled)[:tokens].sort().values if later else None
    span = Span(3, (1, 2 * tokens if later else tokens), index=index, size=padding)
    if trend == "offset":
        trend = Trend.offset(torch.rand(span.total, generator=rolled).tolist())
    debias = Debias(trend, None if padding is None else Padding())
    count = round(share * tokens)
    expected = debias(raw, span)
    with attention.fusing():
        score, kept = attention.kernels().best(raw.to(DEVICE), debias.terms(raw, span), count)
    torch.testing.assert_close(score.cpu(), expected, rtol=0, atol=0, equal_nan=True)
    assert kept.tolist() == top(expected, count).tolist()


@kernels
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
@pytest.mark.parametrize("method", ["fastv", "pyramiddrop", "sparsevlm"])
def test_a_pruned_model_keeps_the_same_tokens(method, family, builders):
    """Of a padded batch, in every cut; kernels serve, which a count shows."""
    one = builders.adapter(family)
    pictures = [builders.picture(90, 40), builders.picture(40, 90, 1)]
    encoded = one.encode([Request("What?", pictures[:1]), Request("And what is this one?", pictures[1:])])
    model, debias = one.model.to(DEVICE), Debias(Trend.exponential(0.01), Padding())
    inputs = {name: value.to(DEVICE) for name, value in encoded.inputs.items()}
    kept, scores = [], []
    for on in (False, True):
        with attention.fusing(on), pruners.make(method)(one, debias, encoded.sizes) as trace, torch.inference_mode():
            model(**inputs)
        kept.append([[index.tolist() for index in stage] for stage in trace.kept])
        scores.append([choice.scores[1].cpu() for image in trace.images for choice in image.choices])
    assert kept[0] == kept[1]
    for plain, fused in zip(*scores, strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-6)


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from pruners.engine import fused

integers = "columns tokens groups heads rows size query_head query_row query_size keys_head keys_column keys_size"
types = dict.fromkeys([*integers.split(), "allowed_row", "count"], "i32") | {"scale": "fp32", "allowed": "*u8"}
types |= {"query": "*bf16", "keys": "*bf16", "slots": "*i64", "valid": "*u8", "step": "*i32", "kept": "*i64"}
tile = {"HIDES": True, "SIZE": 128, "ROWS": fused.ROWS, "COLUMNS": fused.COLUMNS}
for kernel, fixed in (
    (fused._totals, tile),
    (fused._score, tile | {"SHARED": True}),
    (fused._choose, {"WEIGHS": True, "OFFSET": False, "SILENCES": True, "BLOCK": 4096}),
):
    signature = {name: "constexpr" if name in fixed else types.get(name, "*fp32") for name in kernel.arg_names}
    made = triton.compile(ASTSource(kernel, signature, fixed), target=GPUTarget("cuda", 90, 32))
    assert made.asm["cubin"], kernel
"""


@pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")
def test_kernels_compile_for_a_gpu_that_is_not_here(tmp_path):
    """To an H100's machine code, as far as a compiler can tell."""
    env = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    env.pop("TRITON_INTERPRET", None)
    done = subprocess.run([sys.executable, "-c", COMPILE], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_kernels_are_off_until_they_were_measured(monkeypatch):
    """Nothing has been measured yet; where it was, they serve from that many tokens on."""
    gpu = torch.device("cuda", 0)
    assert not attention.FASTER
    assert not attention.fuses(gpu, 10**6)
    assert not attention.fuses(torch.device("cpu"), 10**6)
    monkeypatch.setattr(attention, "FASTER", {"NVIDIA X": 500})
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA X")
    monkeypatch.setattr(attention, "find_spec", {"triton": "there"}.get)
    attention.least.cache_clear()
    assert [attention.fuses(gpu, tokens) for tokens in (499, 500)] == [False, True]
    assert not attention.fuses(torch.device("cpu"), 500)
    with attention.fusing(False):
        assert not attention.fuses(gpu, 500)
    attention.least.cache_clear()


def test_kernels_that_cannot_run_are_refused(monkeypatch):
    monkeypatch.setattr(attention, "find_spec", lambda name: None)
    with (
        pytest.raises(ValueError, match=r"^the fused .* pip install 'attention-debiasing\[triton\]'$"),
        attention.fusing(),
    ):
        pass
    assert attention.least.__wrapped__(torch.device("cuda", 0)) == float("inf")
    monkeypatch.setattr(attention, "find_spec", {"triton": "there"}.get)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert attention.lacking() == ""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(ValueError, match=r"^without a GPU .* set TRITON_INTERPRET=1$"), attention.fusing():
        pass
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    for numpy, said in (
        ("2.4.0rc1", "needs numpy below 2.4"),
        ("2.10.1", "needs numpy below 2.4"),
        ("2.4.0", "needs numpy below 2.4"),
        ("2.3.5", ""),
    ):
        monkeypatch.setattr(attention, "version", lambda name, numpy=numpy: {"numpy": numpy}[name])
        assert attention.lacking().endswith(said)
        assert bool(attention.lacking()) == bool(said)
