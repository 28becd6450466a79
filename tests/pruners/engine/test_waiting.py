"""Nobody waits for the device: proved on a pretended one, which computes for real and writes down every wait.

What is left are two reads of the prompt (its ids and its mask) before the model has started on it, and what three
methods cannot do without; eval/speed/waits.py lists both, and holds a real GPU to the same lists.
"""

import pytest
import torch

from debias import Debias, Padding, Trend
from eval.speed import waits
from pruners import cut
from pruners.engine import attention, masks
from pruners.parts import cluster, greedy, mis, regions, scores
from pruners.parts.mis import MIS
from pruners.parts.suppression import Suppression

DOOR = [("download", at) for at in waits.DOOR]
NEEDED = {
    method: [("_linalg_eigh" if method == "tokencarve" else "download", at)] for method, at in waits.NEEDED.items()
}
SIZES = set(waits.SIZES)  # read with the ids: how large the pictures are


def answer(model, inputs, between=lambda: None, steps=2):
    """Logits of a prefill and of some steps behind it."""
    mask = inputs["attention_mask"] if len(inputs["attention_mask"]) > 1 else None  # a single prompt is not padded
    out = model(**inputs, use_cache=True, logits_to_keep=1)
    logits = [out.logits]
    between()
    for _ in range(steps):
        mask = None if mask is None else torch.cat([mask, mask[:, :1]], 1)
        token = out.logits[:, -1:].argmax(-1)
        out = model(input_ids=token, attention_mask=mask, past_key_values=out.past_key_values, use_cache=True)
        logits.append(out.logits)
    return logits


def far_calls():
    """(function, arguments): what methods choose and group by, each on small tensors."""
    generator = torch.Generator().manual_seed(5)
    n = 12
    score, rows = torch.rand(n, generator=generator), torch.randn(n, 4, generator=generator)
    some, place = torch.arange(n) % 4 > 0, torch.arange(n)
    xy, labels = torch.stack([place % 4, place // 4], 1), place % 3
    near = rows @ rows.T
    edges = (near > 0.5).fill_diagonal_(False)
    return [
        (cluster.density_peaks, (rows, 3)),
        (cluster.members, (labels, 3)),
        (cluster.cluster_means, (rows, labels, 3)),
        (cut.top, (score, 5, some)),
        (cut.others, (n, place[::2])),
        (greedy.farthest, (1 - near, 5, some)),
        (greedy.farthest, (near, 0)),
        (greedy.determinantal, (near, 5, some)),
        (greedy.determinantal, (near, 0)),
        (regions.regions, (xy, 2)),
        (regions.evenly, (score, labels, 5, some)),
        (regions.shared, (score, labels, score[:3], 5, some)),
        (Suppression().pull, (rows, xy, labels)),
        (Suppression(), (score, near.clamp(0, 1), 5, some)),
        (Suppression(), (score, near.clamp(0, 1), 0)),
        (MIS().graph, (rows, xy, labels)),
        (mis.independent, (edges | edges.T, some, 3)),
        (scores.entropy, (score,)),
        (masks.segment_mask, ("eager", rows[None], some[None], n)),
        (masks.segment_mask, ("sdpa", rows[None, :1], None, n, n + 2)),
        (attention.allowed_columns, (place[:3], n, some)),
        (attention.attended, (rows[None, :3], rows[None], 0.5, place[2:5], (place[:3] >= 0)[:, None] & some)),
    ]  # fmt: skip


def test_what_is_made_on_the_way_lies_where_the_input_lies(pretend):
    for function, given in far_calls():
        expected = function(*given)
        with pretend.watching():
            sent = [x.to(pretend.FAR, non_blocking=True) if isinstance(x, torch.Tensor) else x for x in given]
            found = function(*sent)
        for one, other in zip(*(x if isinstance(x, tuple) else (x,) for x in (found, expected)), strict=True):
            one = one.here if isinstance(other, torch.Tensor) else one
            torch.testing.assert_close(one, other, msg=str(function))


def ours(found):
    return [wait for wait in found if wait[1].split("/")[0] in waits.OURS]


def check(pretend, adapter, pruner, encoded, wanted):
    far = type(adapter)(pretend.moved(adapter.model), adapter.processor, adapter.tokenizer)
    debias = Debias(Trend.exponential(0.01), Padding())
    with pruner(adapter, debias, encoded.sizes) as near:
        expected = answer(adapter.model, encoded.inputs)
    with pretend.watching() as watch:
        inputs = {name: value.to(pretend.FAR, non_blocking=True) for name, value in encoded.inputs.items()}
        prefill = []
        with pruner(far, debias, encoded.sizes) as trace:
            got = answer(far.model, inputs, between=lambda: prefill.extend(watch.waits))
        decoding = watch.waits[len(prefill) :]
        kept = [index.here.tolist() for index in trace.kept[0]]
    assert kept == [index.tolist() for index in near.kept[0]]
    for one, other in zip(expected, got, strict=True):
        torch.testing.assert_close(other.here, one, rtol=0, atol=1e-4)
    assert ours(decoding) == []
    found = [wait for wait in ours(prefill) if wait[1] not in SIZES]
    assert sorted(found) == sorted(DOOR + wanted * len(kept))


def test_the_pretended_device_notes_what_waits(pretend):
    with pretend.watching() as watch:
        x = torch.arange(6).to(pretend.FAR, non_blocking=True)
        assert watch.waits == []
        assert int(x.sum()) == 15
        x[x > 2], x.nonzero(), x.cpu(), torch.tensor([1.0], device=pretend.FAR), x[torch.tensor([1])]
        torch.ones(2).to(pretend.FAR)
        what = [wait for wait, _ in watch.waits]
        assert what == [
            "_local_scalar_dense",
            "index by a mask",
            "nonzero",
            "download",
            "upload of numbers",
            "upload of an index",
            "upload",
        ]
        assert {place for _, place in watch.waits} == {
            "engine/test_waiting.py:test_the_pretended_device_notes_what_waits"
        }
        with pytest.raises(AssertionError, match="mixes devices"):
            x + torch.ones(6)


def test_nobody_waits(pretend, get, home, make, requests, method):
    adapter = get(home(method))
    check(pretend, adapter, make(method), adapter.encode(requests[:2]), NEEDED.get(method, []))


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("llava_next", "vispruner"),
        ("llava_next", "visionzip"),
        ("llava_onevision", "visionzip"),
        ("internvl", "visionzip"),
        ("idefics3", "vispruner"),
        ("qwen2_5_vl", "vispruner"),
        ("qwen3_vl", "visionzip"),
        ("video_llava", "sparsevlm"),
        ("internvl", "pyramiddrop"),
        ("qwen2_5_vl", "fastv"),
        ("qwen3_vl", "fastv"),
    ],
)
def test_nobody_waits_on_other_families(pretend, get, make, requests, kind, name):
    adapter = get(kind)
    check(pretend, adapter, make(name), adapter.encode(requests[:1]), [])
