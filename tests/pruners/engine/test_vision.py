"""Hooks on the vision tower, for methods that read it or prune inside it, on a small tower. No model is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from debias import Debias, Padding, Span
from pruners.base import Pruner
from pruners.cut import Merged
from pruners.engine.seen import Seen
from pruners.engine.vision import Vision
from pruners.models.base import Adapter
from pruners.parts.tower import Tower


# inside the tower ----------------------------------------------------------------------------------------------------
class Attention(torch.nn.Module):
    """Two heads of three channels."""

    head_dim, scale = 3, 0.6

    def __init__(self, tupled):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (torch.nn.Linear(6, 6) for _ in range(3))
        self.tupled = tupled

    def forward(self, hidden_states, attention_mask=None):
        query, key, value = (
            part(hidden_states).unflatten(-1, (2, 3)).transpose(1, 2)
            for part in (self.q_proj, self.k_proj, self.v_proj)
        )
        logits = query @ key.mT * self.scale
        weights = (logits if attention_mask is None else logits + attention_mask).softmax(-1)
        out = (weights @ value).transpose(1, 2).flatten(2)
        return (out, weights) if self.tupled else out


class Counting(torch.nn.Linear):
    """Notes how many tokens pass."""

    passed = 0

    def forward(self, states):
        self.passed += states.shape[-2]
        return super().forward(states)


class Layer(torch.nn.Module):
    """Attention, and an MLP that works on each token alone."""

    def __init__(self, tupled, told):
        super().__init__()
        self.self_attn, self.mlp = Attention(tupled), Counting(6, 6)
        self.layer_norm1, self.layer_norm2 = torch.nn.LayerNorm(6), torch.nn.LayerNorm(6)
        self.tupled, self.told = tupled, told

    def forward(self, hidden_states, attention_mask=None, third=None):
        self.told.append(third)
        normed = self.layer_norm1(hidden_states)
        if third is None:
            found = self.self_attn(hidden_states=normed, attention_mask=attention_mask)
        else:
            found = self.self_attn(normed, attention_mask)
        middle = hidden_states + (found[0] if self.tupled else found)
        out = middle + self.mlp(self.layer_norm2(middle))
        return (out, "weights", "more") if self.tupled else out


CALLS = {  # the ways in which a tower may call its layers
    "one by one": lambda layer, states: layer(states, None, "third"),
    "two": lambda layer, states: layer(states, None),
    "half by name": lambda layer, states: layer(states, attention_mask=None),
    "by name": lambda layer, states: layer(hidden_states=states, attention_mask=None),
}


class Encoder(torch.nn.Module):
    """Four layers, of which the third one's output is used."""

    def __init__(self, tupled=False, call="by name"):
        super().__init__()
        torch.manual_seed(0)
        self.told, self.call = [], CALLS[call]
        self.layers = torch.nn.ModuleList(Layer(tupled, self.told) for _ in range(4)).double()

    def forward(self, states):
        every = [states]
        for layer in self.layers:
            found = self.call(layer, every[-1])
            every.append(found[0] if layer.tupled else found)
        return SimpleNamespace(hidden_states=tuple(every))


class Opened(Adapter):
    """A family whose tower's patches are the prompt's tokens."""

    opens = "tokens"

    def __init__(self, module, cls=True, **more):
        self.model = SimpleNamespace(config=SimpleNamespace(model_type="a family"))
        self.own = Tower(module, module.layers, 2, cls, **more)

    @property
    def tower(self):
        return self.own

    def views(self, span):
        return span.total


@dataclass(frozen=True)
class Inside(Pruner):
    """At each of its layers drops the second patch, and makes one of the last two."""

    at: tuple[int, ...] = (0, 2)
    weighs: bool = True
    names_fresh: bool = True
    seen: list[Any] = field(default_factory=list, compare=False)

    def vision_layers(self, layers):
        self.seen.append(layers)
        return self.at

    def vision_merge(self, view):
        self.seen.append(view)
        last = len(view.hidden) - 1
        place = torch.tensor([n for n in range(last) if n != view.cls + 1])
        hidden, size = view.hidden[place], view.size[place]
        hidden[-1] = (view.hidden[-2:] * view.size[-2:, None]).sum(0) / view.size[-2:].sum()
        size[-1] = view.size[-2:].sum()
        fresh = torch.tensor([len(place) - 1]) if self.names_fresh else None
        return Merged(hidden, place, place < last - 1, fresh, size if self.weighs else None)


def spelled_out(module, states, at, weighs, cls):
    """One image [n, C] by itself, layer by layer: (what each merge is shown, the slots that are left, their states)."""
    slots, size, told = list(range(len(states))), torch.ones(len(states)), []
    for number, layer in enumerate(module.layers[:3]):
        attn, normed = layer.self_attn, layer.layer_norm1(states)
        query, key, value = (
            part(normed).view(-1, 2, 3).transpose(0, 1) for part in (attn.q_proj, attn.k_proj, attn.v_proj)
        )
        weights = (query @ key.mT * 0.6).exp() * (size if weighs else 1)
        weights = weights / weights.sum(-1, keepdim=True)
        middle = states + (weights @ value).transpose(0, 1).flatten(1)
        if number in at:
            told.append((number, middle, query, key, size if weighs else torch.ones(len(size)), list(slots)))
            own = told[-1][4]
            left = [n for n in range(len(slots) - 1) if n != cls + 1]
            mean = (middle[-2] * own[-2] + middle[-1] * own[-1]) / (own[-2] + own[-1])
            middle = torch.stack([*middle[left[:-1]], mean])
            size = torch.stack([*own[left[:-1]], own[-2] + own[-1]])
            slots = [slots[n] for n in left]
        states = middle + layer.mlp(layer.layer_norm2(middle))
    return told, slots, states


