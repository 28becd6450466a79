"""Every variant of a model of one shape, with and without pruning: timed in turn, and shown beside each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from eval.core.tables import Table, say, show
from eval.speed import authors, compiled, debiasing, fusing, parts, precision, waits
from eval.speed.drawn import build
from eval.speed.measure import Variant, fitting, machine, matrix_rate, measure, own_peak, peaks
from eval.speed.settings import SpeedSettings
from eval.speed.shapes import SHAPES


def report(asked: SpeedSettings) -> dict[str, Any]:
    """What was asked for, measured and shown, as plain numbers."""
    if asked.threads:
        torch.set_num_threads(asked.threads)
    device = torch.device(asked.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if asked.builds:
        asked.check_memory(str(device))
    for word, room in {"debias": debiasing, "fused": fusing, "against": authors, "precision": precision}.items():
        if getattr(asked, word):
            result: dict[str, Any] = room.report(asked, device)
            return result
    return looked_at(asked, device) if asked.compiled or asked.waits else timed(asked, device)


def looked_at(asked: SpeedSettings, device: torch.device) -> dict[str, Any]:
    """Compiled decoding of all variants on one shape, or what in them waits for the device."""
    shape, dtype, how = SHAPES[asked.shape], getattr(torch, asked.kind(device.type)), {}
    family = build(shape, shape.tokens, str(device), dtype, asked.attention[0], asked.shared_layers)
    wanted, left_out = fitting(family, list(variants(asked)))
    if asked.compiled:
        how = {"rounds": asked.rounds, "decode": asked.decode, "shared_layers": asked.shared_layers}
        rows = [
            row for n in asked.batch_size for row in compiled.measure(family, wanted, n, asked.rounds, asked.decode)
        ]
    else:
        rows = [row for n in asked.batch_size for row in waits.measure(family, wanted, n)]
    result = {"shape": asked.shape, **machine(device, dtype), **how, "rows": rows, "left_out": left_out}
    show((compiled if asked.compiled else waits).table(result))
    return result


def timed(asked: SpeedSettings, device: torch.device) -> dict[str, Any]:
    """All variants on one shape, or their parts, or this process's own peak memory."""
    shape = SHAPES[asked.shape]
    dtype = getattr(torch, asked.kind(device.type))
    every, rate, rows, left_out = list(variants(asked)), matrix_rate(device, dtype), [], {}
    for tokens in asked.tokens or [shape.tokens]:
        say(f"speed: building {asked.shape} with {tokens} visual tokens, {dtype}, on {device}")
        family = build(shape, tokens, str(device), dtype, every[0].kernel, asked.shared_layers)
        family.ragged = asked.ragged
        wanted, without = fitting(family, every)
        left_out.update(without)
        if asked.peak:
            chosen = next(variant for variant in wanted if variant.label == asked.peak)
            return dict(own_peak(family, chosen, asked.batch_size[0]))
        if asked.parts:
            rows += [row for batch in asked.batch_size for row in parts.measure(family, wanted, batch, asked.rounds)]
            continue
        for batch in asked.batch_size:
            measured = measure(family, wanted, batch, asked.rounds, asked.decode)
            if (device.type == "cuda" or asked.memory) and not asked.shared_layers:
                peaks(family, measured, own_flags(asked))
            base = {row.variant.kernel: row for row in measured if row.variant.method is None}
            rows += [row.summary(base[row.variant.kernel], rate) for row in measured]
        del family
    result = {
        "shape": asked.shape,
        **machine(device, dtype),
        "ragged": asked.ragged,
        "shared_layers": asked.shared_layers,
        "matrix_tflops": rate / 1e12,
        "rounds": asked.rounds,
        "rows": rows,
        "left_out": left_out,
    }
    for label, why in left_out.items():
        say(f"speed: left out {label}: {why}")
    show(parts.table(result) if asked.parts else table(result))
    return result


def own_flags(asked: SpeedSettings) -> list[str]:
    """What a process of its own needs to make the same model and the same variants on the CPU."""
    words = ["--shape", asked.shape, "--method", ",".join(asked.method), "--arms", ",".join(asked.arms)]
    keep = ",".join(map(str, asked.keep))
    return [*words, "--device", "cpu", "--keep", keep, "--threads", str(torch.get_num_threads())]


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


def table(result: dict[str, Any]) -> Table:
    several = {name: len({row[name] for row in result["rows"]}) > 1 for name in ("tokens", "batch", "attention")}
    memory = any(row["memory"] is not None for row in result["rows"])
    varying = [name for name, more in several.items() if more]
    columns = {"variant": "variant", **{name: name for name in varying}, **COLUMNS}
    columns |= {"memory": "memory"} if memory else {}
    rows = [[row[name] for name in columns] for row in result["rows"]]
    first = result["rows"][0]
    fixed = [f"{first[name]} {name}" for name in ("tokens", "batch") if not several[name]]
    ragged = f", every second row {result['ragged']} tokens shorter" if result["ragged"] else ""
    shared = ", one layer's weights in all" if result["shared_layers"] else ""
    how = ("" if several["attention"] else f", {first['attention']}") + shared + ragged
    notes = [
        f"{result['device']}, {result['threads']} thread(s), {result['dtype']}, torch {result['torch']}{how}; "
        f"medians of {result['rounds']} rounds in turn; matrix products run at {result['matrix_tflops']:.3f} TFLOP/s",
        "a layer reads: visual tokens, mean; ±: half of the rounds lie within this share of the median; memory: peak, "
        "of the unpruned model's",
    ]
    return Table(", ".join([result["shape"], *fixed]), list(columns.values()), rows, notes)
