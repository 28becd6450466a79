"""How the engine makes one stretch of layers' sequence from another's, on lists. No model is loaded."""

from __future__ import annotations

import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from debias import Debias, Padding, Span
from pruners.cut import Cut, Merged
from pruners.engine import attention, limits, sequence
from pruners.engine.attention import all_heads, allowed_columns, attended, attention_rows
from pruners.engine.masks import KERNELS, segment_mask
from pruners.engine.sequence import Choice, Segment
from pruners.view import Tokens


# masks and attention --------------------------------------------------------------------------------------------------
def test_masks_show_what_came_before_and_is_no_padding():
    """Every query sees the columns up to its own, except what is hidden of the prompt; in each kernel's own form."""
    draw = random.Random(0)
    for _ in range(120):
        batch, seen = draw.choice([1, 2]), draw.randint(2, 7)
        rows, known = draw.choice([1, 2, seen]), draw.randint(1, seen)
        columns = draw.choice([None, seen, seen + 3])
        valid = torch.rand(batch, known) < 0.6 if draw.random() < 0.7 else None
        like = torch.zeros(batch, rows, 4, dtype=draw.choice([torch.float32, torch.float16]))
        for kernel in KERNELS:
            mask = segment_mask(kernel, like, valid, seen, columns)
            if kernel.startswith("flash"):
                whole = None if valid is None else [row + [True] * (seen - known) for row in valid.tolist()]
                assert (mask if mask is None else mask.tolist()) == whole
                continue
            if valid is None and kernel == "sdpa" and (rows > 1 or columns is None):
                assert mask is None
                continue
            wanted = [
                [
                    [j <= seen - rows + i and (valid is None or j >= known or bool(valid[b, j]))
                     for j in range(columns or seen)]
                    for i in range(rows)
                ]
                for b in range(batch if valid is not None else 1)
            ]  # fmt: skip
            if kernel == "eager":
                assert mask.dtype == like.dtype
                assert bool(((mask == 0) | (mask == torch.finfo(like.dtype).min)).all())
                mask = mask == 0
            assert mask.dtype == torch.bool
            assert mask[:, 0].tolist() == wanted


