"""What every method keeps and makes of drawn numbers: choices.txt, which changes only on purpose.

No model is loaded. The other tests hold the methods to their definitions; this one holds every branch of them to what
it was then, also on a device that nobody may wait for. Meant to change?
PYTHONPATH=. python tests/pruners/methods/test_choices.py writes the listing anew.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import pruners
from debias import Debias, Padding, Span, Trend
from pruners.base import Pruner
from pruners.engine.choose import choose
from pruners.parts.mis import MIS
from pruners.parts.patches import Patches
from pruners.parts.scores import Scores
from pruners.parts.suppression import Suppression
from pruners.prior import Prior
from pruners.view import Tokens, View, VisionView

LISTING = Path(__file__).with_name("choices.txt")
BEFORE, TOTAL, WORDS, LAYERS = 3, 25, 5, 8
COUNTS = (0, 1, 6, 10, 18, TOTAL)  # 15 show the picture where there is padding
PRIOR = Prior(tuple(1 / (2 + i % 7) for i in range(TOTAL)), layer=2, model="")
DEEP = {"layer": 3}
SETTINGS = {
    "cdpruner": [{}, {"relevance": "none"}],
    "dart": [{}, {"image_pivots": 2, "text_pivots": 0}],
    "d2pruner": [{"prior": PRIOR, **DEEP}],
    "deeplayer": [
        {"selection": "topk"},
        {"selection": "topk", "scores": Scores("ratio", shallow=8, rope=False), **DEEP},
        {"selection": MIS(theta=0.3), "scores": "ratio", **DEEP},
        {"selection": "suppression", "scores": "residual", **DEEP},
        {"selection": Suppression(radius=None), "scores": "prior", "prior": PRIOR, **DEEP},
    ],
    "holov": [{"crops": 3, "diversity": 0.5}, {}],
    "illava": [
        {"tower_keep": 14},
        {"tower_keep": 14, "silence_merge": False, "tower_layers": (1, 3)},
        {"tower_keep": 0},
    ],
    "ivcprune": [{}, {"coordinates": 0.5, "seeds": 0.2}],
    "prumerge": [{"neighbours": 3}, {"adaptive": True}],
    "prumergeplus": [{"neighbours": 3}, {"adaptive": True}],
    "sparsevlm": [{"keeps": (14, 6, 3)}, {"keep": 8}],
    "tokencarve": [{}, {"rank": "information"}, {"rank": "attention"}],
    "vidcom2": [{}, {"temperature": 0.1}],
    "visionzip": [{}, {"dominant": 0.4}],
    "vispruner": [{}, {"silence_pool": False, "important_ratio": 0.25}],
    "vscan": [{"shallow": 1, "across": 2}, {}],
}
CLIP = "..#....###########......."  # what of a clip is padding
CLIPS = ("evs", "vidcom2")
WAITING = (  # the last for a table that is sent once
    "methods/tokencarve.py:information", "parts/mis.py:independent", "methods/prumerge.py:select",
    "pruners/prior.py:_table",
)  # fmt: skip


@cache
def random(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def attention(seed, *shape):
    """Softmax weights, of which two tokens get none at all."""
    return (2 * random(seed, *shape)).softmax(-1).index_fill(-1, torch.tensor([shape[-1] - 7, shape[-1] - 2]), 0)


class Model:
    """What a view asks its adapter."""

    def places(self, span):
        at = torch.arange(TOTAL)
        return torch.stack([at % 5, at // 5], 1), at // 20

    def project(self, features):
        return features @ random(9, features.shape[1], 8).to(features.device, non_blocking=True)


class Drawn(View):
    """A view of drawn numbers instead of a model's."""

    keys = text_keys = values = text_values = rotary = None

    def attend(self, layer=None, rotary=True):
        rows = {"last": 1, "text": WORDS, "visual": len(self.tokens)}[self.cut.rows]
        return self.send(attention((layer or 0) * 2 + rotary, 2, rows, len(self.tokens)))

    def attended(self, shares=None):
        weights = self.attend()
        return (weights if shares is None else weights * shares[:, None]).sum(1).mean(0)


