"""The fused kernels against the plain way, on random shapes: on a GPU, or in triton's interpreter.

TRITON_INTERPRET=1 python -m pytest tests/pruners/engine/test_fused.py     with triton, and numpy below 2.4
"""

import math
import os
import subprocess
import sys
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pruners
from debias import Debias, Padding, Span, Trend
from debias.core import Terms, silence
from pruners.cut import top
from pruners.engine import attention
from pruners.models import Request

GPU = torch.cuda.is_available()
kernels = pytest.mark.skipif(bool(attention.lacking()), reason=attention.lacking())
DEVICE = torch.device("cuda" if GPU else "cpu")
SETTINGS = settings(max_examples=200 if GPU else 25)


def dice(seed):
    return torch.Generator().manual_seed(seed)


@contextmanager
def fusing():
    """The kernels serve; in triton's interpreter under the rules of a GPU, which the interpreter does not know."""
    with attention.fusing(), pytest.MonkeyPatch.context() as patched:
        if not GPU:
            strictly(patched)
        yield


def strictly(patched):
    """Kernels touch only elements of the tensors they are given and write each of them once; a lane that is masked off
    holds NaN or a large number where nothing else is asked for; blocks and warps are powers of two."""
    interpreter = import_module("triton.runtime.interpreter")
    launch, builder = interpreter.GridExecutor.__call__, interpreter.InterpreterBuilder
    load, store = builder.create_masked_load, builder.create_masked_store
    elements = written = np.zeros(0, np.uint64)

    def launched(self, *tensors, **fixed):
        nonlocal elements, written
        sizes = [size for size in fixed.values() if not isinstance(size, bool)]
        assert all(size & (size - 1) == 0 for size in sizes), fixed
        elements = np.concatenate([addresses(tensor) for tensor in tensors if isinstance(tensor, torch.Tensor)])
        written = elements[:0]
        launch(self, *tensors, **fixed)

    def loaded(self, pointers, mask, other, *rest):
        assert np.isin(pointers.data[mask.data], elements).all(), "reads beyond its tensors"
        read = load(self, pointers, mask, other, *rest)
        if other is None:
            kind = read.data.dtype
            read.data[~mask.data] = np.nan if kind.kind == "f" else np.iinfo(kind).max
        return read

    def stored(self, pointers, value, mask, *rest):
        nonlocal written
        places = pointers.data[mask.data]
        assert np.isin(places, elements).all(), "writes beyond its tensors"
        written = np.concatenate([written, places])
        assert len(np.unique(written)) == len(written), "writes twice to one place"
        return store(self, pointers, value, mask, *rest)

    patched.setattr(interpreter.GridExecutor, "__call__", launched)
    patched.setattr(builder, "create_masked_load", loaded)
    patched.setattr(builder, "create_masked_store", stored)


def addresses(tensor):
    memory = tensor.untyped_storage()
    places = np.arange(memory.data_ptr(), memory.data_ptr() + memory.nbytes(), tensor.element_size(), dtype=np.uint64)
    strides = [places.itemsize * stride for stride in tensor.stride()]
    return np.lib.stride_tricks.as_strided(places[tensor.storage_offset() :], tensor.shape, strides).ravel()


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
    loud=st.sampled_from([3, 3, 60]),
)
def test_scores_equal_the_plain_ones(seed, groups, each, rows, size, columns, dtype, hides, shared, loud):
    """Groups of heads, several rows, hidden columns, keys that are a part of a longer cache, any number of tokens,
    logits that overflow where their largest is not taken away."""
    check_scores(seed, groups, each, rows, size, columns, dtype, hides, shared, loud)


@kernels
@pytest.mark.parametrize(
    ("rows", "size", "hides", "shared", "loud"),
    [(5, 40, "later columns", True, 3), (5, 24, "padding", False, 60), (1, 8, "nothing", False, 3)],
)
def test_scores_of_several_blocks_equal_the_plain_ones(rows, size, hides, shared, loud):
    check_scores(1, 3, 5, rows, size, 70, torch.float32, hides, shared, loud)


