"""The mechanism by itself: scores, positions, merging, and what it tells."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch
import transformers

import pruners
from debias import Debias, Padding, Trend
from pruners.base import Pruner
from pruners.cut import Cut, Merged
from pruners.models import Request
from pruners.parts.mis import MIS

LAYERS = 8


@dataclass(frozen=True)
class Spy(Pruner):
    """Keeps evenly spaced tokens and notes what its view shows."""

    source: str = "previous"
    rows: str = "last"
    layer: int = 3
    also: tuple[int, ...] = ()
    look: Any = None
    seen: list = field(default_factory=list)

    def cuts(self, layers):
        return [Cut(self.layer, self.keep, self.source, self.rows, self.also)]

    def score(self, view):
        self.seen.append(self.look(view) if self.look else None)
        return torch.arange(len(view.tokens)).float().sin()


@dataclass(frozen=True)
class Compact(Spy):
    positions: ClassVar[str] = "compact"


@pytest.fixture(scope="module")
def llava(get):
    return get("llava")


def attentions(get, encoded):
    """Eager attention weights of the plain model, per layer [B, H, n, n]."""
    model = get("llava", "eager").model
    return model(**encoded.inputs, output_attentions=True, use_cache=False).attentions


# scores ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("cached", ["dynamic", "static", None])
@pytest.mark.parametrize(("source", "layer"), [("previous", 2), ("same", 3)])
@pytest.mark.parametrize("rows", ["last", "text", "visual", "all"])
def test_scores_are_the_eager_attention(rows, source, layer, cached, kernel, get, requests, run):
    adapter = get("llava", kernel)
    encoded = adapter.encode(requests[:2])
    whole = attentions(get, encoded)[layer]
    spy = Spy(0.5, source, rows, look=lambda view: view.attention)
    options = {"cache_implementation": "static"} if cached == "static" else {"use_cache": cached is not None}
    with spy(adapter):
        run(adapter, encoded, max_new_tokens=1, min_new_tokens=1, **options)
    for row, span in enumerate(adapter.spans(encoded.inputs)):
        image = slice(span[0].start, span[0].start + 36)
        first = int((encoded.inputs["attention_mask"][row] == 0).sum())
        queries = {"last": slice(-1, None), "text": slice(image.stop, None), "visual": image, "all": slice(None)}[rows]
        expected = whole[row, :, queries, image]
        ours = spy.seen[row]
        if rows == "all":  # what padding looks at is nobody's business
            ours, expected = ours[:, first:], expected[:, first:]
        assert ours.shape == expected.shape
        # the layers below ran on the kernel under test, and their rounding differs from eager's
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6 if kernel == "eager" else 4e-6)


@pytest.mark.parametrize("rows", ["last", "text", "visual"])
def test_attended_is_the_mean_over_heads_of_rows_by_their_shares(rows, get, requests):
    adapter = get("llava")
    encoded = adapter.encode(requests[:2])

    def look(view):
        shares = torch.arange(view.attention.shape[1]) + 1.0
        mean = view.attention.mean(0)
        return (view.attended(shares), shares @ mean), (view.attended(), mean.sum(0))

    spy = Spy(0.5, rows=rows, look=look)
    with spy(adapter):
        adapter.model(**encoded.inputs)
    for ours, expected in (pair for pairs in spy.seen for pair in pairs):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-7)


def test_further_layers_and_unrotated_scores(get, requests):
    adapter = get("llava")
    encoded = adapter.encode(requests[:1])
    layer, start = adapter.decoder.layers[1], adapter.spans(encoded.inputs)[0][0].start
    inputs = {}
    handle = layer.self_attn.register_forward_pre_hook(lambda m, a, k: inputs.update(k), with_kwargs=True)
    adapter.model(**encoded.inputs, use_cache=False)
    handle.remove()
    normed = inputs["hidden_states"][0]
    query = layer.self_attn.q_proj(normed[-1:]).view(1, 4, 8).transpose(0, 1)
    key = layer.self_attn.k_proj(normed).view(-1, 2, 8).transpose(0, 1).repeat_interleave(2, 0)
    expected = (query @ key.transpose(1, 2) * 8**-0.5).softmax(-1)[..., start : start + 36]
    for use_cache in (True, False):
        spy = Spy(0.5, also=(1,), look=lambda view: (view.attend(1), view.attend(1, rotary=False)))
        with spy(adapter):
            adapter.model(**encoded.inputs, use_cache=use_cache)
        rotated, plain = spy.seen[0]
        torch.testing.assert_close(plain, expected, rtol=0, atol=1e-6)
        whole = attentions(get, encoded)[1]
        torch.testing.assert_close(rotated, whole[0, :, -1:, start : start + 36], rtol=0, atol=1e-6)


def test_a_view_shows_states_keys_and_values(get, requests):
    adapter = get("llava")
    encoded = adapter.encode(requests[:2])
    out = adapter.model(**encoded.inputs, output_hidden_states=True)
    spy = Spy(0.5, look=lambda view: (view.hidden, view.text, view.keys, view.values, view.span.raster(), view.count))
    with spy(adapter):
        adapter.model(**encoded.inputs)
    for row, span in enumerate(adapter.spans(encoded.inputs)):
        image = slice(span[0].start, span[0].start + 36)
        hidden, text, keys, values, raster, count = spy.seen[row]
        torch.testing.assert_close(hidden, out.hidden_states[3][row, image], rtol=0, atol=1e-6)
        torch.testing.assert_close(text, out.hidden_states[3][row, image.stop :], rtol=0, atol=1e-6)
        torch.testing.assert_close(keys, out.past_key_values.layers[2].keys[row, :, image], rtol=0, atol=1e-6)
        torch.testing.assert_close(values, out.past_key_values.layers[2].values[row, :, image], rtol=0, atol=1e-6)
        assert raster.tolist() == list(range(36))
        assert count == 18


def test_the_start_sees_the_input_embeddings(get, requests):
    @dataclass(frozen=True)
    class Starting(Spy):
        def start(self, view):
            return view.hidden, view.text

    adapter = get("llava")
    encoded = adapter.encode(requests[:1])
    pruner = Starting(0.5, look=lambda view: view.memo)
    embedded = adapter.model(**encoded.inputs, output_hidden_states=True).hidden_states[0][0]
    with pruner(adapter):
        adapter.model(**encoded.inputs)
    start = adapter.spans(encoded.inputs)[0][0].start
    assert torch.equal(pruner.seen[0][0], embedded[start : start + 36])
    assert torch.equal(pruner.seen[0][1], embedded[start + 36 :])


# positions, caches ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("kind", "renumbered"), [(Spy, False), (Compact, True)])
def test_caches_are_ragged_and_positions_follow(kind, renumbered, llava, requests, run):
    encoded = llava.encode(requests[:1])
    length = encoded.inputs["input_ids"].shape[1]
    tables = {2: [], 5: []}
    handles = [
        llava.decoder.layers[i].self_attn.register_forward_pre_hook(
            lambda m, a, k, i=i: tables[i].append(k["position_embeddings"][0]), with_kwargs=True
        )
        for i in tables
    ]
    with kind(10)(llava) as trace:
        out = run(llava, encoded)
    for handle in handles:
        handle.remove()
    lengths = [layer.keys.shape[2] for layer in out.past_key_values.layers]
    assert lengths == [length + 2] * 3 + [length - 26 + 2] * 5
    start = llava.spans(encoded.inputs)[0][0].start
    kept = [*range(start), *(start + trace.kept[0][0]).tolist(), *range(start + 36, length)]
    behind = list(range(len(kept))) if renumbered else kept
    newest = len(kept) if renumbered else length
    for layer, prompt, new in ((2, list(range(length)), length), (5, behind, newest)):
        for step, positions in enumerate((prompt, [new], [new + 1])):
            expected = llava.rotary(torch.zeros(1), torch.tensor([positions]))[0]
            torch.testing.assert_close(tables[layer][step], expected)


@pytest.mark.parametrize("layer", [0, 3])
@pytest.mark.parametrize("kind", [Spy, Compact])
def test_decoding_by_hand_is_generate(kind, layer, llava, requests, run):
    """Without position ids the model counts by layer 0's cache, which a cut before layer 0 has made shorter."""
    encoded = llava.encode(requests[:1])
    with kind(10, layer=layer)(llava):
        wanted = run(llava, encoded)
    with kind(10, layer=layer)(llava):
        out = llava.model(**encoded.inputs)
        for step in range(3):
            torch.testing.assert_close(out.logits[:, -1], wanted.logits[step], rtol=0, atol=1e-5)
            token = wanted.sequences[:, step - 3, None]
            out = llava.model(input_ids=token, past_key_values=out.past_key_values)


