"""What methods see of the vision tower is what the model made of it, in every family."""

import importlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from spying import look

import pruners
from debias import Debias, Padding
from pruners.engine import seen
from pruners.engine.choose import dealt, shares
from pruners.models import Request, families, family
from pruners.parts.patches import Patches

OPEN = [name for name in families() if family(name).opens != "nothing"]
PACKED = [name for name in OPEN if hasattr(family(name), "merge")]
CLIPS = [name for name in OPEN if family(name).takes_clips()]


def pictures(builders, name):
    asked = [
        Request("Is <image> like <image>?", [builders.picture(130, 50, 1), builders.picture(100, 150, 2)]),
        Request("What is this?", [builders.picture(40, 70)]),
    ]
    if name in CLIPS:
        asked.insert(1, Request("What happens?", video=[builders.picture(70, 90, seed) for seed in range(5)]))
    return asked


@pytest.mark.parametrize("name", OPEN)
def test_projected_features_are_the_models_tokens(name, adapters, builders):
    """Order, tiles, windows and frames, also where pictures and clips come together."""
    one = adapters(name)
    found = look(one, one.encode(pictures(builders, name)))
    assert len(found) >= 3
    for view, patches in found:
        if getattr(one, "blends", lambda span: False)(view.span):
            continue  # blended behind the projector: tests/pruners/models/test_llava_onevision.py
        shown = torch.ones(len(view.span)).bool() if patches.view is None else patches.view >= 0
        torch.testing.assert_close(view.project(patches.features)[shown], view.hidden[shown], rtol=1e-4, atol=1e-4)
        assert patches.attention.shape[1] == patches.keys.shape[1] == view.span.total
        assert bool((patches.attention[:, shown] > 0).all())


