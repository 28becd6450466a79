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
from PIL import Image
from torch import Tensor

import debias
from debias import Debias, Padding, Span, Trend
from debias.reading import Reading
from debias.release import Release

PARTS: dict[str, Any] = {"trend": Trend, "between": Trend, "padding": Padding, "release": Release, "reading": Reading}


def rebuilt(kind: Any, wire: dict[str, Any]) -> Any:
    """A debias, or a part of it, from its fields in JSON."""
    fields: dict[str, Any] = {}
    for name, value in wire.items():
        part = rebuilt(PARTS[name], value) if name in PARTS and value is not None else value
        fields[name] = tuple(part) if isinstance(part, list) else part
    return kind(**fields)


def start(setting: dict[str, Any]) -> load.ForkModel:
    """The fork with its weights, and a tokenizer where the checkpoint has the original's."""
    where, dtype, method = setting["device"], getattr(torch, setting["dtype"]), setting["method"]
    if "config" in setting:  # a shape with random weights, to measure speed
        vision = setting["config"]["vision_config"]
        config = layout.original_config(setting["config"], "")
        return load.build(method, setting["options"], config, None, vision, None, where, dtype)
    folder, vision, normal = Path(setting["folder"]), None, None
    config, state = layout.read_config(folder), layout.weights(folder)
    original = layout.is_original(config)
    if original and not layout.is_video(config):
        config["mm_vision_tower"] = layout.tower_folder(folder, config)
    elif not original:
        vision, normal = config["vision_config"], setting["normal"]
        config = layout.original_config(config, "")
        state = ((layout.to_original(name), weight) for name, weight in state)
    fork: load.ForkModel
    if layout.is_video(config):
        import video

        fork = video.build(setting["options"], config, state, setting["towers"], where, dtype)
    else:
        fork = load.build(method, setting["options"], config, state, vision, normal, where, dtype)
    if original:
        from transformers import AutoTokenizer

        fork.tokenizer = AutoTokenizer.from_pretrained(str(folder), use_fast=False)
        # The authors' evaluations pad whatever the checkpoint says; LLaVA-1.5's says the same.
        fork.model.config.image_aspect_ratio = "pad"
    return fork


def media(fork: load.ForkModel, question: dict[str, Any], start: int) -> tuple[Tensor, Span]:
    """The pixels of a question's picture or clip, and where its tokens stand."""
    side = math.isqrt(fork.tokens)
    if question["image"] is not None:
        image = Image.open(io.BytesIO(base64.b64decode(question["image"]))).convert("RGB")
        return fork.pixels(image), Span(start, (side, side), size=image.size)
    data = bytearray(base64.b64decode(question["pixels"]["data"]))
    pixels = torch.frombuffer(data, dtype=torch.float32).reshape(question["pixels"]["shape"])
    if question["frames"] is None:
        return pixels, Span(start, (side, side), size=tuple(question["size"]))
    special = torch.zeros(question["frames"], 1 + side**2, dtype=torch.bool)
    special[:, 0] = True  # each frame's CLS token
    return pixels, Span(start, (side, side), frames=question["frames"], special=special.flatten())


def answer(fork: load.ForkModel, question: dict[str, Any]) -> dict[str, Any]:
    """The reply to one question: ids, text, milliseconds, kept tokens, and logits where they are asked for."""
    ids = list(question["ids"]) if fork.tokenizer is None else fork.ids(question["prompt"])
    places = [place for place, token in enumerate(ids) if token == load.IMAGE]
    if len(places) != (question["frames"] or int(question["size"] is not None)):
        raise ValueError(f"the prompt has {len(places)} places for images; the forks take one picture or clip, or none")
    pixels, span = media(fork, question, places[0]) if places else (None, None)
    seen: dict[int, list[int]] = {}
    begun, worked = time.perf_counter(), time.process_time()
    how = rebuilt(Debias, question["debias"])
    late = 0 if how.release is None else how.release.late
    with debias.using(how, [span] if span else []) as context:
        whole = debias.kept

        def kept(what: Any, *, method: str, stage: int = 0, sample: int = 0) -> Any:
            whole(what, method=method, stage=stage, sample=sample)
            if stage not in seen:  # the prefill; some forks rank again for every new token
                seen[stage] = context.after(sample, stage).tolist()
            return what

        debias.kept = kept
        try:
            limit = how.budget(span.total, span) if span else None
            fork.prepare(places[0] + late if places else None, question["prune"], span.total if span else None, limit)
            generated, logits = fork.generate(ids, pixels, question["new_tokens"])
        finally:
            debias.kept = whole
    took, worked = 1000 * (time.perf_counter() - begun), 1000 * (time.process_time() - worked)
    text = None if fork.tokenizer is None else fork.tokenizer.decode(generated, skip_special_tokens=True).strip()
    reply = {"ids": generated, "text": text, "ms": took, "processor_ms": worked, "start": places[0] if places else None}
    reply["kept"] = [seen[stage] for stage in sorted(seen)] if question["prune"] else []
    if question["logits"]:
        reply["logits"] = logits.tolist()
        reply["prompt"] = ids
    return reply


def main() -> None:
    """Answer line by line until the input ends."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def send(reply: dict[str, Any]) -> None:
        out.write(json.dumps(reply) + "\n")
        out.flush()

    fork: load.ForkModel | None = None
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