@pytest.mark.parametrize("cached", ["dynamic", "static"])
def test_the_cache_below_can_be_cut_too(cached, llava, requests, run):
    @dataclass(frozen=True)
    class Shrinking(Spy):
        shrink_cache: ClassVar[bool] = True

    encoded = llava.encode(requests[:2])
    full = run(llava, encoded, max_new_tokens=1, min_new_tokens=1).past_key_values
    options = {"cache_implementation": "static"} if cached == "static" else {}
    with Shrinking(10)(llava) as trace:
        out = run(llava, encoded, max_new_tokens=2, min_new_tokens=2, **options)
    length = encoded.inputs["input_ids"].shape[1] - 26
    for row, span in enumerate(llava.spans(encoded.inputs)):
        start = span[0].start
        kept = [*range(start), *(start + trace.kept[0][row]).tolist(), *range(start + 36, length + 26)]
        for number in range(3):
            held = out.past_key_values.layers[number]
            assert held.get_seq_length() == length + 1
            pads = int((encoded.inputs["attention_mask"][row] == 0).sum())
            expected = full.layers[number].keys[row, :, kept[pads:]]
            torch.testing.assert_close(held.keys[row, :, pads:length], expected, rtol=0, atol=1e-5)


def test_without_a_cache_every_token_ranks_anew(llava, requests, run):
    encoded = llava.encode(requests[:1])
    fastv = pruners.make("fastv", keep=6)
    with fastv(llava), pytest.warns(UserWarning, match="use_cache=False"):
        out = run(llava, encoded, use_cache=False)
    inputs = dict(encoded.inputs)
    for step in range(3):
        inputs["input_ids"] = out.sequences[:, : encoded.inputs["input_ids"].shape[1] + step]
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        with fastv(llava):
            fresh = llava.model(**inputs).logits[:, -1]
        torch.testing.assert_close(out.logits[step], fresh, rtol=0, atol=1e-5)