def drawn(pruner, count, debias, stage=0, cls=True, views=False, send=lambda tensor: tensor):
    """One image at a cut, or one clip of four frames and a token behind them. views: it has so many of them, side by
    side, with a newline behind every row."""
    clip = type(pruner).__name__.lower() in CLIPS
    span = (
        Span(0, (2, 3), frames=4, fraction=torch.tensor([float(mark == "#") for mark in CLIP]))
        if clip
        else Span(0, (5, 5), size=(50, 30))
    )
    here = torch.arange(TOTAL) if stage == 0 else torch.arange(TOTAL)[torch.arange(TOTAL) % 5 != 1]
    whole = None if debias.padding is None else debias.padding.whole(span)
    n = len(here)
    tokens = Tokens(
        row=0, image=0, span=span if stage == 0 else span.at(send(here)), slots=send(torch.arange(BEFORE, BEFORE + n)),
        own=None, before=0, after=WORDS, contiguous=True, whole=None if whole is None else send(whole), on_host=whole,
        here=here,
    )  # fmt: skip
    own = random(5, 2, 6) if views else random(5, 6)
    side = torch.where(here % 5 == 4, -1, (here % 5 > 0).long() * (views - 1)) if views else None
    view = Drawn(
        cut=pruner.cuts(LAYERS)[stage], stage=stage, layers=LAYERS, count=min(count, n), tokens=tokens, adapter=Model(),
        debiaser=debias, sequence=send(random(1, BEFORE + n + WORDS, 8)),
        text_slots=send(torch.cat([torch.arange(BEFORE), torch.arange(BEFORE + n, BEFORE + n + WORDS)])), looks={},
        patches=Patches(
            send(attention(2, 2, n)), send(random(3, n, 6)), send(random(4, 2, n, 5)),
            send(own) if cls else None, (send(attention(6, 2, n)),), side,
        ),
        turn=stage - (pruner.cuts(LAYERS)[0].source == "tower"),
    )  # fmt: skip
    view.send = send
    view.keys, view.values = send(random(7, 2, n, 4)), send(random(8, 2, n, 4))
    view.text_keys, view.text_values = send(random(10, 2, WORDS, 4)), send(random(11, 2, WORDS, 4))
    turn = 0.7 * torch.arange(n)[:, None] * torch.tensor([1.0, 0.3, 1.0, 0.3])
    view.rotary = send(turn.cos()), send(turn.sin())
    return view


def result(pruner, view):
    """(kept, raw, score, then what was merged: states, places, which are the image's own)."""
    view.tokens.memo = pruner.start(view)
    choice = choose(pruner, view, None)
    merged = choice.merged
    assert merged is None or merged.own.dtype == torch.bool
    return [choice.kept, *choice.scores, *([] if merged is None else [merged.hidden, merged.place, merged.own])]


def number(tensor):
    """One number that every entry moves."""
    flat = tensor.double().flatten()
    return float((flat + 1) @ (1 + torch.arange(len(flat))).double().cos())


def line(label, kept, rest, total):
    marks = "".join("#" if i in set(kept.tolist()) else "." for i in range(total))
    return f"{label}: {marks} " + " ".join(f"{number(part):.5g}" for part in rest)


def arms(pruner):
    trend = Trend.exponential(0.05) if "trend" in pruner.arms() else None
    return {"none": Debias(), "both": Debias(trend, Padding())}


def made(name):
    return [(fields, pruners.make(name, **fields)) for fields in SETTINGS.get(name, [{}])]


