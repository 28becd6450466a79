"""What the engine makes of a run of the vision tower, on numbers. No model is loaded."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from debias import Span
from pruners.engine.seen import Seen, held, patches, received
from pruners.models.base import Adapter


class Towered(Adapter):
    """A family whose tower has some views of each picture, and where the tokens show what they are told to."""

    def __init__(self, count, shown, cls):
        self.count, self.shown, self.own = count, shown, cls

    @property
    def tower(self):
        return SimpleNamespace(cls=self.own, looked_at=2)

    def views(self, span):
        return self.count

    def looking(self, attn, asking, states, tables):
        return attn * asking[None], states[None], states[None] + 1

    def looking_scale(self, attn):
        return 0.1 * attn

    def shows(self, span):
        return torch.tensor(self.shown)


@pytest.mark.parametrize("cls", [True, False])
@pytest.mark.parametrize(("count", "shown"), [(1, [0, 1, 2]), (1, [0, 1, -1]), (1, [2, 1, 0]), (2, [0, 3, -1, 5])])
def test_tokens_are_known_by_the_patches_that_they_show(cls, count, shown):
    generator = torch.Generator().manual_seed(0)
    states, deep, features = (torch.randn(4, 3 + cls, 5, generator=generator) for _ in range(3))
    one = Towered(count, shown, cls)
    span = Span(0, (1, len(shown)))
    assert held(one, span) == count
    found = patches(one, lambda number: number, Seen(states, None, [(1, deep)], features), 1, span)

    def received(number, rows):
        asking = rows[:1] if cls else rows
        return (0.1 * number * number * asking @ rows.T).softmax(-1).mean(0)[cls:]

    mine = range(1, 1 + count)
    wanted = [
        (torch.cat([received(2, states[row]) for row in mine]), found.attention[0]),
        (torch.cat([received(1, deep[row]) for row in mine]), found.glances[0][0]),
        (torch.cat([features[row, cls:] for row in mine]), found.features),
        (torch.cat([states[row, cls:] + 1 for row in mine]), found.keys[0]),
    ]
    for every, ours in wanted:
        none = torch.zeros_like(every[0])
        torch.testing.assert_close(ours, torch.stack([every[at] if at >= 0 else none for at in shown]))
    if shown == [0, 1, 2]:
        assert found.view is None
        assert found.cls is None if not cls else torch.equal(found.cls, features[1, 0])
    else:
        assert found.view.tolist() == [at // 3 if at >= 0 else -1 for at in shown]
        assert found.cls is None if not cls else torch.equal(found.cls, features[list(mine), 0])


@pytest.mark.parametrize(("room", "at_once"), [(24, 3), (5, 1), (10**6, 125000)])
def test_no_more_weights_are_held_at_once_than_there_is_room_for(room, at_once, monkeypatch):
    """Of 2 heads and 4 keys, so many queries at a time."""
    generator, asked = torch.Generator().manual_seed(2), []
    query, key = (torch.randn(2, length, 5, generator=generator).half() for length in (7, 4))
    monkeypatch.setattr("pruners.engine.seen.ROOM", room)
    noting = SimpleNamespace(shape=query.shape, split=lambda *how: asked.append(how) or query.split(*how))
    found = received(noting, key, 0.3)
    assert asked == [(at_once, 1)]
    torch.testing.assert_close(found, (query.float() @ key.float().mT * 0.3).softmax(-1).mean(1))
    assert Seen(key, None, []).held == 2


class Packed(Towered):
    """The same, with all patches of a batch laid end to end, three to a view, in an order of the tower's own."""

    def packed(self, span):
        return 3

    def ordered(self, span, states):
        return states.flip(0)

    def looking(self, attn, asking, states, tables):
        query, key, plain = super().looking(attn, asking, states, tables)
        return (query, key, plain) if tables is None else (query * tables[0], key + tables[1], plain)


@pytest.mark.parametrize("turned", [True, False])
def test_packed_patches_are_taken_apart_into_views(turned):
    generator = torch.Generator().manual_seed(1)
    states, deep, features, cos, sin = (torch.randn(12, 5, generator=generator) for _ in range(5))
    one, span = Packed(2, [0, 1, 2, 3, 4, 5], False), Span(0, (2, 3))
    assert held(one, span) == 6
    tables = (cos, sin) if turned else None
    found = patches(one, lambda number: number, Seen(states, tables, [(1, deep)], features), 3, span)
    order = [5, 4, 3, 8, 7, 6]
    for number, part, ours in ((2, states, found.attention), (1, deep, found.glances[0])):
        wanted = []
        for rows in (order[:3], order[3:]):
            query, key = number * part[rows], part[rows]
            if turned:
                query, key = query * cos[rows], key + sin[rows]
            wanted.append((0.1 * number * query @ key.T).softmax(-1).mean(0))
        torch.testing.assert_close(ours[0], torch.cat(wanted))
    assert torch.equal(found.features, features[order])
    assert torch.equal(found.keys[0], states[order] + 1)
    assert found.view.tolist() == [0, 0, 0, 1, 1, 1]
