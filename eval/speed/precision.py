"""How often precision changes which tokens stay (`python -m eval speed --precision bfloat16,float16,8bit`).

The same prompts are read in float32 and in every other precision, by the checkpoint and by a random model of a larger
shape. `same` is the share of kept tokens that both keep, `unchanged` the share of pictures where all are the same,
`answer` the share of prompts with the same first token. For scale, a row shows what debiasing itself changes.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from eval import benchmarks
from eval.core.embedded import EMBEDDED, data_of, named
from eval.core.tables import Table, say
from eval.reading.images import open_image
from eval.speed.drawn import Laid, build, prompt
from eval.speed.measure import FULL, SIZE, conditions
from eval.speed.settings import SpeedSettings
from eval.speed.shapes import SHAPES
from pruners import make
from pruners.models import Request, adapter
from pruners.parts.budget import REFERENCE_TOKENS

ARMS = ("none", "both")
Kept = list[tuple[list[set[int]], int]]  # by prompt: the tokens kept at each cut, and the first token of the answer


def measured(asked: SpeedSettings, device: torch.device) -> dict[str, Any]:
    """Of every model and method, the tokens that each precision keeps beside those of float32."""
    kinds = asked.precision
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for name, path, batches in subjects(asked, Path(scratch)):
            say(f"precision: {name}, float32 and {', '.join(kinds)}")
            by_run: dict[tuple[str, str, str], Kept] = {}
            for kind in ("float32", *kinds):
                loader = Laid if name.startswith("random") else adapter(str(path))
                family = loader.load(path, dtype=kind, device=str(device), attention="sdpa")
                for method, arm in itertools.product(asked.method, ARMS):
                    by_run[kind, method, arm] = read(family, method, asked, arm, batches)
                del family
            for method in asked.method:
                plain, full = (by_run["float32", method, arm] for arm in ARMS)
                pairs = {"debiasing, in float32": (plain, full)}
                for kind in kinds:
                    pairs |= {
                        f"{kind}, {arm}": (by_run["float32", method, arm], by_run[kind, method, arm]) for arm in ARMS
                    }
                rows += [
                    {"model": name, "method": method, "what": what, **compared(*pair)} for what, pair in pairs.items()
                ]
    return {"device": device.type, "threads": torch.get_num_threads(), "torch": torch.__version__, "rows": rows}


Batch = tuple[dict[str, Any], list[Any]]  # inputs and sizes, on the CPU


def subjects(asked: SpeedSettings, scratch: Path) -> Iterator[tuple[str, Path, list[Batch]]]:
    """(name, checkpoint folder, prompts one by one) of what is measured."""
    path = Path(named(str(asked.model or EMBEDDED["image"])))
    gqa = benchmarks.get("gqa")
    samples = [sample for sample in gqa.load(data_of(path, half="heldout")) if sample.image][: asked.limit]
    family = adapter(str(path)).load(path, dtype=torch.float32, device="cpu")
    encoded = [
        family.encode([Request(sample.text, [open_image(sample)], conversation=gqa.conversation)]) for sample in samples
    ]
    yield path.name, path, [(batch.inputs, batch.sizes) for batch in encoded]
    if asked.model is None:
        shape = SHAPES[asked.shape]
        laid = build(shape, shape.tokens, "cpu", torch.float32, "sdpa")
        laid.model.save_pretrained(scratch / asked.shape)
        drawn = [(prompt(laid, 1, seed), [SIZE]) for seed in range(1, 1 + min(asked.limit, 10))]
        yield f"random {asked.shape}", scratch / asked.shape, drawn


@torch.inference_mode()
def read(family: Any, method: str, asked: SpeedSettings, arm: str, batches: Sequence[Batch]) -> Kept:
    """What one method keeps of each prompt, and the first token that it answers."""
    out = []
    for inputs, sizes in batches:
        tokens = int((inputs["input_ids"] == family.model.config.image_token_id).sum())
        if isinstance(family, Laid):
            family.tokens = tokens  # a shape's own number, which its checkpoint does not hold
        keep = asked.keep[0] if tokens > 2 * asked.keep[0] else asked.keep[0] / REFERENCE_TOKENS
        here = {
            name: value.to(family.model.device, family.model.dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
        }
        with make(method, keep=keep)(family, FULL.with_arm(arm), sizes=sizes) as trace:
            answer = int(family.model(**here, logits_to_keep=1).logits[0, -1].argmax())
        out.append(([set(stage[0].tolist()) for stage in trace.kept], answer))
    return out


def compared(base: Kept, other: Kept) -> dict[str, float | int]:
    """Of the tokens kept at the last cut and of all cuts of all prompts."""
    pairs = list(zip(base, other, strict=True))
    shares = [len(a[-1] & b[-1]) / max(len(a[-1]), 1) for (a, _), (b, _) in pairs]
    return {
        "prompts": len(pairs),
        "same": sum(shares) / len(pairs),
        "least": min(shares),
        "unchanged": sum(a == b for (a, _), (b, _) in pairs) / len(pairs),
        "answer": sum(a == b for (_, a), (_, b) in pairs) / len(pairs),
    }


def table(result: dict[str, Any]) -> Table:
    """What differs from float32, for every model, method and precision."""
    names = ("model", "method", "what", "prompts", "same", "least", "unchanged", "answer")
    rows = [
        [row[name] if not isinstance(row[name], float) else f"{row[name]:.3f}" for name in names]
        for row in result["rows"]
    ]
    notes = [
        f"{conditions(result)}; against float32 in the same arm",
        "same: kept tokens that both keep, mean (least: of one prompt); unchanged: prompts where every cut keeps the "
        "same; answer: prompts with the same first token",
    ]
    return Table("Does precision change which tokens stay?", list(names), rows, notes)
