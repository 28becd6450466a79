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
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from eval.core.embedded import EMBEDDED
from eval.core.settings import UNPRUNED
from eval.core.tables import Table, show, tell_json
from eval.harnesses.vllm.agreement import ENVIRONMENT
from eval.harnesses.vllm.settings import read
from eval.speed.shapes import SHAPES, Shape

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "processor_config.json")
SETTINGS = (
    '{"method": "vispruner", "keep": 0.25}',
    '{"method": "vispruner", "keep": 0.1}',
    '{"method": "fastv", "keep": 0.25, "arm": "padding", "scout": 2}',
)
ANSWER = 128  # tokens of an answer, where requests that fit are counted


def written(shape: Shape, folder: Path) -> None:
    """A checkpoint of a shape without weights: LLaVA-1.5, with the embedded model's tokenizer."""
    for name in TOKENIZER:
        shutil.copy(EMBEDDED["image"] / name, folder / name)
    processor = json.loads((folder / "processor_config.json").read_text())
    tower = dict(shape.tower or {})
    if not tower:
        raise ValueError("a shape without a vision tower has no pictures to serve")
    edge = tower["image_size"]
    processor["image_processor"] |= {"size": {"shortest_edge": edge}, "crop_size": {"height": edge, "width": edge}}
    processor["patch_size"] = tower["patch_size"]
    (folder / "processor_config.json").write_text(json.dumps(processor))
    decoder = {
        "model_type": "llama",
        "vocab_size": max(shape.vocabulary, 1024),
        "hidden_size": shape.width,
        "intermediate_size": shape.inner,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.groups,
        "max_position_embeddings": 8192,
    }
    vision = {"model_type": "clip_vision_model", "projection_dim": tower["hidden_size"], **tower}
    config = {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "image_token_index": json.loads((EMBEDDED["image"] / "config.json").read_text())["image_token_index"],
        "text_config": decoder,
        "vision_config": vision,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "multimodal_projector_bias": True,
        "projector_hidden_act": "gelu",
        "image_seq_length": (edge // tower["patch_size"]) ** 2,
    }
    (folder / "config.json").write_text(json.dumps(config))


def measured(engine: Any, asked: Sequence[str], rounds: int, words: int) -> dict[str, dict[str, list[float]]]:
    """Per setting, the tokens of each prompt in the KV cache and the seconds to its first token."""
    from vllm import SamplingParams

    config, dice = engine.llm_engine.model_config.hf_config, random.Random(0)
    options = SamplingParams(temperature=0, max_tokens=1, ignore_eos=True)
    taken: dict[str, dict[str, list[float]]] = {}
    for turn in range(rounds + 1):  # the first warms up, and is not counted
        for setting in dice.sample(asked, len(asked)):
            pixels = np.frombuffer(dice.randbytes(96 * 72 * 3), dtype=np.uint8).reshape(72, 96, 3)
            text = [dice.randrange(100, 800) for _ in range(words)]
            request = {
                "prompt_token_ids": [*text[: words // 2], int(config.image_token_index), *text[words // 2 :]],
                "multi_modal_data": {"image": Image.fromarray(pixels)},
                "mm_processor_kwargs": {"debias": json.loads(setting)},
            }
            start = time.perf_counter()
            done = engine.generate(request, options, use_tqdm=False)[0]
            took = time.perf_counter() - start
            if turn:
                kept = taken.setdefault(setting, {"tokens": [], "seconds": []})
                kept["tokens"].append(len(done.prompt_token_ids))
                kept["seconds"].append(took)
    return taken


def compared(taken: Mapping[str, Mapping[str, list[float]]], plain: str, room: int) -> list[dict[str, Any]]:
    """Each setting beside the unpruned model. room: tokens that the KV cache holds."""
    rows, base = [], taken[plain]
    for setting, kept in taken.items():
        tokens = float(np.median(kept["tokens"]))
        ratio, low, high = paired(kept["seconds"], base["seconds"])
        rows.append(
            {
                "setting": setting,
                "tokens": int(tokens),
                "tokens_ratio": tokens / float(np.median(base["tokens"])),
                "requests": room // (int(tokens) + ANSWER),
                "ttft_ms": 1000 * float(np.median(kept["seconds"])),
                "ttft_ratio": ratio,
                "ttft_low": low,
                "ttft_high": high,
            }
        )
    return sorted(rows, key=lambda row: -int(row["tokens"]))


def paired(mine: Sequence[float], base: Sequence[float], draws: int = 2000) -> tuple[float, float, float]:
    """The ratio of two medians, and the middle 95 % of what it is over rounds drawn anew."""
    a, b = np.asarray(mine), np.asarray(base)
    place = np.random.default_rng(0).integers(0, len(a), (draws, len(a)))
    drawn = np.median(a[place], 1) / np.median(b[place], 1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(np.median(a) / np.median(b)), float(low), float(high)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m eval.harnesses.vllm.bench", description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "settings", nargs="*", default=list(SETTINGS), help=f"as a server takes them (default: {' '.join(SETTINGS)})"
    )
    parser.add_argument("--model", help="a checkpoint folder or hub id; without it, random weights of --shape")
    parser.add_argument("--shape", default="mid", choices=[name for name, shape in SHAPES.items() if shape.tower])
    parser.add_argument("--rounds", type=int, default=10, help="questions for each setting")
    parser.add_argument("--words", type=int, default=65, help="tokens of text in a question")
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
        folder = args.model
        if folder is None:
            folder = scratch
            written(SHAPES[args.shape], Path(scratch))
        own = {name: value for name, value in os.environ.items() if name.startswith("VLLM_")}
        os.environ.update(ENVIRONMENT | own)
        from vllm import LLM

        engine = LLM(
            folder,
            dtype=args.dtype,
            load_format="auto" if args.model else "dummy",
            enforce_eager=args.eager,
            max_model_len=4096,
            enable_prefix_caching=False,
        )
        cache = engine.llm_engine.vllm_config.cache_config
        room = int(cache.num_gpu_blocks) * int(cache.block_size)
        rows = compared(measured(engine, [plain, *asked], args.rounds, args.words), plain, room)
    if args.json:
        tell_json({"model": args.model or f"random weights, {args.shape}", "rounds": args.rounds, "rows": rows})
        return 0
    title = f"{args.model or f'random weights of the shape {args.shape}'}, {args.rounds} questions each"
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
    show(
        Table(
            title,
            head,
            cells,
            [f"requests held: a prompt and {ANSWER} tokens of answer each, by the size of the cache"],
        )
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
