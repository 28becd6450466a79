"""How one variant of a model is timed: a prefill and a few decoding steps, their operations, their memory."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from debias import Debias, Padding, Trend
from eval.core.settings import UNPRUNED
from eval.speed.drawn import Laid, prompt
from pruners import make
from pruners.prior import Prior

SIZE = (640, 427)  # of the picture, before padding
FULL = Debias(Trend.exponential(0.003), Padding())
Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


@dataclass(frozen=True)
class Variant:
    """What is measured: a method with its budget in one arm, or the unpruned model (method None), under one kernel."""

    method: str | None = None
    keep: int | float = 0
    arm: str = "none"
    kernel: str = "sdpa"

    @property
    def label(self) -> str:
        """The variant in a few words, which also name it on the command line."""
        return UNPRUNED if self.method is None else f"{self.method} {self.keep} {self.arm}"

    def pruner(self, tokens: int) -> Any:
        """The method for a model of so many visual tokens."""
        assert self.method is not None
        if self.method != "d2pruner":
            return make(self.method, keep=self.keep)
        # Dividing by ones costs what dividing by a measured prior does.
        return make("d2pruner", keep=self.keep, prior=Prior((1.0,) * tokens, layer=1, model="random weights"))

    def around(self, family: Laid, batch: int) -> AbstractContextManager[Any]:
        """The block that a model runs in, under the variant's kernel and pruned by its method."""
        if family.model.config._attn_implementation != self.kernel:
            family.model.set_attn_implementation(self.kernel)
        if self.method is None:
            return nullcontext()
        return self.pruner(family.tokens)(family, FULL.with_arm(self.arm), sizes=[SIZE] * batch)  # type: ignore[no-any-return]


@dataclass
class Timed:
    """One variant at one batch size and number of visual tokens."""

    variant: Variant
    batch: int
    tokens: int
    mean_tokens: float
    flops: int
    prefill_ms: list[float] = field(default_factory=list)
    decode_ms: list[float] = field(default_factory=list)  # per token
    peak_bytes: int | None = None

    def summary(self, base: Timed, rate: float) -> dict[str, Any]:
        """Beside the unpruned model under the same kernel; `rate` is what the device reaches in matrix products."""
        prefill, decode = statistics.median(self.prefill_ms), statistics.median(self.decode_ms)
        speed_up, possible = statistics.median(base.prefill_ms) / prefill, base.flops / self.flops
        return {
            "variant": self.variant.label,
            "method": self.variant.method,
            "keep": self.variant.keep,
            "arm": self.variant.arm,
            "attention": self.variant.kernel,
            "batch": self.batch,
            "tokens": self.tokens,
            "mean_tokens": self.mean_tokens,
            "flops": self.flops,
            "prefill_ms": prefill,
            "prefill_range_ms": [min(self.prefill_ms), max(self.prefill_ms)],
            "prefill_spread": spread(self.prefill_ms),
            "speed_up": speed_up,
            "possible": possible,
            "reached": speed_up / possible,
            "tflops": self.flops / prefill / 1e9,
            "of_matrix_rate": self.flops / prefill * 1e3 / rate,
            "decode_ms": decode,
            "decode_spread": spread(self.decode_ms),
            "decode_speed_up": statistics.median(base.decode_ms) / decode,
            "peak_bytes": self.peak_bytes,
            "memory": None if None in (self.peak_bytes, base.peak_bytes) else self.peak_bytes / base.peak_bytes,  # type: ignore[operator]
        }


def fitting(family: Laid, wanted: Sequence[Variant]) -> tuple[list[Variant], dict[str, str]]:
    """The variants that this model and its number of tokens allow, and of the others why not."""
    chosen, left_out = [], {}
    for variant in wanted:
        try:
            mean_tokens(family, variant)
            if variant.method:
                variant.pruner(family.tokens).check(family)
            if variant.method and not family.whole and variant.pruner(family.tokens).needs_tower():
                raise ValueError("it works in the vision tower, which this number of visual tokens goes without")
            chosen.append(variant)
        except ValueError as error:
            left_out[f"{variant.method} {variant.keep}, {family.tokens} tokens"] = str(error)
    return chosen, left_out


def spread(values: Sequence[float]) -> float:
    """Half of the values lie within this share of the median: the interquartile range over the median."""
    if len(values) < 3:
        return (max(values) - min(values)) / statistics.median(values)
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / middle


