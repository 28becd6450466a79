"""Prefill of a LLaVA-1.5-shaped random decoder: plain, pruned, pruned and debiased, in turn and on the same kernel.

    OMP_NUM_THREADS=1 python tests/bench/prefill.py --width 1024 --layers 16 --rounds 5

Prints the speed-up next to the one that the FLOPs allow (torch FlopCounterMode), and what the debias costs. Seconds are
those of computing, so that other processes on the machine count little. A measurement, not a test: machines differ.
With --arm plain (or pruned, debiased) it runs that arm alone, once, and prints the peak memory of the process.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

import pruners
from debias import Debias, Padding, Trend

IMAGE = 90
PATCHES = 576


def build(width: int, layers: int, kernel: str) -> Any:
    """LLaVA-1.5's shape at another width and depth, with a vision tower too small to matter."""
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=336, patch_size=14
    )
    text = LlamaConfig(
        vocab_size=128,
        hidden_size=width,
        intermediate_size=width * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 64,
        max_position_embeddings=2048,
    )
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_id=IMAGE)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlavaForConditionalGeneration._from_config(config, attn_implementation=kernel).eval()


def prompt(length: int, batch: int) -> dict[str, torch.Tensor]:
    """35 tokens, one image, and text up to `length`, as with the vicuna_v1 template."""
    row = [1, *[5] * 34, *[IMAGE] * PATCHES]
    row += [7 + n % 80 for n in range(length - len(row))]
    pixels = torch.randn(1, 3, 336, 336, generator=torch.Generator().manual_seed(0))
    return {"input_ids": torch.tensor([row] * batch), "pixel_values": pixels.expand(batch, -1, -1, -1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--length", type=int, default=640)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--method", default="fastv")
    parser.add_argument("--keep", type=int, default=128)
    parser.add_argument("--kernel", default="sdpa")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--arm", choices=("plain", "pruned", "debiased"))
    given = parser.parse_args()

    model = build(given.width, given.layers, given.kernel)
    inputs = prompt(given.length, given.batch)
    pruner = pruners.make(given.method, keep=given.keep)
    debias = Debias(Trend.exponential(0.004), Padding())
    sizes = [(640, 480)] * given.batch
    arms: dict[str, Callable[[], Any]] = {
        "plain": nullcontext,
        "pruned": lambda: pruner(model),
        "debiased": lambda: pruner(model, debias, sizes),
    }

    def once() -> float:
        start = time.process_time()
        model(**inputs, logits_to_keep=1)
        return time.process_time() - start

    if given.arm is not None:
        with torch.no_grad(), arms[given.arm]():
            once()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({**vars(given), "peak_mib": peak}))
        return
    flops, seconds = {}, {name: [] for name in arms}
    with torch.no_grad():
        for name, arm in arms.items():
            with arm(), FlopCounterMode(display=False) as counter:
                once()
            flops[name] = counter.get_total_flops()
        for _ in range(given.rounds):
            for name, arm in arms.items():
                with arm():
                    seconds[name].append(once())
    typical = {name: statistics.median(times) for name, times in seconds.items()}
    allowed, reached = flops["plain"] / flops["pruned"], typical["plain"] / typical["pruned"]
    result = {
        **vars(given),
        "seconds": typical,
        "fastest": {name: min(times) for name, times in seconds.items()},
        "gflops": {name: count / 1e9 for name, count in flops.items()},
        "speedup": reached,
        "flop_ratio": allowed,
        "share_of_allowed": reached / allowed,
        "debias_cost": typical["debiased"] / typical["pruned"] - 1,
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