# merging --------------------------------------------------------------------------------------------------------------
def test_merged_tokens_stand_where_the_method_says(llava, requests):
    @dataclass(frozen=True)
    class Adding(Spy):
        def merge(self, view, kept):
            new = torch.full((2, view.hidden.shape[1]), 3.0)
            place = torch.cat([kept[:1], kept, torch.tensor([35])])
            own = torch.tensor([False, *[True] * len(kept), False])
            return Merged(torch.cat([new[:1], view.hidden[kept], new[1:]]), place, own)

    encoded = llava.encode(requests[:2])
    entering = {}
    handle = llava.decoder.layers[3].register_forward_pre_hook(
        lambda m, a, k: entering.update(hidden=a[0], **k), with_kwargs=True
    )
    with Adding(4)(llava) as trace:
        handle.remove()  # ours must come behind the pruner's to see what it hands on
        handle = llava.decoder.layers[3].register_forward_pre_hook(
            lambda m, a, k: entering.update(hidden=a[0], **k), with_kwargs=True
        )
        llava.model(**encoded.inputs)
    handle.remove()
    for row, span in enumerate(llava.spans(encoded.inputs)):
        start = span[0].start
        states = entering["hidden"][row, start : start + 6]
        assert (states[[0, 5]] == 3).all()
        assert not (states[1:5] == 3).any()
        kept = trace.kept[0][row]
        positions = start + torch.cat([kept[:1], kept, torch.tensor([35])])
        expected = llava.rotary(torch.zeros(1), positions[None])[0][0]
        torch.testing.assert_close(entering["position_embeddings"][0][row, start : start + 6], expected)
        assert trace.merged[0][row].tolist() == [int(kept[0]), 35]
        assert trace.counts[row]["after"] == [6]


# what it refuses ------------------------------------------------------------------------------------------------------
def test_a_bad_pruner_is_told_so(llava, requests):
    encoded = llava.encode(requests[:1])
    with pytest.raises(ValueError, match="the model has layers 0 to 7"):
        pruners.make("fastv", keep=6, layer=9)(llava).__enter__()
    for keep in (-1, 1.5, True, "6"):
        with pytest.raises(ValueError, match="give a count"):
            pruners.make("fastv", keep=keep)
    with pytest.raises(ValueError, match=r"unknown pruning method 'fastvv'.*did you mean fastv"):
        pruners.make("fastvv")
    with pytest.raises(ValueError, match="unknown pruning method 'hooks'"):
        pruners.make("hooks")
    with pytest.raises(ValueError, match="there is no attention before layer 0"), pruners.make("fastv", layer=0)(llava):
        llava.model(**encoded.inputs)

    @dataclass(frozen=True)
    class Wrong(Spy):
        def score(self, view):
            return torch.ones(3)

    with pytest.raises(ValueError, match=r"expected \(36,\)"), Wrong(6)(llava):
        llava.model(**encoded.inputs)
    with (
        pytest.raises(ValueError, match="attention of layer 0 was not recorded"),
        Spy(6, look=lambda v: v.attend(0))(llava),
    ):
        llava.model(**encoded.inputs)
    with pytest.raises(ValueError, match="the vision tower was not recorded"), Spy(6, look=lambda v: v.vision)(llava):
        llava.model(**encoded.inputs)
    llava.model(**encoded.inputs)  # and nothing of all that is left


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        ("fastv", {"mode": "Mask"}, r"unknown mode 'Mask' \(did you mean mask\?\); known: gather, mask"),
        ("fastv", {"layers": 3}, "unknown field of fastv 'layers'.*did you mean layer"),
        ("tokencarve", {"rank": "svd"}, "unknown rank of TokenCarve 'svd'"),
        ("tokencarve", {"weight": 2.0}, "weight=2.0: give a share"),
        ("visionzip", {"dominant": 54}, "dominant=54: give a share"),
        ("vispruner", {"important_ratio": -0.5}, "important_ratio=-0.5: give a share"),
        ("himap", {"keeps": (5, 12)}, "give 2 counts"),
        ("sparsevlm", {"keeps": (10,)}, "give 3 counts"),
        ("sparsevlm", {"keeps": (10, 5, 3), "layers": (2, 4)}, "give 2 counts"),
        ("deeplayer", {"selection": "best"}, "selection is 'mis', 'suppression', 'topk', an MIS"),
        ("deeplayer", {"scores": "ratios"}, "unknown score arithmetic 'ratios'"),
        ("illava", {"tower_keep": 2.0}, "give a count"),
    ],
)
def test_a_field_that_means_nothing_is_told_so(name, fields, words):
    with pytest.raises(ValueError, match=words):
        pruners.make(name, **fields)
    with pytest.raises(ValueError, match=r"unknown rule of MIS 'fusd'.*did you mean fused"):
        MIS(rule="fusd")


