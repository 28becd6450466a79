"""No Python loop over tokens: four times as many visual tokens are pruned with about as many tensor operations."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import pruners
from debias import Debias, Padding, Trend
from pruners.models import Request

MORE = {  # operations that 432 tokens more may need
    "d2pruner": 60,  # an independent set may take a few rounds more, of about ten operations
    "deeplayer": 60,
    "cdpruner": 1940,  # each of 129 tokens more is chosen after the one before it, in fifteen operations
    "divprune": 390,  # likewise, in three
    "vispruner": 300,  # whose authors drop a dozen tokens a round; 289 under torch 2.8
}


class Counter(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def operations(builders, method, size, family="llava"):
    """Of one prefill and one step; the picture has (size / 14)**2 tokens."""
    adapter = builders.adapter(family, layers=8, image_size=size)
    encoded = adapter.encode([Request("What is it?", [builders.picture(90, 50)])])
    debias = Debias(Trend.exponential(0.01), Padding())
    with method(adapter, debias, encoded.sizes), Counter() as counter:
        adapter.model.generate(**encoded.inputs, max_new_tokens=2, min_new_tokens=2, do_sample=False)
    return counter.count


@pytest.mark.parametrize("name", pruners.names())
def test_operations_do_not_grow_with_tokens(builders, make, home, name):
    few, many = (operations(builders, make(name), size, home(name)) for size in (168, 336))  # 144 and 576 tokens
    assert abs(many - few) <= MORE.get(name, 5)


def test_a_loop_over_tokens_would_be_seen(builders, make, monkeypatch):
    def score(self, view):
        return torch.stack([view.attention[:, 0, token].mean() for token in range(len(view.tokens))])

    monkeypatch.setattr(type(pruners.make("fastv")), "score", score)
    few, many = (operations(builders, make("fastv"), size) for size in (168, 336))
    assert many - few > 576 - 144
