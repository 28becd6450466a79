"""What a method itself costs inside a pruned prefill, part by part (`python -m eval speed --parts`).

start   what a method does before the first layer        score   the attention rows that it asks for, and its arithmetic
debias  trend and padding                                select  which tokens stay
merge   tokens that change or are added (a second order of tokens, where a method debiases one, counts here as well)

Over several numbers of visual tokens, `growth` is the exponent of each part: 1 is linear.
"""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from debias import Debias
from eval.core.tables import Cell, Table
from eval.speed.drawn import Laid, prompt
from eval.speed.measure import FULL, SIZE, Stopwatch, Variant, conditions, in_turn
from eval.speed.settings import SpeedSettings
from pruners import Pruner

PARTS = ("start", "score", "debias", "select", "merge")


class PartTimes:
    """Milliseconds by part; on a GPU of the device, which nobody waits for meanwhile."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.clocks = device, {part: [] for part in PARTS}  # type: ignore[var-annotated]

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What the block takes counts for the part."""
        clock = Stopwatch(self.device)
        self.clocks[name].append(clock)
        clock.mark()
        yield
        clock.mark()

    @property
    def ms(self) -> dict[str, float]:
        """The sum of every part."""
        return {name: sum(clock.milliseconds()[0] for clock in clocks) for name, clocks in self.clocks.items()}


def metered(pruner: Pruner, meter: PartTimes) -> Pruner:
    """The same method, its own parts timed. A part that it leaves to the base class does not count."""
    kind = type(pruner)

    def timed(name: str) -> Callable[..., Any]:
        method = getattr(kind, name)

        def part(self: Any, *args: Any) -> Any:
            with meter.part("merge" if name == "vision_merge" else name):
                return method(self, *args)

        return part

    own = [
        name for name in ("start", "score", "merge", "vision_merge") if getattr(kind, name) is not getattr(Pruner, name)
    ]
    changed = copy.copy(pruner)
    object.__setattr__(
        changed, "__class__", type(kind.__name__, (kind,), {name: timed(name) for name in [*own, "select"]})
    )
    return changed


@dataclass(frozen=True)
class MeteredDebias(Debias):
    """A debias that is timed. Its meter is a field, so that a copy without a trend has one, too."""

    meter: PartTimes = field(kw_only=True)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self.meter.part("debias"):
            return super().__call__(*args, **kwargs)


@torch.inference_mode()
def measure(family: Laid, wanted: Sequence[Variant], batch: int, asked: SpeedSettings) -> list[dict[str, Any]]:
    """Every pruned variant in turn, round after round; the first round warms up."""
    inputs, rows = prompt(family, batch), []
    pruned = [variant for variant in wanted if variant.method is not None]
    for variant, taken in in_turn(lambda variant: once(family, variant, inputs, batch), pruned, asked.rounds).items():
        ms = {part: statistics.median(times[part] for times in taken) for part in ("prefill", *PARTS)}
        percent = {part: 100 * ms[part] / ms["prefill"] for part in PARTS}
        name = {"variant": variant.label, "attention": variant.kernel, "batch": batch, "tokens": family.tokens}
        rows.append({**name, "prefill_ms": ms.pop("prefill"), "parts_ms": ms, "percent": percent})
    return rows


def once(family: Laid, variant: Variant, inputs: dict[str, Any], batch: int) -> dict[str, float]:
    """Milliseconds of one prefill, and of its parts."""
    device = family.model.device
    meter, whole = PartTimes(device), Stopwatch(device)
    arm = FULL.with_arm(variant.arm)
    debias = MeteredDebias(arm.trend, arm.padding, meter=meter)
    family.model.set_attn_implementation(variant.kernel)
    with metered(variant.pruner(family.tokens), meter)(family, debias, sizes=[SIZE] * batch):
        whole.mark()
        family.model(**inputs, use_cache=True, logits_to_keep=1)
        whole.mark()
    return {"prefill": whole.milliseconds()[0], **meter.ms}


def growth(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """By variant and batch, the exponent of each part between the fewest and the most visual tokens."""
    by_variant: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["tokens"]):
        by_variant.setdefault((row["variant"], row["attention"], row["batch"]), []).append(row)
    out = []
    for (variant, kernel, batch), mine in by_variant.items():
        if wide := math.log(mine[-1]["tokens"] / mine[0]["tokens"]):
            low, high = ({"prefill": row["prefill_ms"], **row["parts_ms"]} for row in (mine[0], mine[-1]))
            exponents = {
                part: math.log(high[part] / low[part]) / wide if low[part] and high[part] else None for part in low
            }
            out.append({"variant": variant, "attention": kernel, "batch": batch, "exponents": exponents})
    return out


def table(result: dict[str, Any]) -> Table:
    """The parts of every variant, and how they grow."""
    rows: list[list[Cell]] = []
    for row in result["rows"]:
        parts = [(row["parts_ms"][part], row["percent"][part]) for part in PARTS]
        shown = (f"{ms:.3f} ({percent:.3f} %)" if ms else None for ms, percent in parts)
        rows.append([row["variant"], row["attention"], row["batch"], row["tokens"], row["prefill_ms"], *shown])
    for row in growth(result["rows"]):
        rows.append([row["variant"], row["attention"], row["batch"], "growth", *row["exponents"].values()])
    head = ["variant", "kernel", "batch", "tokens", "prefill ms", *(f"{part} ms" for part in PARTS)]
    notes = [
        f"{conditions(result)}; medians of {result['rounds']} rounds in turn; in brackets, of the pruned prefill",
        "growth: exponent between the fewest and the most visual tokens; 1 is linear",
    ]
    return Table(f"{result['shape']}: what a method itself costs", head, rows, notes)