# the rest -------------------------------------------------------------------------------------------------------------
def test_the_trace_tells_what_happened(llava, requests, run):
    encoded = llava.encode(requests)
    debias = Debias(Trend.exponential(0.05), Padding())
    with pruners.make("fastv", keep=30, layer=2)(llava, debias, encoded.sizes) as trace:
        run(llava, encoded)
    assert len(trace.kept[0]) == len(trace.scores[0]) == 3
    for number, (before, after) in enumerate(trace.scores[0]):
        valid = debias.padding.valid(encoded.sizes[number], (6, 6))
        weight = torch.exp(-0.05 * torch.arange(36.0))
        torch.testing.assert_close(after[valid], (before * weight)[valid])
        counts = trace.counts[number]
        assert counts == {
            "after": [30],
            "mean": (2 * 36 + 6 * 30) / 8,
            "own": 30.0,
            "padding": [max(0, 30 - int(valid.sum()))],
        }
    assert trace.ms["prefill"] > 0
    assert trace.ms["decode"] > 0
    assert trace.ms["steps"] == 2
    assert trace.rows == [0, 1, 2]


def test_only_the_first_cut_is_debiased_unless_asked(llava, requests, run):
    encoded = llava.encode(requests[:1])
    for stages in ("first", "all"):
        with pruners.make("pyramiddrop", keep=0.4)(llava, Debias(Trend.exponential(0.05), stages=stages)) as trace:
            run(llava, encoded)
        there = torch.arange(36)
        for stage, images in enumerate(trace.scores):
            before, after = images[0]
            weight = torch.exp(-0.05 * there) if stage == 0 or stages == "all" else 1
            torch.testing.assert_close(after, before * weight)
            there = trace.kept[stage][0]


def test_the_baselines_are_what_they_say(llava, requests, run):
    encoded = llava.encode(requests)
    kept = {}
    for name in ("random", "grid"):
        for order in (requests, requests[::-1]):
            with pruners.make(name, keep=9)(llava) as trace:
                run(llava, llava.encode(order))
            kept.setdefault(name, []).extend(index.tolist() for index in trace.kept[0])
        assert all(index == kept[name][0] for index in kept[name])  # whatever the picture, place and batch
    assert kept["grid"][0] == [2, 6, 10, 14, 18, 22, 26, 30, 34]
    with pruners.make("random", keep=9, seed=1)(llava) as trace:
        run(llava, encoded)
    assert trace.kept[0][0].tolist() != kept["random"][0]
    valid = Padding().valid((90, 50), (6, 6)).nonzero()[:, 0]
    with pruners.make("grid", keep=6)(llava, Debias(None, Padding()), encoded.sizes) as trace:
        run(llava, encoded)
    step = len(valid) // 6
    assert trace.kept[0][0].tolist() == valid[step // 2 :: step].tolist()[:6]


def test_an_adapter_or_its_model_will_do(llava, requests, run):
    encoded = llava.encode(requests[:1])
    kept = []
    for model in (llava, llava.model):
        with pruners.make("fastv", keep=6)(model) as trace:
            run(llava, encoded)
        kept.append(trace.kept[0][0].tolist())
    assert kept[0] == kept[1]
    assert isinstance(llava.model, transformers.LlavaForConditionalGeneration)
    assert Request("x").images == ()
