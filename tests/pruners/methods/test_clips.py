"""EVS and VidCom2 on clips of every family that has them in one piece, against their rules written out on lists."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import cosine_similarity

import pruners
from debias import Span
from pruners.methods.vidcom2 import unlike
from pruners.models import Request, families, family

SERVED = [name for name in families() if pruners.find("evs").serves(family(name))]


def film(builders, frames=8):
    """Frames of which some repeat the one before."""
    return [builders.picture(70, 90, seed=number // 3) for number in range(frames)]


def embedded(adapter, encoded):
    """[V, D] the tokens of the only clip of a batch of one, and its span."""
    seen = []
    handle = adapter.decoder.layers[0].register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    adapter.model(**encoded.inputs)
    handle.remove()
    inputs = {name: encoded.inputs[name] for name in ("input_ids", *adapter.media) if name in encoded.inputs}
    if "video_grid_thw" in encoded.inputs:
        inputs["video_grid_thw"] = encoded.inputs["video_grid_thw"]
    ((span,),) = adapter.spans(inputs)
    return seen[0][0, span.start : span.start + span.total], span


def evs(states, frames, count):
    size = len(states) // frames
    if count <= size:
        return [(2 * i + 1) * size // (2 * count) for i in range(count)]
    changed = {i: 1 - cosine_similarity(states[i], states[i - size], dim=0).item() for i in range(size, frames * size)}
    rest = sorted(changed, key=lambda i: (-changed[i], i)) + list(range(frames * size, len(states)))
    return sorted([*range(size), *rest[: count - size]])


def vidcom2(states, frames, count, temperature=0.01):
    size = len(states) // frames
    groups = [range(t * size, t * size + size) for t in range(frames)]
    clip = {i: -cosine_similarity(states[i], states[: frames * size].mean(0), dim=0).item() for g in groups for i in g}
    own = {i: -cosine_similarity(states[i], states[list(g)].mean(0), dim=0).item() for g in groups for i in g}
    mean = [sum(clip[i] for i in g) / size for g in groups]
    powers = [math.exp((u - max(mean)) / temperature) for u in mean]
    share = [count / frames * (1 + power / sum(powers) - 1 / frames) for power in powers]
    seats = [int(part) for part in share]
    for t in sorted(range(frames), key=lambda t: -share[t])[: count - sum(seats)]:
        seats[t] += 1
    order = [sorted(g, key=lambda i: (-clip[i] - own[i], i)) for g in groups]
    kept = [i for best, number in zip(order, seats, strict=True) for i in best[:number]]
    rest = sorted(set(clip) - set(kept), key=lambda i: (-clip[i] - own[i], i))
    return sorted((kept + rest + list(range(frames * size, len(states))))[:count])


def test_the_families_that_have_clips_in_one_piece():
    assert SERVED == ["llava_onevision", "qwen2_5_vl", "qwen2_vl", "video_llava"]
    assert pruners.make("vidcom2").arms() == ("none", "padding")


@pytest.mark.parametrize("name", SERVED)
def test_kept_sets_match_the_rules_written_out(name, get, builders):
    adapter = get(name)
    encoded = adapter.encode([Request("What happens?", video=film(builders))])
    states, span = embedded(adapter, encoded)
    assert span.frames > 2
    for rule in (evs, vidcom2):
        for keep in (3, len(states) // 3, len(states) * 4 // 5, len(states) - 1):
            with pruners.make(rule.__name__, keep=keep)(adapter) as trace:
                adapter.model(**encoded.inputs)
            assert trace.kept[0][0].tolist() == rule(states, span.frames, keep), (rule, keep)


@pytest.mark.parametrize("method", ["evs", "vidcom2"])
def test_clips_and_pictures_of_one_batch_are_their_singles(method, get, builders):
    for name in ("video_llava", "qwen2_5_vl"):
        adapter, pruner, singles = get(name), pruners.make(method, keep=0.4), []
        asked = [Request("What happens?", video=film(builders)), Request("What is it?", [builders.picture(90, 50)])]
        with pruner(adapter) as trace:
            logits = adapter.model(**adapter.encode(asked).inputs).logits[:, -1]
        together = [kept.tolist() for kept in trace.kept[0]]
        for row, request in enumerate(asked):
            with pruner(adapter) as trace:
                alone = adapter.model(**adapter.encode([request]).inputs).logits[0, -1]
            torch.testing.assert_close(alone, logits[row], rtol=0, atol=1e-3)
            singles += [kept.tolist() for kept in trace.kept[0]]
        assert together == singles


def test_padding_does_not_move_a_mean():
    states = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    counted = torch.ones(3, 4).index_fill(1, torch.tensor([1]), 0)
    moved = states.clone()
    moved[:, 1] = 100.0
    shown = counted.bool()
    for over in ((0, 1), (1,)):
        assert torch.equal(unlike(states, counted, over)[shown], unlike(moved, counted, over)[shown])


def test_the_mean_of_a_frame_is_that_of_what_shows_it():
    """The frame of one token is less unlike the clip than the other, and has no share of a budget of one."""
    hidden = torch.tensor([[1.0, 0.0], [0.0, 9.0], [0.0, 9.0], [1.0, 1.0], [1.0, -1.0], [1.0, 0.0]])
    view = SimpleNamespace(
        span=Span(0, (1, 3), frames=2), hidden=hidden, tokens=range(6), valid=hidden[:, 1] < 9, count=1
    )
    assert pruners.make("vidcom2").select(torch.tensor([9.0, 0.0, 0.0, 1.0, 2.0, 3.0]), view).tolist() == [5]


@pytest.mark.parametrize(("name", "why"), [("llava", "pictures, not clips"), ("qwen3_vl", "words between frames")])
def test_families_without_clips_in_one_piece_are_refused_by_name(name, why, get):
    with pytest.raises(ValueError, match=f"VidCom2 shares a budget .* {name} .*{why}"):
        pruners.make("vidcom2")(get(name)).__enter__()


def test_a_temperature_must_be_above_zero():
    with pytest.raises(ValueError, match="temperature=0"):
        pruners.make("vidcom2", temperature=0)


def test_families_without_clips_in_one_piece_are_refused(get):
    start = "EVS shares a budget among the frames of a clip; models of type"
    for name, why in (("llava", "llava take pictures, not clips"), ("internvl", "internvl have words between frames")):
        with pytest.raises(ValueError, match=f"^{start} {why}$"):
            pruners.make("evs").check(get(name))
