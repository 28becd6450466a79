"""One fork in its own environment: questions come in as JSON lines, answers go out as JSON lines.

The first line says which fork, which checkpoint and where to run. Standard output belongs to the protocol; what the
authors' code prints goes to standard error.
"""

from __future__ import annotations

import base64
import io
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import layout
import load
import torch

import debias
from debias import Debias, Padding, Span, Trend


def trend_from(wire: dict[str, Any] | None) -> Trend | None:
    if wire is None:
        return None
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in wire.items()}
    return Trend(**{**fields, "between": trend_from(wire["between"])})


def debias_from(wire: dict[str, Any]) -> Debias:
    padding = None if wire["padding"] is None else Padding(**wire["padding"])
    return Debias(trend_from(wire["trend"]), padding, stages=wire["stages"], recycle=wire["recycle"])


def start(setting: dict[str, Any]) -> load.Fork:
    """The fork with its weights, and a tokenizer where the checkpoint has the original's."""
    folder, method = Path(setting["folder"]), setting["method"]
    config, vision, normal = layout.read_config(folder), None, None
    state = layout.weights(folder)
    original = layout.is_original(config)
    if original:
        config["mm_vision_tower"] = layout.tower_folder(folder, config)
    else:
        vision, normal = config["vision_config"], setting["normal"]
        config = layout.original_config(config, "")
        state = ((layout.to_original(name), weight) for name, weight in state)
    fork = load.build(
        method,
        setting["options"],
        config,
        state,
        vision=vision,
        normal=normal,
        device=setting["device"],
        dtype=getattr(torch, setting["dtype"]),
    )
    if original:
        from transformers import AutoTokenizer

        fork.tokenizer = AutoTokenizer.from_pretrained(str(folder), use_fast=False)
        # The authors' evaluations pad whatever the checkpoint says; LLaVA-1.5's says the same.
        fork.model.config.image_aspect_ratio = "pad"
    return fork


def ids_of(fork: load.Fork, question: dict[str, Any]) -> list[int]:
    if fork.tokenizer is None:
        return list(question["ids"])
    from llava.mm_utils import tokenizer_image_token

    return list(tokenizer_image_token(question["prompt"], fork.tokenizer, load.IMAGE))


def answer(fork: load.Fork, question: dict[str, Any]) -> dict[str, Any]:
    from llava.mm_utils import process_images
    from PIL import Image

    ids, pixels, size = ids_of(fork, question), None, None
    places = [place for place, token in enumerate(ids) if token == load.IMAGE]
    if len(places) != (question["image"] is not None):
        raise ValueError(f"the prompt has {len(places)} places for images; the forks take one picture or none")
    if question["image"] is not None:
        image = Image.open(io.BytesIO(base64.b64decode(question["image"]))).convert("RGB")
        size = image.size
        pixels = process_images([image], fork.tower.image_processor, fork.model.config)
    side = math.isqrt(fork.tokens)
    spans = [Span(places[0], (side, side), size=size)] if places else []
    seen: dict[int, list[int]] = {}
    begun = time.perf_counter()
    with debias.using(debias_from(question["debias"]), spans) as context:
        whole = debias.kept

        def kept(what: Any, *, method: str, stage: int = 0, sample: int = 0) -> Any:
            whole(what, method=method, stage=stage, sample=sample)
            if stage not in seen:  # the prefill; some forks rank again for every new token
                seen[stage] = context.after(sample, stage).tolist()
            return what

        debias.kept = kept
        try:
            fork.prepare(places[0] if places else None, question["prune"])
            found, logits = fork.generate(ids, pixels, question["new_tokens"])
        finally:
            debias.kept = whole
    text = None if fork.tokenizer is None else fork.tokenizer.decode(found, skip_special_tokens=True).strip()
    reply = {"ids": found, "text": text, "ms": 1000 * (time.perf_counter() - begun), "start": (places or [None])[0]}
    reply["kept"] = [seen[stage] for stage in sorted(seen)] if question["prune"] else []
    if question["logits"]:
        reply["logits"] = logits.tolist()
        reply["prompt"] = ids
    return reply


def main() -> None:
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def send(reply: dict[str, Any]) -> None:
        out.write(json.dumps(reply) + "\n")
        out.flush()

    fork: load.Fork | None = None
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            if fork is None:
                fork = start(asked)
                send({"tokens": fork.tokens, "layers": len(fork.model.model.layers)})
            else:
                send(answer(fork, asked))
        except Exception as error:  # whatever the authors' code raises, the question's name must reach the user
            import traceback

            traceback.print_exc()
            send({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main()