@pytest.mark.parametrize("name", PACKED)
def test_attention_is_what_each_patch_receives_in_the_tower(name, adapters, builders, monkeypatch):
    """The mean over a frame's queries, heads apart, and over a token's patches, of the weights that the model's own
    attention makes. Windows are undone by the grid of rotary positions, not by the adapter's rule."""
    one = builders.adapter(name, attention="eager")
    module = importlib.import_module(type(one.model).__module__)
    eager, weights = module.eager_attention_forward, []

    def noting(*args, **kwargs):
        out = eager(*args, **kwargs)
        weights.append(out[1])
        return out

    picture = builders.picture(170, 230)
    encoded = one.encode([Request("?", [picture])])
    ((_, patches),) = look(one, encoded)
    monkeypatch.setattr(module, "eager_attention_forward", noting)
    tower, grid = one.inner.visual, encoded.inputs["image_grid_thw"]
    counted = {}

    def note(attn, args, kwargs):
        counted[attn] = len(weights), kwargs["position_embeddings"]

    handles = [block.attn.register_forward_pre_hook(note, with_kwargs=True) for block in tower.blocks]
    with torch.no_grad():
        tower(encoded.inputs["pixel_values"], grid_thw=grid)
    for handle in handles:
        handle.remove()
    first, tables = counted[tower.blocks[one.tower.looked_at].attn]
    whole = weights[first][0].mean(1)  # [h, patches] in the tower's order
    assert whole.shape[1] == int(grid.prod()) > 16
    _, height, width = grid[0].tolist()
    row = torch.arange(height).view(height // 2, 2, 1, 1).expand(-1, -1, width // 2, 2)
    column = torch.arange(width).view(1, 1, width // 2, 2).expand(height // 2, 2, -1, -1)
    position = torch.stack([row, column], -1).permute(0, 2, 1, 3, 4).reshape(-1, 2)
    own = torch.cat([part.float() for part in one.inner.visual.rotary_pos_emb(tables[0], position)], -1)
    there = torch.cat([part.float() for part in tables], -1)
    order = (own[:, None] - there[None]).abs().sum(-1).argmin(1)
    assert sorted(order.tolist()) == list(range(len(order)))
    expected = whole[:, order].view(len(whole), -1, 4).mean(2)
    torch.testing.assert_close(patches.attention, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "norm"), [("idefics3", True), ("internvl", True), ("internvl", False)])
def test_what_a_token_knows_is_that_of_its_patches(name, norm, builders):
    """Attention and keys are means over a square of patches; features are the model's own, side by side."""
    one = builders.adapter(name)
    fold, side = 2, one.side
    if name == "internvl":
        fold, one.model.config.downsample_ratio = 4, 0.25
        one.model.config.image_seq_length, side = 4, 2
        one.model.config.vision_feature_layer = -1 if norm else -2
    normed = torch.nn.LayerNorm(32)
    torch.nn.init.normal_(normed.weight)
    setattr(one.tower.module, "post_layernorm" if name == "idefics3" else "layernorm", normed)
    count = (side * fold) ** 2
    patches = Patches(torch.rand(3, count), torch.rand(count, 32), torch.rand(3, count, 2), torch.rand(32))
    found = one.joined(patches)
    at = torch.arange(count).view(side, fold, side, fold).permute(0, 2, 1, 3).reshape(side**2, -1)
    torch.testing.assert_close(found.attention, patches.attention[:, at].mean(-1))
    torch.testing.assert_close(found.keys, patches.keys[:, at].mean(2))
    features = normed(patches.features) if norm else patches.features
    assert found.features.shape == (side**2, 32 * fold**2)
    torch.testing.assert_close(found.features.sort(1).values, features[at].flatten(1).sort(1).values)
    assert found.cls is None


def test_all_weights_need_not_be_held_at_once(monkeypatch):
    query, key = torch.randn(3, 50, 4), torch.randn(3, 50, 4)
    whole = seen.received(query, key, 0.5)
    torch.testing.assert_close(whole, (query @ key.transpose(1, 2) * 0.5).softmax(-1).mean(1))
    monkeypatch.setattr(seen, "ROOM", 1000)
    torch.testing.assert_close(seen.received(query, key, 0.5), whole)


@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize("method", ["vispruner", "visionzip"])
def test_pictures_and_clips_of_one_batch_are_their_singles(name, method, adapters, builders):
    one, asked = adapters(name), pictures(builders, name)
    pruner, singles = pruners.make(method, keep=0.4), []
    encoded = one.encode(asked)
    with torch.no_grad(), pruner(one, sizes=encoded.sizes) as trace:
        logits = one.model(**encoded.inputs).logits[:, -1]
    together = [index.tolist() for index in trace.kept[0]]
    for row, request in enumerate(asked):
        alone = one.encode([request])
        with torch.no_grad(), pruner(one, sizes=alone.sizes) as trace:
            torch.testing.assert_close(one.model(**alone.inputs).logits[0, -1], logits[row], rtol=0, atol=1e-3)
        singles += [index.tolist() for index in trace.kept[0]]
    assert together == singles


@pytest.mark.parametrize("name", OPEN)
@pytest.mark.parametrize("method", ["vispruner", "visionzip"])
def test_every_view_has_its_share_and_the_budget_is_exact(name, method, adapters, builders):
    one = adapters(name)
    encoded = one.encode([Request("?", [builders.picture(300, 100)])])
    ((_, patches),) = look(one, encoded)
    total = patches.attention.shape[1]
    for keep in (1, 7, total // 2, total - 1):
        with torch.no_grad(), pruners.make(method, keep=keep)(one, sizes=encoded.sizes) as trace:
            one.model(**encoded.inputs)
        assert trace.counts[0]["after"] == [keep]
        if patches.view is None:
            continue
        held = patches.view[trace.kept[0][0]]
        sizes = [int((patches.view == number).sum()) for number in range(int(patches.view.max()) + 1)]
        given = dealt(keep, sizes)
        cls = int(patches.cls is not None and method == "visionzip")  # a view's CLS token is one of its tokens
        expected = [share - cls * (0 < share < size) for share, size in zip(given, sizes, strict=True)]
        assert [int((held == number).sum()) for number in range(len(sizes))] == expected


@given(count=st.integers(0, 60), sizes=st.lists(st.integers(0, 20), min_size=1, max_size=6))
def test_shares_are_exact_and_as_even_as_can_be(count, sizes):
    given = dealt(count, sizes)
    assert sum(given) == min(count, sum(sizes))
    assert all(0 <= share <= size for share, size in zip(given, sizes, strict=True))
    free = [share for share, size in zip(given, sizes, strict=True) if share < size]
    assert not free or max(given) <= min(free) + 1


def test_padding_takes_no_share_from_what_shows_the_picture(builders):
    """On a single canvas the border stays; a tile that is all border has nothing to keep."""
    one = builders.adapter("llava_next", image_grid_pinpoints=[[168, 168]])
    encoded = one.encode([Request("?", [builders.picture(300, 60)])])
    (span,) = one.spans(encoded.inputs, encoded.sizes)[0]
    valid = Padding().valid(span)
    assert not valid.all()
    for method in ("vispruner", "visionzip"):
        for keep in (20, int(valid.sum()) - int(span.special.sum()), 0.9):
            pruner = pruners.make(method, keep=keep)
            with torch.no_grad(), pruner(one, Debias(padding=Padding()), encoded.sizes) as trace:
                one.model(**encoded.inputs)
            kept = trace.kept[0][0]
            left_out = torch.ones(span.total).bool().index_fill(0, kept, False) & ~span.special
            spare = 5 if method == "visionzip" else 0  # each view's CLS token has a place of its own
            assert valid[kept].all() or int((left_out & valid).sum()) <= spare


def test_shares_ask_for_padding_only_where_it_is_silenced(adapters, builders):
    one = adapters("internvl")
    ((view, patches),) = look(one, one.encode([Request("?", [builders.picture(300, 100)])]))
    view.count = 9
    assert view.valid_on_host is None
    assert shares(view, list(patches.views())) == [3, 2, 2, 2]


@pytest.mark.parametrize("name", [name for name in families() if family(name).opens != "tokens"])
def test_pruning_inside_the_tower_is_refused_where_patches_are_no_tokens(name, adapters):
    with pytest.raises(ValueError, match="vision tower"), pruners.make("illava", keep=0.5)(adapters(name).model):
        pass
