"""Measure prefill, decoding and memory with and without pruning, on real architectures with random weights.

examples:
  python -m eval speed                                        FastV keep 128 on a CPU-sized decoder
  python -m eval speed --method fastv,pyramiddrop,vispruner --keep 64,128 --shape llava-1.5-7b --batch-size 1,8
  python -m eval speed --shape internvl2.5-8b --tokens 576,3328 --attention sdpa,eager,flash_attention_2
  python -m eval speed --parts --tokens 576,2056,3328         what scoring, debiasing, selecting cost, and how it grows
  python -m eval speed --compiled --method fastv              decoding with a static cache, beside the usual one
  python -m eval speed --import runs/gpu/speed.json           what `eval gpu` measured, into docs/speed.md and README
  python -m eval speed --waits --method fastv,d2pruner        who makes the host wait, on a GPU
  python -m eval speed --fused --shape llava-1.5-7b           score and choice by the fused kernels and by plain torch
  python -m eval speed --debias                               one debias call beside one 7B decoder layer
  python -m eval speed --precision bfloat16,float16,8bit      how often precision changes which tokens stay

Variants are interleaved, round after round, to cancel drift; medians are printed, with
the share of the median within which half of the rounds lie. `possible` is the speed-up that the floating-point
operations allow, `reached` the achieved one as a share of it. The vision tower is part of the prefill where the shape
has one.

With --shared-layers the model keeps its depth, its caches and its operations, but all decoder layers have the same
random weights, so that a 7B shape fits into a few gigabytes. Times stay honest where a layer's weights (0.4 GB at 7B in
bfloat16) are far larger than the processor's cache: not in tiny, mid and small. Memory is not measured.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from eval.answering import early
from eval.commands import flags
from eval.core.fields import refused
from eval.core.files import write_json
from eval.speed.settings import SpeedSettings


def arguments(parser: argparse.ArgumentParser) -> None:
    """What is timed (usually whole answers), on which shape, and how often."""
    add = parser.add_argument
    flags.add(parser, of=SpeedSettings)
    add("--out", type=Path, help="also write the result to this JSON file")
    add("--import", dest="files", nargs="+", type=Path, metavar="FILE", help="put files of `gpu` into docs/speed.md")


def work(args: argparse.Namespace) -> dict[str, Any]:
    """Shows what was measured; returns the numbers, and writes them with --out."""
    if args.files:
        from eval.speed.gpu.pages import take

        return take(args.files)
    asked = flags.read(SpeedSettings, args)
    if asked.builds and (device := early.surely(asked.device)) is not None:
        refused(asked.check_memory, device)

    from eval.speed.variants import report

    result = report(asked)
    if args.out is not None:
        write_json(args.out, result)
    return result
