"""Where tensors lie: nothing waits for a device, and what is worked out once per layout is worked out on the CPU."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from debias import Debias, Padding, Span, Trend, rescore, using
from debias.context import shifted
from debias.core import _bits_of_minus_infinity, layout, slots_step, slots_valid, slots_weight
from debias.padding import square
from debias.shape import weights

WIDE = Span(35, (24, 24), size=(640, 360))  # 336 of 576 patches show the picture
TREND = Trend.exponential(0.004)


def scores(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


CACHED = (slots_valid, slots_weight, slots_step, weights, square, _bits_of_minus_infinity)


@pytest.mark.parametrize("rule", ["area", "even", "bilinear", "antialiased", "cropped"])
@pytest.mark.parametrize(
    "trend",
    [TREND, Trend.inverse_cubic(1e-3, 0, 0), Trend.table(torch.arange(576.0)), Trend.rope(), Trend.online()],
    ids=lambda trend: trend.kind,
)
def test_a_default_device_changes_nothing(trend, rule):
    """What is worked out once per layout is worked out on the CPU, also where tensors are made elsewhere by default."""
    debias, score, index = Debias(trend, Padding(rule=rule)), scores(576), torch.tensor([1, 300, -1])
    spans = [
        WIDE,
        WIDE.at(index),
        Span(0, (24, 24), size=(640, 360), special=torch.arange(600) % 25 == 24, length=600),
        Span(0, (24, 24), fraction=torch.linspace(0, 1, 576)),
    ]
    if trend.length:
        del spans[2]
    for place in ("meta", "cpu"):
        for cached in CACHED:
            cached.cache_clear()
        with torch.device(place):
            found = [debias(score.new_ones(len(span)).cumsum(0), span) for span in spans]
        if place == "meta":
            first = found
    for cached in CACHED:
        cached.cache_clear()
    assert all(map(torch.equal, first, found))


@pytest.mark.parametrize("span", [Span(0, (2, 2)), Span(0, (2, 2), size=(4, 2), special=torch.arange(5) == 4)])
def test_masks_are_made_on_the_cpu(span):
    with torch.device("meta"):
        mask = Padding().valid(span)
    assert (mask.device.type, mask.dtype) == ("cpu", torch.bool)


class Stalls(TorchDispatchMode):
    """Refuses every operation that would make the host wait for the device or read from it."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func)
        if any(word in name for word in ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "unique")):
            raise AssertionError(f"{name} stalls the device")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("trend", [TREND, Trend.online(), None])
def test_nothing_waits_for_the_device(trend):
    """On a device that has no values at all nothing can be read back, neither for a known layout nor for a new one."""
    debias = Debias(trend, Padding())
    special = torch.zeros(576, dtype=torch.bool)
    for span in (
        WIDE,
        Span(0, (24, 24), size=(640, 333)),
        Span(0, (24, 24), fraction=torch.rand(576), special=special),
    ):
        for role in ("select", "weigh"):
            score = torch.empty(2, 576, dtype=torch.float16, device="meta")
            assert debias(score, span, role=role).device.type == "meta"
            left = torch.empty(128, dtype=torch.long, device="meta")
            assert debias(score[:, :128], span.at(left), role=role).shape == (2, 128)
        debias(scores(576), span)
        with Stalls():
            debias(scores(576), span)
    meta = torch.empty(3, dtype=torch.long, device="meta")
    assert debias.merge_weights(meta.float(), meta, WIDE).device.type == "meta"


def test_what_generation_cached_serves_training():
    """Weights first made in inference mode can be saved for a backward pass later."""
    debias = Debias(Trend.exponential(0.00123), Padding())
    span = Span(0, (24, 24), size=(640, 301))
    with torch.inference_mode():
        debias(scores(576), span)
    score = scores(576).requires_grad_()
    debias(score, span).sum().backward()
    valid = Padding().valid(span)
    assert (score.grad[~valid] == 0).all()
    torch.testing.assert_close(score.grad[valid], (-0.00123 * torch.arange(576)).exp()[valid])


def test_what_is_kept_is_made_outside_of_inference_mode():
    meta = torch.device("meta")
    with torch.inference_mode():
        kept = [
            weights(TREND, 5, 1),
            slots_weight(TREND, 5, 1, meta),
            slots_step(5, torch.float32, meta),
            slots_valid(Padding(), *layout(WIDE), meta),
            shifted(2, 5, 5, meta),
        ]
    assert [tensor.is_inference() for tensor in kept] == [False] * 5


def test_where_generation_found_a_misplaced_image_serves_training():
    with using(Debias(Trend.exponential(0.00124)), [WIDE]):
        with torch.inference_mode():
            rescore(scores(576), method="fastv", image_start=37)
        score = scores(576).requires_grad_()
        rescore(score, method="fastv", image_start=37).sum().backward()
    torch.testing.assert_close(score.grad[:-2], (-0.00124 * torch.arange(2, 576)).exp())