SIZES = [(40, 80), (90, 50)]


@pytest.mark.parametrize("tupled", [True, False])
@pytest.mark.parametrize("cls", [True, False])
def test_tokens_leave_inside_the_tower_as_spelled_out(cls, tupled):
    """Whatever a layer returns and however it is called; two images at once are each by itself."""
    states = torch.randn(2, 9 + cls, 6, generator=torch.Generator().manual_seed(3)).double()
    weighing = [(call, n % 2 == 0, True, n < 2) for n, call in enumerate(CALLS)]
    for call, padded, weighs, names_fresh in (*weighing, ("two", True, False, True), ("by name", False, False, False)):
        module, pruner = Encoder(tupled, call), Inside(1.0, (0, 2), weighs, names_fresh)
        debias = Debias(padding=Padding() if padded else None)
        vision = Vision(pruner, Opened(module, cls), debias, SIZES if padded else None)
        handles = vision.install()
        for _ in range(2):  # another prompt, and nothing of the last one
            del pruner.seen[:], module.told[:]
            module.layers[0].mlp.passed = 0
            with torch.no_grad():
                found = module(states).hidden_states
                again = 1 if names_fresh else 7 + cls  # of each image, behind the MLP's own run
                assert module.layers[0].mlp.passed == 9 + cls + 2 * again
                expected = [spelled_out(module, own, pruner.at, weighs, int(cls)) for own in states]
            assert set(module.told) == {"third" if call == "one by one" else None}
            assert torch.equal(found[0], states)
            for image, (told, slots, own) in enumerate(expected):
                full = torch.zeros_like(states[0])
                full[slots] = own
                torch.testing.assert_close(found[3][image], full, rtol=1e-5, atol=1e-6)
                assert vision.survivors(image).tolist() == [slot - cls for slot in slots[cls:]]
                whole = Padding().valid(SIZES[image], (3, 3)).flatten()
                assert not whole[0]
                for stage, (number, middle, query, key, size, there) in enumerate(told):
                    view = pruner.seen[2 * stage + image]
                    assert (view.layer, view.stage, view.stages, view.total) == (number, stage, 2, 9)
                    assert (view.cls, view.scale, view.size.dtype) == (cls, 0.6, torch.float32)
                    assert view.index.tolist() == [slot - cls for slot in there]
                    for ours, theirs in ((view.hidden, middle), (view.query, query), (view.keys, key)):
                        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
                    assert torch.equal(view.size, size)
                    wanted = [slot < cls or bool(whole[slot - cls]) for slot in there] if padded else None
                    assert (None if view.valid is None else view.valid.tolist()) == wanted
        for handle in handles:
            handle.remove()
    parts = [module, *(part for layer in module.layers for part in (layer, layer.self_attn))]
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in parts)


def test_a_layer_hands_on_what_else_it_returns():
    module = Encoder(tupled=True)
    vision = Vision(Inside(1.0), Opened(module), Debias(), None)
    vision.install()
    out = module.layers[0](hidden_states=torch.randn(1, 10, 6).double())
    assert out[0].shape == (1, 8, 6)
    assert out[1:] == ("weights", "more")


def test_what_cannot_be_pruned_inside_the_tower_is_refused():
    family, debias = Opened(Encoder()), Debias(padding=Padding())
    pruner = Inside(1.0, at=(2,))
    vision = Vision(pruner, family, debias, SIZES)
    assert pruner.seen == [3]  # the layers up to that whose output is used, which is among them
    with pytest.raises(ValueError, match="did not run inside this `with` block, so nothing could be pruned"):
        vision.survivors(0)
    with pytest.raises(ValueError, match=r"prunes at vision layers \[0, 3\]; features leave the tower at 2"):
        Vision(Inside(1.0, at=(0, 3)), family, debias, None)
    with pytest.raises(ValueError, match="both reads the vision tower's output and prunes inside it"):
        Vision(Both(1.0), family, debias, None)
    closed = type("Closed", (Opened,), {"opens": "nothing"})(Encoder())
    with pytest.raises(ValueError, match="those of a family are not"):
        Vision(pruner, closed, debias, None)
    for sizes in (None, SIZES[:1], [*SIZES, SIZES[0]]):
        module = Encoder()
        Vision(pruner, Opened(module), debias, sizes).install()
        with pytest.raises(ValueError, match="got 2 pictures; expected one size for each, in `sizes`"):
            module(torch.randn(2, 10, 6).double())


