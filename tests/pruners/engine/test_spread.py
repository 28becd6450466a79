"""Models that are spread over devices: offloaded to the disk by accelerate, or split by heads over processes."""

from types import SimpleNamespace

import pytest
import torch

import pruners
from debias import Debias, Padding, Span, Trend
from pruners.engine.attention import all_heads
from pruners.engine.prefix import Prefix
from pruners.engine.sequence import Segment
from pruners.models.base import home
from pruners.view import Tokens

FULL = Debias(Trend.exponential(0.02), Padding())
METHODS = {  # one of each kind: looks before and at the cut, merges, cuts caches, sees or prunes the tower, looks back
    "fastv": {"layer": 2},
    "pyramiddrop": {"layers": (1, 2, 3)},
    "sparsevlm": {},
    "tokencarve": {},
    "vispruner": {},
    "illava": {},
    "deeplayer": {"layer": 3, "scores": "ratio"},
}


@pytest.fixture(scope="module")
def two(builders, tmp_path_factory):
    """A model in memory, and the same one with half of its layers on the disk."""
    path = str(builders.checkpoint("llava", tmp_path_factory.mktemp("llava"), layers=4))
    language = "model.language_model"
    places = {
        "model.vision_tower": "disk", "model.multi_modal_projector": "cpu", f"{language}.embed_tokens": "disk",
        f"{language}.layers.0": "cpu", f"{language}.layers.1": "disk", f"{language}.layers.2": "disk",
        f"{language}.layers.3": "cpu", f"{language}.norm": "cpu", f"{language}.rotary_emb": "cpu", "lm_head": "disk",
    }  # fmt: skip
    family = pruners.models.adapter(path)
    return family.load(path, torch.float32), family.load(path, torch.float32, device=places)


def answers(adapter, pruner, requests, run, prefix=None):
    encoded = adapter.encode(requests)
    with pruner(adapter, FULL, encoded.sizes, prefix=prefix) as trace:
        out = run(adapter, encoded)
    return [*out.logits, *(kept for stage in trace.kept for kept in stage)]


@pytest.mark.parametrize("name", METHODS)
def test_a_model_on_the_disk_answers_as_one_in_memory(name, two, requests, run):
    plain, spread = two
    assert spread.model.model.language_model.layers[1].self_attn.q_proj.weight.device.type == "meta"
    assert spread.device.type == "cpu"
    pruner, prefix = pruners.make(name, keep=0.3, **METHODS[name]), Prefix()
    expected = answers(plain, pruner, requests[:2], run)
    shares = name not in ("vispruner", "illava")
    for _ in range(2):
        found = answers(spread, pruner, requests[:2], run, prefix if shares else None)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert bool(prefix.reused) == shares
    layer = spread.decoder.layers[0]
    assert vars(layer)["forward"].__name__ != "_layer"  # accelerate's own is back


def test_home_is_where_accelerate_runs_a_module():
    def hooked(place):
        return SimpleNamespace(_hf_hook=SimpleNamespace(execution_device=place))

    here = torch.device("cpu")
    assert home(SimpleNamespace(), here) == here
    assert home(hooked(None), here) == here
    assert home(hooked("meta"), here) == torch.device("meta")
    assert home(hooked(1), here) == torch.device("cuda", 1)


def test_a_segment_moves_with_all_it_holds():
    slots = torch.arange(4)
    tokens = Tokens(0, 0, Span(0, (2, 2)), slots, slots > 0, 0, 1, True, slots < 3, memo=slots)
    segment = Segment(0, 5, [[tokens]], [torch.tensor([4])], torch.ones(1, 5) > 0, torch.arange(5)[None])
    segment.rotary, segment.mask = (slots, slots), (slots,)  # of this forward pass there, and made anew
    assert segment.on(torch.device("cpu")) is segment
    moved = segment.on(torch.device("meta"))
    assert moved.rotary is moved.mask is None
    there = moved.images[0][0]
    held = [there.slots, there.own, there.whole, there.memo, *moved.text, moved.valid, moved.columns]
    assert {tensor.device.type for tensor in held} == {"meta"}
    assert segment.images[0][0].slots.device.type == "cpu"


def test_heads_of_a_model_that_is_not_split_are_its_own():
    heads = torch.ones(2, 3)
    assert all_heads(heads, SimpleNamespace()) is heads
    assert all_heads(heads, SimpleNamespace(_device_mesh=None, _tp_size=2)) is heads
