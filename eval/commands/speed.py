"""Measure prefill, decoding and memory with and without pruning, on real architectures with random weights.

examples:
  python -m eval speed                                        FastV keep 128 on a CPU-sized decoder
  python -m eval speed --method fastv,pyramiddrop,vispruner --keep 64,128 --shape llava-1.5-7b --batch-size 1,8
  python -m eval speed --shape internvl2.5-8b --tokens 576,3328 --attention sdpa,eager,flash_attention_2
  python -m eval speed --parts --tokens 576,2056,3328         what scoring, debiasing, selecting cost, and how it grows
  python -m eval speed --debias                               one debias call beside one 7B decoder layer
  python -m eval speed --precision bfloat16,float16,8bit      how often precision changes which tokens stay

Every variant runs in turn, round after round, so that a machine's moods fall on all alike; medians are printed, with
the share of the median within which half of the rounds lie. `possible` is the speed-up that the floating-point
operations allow, `reached` the achieved one as a share of it. The vision tower is part of the prefill where the shape
has one.

With --shared-layers the model keeps its depth, its caches and its operations, but all decoder layers have the same
random weights, so that a 7B shape fits into a few gigabytes. Times stay honest where a layer's weights (0.4 GB at 7B in
bfloat16) are far larger than the processor's cache: not in tiny, mid and small. Memory is not measured.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from debias import names
from eval.answering import beforehand
from eval.cli import one_of
from eval.commands.flags import numbers
from eval.speed import authors, debiasing, parts, precision
from eval.speed.measure import Variant, fitting, matrix_rate, measure, own_peak, peaks
from eval.speed.shapes import BEFORE, SHAPES, build
from eval.tables import Table, say, show


def command(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], dict[str, Any]]:
    add = parser.add_argument
    add("--method", default="fastv", help="methods with commas (default: %(default)s)")
    add("--arms", default="none,both", help="arms with commas (default: %(default)s)")
    add("--keep", type=numbers, default=[128], help="budgets with commas (default: 128)")
    add("--shape", default="small", help=f"one of {', '.join(SHAPES)} (default: %(default)s)")
    add("--tokens", type=numbers, help="visual tokens, with commas (default: the shape's)")
    add("--batch-size", type=numbers, default=[1], help="with commas (default: 1)")
    add("--ragged", type=int, default=0, help="tokens that every second row of a batch lacks (default: none)")
    add("--attention", default="sdpa", help="sdpa, eager, flash_attention_2, with commas (default: %(default)s)")
    add(
        "--rounds",
        type=int,
        default=7,
        help="times that every variant is run, after a warm-up unless it is 1 (default: 7)",
    )
    add("--decode", type=int, default=8, help="tokens decoded after each prefill (default: %(default)s)")
    add("--dtype", help="default: bfloat16 on a GPU, float32 on a CPU")
    add("--device", type=beforehand.device, help="default: a GPU when there is one")
    add("--threads", type=int, help="CPU threads (default: as torch chooses)")
    add("--memory", action="store_true", help="peak memory on a CPU too, in a process for each variant")
    add(
        "--shared-layers", action="store_true", help="one layer's random weights for all layers: less memory, see below"
    )
    add("--out", type=Path, help="also write the result to this JSON file")
    add("--debias", action="store_true", help="only time one debias call")
    add("--parts", action="store_true", help="only time scoring, debiasing, selecting and merging")
    add("--precision", metavar="KINDS", help="only compare kept tokens: bfloat16,float16,8bit,4bit")
    add("--model", type=Path, help="checkpoint for --precision (default: the embedded one, and the --shape)")
    add("--limit", type=int, default=50, help="pictures for --precision (default: %(default)s)")
    add("--against", choices=["fork"], help="fork: the authors' code and ours in turn")
    add("--peak", help=argparse.SUPPRESS)  # in a process of its own: this variant's peak memory
    return work


def work(args: argparse.Namespace) -> dict[str, Any]:
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if args.debias:
        return finish(debiasing.report(device), args.out)
    if args.against:
        return finish(authors.report(args, device), args.out)
    if args.precision:
        return finish(precision.report(args, device), args.out)
    if not 0 <= args.ragged <= BEFORE:
        raise ValueError(f"--ragged {args.ragged}: a row has {BEFORE} tokens before its picture, and can lack no more")
    if args.memory and args.shared_layers:
        raise ValueError("--memory would measure the shared weights: leave --shared-layers out")
    shape = SHAPES[one_of("shape", args.shape, list(SHAPES))]
    dtype = getattr(torch, args.dtype or ("bfloat16" if device.type == "cuda" else "float32"))
    needed = shape.parameters(args.shared_layers) * dtype.itemsize
    instead = "--shared-layers keeps one layer's weights for all, --dtype bfloat16 halves them"
    beforehand.memory(f"--shape {args.shape} in {dtype}", needed, str(device), instead)
    every, rate, rows, left_out = list(variants(args)), matrix_rate(device, dtype), [], {}
    for tokens in args.tokens or [shape.tokens]:
        say(f"speed: building {args.shape} with {tokens} visual tokens, {dtype}, on {device}")
        family = build(shape, tokens, str(device), dtype, every[0].kernel, args.shared_layers)
        family.ragged = args.ragged
        wanted, without = fitting(family, every)
        left_out.update(without)
        if args.peak:
            chosen = next(variant for variant in wanted if variant.label == args.peak)
            return dict(own_peak(family, chosen, args.batch_size[0]))
        if args.parts:
            rows += [row for batch in args.batch_size for row in parts.measure(family, wanted, batch, args.rounds)]
            continue
        for batch in args.batch_size:
            timed = measure(family, wanted, batch, args.rounds, args.decode)
            if (device.type == "cuda" or args.memory) and not args.shared_layers:
                peaks(family, timed, own_flags(args))
            base = {row.variant.kernel: row for row in timed if row.variant.method is None}
            rows += [row.summary(base[row.variant.kernel], rate) for row in timed]
        del family
    result = {
        "shape": args.shape,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "dtype": str(dtype).removeprefix("torch."),
        "ragged": args.ragged,
        "shared_layers": args.shared_layers,
        "torch": torch.__version__,
        "matrix_tflops": rate / 1e12,
        "rounds": args.rounds,
        "rows": rows,
        "left_out": left_out,
    }
    for label, why in left_out.items():
        say(f"speed: left out {label}: {why}")
    show(parts.table(result) if args.parts else table(result))
    return finish(result, args.out)


def own_flags(args: argparse.Namespace) -> list[str]:
    """What a process of its own needs to make the same model and the same variants on the CPU."""
    words = ["--shape", args.shape, "--method", args.method, "--arms", args.arms, "--device", "cpu"]
    return [*words, "--keep", ",".join(map(str, args.keep)), "--threads", str(torch.get_num_threads())]


def finish(result: dict[str, Any], out: Path | None) -> dict[str, Any]:
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def variants(args: argparse.Namespace) -> Iterator[Variant]:
    from pruners import names as methods

    for kernel in args.attention.split(","):
        yield Variant(kernel=kernel)
        for method in args.method.split(","):
            one_of("method", method, methods())
            for keep in args.keep:
                for arm in args.arms.split(","):
                    yield Variant(method, keep, names.arm(arm), kernel)


def table(result: dict[str, Any]) -> Table:
    several = {name: len({row[name] for row in result["rows"]}) > 1 for name in ("tokens", "batch", "attention")}
    memory = any(row["memory"] is not None for row in result["rows"])
    varying = [name for name, more in several.items() if more]
    head = [
        "variant",
        *varying,
        "a layer reads",
        "prefill ms",
        "±",
        "speed-up",
        "possible",
        "reached",
        "of matrix rate",
    ]
    head += ["ms/token", "±", *(["memory"] * memory)]
    rows = [
        [
            row["variant"],
            *(row[name] for name in varying),
            row["mean_tokens"],
            row["prefill_ms"],
            row["prefill_spread"],
            row["speed_up"],
            row["possible"],
            row["reached"],
            row["of_matrix_rate"],
            row["decode_ms"],
            row["decode_spread"],
            *([row["memory"]] * memory),
        ]
        for row in result["rows"]
    ]
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
    return Table(", ".join([result["shape"], *fixed]), head, rows, notes)