# reading the tower ---------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Reading(Pruner):
    """Reads the tower, and two of its layers besides."""

    reads = "vision"
    asked: list[int] = field(default_factory=list, compare=False)

    def glances(self, layers):
        self.asked.append(layers)
        return (0, 2)


class Both(Reading):
    def vision_layers(self, layers):
        return (0,)


def test_each_run_of_the_tower_is_taken_down():
    """What the read layers' attention got, however it is called, and what the tower hands on."""
    for call in CALLS:
        module, pruner = Encoder(call == "two", call), Reading(1.0)
        vision = Vision(pruner, Opened(module, looks=1), Debias(), None)
        assert pruner.asked == [3]
        handles, runs = vision.install(), []
        for length in (2, 1):  # pictures, and then the frames of a clip
            runs.append(module(torch.randn(length, 10, 6).double()).hidden_states)
        assert len(vision.seen) == 2
        for seen, states in zip(vision.seen, runs, strict=True):
            normed = [layer.layer_norm1(own) for layer, own in zip(module.layers, states, strict=False)]
            assert torch.equal(seen.states, normed[1])
            assert [number for number, _ in seen.glanced] == [0, 2]
            assert all(torch.equal(own, normed[number]) for number, own in seen.glanced)
            assert torch.equal(seen.features, states[3])
        assert vision.seen[0].tables is None
        vision.over = True  # the prompt was read: the next run belongs to another
        module(torch.randn(3, 10, 6).double())
        assert [seen.held for seen in vision.seen] == [3]
        assert not vision.over
        for handle in handles:
            handle.remove()
    named = Opened(module, attention="mlp")
    assert Vision(pruner, named, Debias(), None).attn(1) is module.layers[1].mlp


def test_tables_of_the_towers_rotary_embedding_are_taken_down():
    attn, vision = Attention(False), Vision(Reading(1.0), Opened(Encoder()), Debias(), None)
    states, tables = torch.randn(1, 4, 6), (torch.ones(4, 3), torch.zeros(4, 3))
    vision.look(attn, (states,), {"position_embeddings": tables})
    assert vision.seen[0].states is states
    assert vision.seen[0].tables is tables


def spans(*totals):
    return [Span(0, (1, total)) for total in totals]


@pytest.mark.parametrize(
    ("runs", "totals", "filmed", "starts"),
    [
        ([5], (2, 3), (False, False), [(0, 0), (0, 2)]),
        ([5], (2, 3), (True, True), [(0, 0), (0, 2)]),
        ([3, 7], (2, 3, 1, 4), (False, True, False, True), [(0, 0), (1, 0), (0, 2), (1, 3)]),
        ([3, 7], (3, 2, 5), (False, True, True), [(0, 0), (1, 0), (1, 2)]),
        ([4], (2, 3), (False, False), []),  # the tower saw other images than the prompt has
        ([3, 6], (3, 2, 5), (False, True, True), []),
        ([2, 7], (3, 2, 5), (False, True, True), []),
        ([2, 3], (2, 3), (False, False), []),
        ([5], (2, 3), (False, True), []),
        ([], (2,), (False,), []),
    ],
)
def test_images_begin_where_those_before_them_end(runs, totals, filmed, starts):
    vision = Vision(Reading(1.0), Opened(Encoder()), Debias(), None)
    vision.seen = [Seen(torch.zeros(length, 1, 1), None, []) for length in runs]
    vision.starts = [("an earlier", "batch")]
    vision.expect(spans(*totals), filmed)
    assert vision.settle() == [(vision.seen[run], first) for run, first in starts]
    if not starts:
        with pytest.raises(ValueError, match="did not run inside this `with` block, so there is nothing to score by"):
            vision.patches(0)


def test_what_is_known_of_an_image_is_looked_for_where_it_begins(monkeypatch):
    vision = Vision(Reading(1.0), Opened(Encoder()), Debias(), None)
    vision.seen, both = [Seen(torch.zeros(5, 1, 1), None, [])], spans(2, 3)
    vision.expect(both, (False, False))
    monkeypatch.setattr("pruners.engine.vision.patches", lambda *asked: asked)
    assert vision.patches(1) == (vision.adapter, vision.attn, vision.seen[0], 2, both[1])
    vision.settle = None  # once for all images of a batch
    assert vision.patches(0)[3:] == (0, both[0])


def test_beams_are_counted_by_what_the_tower_saw():
    def repeats(*totals, runs=(), features=None):
        vision = Vision(Reading(1.0), Opened(Encoder()), Debias(), None)
        vision.seen = [Seen(torch.zeros(length, 1, 1), None, []) for length in runs]
        vision.features = None if features is None else torch.zeros(features, 1, 1)
        return vision.repeats(spans(*totals))

    assert repeats(2, 3, 2, 3, runs=[5], features=9) == 2
    assert repeats(2, 3, 2, 3, 2, 3, runs=[2, 3]) == 3
    assert repeats(2, 3, features=5) == repeats(2, 3, runs=[5]) == 1
    assert repeats(2, 2, 2, features=2) == 3
    assert repeats(2, runs=[5]) == 1  # other images than the prompt has
    assert repeats(2, 3) == 1  # it has not run