@torch.inference_mode()
def measure(family: Laid, wanted: Sequence[Variant], batch: int, rounds: int, steps: int) -> list[Timed]:
    """Every variant in turn, round after round."""
    inputs, single, counted = prompt(family, batch), prompt(family, 1), {}
    for variant in wanted:
        key = (variant.method, variant.keep)
        if key not in counted:  # neither the arm nor the kernel changes what there is to compute
            counted[key] = flops_of(family, Variant(*key), single)
    timed = [
        Timed(
            variant, batch, family.tokens, mean_tokens(family, variant), batch * counted[variant.method, variant.keep]
        )
        for variant in wanted
    ]
    warm = int(rounds > 1)  # the first of several rounds warms up; before a single one, counting has to do
    taken = in_turn(lambda variant: once(family, variant, inputs, steps), wanted, rounds, warm)
    for row in timed:
        row.prefill_ms, row.decode_ms = map(list, zip(*taken[row.variant], strict=True))
    return timed


def once(family: Laid, variant: Variant, inputs: dict[str, Tensor], steps: int) -> tuple[float, float]:
    """Milliseconds of one prefill, and of one decoding step behind it."""
    from transformers import DynamicCache

    model, clock = family.model, Stopwatch(family.model.device)
    with variant.around(family, len(inputs["input_ids"])), torch.inference_mode():
        cache = DynamicCache(config=model.config.text_config)
        clock.mark()
        out = model(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
        clock.mark()
        token, mask = out.logits[:, -1:].argmax(-1), inputs["attention_mask"]
        for _ in range(steps):
            mask = torch.cat([mask, mask[:, :1]], 1)
            out = model(input_ids=token, attention_mask=mask, past_key_values=cache, use_cache=True)
            token = out.logits[:, -1:].argmax(-1)
        clock.mark()
    prefill, decode = clock.milliseconds()
    return prefill, decode / max(1, steps)


class Stopwatch:
    """Times between marks: events on a GPU, where nothing waits for the host, seconds elsewhere.

    With one thread on the CPU, seconds of computing: what other processes take away does not count.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.marks: list[Any] = []
        self.now = time.process_time if torch.get_num_threads() == 1 else time.perf_counter

    def mark(self) -> None:
        """A point in time, on the device where it is a GPU."""
        if self.device.type == "cuda":
            event: Any = torch.cuda.Event(enable_timing=True)
            event.record()
            self.marks.append(event)
        else:
            self.marks.append(self.now())

    def milliseconds(self) -> list[float]:
        """What lies between each mark and the next."""
        pairs = list(zip(self.marks, self.marks[1:], strict=False))
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            return [a.elapsed_time(b) for a, b in pairs]
        return [(b - a) * 1e3 for a, b in pairs]


def flops_of(family: Laid, variant: Variant, inputs: dict[str, Tensor]) -> int:
    """Floating-point operations of the prefill, as they are dispatched.

    Attention is counted as the plain matrix products that the counter knows, in one kernel on every device.
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        once(family, variant, inputs, 0)
    return int(counter.get_total_flops())


def mean_tokens(family: Laid, variant: Variant) -> float:
    """Visual tokens that a layer reads, the mean over all layers."""
    if variant.method is None:
        return float(family.tokens)
    return float(variant.pruner(family.tokens).mean_count(len(family.decoder.layers), family.tokens))


def machine(device: torch.device, dtype: torch.dtype | None = None) -> dict[str, Any]:
    """On what was measured: the device's name, threads, type of number, and torch's version."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        **({} if dtype is None else {"dtype": str(dtype).removeprefix("torch.")}),
        "torch": torch.__version__,
    }


def conditions(result: dict[str, Any]) -> str:
    """On what a result was measured, in words."""
    dtype = [result["dtype"]] if "dtype" in result else []
    return ", ".join([result["device"], f"{result['threads']} thread(s)", *dtype, f"torch {result['torch']}"])


def varying(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Of tokens, batch and attention, what is not the same in all rows of a result, so that its table shows it."""
    return [name for name in ("tokens", "batch", "attention") if len({row[name] for row in rows}) > 1]


def in_turn(work: Callable[[Key], Value], keys: Sequence[Key], rounds: int, warm: int = 1) -> dict[Key, list[Value]]:
    """What `work` gives for every key, interleaved to cancel drift; the first `warm` rounds do not count."""
    taken: dict[Key, list[Value]] = {key: [] for key in keys}
    for number in range(warm + rounds):
        for key in keys:
            value = work(key)
            if number >= warm:
                taken[key].append(value)
    return taken


def quickest(work: Callable[[], object], device: torch.device, times: int, rounds: int) -> float:
    """Seconds of one call: the best round, since everything else on a machine only ever adds."""
    best = float("inf")
    for _ in range(rounds):
        clock = Stopwatch(device)
        clock.mark()
        for _ in range(times):
            work()
        clock.mark()
        best = min(best, clock.milliseconds()[0] / times / 1e3)
    return best


@functools.cache
def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a large matrix product: what this device can do at best."""
    edge, times = (8192, 20) if device.type == "cuda" else (1024, 4)
    a, b = (torch.randn(edge, edge, device=device, dtype=dtype) for _ in range(2))
    return 2 * edge**3 / quickest(lambda: a @ b, device, times, 3)