def check_scores(seed, groups, each, rows, size, columns, dtype, hides, shared, loud):
    rolled = dice(seed)
    query = (loud * torch.randn(rows, groups * each, size, generator=rolled)).to(dtype).transpose(0, 1)
    cache = torch.randn(2, groups, columns + 9, size, generator=rolled).to(dtype)
    keys, tokens = cache[1, :, :columns], int(torch.randint(1, columns + 1, (1,), generator=rolled))
    slots = torch.randperm(columns, generator=rolled)[:tokens].sort().values.expand(2, -1).T[:, 0]
    shares = torch.rand(rows, generator=rolled) if shared else None
    allowed, left = None, torch.arange(columns) >= int(torch.randint(0, columns, (1,), generator=rolled))
    if hides == "padding":
        allowed = left[None]
    if hides == "later columns":
        allowed = (torch.arange(columns)[:, None] <= torch.randint(0, columns, (rows,), generator=rolled)).T
    asked = [one if one is None else one.to(DEVICE) for one in (query, keys, slots, allowed, shares)]
    with fusing():
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
    check_best(raw, debias.terms(raw, span), count, expected)


def check_best(raw, terms, count, expected):
    with fusing():
        score, kept = attention.kernels().best(raw.to(DEVICE), terms, count)
    torch.testing.assert_close(score.cpu(), expected, rtol=0, atol=0, equal_nan=True)
    assert kept.tolist() == top(expected, count).tolist()


@kernels
def test_floats_are_chosen_in_their_order():
    """NaN first, both zeros alike, the earlier of equal ones: as Python sorts them."""
    odd = [math.nan, -math.nan, math.inf, 3e38, 1.0, 1e-38, 1e-40, 0.0, -0.0, -1e-40, -1e-38, -1.0, -3e38, -math.inf]
    raw = torch.tensor(odd * 2)[torch.randperm(2 * len(odd), generator=dice(0))]
    order = sorted(range(len(raw)), key=lambda i: (not raw[i].isnan(), -raw[i].nan_to_num(0, torch.inf).item(), i))
    for count in (*range(0, len(raw), 3), len(raw), len(raw) + 2):
        with fusing():
            _, kept = attention.kernels().best(raw.to(DEVICE), Terms(), count)
        assert kept.tolist() == sorted(order[:count])
        assert kept.dtype == torch.int64


@kernels
@pytest.mark.parametrize("odd", [None, math.nan, math.inf, -math.inf, -1e-40])
def test_silenced_tokens_lie_below_all_others(odd):
    """Below positive scores just under zero, below negative ones just under the lowest, and never above them."""
    raw, valid = torch.rand(21, generator=dice(0)), torch.arange(21) % 3 > 0
    for sign in (1, -1):
        score = sign * raw
        if odd is not None:
            score[[1, 3, 5]] = odd
        for step in (torch.arange(21, dtype=torch.int32), torch.full((21,), 2**23, dtype=torch.int32)):
            terms = Terms(valid=valid, step=step)
            for count in (1, 17):
                check_best(score, terms, count, silence(score, valid, step))


@kernels
def test_results_do_not_depend_on_the_defaults_of_torch():
    """float32 scores and int64 indices on the device of what is given, also of nothing."""
    query, keys, raw = (torch.randn(*shape, generator=dice(0)).to(DEVICE) for shape in ((4, 2, 8), (2, 20, 8), (20,)))
    slots, default = torch.arange(20).to(DEVICE), torch.get_default_dtype()
    expected = attention.attended(query, keys, 0.5, slots)
    torch.set_default_dtype(torch.float16)
    try:
        with torch.device("meta"), fusing():
            found = [
                (attention.attended(query, keys, 0.5, slots[:some]), *attention.kernels().best(raw[:some], Terms(), 3))
                for some in (20, 0)
            ]
    finally:
        torch.set_default_dtype(default)
    torch.testing.assert_close(found[0][0], expected, rtol=1e-5, atol=0)
    for results in found:
        assert [part.dtype for part in results] == [torch.float32, torch.float32, torch.int64]
        assert {part.device for part in results} == {raw.device}
    assert [[len(part) for part in results] for results in found] == [[20, 20, 3], [0, 0, 0]]


@kernels
def test_kernels_run_on_the_device_of_their_tensors(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device", lambda device: f"on {device}")
    assert attention.kernels()._on(SimpleNamespace(is_cuda=True, device="cuda:1")) == "on cuda:1"


@kernels
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
@pytest.mark.parametrize("method", ["fastv", "pyramiddrop", "sparsevlm"])
def test_a_pruned_model_keeps_the_same_tokens(method, family, builders):
    """Of a padded batch, in every cut."""
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
types = dict.fromkeys([*integers.split(), "allowed_row", "count"], "i32") | {"scale": "fp32", "allowed": "*i1"}
types |= {"query": "*bf16", "keys": "*bf16", "slots": "*i64", "valid": "*i1", "step": "*i32", "kept": "*i64"}
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
