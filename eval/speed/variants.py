"""What `speed` measures: every variant of a model of one shape in turn, or what a flag names instead; and its table."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from typing import Any

import torch

from eval.core.tables import Table, say, show
from eval.speed import authors, calls, compiled, parts, precision, waits
from eval.speed.drawn import Laid, build, prompt
from eval.speed.measure import Timed, Variant, conditions, fitting, machine, matrix_rate, measure, once, varying
from eval.speed.settings import SpeedSettings
from eval.speed.shapes import SHAPES

Result = dict[str, Any]
Look = tuple[Callable[[SpeedSettings, torch.device], Result], Callable[[Result], Table]]  # measures, shows


def report(asked: SpeedSettings) -> Result:
    """What was asked for, measured and shown, as plain numbers."""
    if asked.threads:
        torch.set_num_threads(asked.threads)
    device = torch.device(asked.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if asked.builds:
        asked.check_memory(str(device))
    measured, drawn = look_of([name for name in LOOKS if getattr(asked, name)])
    result = measured(asked, device)
    if not asked.peak:
        show(drawn(result))
    return result


def look_of(names: Collection[str]) -> Look:
    """What is measured where these flags are given."""
    return next((look for name, look in LOOKS.items() if name in names), TIMES)


def of_variants(
    rows_of: Callable[[Laid, list[Variant], int, SpeedSettings], list[Result]],
    asked: SpeedSettings,
    device: torch.device,
) -> Result:
    """The rows of all variants, for every number of visual tokens and batch size."""
    shape, dtype = SHAPES[asked.shape], getattr(torch, asked.kind(device.type))
    rate, rows, left_out = matrix_rate(device, dtype), [], {}
    for tokens in asked.tokens or [shape.tokens]:
        say(f"speed: building {asked.shape} with {tokens} visual tokens, {dtype}, on {device}")
        family = build(shape, tokens, str(device), dtype, asked.attention[0], asked.shared_layers)
        family.ragged = asked.ragged
        wanted, without = fitting(family, list(variants(asked)))
        left_out.update(without)
        for batch in asked.batch_size:
            rows += rows_of(family, wanted, batch, asked)
        del family
    for label, why in left_out.items():
        say(f"speed: left out {label}: {why}")
    return {
        "shape": asked.shape,
        **machine(device, dtype),
        **{name: getattr(asked, name) for name in ("ragged", "shared_layers", "rounds", "decode")},
        "matrix_tflops": rate / 1e12,
        "rows": rows,
        "left_out": left_out,
    }


def timed(family: Laid, wanted: list[Variant], batch: int, asked: SpeedSettings) -> list[Result]:
    """Prefill, decoding and memory of every variant, beside those of the unpruned model under the same kernel."""
    device = family.model.device
    rows = measure(family, wanted, batch, asked.rounds, asked.decode)
    if (device.type == "cuda" or asked.memory) and not asked.shared_layers:
        peaks(family, rows, asked)
    base = {row.variant.kernel: row for row in rows if row.variant.method is None}
    return [row.summary(base[row.variant.kernel], matrix_rate(device, family.model.dtype)) for row in rows]


def variants(asked: SpeedSettings) -> Iterator[Variant]:
    """The unpruned model and every method, budget and arm, under each kernel."""
    for kernel in asked.attention:
        yield Variant(kernel=kernel)
        for method in asked.method:
            for keep in asked.keep:
                for arm in asked.arms:
                    yield Variant(method, keep, arm, kernel)


COLUMNS = {
    "mean_tokens": "a layer reads",
    "prefill_ms": "prefill ms",
    "prefill_spread": "±",
    "speed_up": "speed-up",
    "possible": "possible",
    "reached": "reached",
    "of_matrix_rate": "of matrix rate",
    "decode_ms": "ms/token",
    "decode_spread": "±",
}


def table(result: Result) -> Table:
    """Prefill, decoding and memory; what is the same in all rows stands above them."""
    rows = result["rows"]
    several = varying(rows)
    memory = ["memory"] if any(row["memory"] is not None for row in rows) else []
    columns = ["variant", *several, *COLUMNS, *memory]
    fixed = [f"{rows[0][name]} {name}" for name in ("tokens", "batch") if name not in several]
    how = "" if "attention" in several else f", {rows[0]['attention']}"
    how += ", one layer's weights in all" if result["shared_layers"] else ""
    how += f", every second row {result['ragged']} tokens shorter" if result["ragged"] else ""
    notes = [
        f"{conditions(result)}{how}; medians of {result['rounds']} rounds in turn; matrix products run at "
        f"{result['matrix_tflops']:.3f} TFLOP/s",
        "a layer reads: visual tokens, mean; ±: half of the rounds lie within this share of the median; memory: peak, "
        "of the unpruned model's",
    ]
    head = [COLUMNS.get(name, name) for name in columns]
    return Table(", ".join([result["shape"], *fixed]), head, [[row[name] for name in columns] for row in rows], notes)


def peaks(family: Laid, timed: Iterable[Timed], asked: SpeedSettings) -> None:
    """Peak memory of one prefill and one step: of the device, or of a whole process that does nothing else."""
    same = {"shape": asked.shape, "device": "cpu", "threads": torch.get_num_threads()}
    same |= {name: ",".join(map(str, getattr(asked, name))) for name in ("method", "arms", "keep")}
    for row in timed:
        if family.model.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            once(family, row.variant, prompt(family, row.batch), 1)
            row.peak_bytes = torch.cuda.max_memory_allocated()
            continue
        own = {"attention": row.variant.kernel, "batch-size": row.batch, "tokens": row.tokens}
        flags = [f"--{name}={value}" for name, value in {**same, **own, "peak": row.variant.label}.items()]
        command = [sys.executable, "-m", "eval", "speed", "--json", *flags]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        row.peak_bytes = int(json.loads(done.stdout)["rows"][0]["peak_bytes"])


def peak(family: Laid, wanted: list[Variant], batch: int, asked: SpeedSettings) -> list[Result]:
    """The peak memory of this process, after one prefill and one step of one variant."""
    chosen = next(variant for variant in wanted if variant.label == asked.peak)
    once(family, chosen, prompt(family, batch), 1)
    return [{"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}]


TIMES: Look = partial(of_variants, timed), table
LOOKS: dict[str, Look] = {  # by the flag that asks for them
    "debias": (calls.debias, calls.debias_table),
    "fused": (calls.fused, calls.fused_table),
    "against": (authors.measured, authors.table),
    "precision": (precision.measured, precision.table),
    "compiled": (partial(of_variants, compiled.measure), compiled.table),
    "waits": (partial(of_variants, waits.measure), waits.table),
    "parts": (partial(of_variants, parts.measure), parts.table),
    "peak": (partial(of_variants, peak), table),
}
