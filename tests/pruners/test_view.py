"""What a method sees at a cut is what a plain computation makes of the same projections, without a model."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.nn import Linear

from debias import Debias, Padding, Reading, Span, Trend
from debias.core import Terms
from pruners.cut import Cut
from pruners.models.base import Adapter
from pruners.parts.patches import Patches
from pruners.view import Look, Tokens, View, VisionView

HEADS, SHARED, SIZE, WIDTH, COLUMNS = 4, 2, 4, 6, 13
# Row 1 of a batch: three slots of padding, text, a picture of 3 tokens, text, a picture of 2 tokens, text.
PICTURES, PADDED = ([5, 6, 7], [9, 10]), 3
TEXT = [8, 11, 12]  # from the first picture on
KINDS = {"last": [12], "text": TEXT, "visual": [5, 6, 7, 9, 10], "all": [*range(PADDED, 13)]}


class Plain:
    """A layer's projections, rotary tables and states of two rows, and its attention computed number by number."""

    def __init__(self, seed=0):
        torch.manual_seed(seed)
        project = {"q_proj": Linear(WIDTH, HEADS * SIZE), "k_proj": Linear(WIDTH, SHARED * SIZE)}
        project["v_proj"] = Linear(WIDTH, SHARED * SIZE)
        self.attn = SimpleNamespace(**project, head_dim=SIZE, scaling=0.7)
        self.adapter = Adapter(SimpleNamespace())
        self.states = torch.randn(2, COLUMNS, WIDTH)
        angle = torch.rand(2, COLUMNS, SIZE // 2).repeat(1, 1, 2) * 6
        self.tables = 1.2 * angle.cos(), 1.2 * angle.sin()  # some kinds of rotary embedding scale their tables
        self.valid = torch.ones(2, COLUMNS, dtype=torch.bool)
        self.valid[1, :PADDED] = False

    def heads(self, which, row, rotary):
        """[H or H_kv, n, d]"""
        project = getattr(self.attn, f"{which}_proj")
        found = torch.stack([project(state).view(-1, SIZE) for state in self.states[row]], 1)
        if not rotary:
            return found
        half = SIZE // 2
        turned = []
        for n, (cos, sin) in enumerate(zip(self.tables[0][row], self.tables[1][row], strict=True)):
            one, other = found[:, n, :half], found[:, n, half:]
            turned.append(torch.cat([one * cos[:half] - other * sin[:half], other * cos[half:] + one * sin[half:]], -1))
        return torch.stack(turned, 1)

    def attention(self, row, queries, rotary=True, padded=True):
        """[H, R, n]"""
        query, key = self.heads("q", row, rotary), self.heads("k", row, rotary)
        found = torch.zeros(HEADS, len(queries), COLUMNS)
        for head in range(HEADS):
            for number, at in enumerate(queries):
                seen = [n for n in range(at + 1) if self.valid[row, n] or not padded]
                logits = torch.stack([query[head, at] @ key[head // (HEADS // SHARED), n] * 0.7 for n in seen])
                found[head, number, seen] = logits.softmax(-1)
        return found

    def look(self, kind, cached=False, padded=True, tables=None):
        slots = torch.tensor(KINDS[kind])
        queries = [self.heads("q", row, False)[:, slots].transpose(0, 1) for row in range(2)]
        given = {"states": self.states}
        if cached:
            later = torch.randn(2, SHARED, 2, SIZE)  # what a static cache holds behind the sequence
            held = {
                which: torch.cat([torch.stack([self.heads(which, row, which == "k") for row in range(2)]), later], 2)
                for which in ("k", "v")
            }
            given = {"cached": SimpleNamespace(keys=held["k"], values=held["v"])}
        valid = self.valid if padded else None
        tables = self.tables if tables is None else tables
        return Look(self.adapter, self.attn, kind, [slots, slots], queries, tables, COLUMNS, valid, **given)

    def view(self, look, picture, debias=None, **changes):
        after = sum(slot > PICTURES[picture][-1] for slot in TEXT)
        span = Span(PICTURES[picture][0], (1, len(PICTURES[picture])))
        slots = torch.tensor(PICTURES[picture])
        tokens = Tokens(1, picture, span, slots, None, 3 * picture, after, True)
        parts = {"sequence": self.states[1], "text_slots": torch.tensor(TEXT), "looks": {2: look}}
        cut = Cut(3, 2, rows=look.kind)
        return View(cut, 0, 5, 2, tokens, self.adapter, debias or Debias(), **{**parts, **changes})


@pytest.fixture
def plain():
    return Plain()


def rows_of(kind, picture):
    if kind == "text":
        return [slot for slot in TEXT if slot > PICTURES[picture][-1]]
    return PICTURES[picture] if kind == "visual" else KINDS[kind]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padded", [True, False])
def test_attention_is_that_of_each_query_and_key(plain, kind, padded):
    """For either picture of a row, from the layer's states and from a cache, with rotation and without it."""
    plain.valid[1, :PADDED] = not padded
    for picture in (0, 1):
        queries, own = rows_of(kind, picture), PICTURES[picture]
        for cached in (False, True):
            view = plain.view(plain.look(kind, cached, padded), picture)
            for rotary in (True, False):
                expected = plain.attention(1, queries, rotary)[..., own]
                torch.testing.assert_close(view.attend(rotary=rotary), expected, rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(view.attention, plain.attention(1, queries)[..., own], rtol=1e-4, atol=1e-6)
            assert view.attention.dtype == torch.float32
            shares = torch.rand(len(queries))
            expected = plain.attention(1, queries)[..., own].mean(0)
            torch.testing.assert_close(view.attended(), expected.sum(0), rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(view.attended(shares), shares @ expected, rtol=1e-4, atol=1e-6)


def test_another_reading_is_read_everywhere(plain):
    """Without rotation, and by the heads that give the picture most."""
    bare = plain.view(plain.look("text"), 0, Debias(reading=Reading(rope=False)))
    expected = plain.attention(1, TEXT, rotary=False)[..., PICTURES[0]]
    torch.testing.assert_close(bare.attention, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(bare.attended(), expected.sum(1).mean(0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(bare.keys, plain.heads("k", 1, False)[:, PICTURES[0]], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(bare.text_keys, plain.heads("k", 1, False)[:, TEXT], rtol=1e-4, atol=1e-6)
    few = plain.view(plain.look("text"), 0, Debias(reading=Reading(heads=2)))
    weights, shares = plain.attention(1, TEXT)[..., PICTURES[0]], torch.tensor([0.2, 3.0, 0.5])
    best = weights.sum((1, 2)).argsort(descending=True)[:2]
    torch.testing.assert_close(few.attended(), weights[best].sum(1).mean(0), rtol=1e-4, atol=1e-6)
    expected = (weights[best] * shares[:, None]).sum(1).mean(0)
    torch.testing.assert_close(few.attended(shares), expected, rtol=1e-4, atol=1e-6)
    first = Debias(reading=Reading(rope=False), stages="first")
    assert plain.view(plain.look("text"), 0, first, turn=1).reading == Reading()
    assert plain.view(plain.look("text"), 0, first).reading == Reading(rope=False)


@pytest.mark.parametrize("picture", [0, 1])
@pytest.mark.parametrize("cached", [False, True])
def test_a_view_shows_its_own_picture_and_the_text_behind_it(plain, picture, cached):
    view, own, text = plain.view(plain.look("last", cached), picture), PICTURES[picture], rows_of("text", picture)
    assert (view.sample, view.image, view.turn, view.span) == (1, picture, 0, view.tokens.span)
    assert len(view.tokens) == len(own)
    torch.testing.assert_close(view.hidden, plain.states[1, own])
    torch.testing.assert_close(view.text, plain.states[1, text])
    for name, slots in (("", own), ("text_", text)):
        keys, values = getattr(view, f"{name}keys"), getattr(view, f"{name}values")
        torch.testing.assert_close(keys, plain.heads("k", 1, True)[:, slots], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(values, plain.heads("v", 1, False)[:, slots], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(view.rotary, tuple(table[1, own] for table in plain.tables))
    view.tokens.asked, plain.adapter.question = torch.tensor([5, 6]), lambda ids: f"asked {ids.tolist()}"
    assert view.question == "asked [5, 6]"
    assert view.memo is None
    view.tokens.memo = "remembered"
    assert view.memo == "remembered"


def test_tables_of_one_row_are_those_of_all_rows(plain):
    same = tuple(table[:1] for table in plain.tables)
    plain.tables = tuple(table[:1].expand(2, -1, -1) for table in same)
    view = plain.view(plain.look("last", tables=same), 0)
    torch.testing.assert_close(view.attention, plain.attention(1, [12])[..., PICTURES[0]], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(view.rotary, tuple(table[0, PICTURES[0]] for table in same))


def test_a_decoding_step_has_the_newest_tables_alone(plain):
    """The cache's keys are turned already; those before rotation, and the prompt's states, are not at hand."""
    newest = tuple(table[:, -1:] for table in plain.tables)
    look = plain.look("last", cached=True, tables=newest)
    view = plain.view(look, 0, sequence=None)
    torch.testing.assert_close(view.attention, plain.attention(1, [12])[..., PICTURES[0]], rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="keys before rotation are not at hand in a decoding step"):
        view.attend(rotary=False)
    with pytest.raises(ValueError, match="hidden states of the prompt are not at hand in a decoding step"):
        _ = view.hidden


def test_a_layer_that_was_not_looked_at_is_named(plain):
    look = plain.look("last")
    view = plain.view(look, 0)
    with pytest.raises(ValueError, match=r"the attention of layer 1 was not recorded for Cut\(layer=3"):
        view.attend(1)
    same = replace(view, cut=Cut(2, 2, source="same"))
    torch.testing.assert_close(same.attention, view.attention)
    torch.testing.assert_close(replace(view, looks={0: look}).attend(0), view.attention)
    torch.testing.assert_close(replace(view, cut=Cut(1, 2), looks={0: look}).attention, view.attention)
    with pytest.raises(ValueError, match="there is no attention before layer 0"):
        _ = replace(view, cut=Cut(0, 2)).attention


def padded_view(plain, index=None, on_host=True, **fields):
    """A picture of 2 x 3 tokens whose first row is padding, with some of its tokens left."""
    whole = torch.tensor([False] * 3 + [True] * 3)
    left = torch.arange(6) if index is None else torch.tensor(index)
    span = Span(3, (2, 3), index=None if index is None else left)
    tokens = Tokens(1, 0, span, 3 + torch.arange(len(left)), None, 0, 3, True, whole)
    if on_host:
        tokens = replace(tokens, on_host=whole, here=None if index is None else left)
    fields = {"turn": 0, "debiaser": Debias(padding=Padding()), **fields}
    return replace(plain.view(plain.look("last"), 0), tokens=tokens, **fields)


def test_padding_is_told_of_what_is_left(plain):
    silent = [4, 0, 5, 2]
    for on_host in (True, False):
        some = padded_view(plain, silent, on_host)
        assert some.valid.tolist() == some.valid_on_host.tolist() == [True, False, True, False]
        every = padded_view(plain, None, on_host)
        assert every.valid.tolist() == [False] * 3 + [True] * 3
    assert padded_view(plain).valid_on_host.tolist() == [False] * 3 + [True] * 3
    assert padded_view(plain, None, False).valid_on_host is None  # the image is whole, and the host was told nothing
    apart = padded_view(plain, silent)
    apart.tokens.here = None
    assert apart.valid_on_host.tolist() == [True, False, True, False]
    apart = padded_view(plain, silent, False)
    apart.tokens.here = torch.tensor(silent)
    assert apart.valid_on_host.tolist() == [True, False, True, False]


def test_padding_is_told_only_where_it_is_silenced(plain):
    first = Debias(padding=Padding(), stages="first")
    for debias, turn, silenced in (
        (Debias(), 0, False), (first, 2, False), (Debias(padding=Padding(), stages="all"), 2, True),
        (first, 0, True), (first, 1, False), (first, -1, True),
    ):  # fmt: skip
        view = padded_view(plain, debiaser=debias, turn=turn)
        assert (view.valid is not None) == silenced
        assert (view.valid_on_host is not None) == silenced
    view = padded_view(plain)
    view.tokens.whole = None
    assert view.valid is None


def test_sinks_are_told_by_the_hidden_states(plain):
    view = padded_view(plain, debiaser=Debias(padding=Padding.sink(2.0)), text_slots=torch.tensor([1, 9, 10]))
    plain.states[1] = torch.rand(COLUMNS, WIDTH) + 1
    plain.states[1, [1, 4, 7], 2] = 100.0
    expected = [True, False, True, True, False, True]  # slots 4 and 7 of the picture's 3 to 8
    assert view.valid.tolist() == view.valid_on_host.tolist() == expected
    score = torch.tensor([0.1, 0.9, 0.2, 0.3, 0.8, 0.4])
    assert view.debias(score).argsort(descending=True).tolist()[:4] == [5, 3, 2, 0]
    every = replace(view, text_slots=torch.tensor([1]))
    plain.states[1, 3:9, 2] = 100.0
    assert every.valid.tolist() == [True] * 6


class Heard(Debias):
    """A debias that takes down what it is asked."""

    def __call__(self, score, span, stage=0, role="select", valid=None):
        object.__setattr__(self, "asked", (stage, role, valid))
        return super().__call__(score, span, stage, role, valid)


def test_a_debias_is_told_the_turn_and_the_role(plain):
    debias = Heard(Trend.offset([1.0] * 6))
    score = torch.rand(6)
    for source, given, role in (
        ("previous", "select", "select"), ("previous", "recycle", "recycle"),
        ("tower", "select", "vision"), ("tower", "recycle", "recycle"),
    ):  # fmt: skip
        view = padded_view(plain, debiaser=debias, turn=3, cut=Cut(2, 2, source=source))
        view.debias(score, given)
        assert debias.asked == (3, role, None)
    view = padded_view(plain, debiaser=debias)
    view.debias(score)
    assert debias.asked == (0, "select", None)
    terms = view.terms(score)
    assert isinstance(terms, Terms)
    torch.testing.assert_close(view.debias(score), score - 1)


def test_ties_go_to_the_earlier_token(plain):
    view = plain.view(plain.look("last"), 0)
    score = torch.tensor([1.0, 2.0, 1.0, 2.0, 1.0] * 8)
    best = sorted(range(40), key=lambda at: (-float(score[at]), at))
    for count in (0, 1, 17, 40):
        assert view.top(score, count).tolist() == sorted(best[:count])
    released = replace(view, debiaser=Debias.paper("fastv", arm="none", as_released=True))
    for count in (1, 17):
        assert released.top(score, count).tolist() == score.topk(count).indices.sort().values.tolist()


def test_places_are_those_of_the_tokens_that_are_left(plain):
    view = padded_view(plain, [4, 0, 5])
    xy, picture = view.places
    assert xy.tolist() == [[1, 1], [0, 0], [2, 1]]
    assert picture.tolist() == [0, 0, 0]


def test_what_the_tower_made_is_there_where_it_was_recorded(plain):
    view = plain.view(plain.look("last"), 0)
    with pytest.raises(ValueError, match=r'the vision tower was not recorded: set `reads = "vision"`'):
        _ = view.vision
    patches = Patches(torch.rand(2, 3), torch.rand(3, 5), torch.rand(2, 3, 4), None)
    assert replace(view, patches=patches).vision is patches
    plain.adapter.model.model = SimpleNamespace(multi_modal_projector=Linear(5, WIDTH))
    expected = plain.adapter.model.model.multi_modal_projector(patches.features)
    torch.testing.assert_close(view.project(patches.features), expected)
    assert view.project(patches.features[:0]).shape == (0, WIDTH)


def test_tokens_go_to_another_device_whole(plain):
    tokens = padded_view(plain, [4, 0, 5]).tokens
    tokens = replace(tokens, own=torch.tensor([True, False, True]), memo=torch.ones(2), asked=torch.tensor([3]))
    gone = tokens.on(torch.device("meta"))
    away = {name for name, value in vars(gone).items() if getattr(value, "is_meta", False)}
    assert away == {"slots", "own", "whole", "memo"}
    assert (gone.row, gone.image, gone.after, gone.span) == (tokens.row, tokens.image, tokens.after, tokens.span)
    assert replace(tokens, memo="words", own=None).on(torch.device("meta")).memo == "words"
    assert tokens.raster.tolist() == [4, 0, 5]


def test_attention_in_the_tower_is_scaled_and_whole():
    query, keys = torch.randn(2, 5, 3), torch.randn(2, 5, 3)
    view = VisionView(
        0, 0, 1, 5, torch.zeros(5, 3), query.half(), keys.half(), 0.5, torch.ones(5), 0, torch.arange(5), None
    )
    expected = torch.stack([(q @ k.T * 0.5).softmax(-1) for q, k in zip(query, keys, strict=True)])
    torch.testing.assert_close(view.attention, expected, rtol=0.02, atol=0.01)
    assert view.attention.dtype == torch.float32