def cases(name):
    """(label, method, its view's arguments)"""
    for setting, (_, pruner) in enumerate(made(name)):
        for arm, debias in arms(pruner).items():
            for stage, _ in enumerate(pruner.cuts(LAYERS)[:2]):
                for count in COUNTS if stage == 0 else COUNTS[2:3]:
                    yield f"{name} {setting} {arm} {stage} {count}", pruner, (count, debias, stage)
        if pruner.reads_tower() and pruner.views == "each":
            for arm, debias in arms(pruner).items():
                for views, count in ((2, 0), (2, 1), (2, 9), (2, 15), (2, 22), (2, TOTAL), (1, 9)):
                    yield f"{name} {setting} {arm} in {views} views {count}", pruner, (count, debias, 0, True, views)
    if name == "visionzip":
        yield "visionzip without cls", pruners.make(name), (9, Debias(padding=Padding()), 0, False)
    if name == "tokencarve":
        for setting, (_, pruner) in enumerate(made(name)):
            release = Debias.paper(name, as_released=True).release
            yield (
                f"tokencarve {setting} as released",
                pruner,
                (9, Debias(Trend.exponential(0.05), Padding(), release=release)),
            )


def tower(name, send=lambda tensor: tensor):
    """(label, method, what it is told inside the vision tower)"""
    for setting, (fields, _) in enumerate(made(name)):
        for cls in (0, 1):
            for stage, stages in ((0, 2), (1, 2), (0, 1)):
                for keep in (0, 9, TOTAL):
                    pruner = pruners.make(name, **{**fields, "keep": keep})
                    index = torch.arange(-cls, TOTAL)
                    index = index if stage == 0 else index[(index < 0) | (index % 5 != 1)]
                    whole = Padding().whole(Span(0, (5, 5), size=(50, 30)))
                    n = len(index)
                    keys = random(14, 2, n, 5).index_fill(1, torch.tensor([n - 7]), 0)  # one that nobody looks at
                    for valid in (None, whole[index.clamp(min=0)] | (index < 0)):
                        told = VisionView(
                            layer=stage, stage=stage, stages=stages, total=TOTAL, hidden=send(random(12, n, 6)),
                            query=send(400 * random(13, 2, n, 5)), keys=send(keys), scale=1.0,
                            size=send((1 + random(15, n).abs().floor()) if stage else torch.ones(n)), cls=cls,
                            index=send(index), valid=None if valid is None else send(valid),
                        )  # fmt: skip
                        arm = "none" if valid is None else "padding"
                        yield f"{name} {setting} in the tower {cls} {stage} of {stages} {arm} {keep}", pruner, told


def inside(pruner, told):
    merged = pruner.vision_merge(told)
    assert merged.own.dtype == torch.bool
    parts = merged.place, merged.hidden, merged.own, merged.fresh, merged.size
    return [part for part in parts if part is not None]


def budgets(name):
    """Lines about what a method says of its budgets and layers, where it says more than where it cuts."""
    own = "counts", "mean_count", "own_count", "vision_layers", "glances"
    if all(getattr(pruners.find(name), said) is getattr(Pruner, said) for said in own):
        return
    for setting, (fields, _) in enumerate(made(name)):
        for keep in (0, 1, 9, 36, 128, 0.063, 0.3, 1.0):
            said = []
            pruner = pruners.make(name, **{**fields, "keep": keep})
            for layers, tokens in ((8, 1), (8, 25), (32, 576), (32, 577), (40, 100)):
                try:
                    counts = pruner.counts(layers, tokens)
                    own, mean = pruner.own_count(layers, tokens), pruner.mean_count(layers, tokens)
                    said.append(f"{counts} {own:.6g} {mean:.6g}")
                except ValueError as error:
                    said.append(str(error))
            yield f"{name} {setting} keep={keep}: " + "; ".join(said)
        pruner = pruners.make(name, **fields)
        depths = [(tuple(pruner.vision_layers(n)), tuple(pruner.glances(n))) for n in (4, 24, 27, 48)]
        yield f"{name} {setting} looks: {pruner.watches_tower()} {depths}"


