"""What pruning saves inside vLLM: tokens in the KV cache, requests that fit into it, and the time to the first token.

  python -m eval.harnesses.vllm.bench '{"method": "vispruner", "keep": 128}' '{"method": "visionzip", "keep": 64}'

One engine answers every setting and the unpruned model in turn, question by question, so that each number is a ratio
within one run. Without --model the weights are random, of a --shape; every picture is noise and is seen once.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.stats import bootstrap
from transformers import LlavaProcessor

from eval.core.embedded import EMBEDDED
from eval.core.settings import UNPRUNED
from eval.core.tables import Table, show, tell_json
from eval.harnesses.vllm.agreement import ENVIRONMENT
from eval.harnesses.vllm.settings import read
from eval.speed.drawn import configuration
from eval.speed.measure import in_turn
from eval.speed.shapes import SHAPES, Architecture

SETTINGS = (
    '{"method": "vispruner", "keep": 0.25}',
    '{"method": "vispruner", "keep": 0.1}',
    '{"method": "fastv", "keep": 0.25, "arm": "padding", "scout": 2}',
)
WORDS, ANSWER = 65, 128  # tokens of text in a question, and of an answer where requests that fit are counted


def written(shape: Architecture, folder: Path) -> None:
    """A checkpoint of a shape without weights: LLaVA-1.5, with the embedded model's tokenizer."""
    tower = dict(shape.tower or {})
    edge, patch = tower["image_size"], tower["patch_size"]
    processor = LlavaProcessor.from_pretrained(EMBEDDED["image"])
    processor.patch_size = patch
    processor.image_processor.size = {"shortest_edge": edge}
    processor.image_processor.crop_size = {"height": edge, "width": edge}
    processor.save_pretrained(folder)
    config = configuration(replace(shape, vocabulary=max(shape.vocabulary, 1024)), tower, shape.layers)
    config.architectures = ["LlavaForConditionalGeneration"]
    config.image_token_id = processor.image_token_id
    config.image_seq_length = (edge // patch) ** 2
    config.save_pretrained(folder)


def measured(engine: Any, asked: Sequence[str], rounds: int) -> dict[str, list[tuple[int, float]]]:
    """Per setting, the tokens of each prompt in the KV cache and the seconds to its first token."""
    from vllm import SamplingParams

    config, dice = engine.llm_engine.model_config.hf_config, random.Random(0)
    options = SamplingParams(temperature=0, max_tokens=1, ignore_eos=True)

    def ask(setting: str) -> tuple[int, float]:
        pixels = np.frombuffer(dice.randbytes(96 * 72 * 3), dtype=np.uint8).reshape(72, 96, 3)
        text = [dice.randrange(100, 800) for _ in range(WORDS)]
        request = {
            "prompt_token_ids": [*text[: WORDS // 2], int(config.image_token_id), *text[WORDS // 2 :]],
            "multi_modal_data": {"image": Image.fromarray(pixels)},
            "mm_processor_kwargs": {"debias": json.loads(setting)},
        }
        start = time.perf_counter()
        done = engine.generate(request, options, use_tqdm=False)[0]
        return len(done.prompt_token_ids), time.perf_counter() - start

    return in_turn(ask, asked, rounds)


def compared(taken: Mapping[str, Sequence[tuple[int, float]]], plain: str, room: int) -> list[dict[str, Any]]:
    """Each setting beside the unpruned model. room: tokens that the KV cache holds."""
    rows, base = [], np.array(taken[plain])
    for setting, kept in taken.items():
        tokens, seconds = np.median(kept, axis=0)
        drawn = bootstrap((np.array(kept)[:, 1], base[:, 1]), ratio, paired=True, method="percentile", rng=0)
        rows.append(
            {
                "setting": setting,
                "tokens": int(tokens),
                "tokens_ratio": float(tokens / np.median(base[:, 0])),
                "requests": room // (int(tokens) + ANSWER),
                "ttft_ms": 1000 * float(seconds),
                "ttft_ratio": float(seconds / np.median(base[:, 1])),
                "ttft_low": float(drawn.confidence_interval.low),
                "ttft_high": float(drawn.confidence_interval.high),
            }
        )
    return sorted(rows, key=lambda row: -int(row["tokens"]))


def ratio(mine: Any, base: Any, axis: int = -1) -> Any:
    """Of two medians; drawn anew round by round for its interval."""
    return np.median(mine, axis) / np.median(base, axis)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m eval.harnesses.vllm.bench", description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "settings", nargs="*", default=list(SETTINGS), help=f"as a server takes them (default: {' '.join(SETTINGS)})"
    )
    parser.add_argument("--model", help="a checkpoint folder or hub id; without it, random weights of --shape")
    parser.add_argument("--shape", default="mid", choices=[name for name, shape in SHAPES.items() if shape.tower])
    parser.add_argument("--rounds", type=int, default=10, help="questions for each setting")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--eager", action="store_true", help="without compiling the model and without CUDA graphs")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    try:
        asked = [read(text, text).key for text in args.settings]
    except ValueError as error:
        parser.error(str(error))
    plain = read({"arm": UNPRUNED}, UNPRUNED).key
    with tempfile.TemporaryDirectory() as scratch:
        if args.model is None:
            written(SHAPES[args.shape], Path(scratch))
        own = {name: value for name, value in os.environ.items() if name.startswith("VLLM_")}
        os.environ.update(ENVIRONMENT | own)
        from vllm import LLM

        engine = LLM(
            args.model or scratch,
            dtype=args.dtype,
            load_format="auto" if args.model else "dummy",
            enforce_eager=args.eager,
            max_model_len=4096,
            enable_prefix_caching=False,
        )
        cache = engine.llm_engine.vllm_config.cache_config
        room = int(cache.num_gpu_blocks) * int(cache.block_size)
        rows = compared(measured(engine, [plain, *asked], args.rounds), plain, room)
    if args.json:
        tell_json({"model": args.model or f"random weights, {args.shape}", "rounds": args.rounds, "rows": rows})
        return 0
    title = f"{args.model or f'random weights of the shape {args.shape}'}, {args.rounds} questions each"
    note = f"requests held: a prompt and {ANSWER} tokens of answer each, by the size of the cache"
    head = ["setting", "tokens in KV", "of unpruned", "requests held", "ms to first token", "of unpruned, 95 %"]
    cells = [
        [
            row["setting"],
            row["tokens"],
            f"{row['tokens_ratio']:.2f}",
            row["requests"],
            f"{row['ttft_ms']:.0f}",
            f"{row['ttft_ratio']:.2f} [{row['ttft_low']:.2f}, {row['ttft_high']:.2f}]",
        ]
        for row in rows
    ]
    show(Table(title, head, cells, [note]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