def test_attention_of_a_few_rows_is_a_softmax_over_what_they_may_see():
    generator = torch.Generator().manual_seed(0)
    query, keys = torch.randn(4, 3, 6, generator=generator), torch.randn(2, 7, 6, generator=generator)
    slots, at, shares = torch.tensor([5, 1, 2]), torch.tensor([2, 6, 4]), torch.tensor([1.0, 0.5, 2.0])
    valid = torch.tensor([True, False, True, True, True, False, True])
    for hidden in (None, valid, valid[None], allowed_columns(at, 7, None), allowed_columns(at, 7, valid)):
        allowed = None if hidden is None else hidden.expand(3, 7) if hidden.dim() > 1 else hidden[None]
        wanted = torch.zeros(4, 3, 7)
        for head in range(4):
            for row in range(3):
                logits = keys[head // 2] @ query[head, row] * 0.3
                if allowed is not None:
                    logits = logits.masked_fill(~allowed.expand(3, 7)[row], -torch.inf)
                wanted[head, row] = logits.softmax(0)
        torch.testing.assert_close(attention_rows(query, keys, 0.3, allowed), wanted)
        for part in (None, shares, shares.double()):
            own = (wanted.mean(0) * (1 if part is None else shares[:, None])).sum(0)[slots]
            torch.testing.assert_close(attended(query, keys, 0.3, slots, allowed, part), own)
    for row, last in enumerate(at.tolist()):
        assert allowed_columns(at, 7, None)[row].tolist() == [j <= last for j in range(7)]
        assert allowed_columns(at, 7, valid)[row].tolist() == [j <= last and bool(valid[j]) for j in range(7)]


class Mesh:
    """A mesh of devices with tensor parallelism alone, or beside another kind."""

    def __init__(self, ndim):
        self.ndim = ndim

    def __getitem__(self, name):
        assert (self.ndim, name) == (2, "tp")
        return Mesh(1)

    def get_group(self):
        assert self.ndim == 1
        return "group"


def test_heads_that_are_spread_come_together_in_order(monkeypatch):
    def gathered(parts, own, group):
        assert group == "group"
        assert own.is_contiguous()
        for number, part in enumerate(parts):
            part.copy_(own + 10 * number)

    monkeypatch.setattr(torch.distributed, "get_world_size", lambda group: {"group": 2}[group])
    monkeypatch.setattr(torch.distributed, "all_gather", gathered)
    heads = torch.arange(6.0).view(3, 2).T
    for mesh in (Mesh(1), Mesh(2)):
        for size in (2, 3):
            found = all_heads(heads, SimpleNamespace(_device_mesh=mesh, _tp_size=size))
            assert torch.equal(found, torch.cat([heads, heads + 10]))
        for model in (SimpleNamespace(_device_mesh=mesh), SimpleNamespace(_device_mesh=mesh, _tp_size=None)):
            assert all_heads(heads, model) is heads
        assert all_heads(heads, SimpleNamespace(_device_mesh=mesh, _tp_size=1)) is heads


def test_fused_kernels_serve_where_they_are_asked_for(monkeypatch):
    monkeypatch.setattr(attention, "lacking", lambda: "")
    monkeypatch.setattr(attention, "import_module", lambda name: SimpleNamespace(name=name, attended=lambda *a: a))
    attention.kernels.cache_clear()
    given = torch.ones(2, 1, 4), torch.ones(2, 3, 4), 1.0, torch.tensor([0]), None, None
    with attention.fusing():
        assert attention.fuses(torch.device("cpu"), 1)
        assert attention.kernels().name == "pruners.engine.fused"
        assert attended(*given) == given
    assert not attention.fuses(torch.device("cpu"), 1)
    attention.kernels.cache_clear()


# the sequence ---------------------------------------------------------------------------------------------------------
def prompt(draw, rows):
    """A padded batch: per row what each slot is ("." padding, "t" text, 0, 1, ... the row's image), and its segment."""
    length, shown, images, text = 16, [], [], []
    number = 0
    for row in range(rows):
        fill = draw.choice([0, 2, 3]) if row else 0
        marks = ["."] * fill
        for image in range(draw.choice([1, 2]) if row else 1):
            marks += ["t"] * draw.choice([1, 2]) + [image] * 4
        marks += ["t"] * (length - len(marks))
        slots = [torch.tensor([i for i, m in enumerate(marks) if m == k]) for k in (0, 1) if k in marks]
        words = torch.tensor([i for i, m in enumerate(marks) if m == "t"])
        here = []
        for at in slots:
            before = sum(map(len, slots[: len(here)]))
            here.append(
                Tokens(row, number, Span(0, (2, 2)), at, None, before, int((words > at[-1]).sum()), contiguous=True)
            )
            number += 1
        shown.append(marks)
        images.append(here)
        text.append(words)
    valid = torch.tensor([[mark != "." for mark in marks] for marks in shown])
    return shown, Segment(0, length, images, text, None if valid.all() else valid, cut=False)


def test_what_goes_on_behind_a_cut_stands_in_its_old_order():
    """Two cuts after each other, on a list of slots: what stays, where it stands, and what is remembered of it."""
    draw = random.Random(1)
    for _ in range(40):
        shown, segment = prompt(draw, draw.choice([1, 2, 3]))
        rows = [[slot for slot, mark in enumerate(marks) if mark != "."] for marks in shown]
        if segment.valid is None:
            assert segment.positions(0).tolist() == [list(range(segment.length))]
        assert segment.real == list(map(len, rows))
        for start in (2, 5):
            choices = []
            for row, here in zip(rows, segment.images, strict=True):
                choices.append([])
                for tokens in here:
                    kept = sorted(draw.sample(range(len(tokens)), draw.randint(0, len(tokens))))
                    choices[-1].append(Choice(tokens, torch.tensor(kept, dtype=torch.long)))
                    raster = tokens.span.raster().tolist()
                    for place in set(range(len(tokens))) - set(kept):
                        marks = shown[tokens.row]
                        first = marks.index(segment.images[tokens.row].index(tokens))
                        row.remove(first + raster[place])
            before, (behind, columns) = segment, sequence.gather(segment, choices, start)
            longest = max(map(len, rows))
            assert (behind.start, behind.length, behind.cut) == (start, longest, True)
            assert behind.real == list(map(len, rows))
            assert torch.equal(behind.columns, sequence.compose(before, columns))
            whole = behind.valid if behind.valid is not None else torch.ones(len(rows), longest) > 0
            assert (behind.valid is None) == (min(map(len, rows)) == longest)
            for number, row in enumerate(rows):
                assert whole[number].tolist() == [slot >= longest - len(row) for slot in range(longest)]
                assert behind.columns[number][whole[number]].tolist() == row
                marks = shown[number]
                assert [row[s - longest + len(row)] for s in behind.text[number].tolist()] == [
                    slot for slot in row if marks[slot] == "t"
                ]
                counted = 0
                for image, (tokens, choice) in enumerate(zip(behind.images[number], choices[number], strict=True)):
                    own = [slot for slot in row if marks[slot] == image]
                    assert [row[s - longest + len(row)] for s in tokens.slots.tolist()] == own
                    assert tokens.span.raster().tolist() == [slot - marks.index(image) for slot in own]
                    assert (tokens.before, tokens.own) == (counted, None)
                    assert (tokens.image, tokens.after) == (choice.tokens.image, choice.tokens.after)
                    counted += len(own)
            numbered = behind.positions(0)
            for number, row in enumerate(rows):
                there = whole[number].expand(1, -1)[0]
                assert numbered[number if len(numbered) > 1 else 0][there].tolist() == list(range(len(row)))
            assert behind.positions(3).tolist() == [[len(row) + 2] for row in rows]
            segment = behind


def test_nothing_of_it_waits_for_a_device(pretend):
    draw = random.Random(4)

    def made(segment, kept, send):
        images = [[replace(tokens, slots=send(tokens.slots)) for tokens in row] for row in segment.images]
        valid = None if segment.valid is None else send(segment.valid)
        here = Segment(0, segment.length, images, [send(slots) for slots in segment.text], valid, cut=False)
        choices = [[Choice(t, send(k)) for t, k in zip(*row, strict=True)] for row in zip(images, kept, strict=True)]
        behind, columns = sequence.gather(here, choices, 2)
        last = [[Choice(tokens, send(torch.tensor([0]))) for tokens in row] for row in behind.images]
        again, _ = sequence.gather(behind, last, 4)
        hidden = sequence.hide(here, choices, 3)
        rows = [
            slots for name in ("all", "text", "visual") for slots in sequence.query_rows(Cut(2, 1, rows=name), here)
        ]
        states = send(torch.arange(len(images) * segment.length * 2.0).view(len(images), -1, 2))
        places = [segment.positions(step) for segment in (here, behind) for step in (0, 2)]
        found = [columns, behind.valid, again.columns, hidden.valid, *rows, *places, sequence.take(states, columns)]
        return [tensor for tensor in found if tensor is not None]

    for count in (1, 3):
        _, segment = prompt(draw, count)
        kept = [[torch.tensor(sorted(draw.sample(range(4), 2))) for _ in row] for row in segment.images]
        kept[-1][-1] = torch.tensor([1])
        near = made(segment, kept, lambda tensor: tensor)
        with pretend.watching() as watch:
            far = made(segment, kept, lambda tensor: tensor.to(pretend.FAR, non_blocking=True))
        assert watch.waits == []
        assert all(torch.equal(a, b.here) for a, b in zip(near, far, strict=True))


@pytest.mark.parametrize("beams", [1, 2])
def test_a_prompt_is_read_as_the_model_got_it(beams, pretend):
    for seed in range(6):
        shown, wanted = prompt(random.Random(seed), 3)
        spans = [[t.span for t in row] for row in wanted.images for _ in range(beams)]
        places = [[t.slots for t in row] for row in wanted.images for _ in range(beams)]
        real = None if wanted.valid is None else wanted.valid.repeat_interleave(beams, 0)
        ids = torch.arange(3 * beams * 16).view(-1, 16)
        padding = Debias(padding=Padding()) if seed else Debias()
        near = sequence.first_segment(spans, places, real, ids, beams, padding, ids)
        with pretend.watching() as watch:
            far_ids = ids.to(pretend.FAR, non_blocking=True)
            far = sequence.first_segment(spans, places, real, far_ids, beams, padding, ids)
            moved = [*far.text, *([] if real is None else [far.valid])]
            moved += [part for row in far.images for t in row for part in (t.slots, t.whole) if part is not None]
        assert watch.waits == []
        assert all(isinstance(tensor, pretend.Far) for tensor in moved)
        assert (near.start, near.length, near.cut, near.columns) == (0, 16, False, None)
        assert (near.valid is None) if real is None else torch.equal(near.valid, real)
        for number, (text, row) in enumerate(zip(near.text, near.images, strict=True)):
            marks, model = shown[number // beams], wanted.images[number // beams]
            assert text.tolist() == [slot for slot, mark in enumerate(marks) if mark == "t"]
            for tokens, like in zip(row, model, strict=True):
                assert torch.equal(tokens.slots, like.slots)
                assert (tokens.row, tokens.image, tokens.own) == (number, like.image, None)
                assert (tokens.before, tokens.after, tokens.contiguous) == (like.before, like.after, True)
                behind = [slot for slot, mark in enumerate(marks) if mark == "t" and slot > int(like.slots[-1])]
                assert tokens.asked.tolist() == ids[number, behind].tolist()
                assert (tokens.whole is None) == (padding.padding is None)
                assert tokens.whole is None or tokens.whole.tolist() == tokens.on_host.tolist() == [True] * 4


def test_a_prompt_must_not_end_with_what_may_leave():
    ids, span = torch.zeros(2, 8).long(), Span(0, (1, 2))

    def read(*slots, debias=None, text=None):
        places = [[], [torch.tensor(slots)]]
        return sequence.first_segment([[], [span]], places, None, ids, 1, debias or Debias(), text).images[1][0]

    assert read(5, 6).after == 1
    assert read(5, 6).asked is None
    assert not read(4, 6).contiguous
    assert read(2, 5).after == 2  # what stands between its tokens is not behind it
    assert read(2, 5, text=ids).asked.tolist() == [0, 0]
    with pytest.raises(limits.Unsupported, match="row 0 ends"):
        sequence.first_segment([[span] * 2], [[torch.tensor([1, 2]), torch.tensor([6, 7])]], None, ids, 1, Debias())
    with pytest.raises(limits.Unsupported, match="row 1 ends with a picture or clip"):
        read(6, 7)
    late = Debias(release=SimpleNamespace(late=1))
    assert read(4, 5, debias=late).slots.tolist() == [5, 6]


def test_what_is_hidden_stays_where_it_is():
    draw = random.Random(2)
    for _ in range(20):
        shown, segment = prompt(draw, draw.choice([1, 2]))
        choices = [[Choice(t, torch.tensor(sorted(draw.sample(range(4), 2)))) for t in row] for row in segment.images]
        before = None if segment.valid is None else segment.valid.clone()
        behind = sequence.hide(segment, choices, 3)
        assert (behind.start, behind.length, behind.columns, behind.cut) == (3, segment.length, None, True)
        assert before is None or torch.equal(before, segment.valid)  # the segment before is not touched
        for number, (marks, row) in enumerate(zip(shown, choices, strict=True)):
            kept = {int(slot) for choice in row for slot in choice.tokens.slots[choice.kept]}
            assert behind.valid[number].tolist() == [m == "t" or slot in kept for slot, m in enumerate(marks)]
            assert [tokens.before for tokens in behind.images[number]] == [2 * image for image in range(len(row))]
            for tokens, choice in zip(behind.images[number], row, strict=True):
                assert torch.equal(tokens.slots, choice.tokens.slots[choice.kept])
                assert torch.equal(tokens.span.raster(), choice.kept)
        merged = Merged(torch.zeros(1, 2), torch.tensor([0]), torch.tensor([True]))
        with pytest.raises(ValueError, match="merges tokens cannot run with mode='mask'"):
            sequence.hide(segment, [[Choice(t, torch.tensor([0]), merged) for t in row] for row in segment.images], 3)


def test_merged_tokens_take_the_places_that_were_theirs():
    slots = torch.tensor([4, 5, 6, 7])
    tokens = Tokens(0, 0, Span(0, (2, 2)), slots, torch.tensor([True, False, True, True]), 0, 1, contiguous=True)
    place, mine = torch.tensor([3, 0, 1]), torch.tensor([True, False, True])
    choice = Choice(tokens, torch.tensor([0, 1]), Merged(torch.zeros(3, 2), place, mine))
    assert torch.equal(choice.place, place)
    assert choice.unmerged.tolist() == [True, False, False]  # the one at place 1 was no token of the image before
    assert choice.order.tolist() == [4, 5, 6]  # side by side, in the method's order
    after = choice.after(torch.tensor([9, 8, 7]), 2)
    assert (after.span.raster().tolist(), after.slots.tolist(), after.before) == ([3, 0, 1], [9, 8, 7], 2)
    assert after.own.tolist() == [True, False, False]
    tokens.contiguous = False
    assert choice.order.tolist() == [7, 4, 5]
    tokens.contiguous, tokens.own = True, None
    assert choice.unmerged.tolist() == mine.tolist()
    choice.merged = None
    assert choice.unmerged is None
    assert choice.order.tolist() == [4, 5]
    tokens.own = torch.tensor([False, True, True, True])
    assert choice.unmerged.tolist() == [False, True]
    many = Merged(torch.zeros(5, 2), torch.tensor([0, 1, 2, 3, 3]), torch.ones(5) > 0)
    with pytest.raises(ValueError, match="a merge made 5 tokens of 4; it may not add more than it drops"):
        Choice(tokens, torch.tensor([0]), many).order  # noqa: B018
    same = Merged(torch.zeros(4, 2), torch.tensor([3, 2, 1, 0]), torch.ones(4) > 0)
    assert Choice(tokens, torch.tensor([0]), same).order.tolist() == [4, 5, 6, 7]


def test_rows_are_taken_of_their_own_states():
    states = torch.arange(24.0).view(2, 4, 3)
    columns = torch.tensor([[3, 0], [1, 1]])
    assert torch.equal(sequence.take(states, columns), torch.stack([states[0, [3, 0]], states[1, [1, 1]]]))
    assert torch.equal(sequence.take(states[:1], columns), torch.stack([states[0, [3, 0]], states[0, [1, 1]]]))
    assert torch.equal(sequence.take(states[:1], columns[:1]), states[:1, [3, 0]])


def test_padding_of_a_prompt_is_read_from_any_mask():
    plain = torch.tensor([[0, 1, 1], [1, 1, 1]])
    wanted = plain.bool().tolist()
    for mask in (plain, plain.bool(), plain.float(), plain.half(), {"full_attention": plain}):
        assert sequence.real_columns(mask, 3).tolist() == wanted
    later = torch.ones(3, 5).triu(1) + (torch.nn.functional.pad(plain, (0, 2)) == 0)[:, None, None]
    seen = -1e9 * later
    assert sequence.real_columns(seen, 3).tolist() == wanted
    assert sequence.real_columns(seen == 0, 3).tolist() == wanted
    for mask in (None, torch.ones(2, 3).long(), torch.ones(2, 3), {"full_attention": None}, {}):
        assert sequence.real_columns(mask, 3) is None
    for right in ([[1, 1, 0]], [[1, 0, 1]], [[1, 1, 1], [0, 1, 0]], [[1, 1, 1], [0, 0, 0]]):
        with pytest.raises(limits.Unsupported, match="padding must be on the left"):
            sequence.real_columns(torch.tensor(right), 3)


def test_rows_that_a_cut_asks_for():
    shown, segment = prompt(random.Random(3), 3)
    segment.images.append([])
    segment.text.append(torch.tensor([14, 15]))
    found = {rows: sequence.query_rows(Cut(2, 1, rows=rows), segment) for rows in ("all", "text", "visual")}
    for number, marks in enumerate(shown):
        last = len(marks) - 1 - marks[::-1].index(0)
        assert found["all"][number].tolist() == list(range(16))
        assert found["text"][number].tolist() == [i for i, m in enumerate(marks) if m == "t" and i > last]
        assert found["visual"][number].tolist() == [i for i, m in enumerate(marks) if m in (0, 1)]
    assert found["all"][3].tolist() == list(range(16))
    assert len(found["text"][3]) == len(found["visual"][3]) == 0


def test_a_cache_keeps_some_columns():
    keys, values = torch.arange(48.0).view(2, 2, 6, 2), -torch.arange(48.0).view(2, 2, 6, 2)
    columns = torch.tensor([[5, 0], [1, 2]])
    wanted = [torch.stack([part[0][:, [5, 0]], part[1][:, [1, 2]]]) for part in (keys, values)]
    grows = SimpleNamespace(keys=keys.clone(), values=values.clone())
    sequence.shrink(SimpleNamespace(layers=[None, grows]), 1, columns)
    assert torch.equal(grows.keys, wanted[0])
    assert torch.equal(grows.values, wanted[1])
    fixed = SimpleNamespace(
        keys=keys.clone(), values=values.clone(), max_cache_len=6, cumulative_length=torch.tensor(6)
    )
    held = fixed.keys
    sequence.shrink(SimpleNamespace(layers=[fixed]), 0, columns)
    assert fixed.keys is held
    assert torch.equal(fixed.keys[:, :, :2], wanted[0])
    assert torch.equal(fixed.keys[:, :, 2:], keys[:, :, 2:])
    assert torch.equal(fixed.values[:, :, :2], wanted[1])
    assert int(fixed.cumulative_length) == 2
    sequence.shrink(None, 0, columns)