def lines(name):
    for label, pruner, given in cases(name):
        view = drawn(pruner, *given)
        kept, *rest = result(pruner, view)
        assert bool((kept.diff() > 0).all()), label
        yield line(label, kept, rest, len(view.tokens))
    if pruners.find(name).prunes_tower():
        for label, pruner, told in tower(name):
            place, *rest = inside(pruner, told)
            yield line(label, place, [place, *rest], len(told.index))
    yield from budgets(name)


def test_the_listing_names_every_method_in_order():
    written = LISTING.read_text(encoding="utf-8").splitlines()
    assert list(dict.fromkeys(text.split()[0] for text in written)) == list(pruners.names())


@pytest.mark.parametrize("name", pruners.names())
def test_choices_are_as_listed(name):
    written = [text for text in LISTING.read_text(encoding="utf-8").splitlines() if text.split()[0] == name]
    for found, wanted in zip(lines(name), written, strict=True):
        (label, said), (known, meant) = found.split(": ", 1), wanted.split(": ", 1)
        assert label == known
        if "keep=" in label or "looks" in label:
            assert said == meant, label
            continue
        (marks, *numbers), (kept, *wanted_numbers) = said.split(), meant.split()
        assert marks == kept, label
        assert [float(n) for n in numbers] == pytest.approx([float(n) for n in wanted_numbers], rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("name", pruners.names())
def test_choices_are_the_same_on_a_device(name, pretend):
    """And nothing waits for it, but in the places that have to."""

    def far(tensor):
        return tensor.to(pretend.FAR, non_blocking=True)

    def same(here, there):
        for near, other in zip(here, there, strict=True):
            assert isinstance(other, pretend.Far)
            assert near.dtype == other.here.dtype
            torch.testing.assert_close(other.here, near, rtol=1e-4, atol=1e-5)

    for label, pruner, given in cases(name):
        if given[0] not in (0, 10, TOTAL) or given[1].release is not None:
            continue
        here = result(pruner, drawn(pruner, *given))
        with pretend.watching() as watch:
            there = result(pruner, drawn(pruner, *given, send=far))
        same(here, there)
        assert {place for _, place in watch.waits} <= set(WAITING), label
    if pruners.find(name).prunes_tower():
        with pretend.watching() as watch:
            both = list(zip(tower(name), tower(name, far), strict=True))
            for (_, pruner, told), (_, _, sent) in both[::5]:
                same(inside(pruner, told), inside(pruner, sent))
        assert watch.waits == []


def test_a_score_is_one_number_for_each_token_in_the_type_asked_for(monkeypatch):
    pruner = pruners.make("fastv")
    for dtype, wanted in ((None, torch.float32), (torch.float16, torch.float16)):
        assert choose(pruner, drawn(pruner, 6, Debias()), dtype).scores[0].dtype == wanted
    monkeypatch.setattr(Drawn, "attended", lambda view: torch.ones(3))
    with pytest.raises(ValueError, match=r"expected \(25,\)"):
        choose(pruner, drawn(pruner, 6, Debias()), None)


def test_kernels_choose_where_a_method_takes_just_the_best_tokens(monkeypatch):
    asked = []
    best = SimpleNamespace(best=lambda raw, terms, count: asked.append(count) or (raw, torch.arange(count)))
    monkeypatch.setattr("pruners.engine.choose.fuses", lambda device, tokens: tokens == TOTAL)
    monkeypatch.setattr("pruners.engine.choose.kernels", lambda: best)
    fastv, released = pruners.make("fastv"), Debias.paper("fastv", as_released=True).release
    assert choose(fastv, drawn(fastv, 6, Debias()), None).kept.tolist() == list(range(6))
    assert asked == [6]
    choose(fastv, drawn(fastv, 6, Debias()), torch.float16)
    choose(fastv, drawn(fastv, 6, Debias(release=released)), None)
    grid = pruners.make("grid")  # which selects by itself
    choose(grid, drawn(grid, 6, Debias()), None)
    assert asked == [6]


if __name__ == "__main__":
    LISTING.write_text("".join(f"{text}\n" for name in pruners.names() for text in lines(name)), encoding="utf-8")
