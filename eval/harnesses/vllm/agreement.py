"""The engine beside our own path, on an embedded model: which tokens stay, what is said, and how often it is right.

  python -m eval.harnesses.vllm.agreement '{"method": "vispruner"}' '{"method": "fastv", "keep": 0.25, "scout": 2}'
  python -m eval.harnesses.vllm.agreement --model smol --questions 48 '{"method": "vispruner", "keep": 0.25}'

Every question is asked about a drawn picture of its own; of the tiny model's, in shapes from 1:1 to 1:3, of smol's, two
in three are no squares. Who is right is compared in pairs, with a 95 % interval.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.stats import bootstrap
from torch import Tensor

from eval.answering.backends import generate, greedy
from eval.core.embedded import EMBEDDED, SMOL, named, origin
from eval.core.settings import UNPRUNED
from eval.core.tables import Table, between, show, tell_json
from eval.harnesses.vllm.pruning import Pruning, Prunings
from eval.harnesses.vllm.settings import VARIABLE, read
from pruners.models import Request, adapter
from pruners.models.internvl import InternVL
from tiny.drawn import world
from tiny.drawn.questions import KINDS
from tiny.probe import asked, right
from tiny.smol import data as smol_data

MODEL = str(EMBEDDED["image"])
SIZES = ((96, 96), (64, 96), (96, 48), (120, 90), (33, 96))
FIRST = world.TEST + 610_000_000  # scenes that nothing else is asked about
FIRST_SMOL = 1_700_000_000
LONGEST = 4  # tokens of an answer
ENGINE = {"dtype": "float32", "enforce_eager": True, "max_num_seqs": 8}
ENVIRONMENT = {
    VARIABLE: json.dumps({"arm": UNPRUNED}),  # the most that a request may ask for
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in this process, where we see what it keeps
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # standard output is for the table
}

Kept = dict[int, list[int]]  # raster indices, by the picture's fingerprint


@dataclass(frozen=True)
class PictureQuestion:
    """A question of some kind about a picture, and its right answer."""

    kind: str
    text: str
    image: Image.Image
    answer: str

    @property
    def request(self) -> Request:
        """As an adapter encodes it."""
        return Request(self.text, [self.image])


def questions(count: int) -> list[PictureQuestion]:
    """So many of every kind in turn, each about a picture of its own."""
    scenes: dict[Any, list[tuple[str, Any, str, str]]] = {}
    for row in asked(FIRST, count):
        if row[0] in KINDS:  # answered in a word
            scenes.setdefault(row[1], []).append(row)
    chosen = [rows[number % len(rows)] for number, rows in enumerate(scenes.values())]
    return [
        PictureQuestion(kind, text, world.draw(scene).resize(SIZES[number % len(SIZES)]), answer)
        for number, (kind, scene, text, answer) in enumerate(chosen)
    ]


def of_smol(count: int) -> list[PictureQuestion]:
    """The same from smol's world."""
    asked = smol_data.asked(FIRST_SMOL, count, padded=2 * count // 3)
    return [
        PictureQuestion(question.kind, question.text, world.draw(scene), question.answer) for scene, question in asked
    ]


def engine_for(model: str, tokens: int, **more: Any) -> Any:
    """An engine for a model whose pictures have so many tokens; `more` are vLLM's own options. A whole question does
    not go beside another one into a step, so that prompts are read in chunks."""
    from vllm import LLM

    return LLM(model, **ENGINE, max_model_len=tokens + 176, max_num_batched_tokens=tokens + 16, **more)


def fingerprint(pixels: Tensor) -> int:
    """What a picture is known by on both sides."""
    return hash(pixels.float().cpu().numpy().tobytes())


def ours(
    family: Any, asking: Sequence[PictureQuestion], pruning: Pruning, at_once: int = 8
) -> tuple[list[list[int]], Kept]:
    """(answers, kept tokens) of the transformers path."""
    said: list[list[int]] = []
    kept: Kept = {}
    config = greedy(family.model, LONGEST)
    for start in range(0, len(asking), at_once):
        part = asking[start : start + at_once]
        batch = family.encode([question.request for question in part])
        pruned = None if pruning.pruner is None else pruning.pruner(family.model, pruning.debias, sizes=batch.sizes)
        done = generate(family, batch, config, pruned)
        said += [ended(family, row) for row in done.new.tolist()]
        if done.trace is not None:
            for question, stayed in zip(part, done.trace.kept[0], strict=True):
                kept[fingerprint(family.picture(question.image).inputs["pixel_values"])] = stayed.tolist()
    return said, kept


def theirs(
    engine: Any, family: Any, asking: Iterable[PictureQuestion], setting: dict[str, Any]
) -> tuple[list[Any], Kept]:
    """(vLLM's own outputs, kept tokens) of the engine, which has to run in this process."""
    from vllm import SamplingParams

    kept: Kept = {}

    def note(mine: Any, choice: Any) -> None:
        place = choice.place if choice.unmerged is None else choice.place[choice.unmerged]
        kept[fingerprint(mine["pixel_values"])] = choice.tokens.raster[place].tolist()

    requests = [
        {
            "prompt_token_ids": prompt(family, question),
            "multi_modal_data": {"image": question.image},
            "mm_processor_kwargs": {"debias": setting},
        }
        for question in asking
    ]
    Pruning.note = note
    try:
        done = engine.generate(requests, SamplingParams(temperature=0, max_tokens=LONGEST), use_tqdm=False)
    finally:
        Pruning.note = None
    return done, kept


def ended(family: Any, ids: Sequence[int]) -> list[int]:
    """An answer up to its end."""
    ends = {family.model.generation_config.eos_token_id, family.tokenizer.eos_token_id}
    return list(ids[: next((at for at, token in enumerate(ids, 1) if token in ends), len(ids))])


def prompt(family: Any, question: PictureQuestion) -> list[int]:
    """The ids as our adapter makes them, with one token for the picture, and without the marks that vLLM adds."""
    picture = int(family.model.config.image_token_id)
    ids = family.encode([question.request]).inputs["input_ids"][0].tolist()
    first = ids.index(picture)
    marks = family.tokenizer.convert_tokens_to_ids(["<img>", "</img>"]) if isinstance(family, InternVL) else []
    return [token for at, token in enumerate(ids) if token not in marks and (token != picture or at == first)]


def compared(
    engine: Any, family: Any, model: str, asking: Sequence[PictureQuestion], setting: dict[str, Any]
) -> dict[str, Any]:
    """Both paths on the same questions."""
    pruning = Prunings(model, family.model.config)(read(setting, "setting"))
    said, kept = ours(family, asking, pruning)
    done, seen = theirs(engine, family, asking, setting)
    answers = [ended(family, entry.outputs[0].token_ids) for entry in done]
    marks = [
        np.array([float(right(entry.kind, text, entry.answer)) for entry, text in zip(asking, texts, strict=True)])
        for texts in (family.decode(said), family.decode(answers))
    ]
    gaps = 100 * (marks[1] - marks[0])
    interval = bootstrap((gaps,), np.mean, n_resamples=10_000, method="percentile", rng=0).confidence_interval
    return {
        "setting": pruning.asked.key,
        "questions": len(asking),
        "equal_answers": sum(a == b for a, b in zip(said, answers, strict=True)),
        "equal_kept": sum(seen.get(picture) == stayed for picture, stayed in kept.items()),
        "kept": len(kept),
        "ours": 100 * float(marks[0].mean()),
        "engine": 100 * float(marks[1].mean()),
        "difference": [float(gaps.mean()), float(interval.low), float(interval.high)],
    }


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m eval.harnesses.vllm.agreement", description=__doc__)
    parser.add_argument("settings", nargs="+", help="as a server takes them, each one JSON object")
    parser.add_argument("--model", default=MODEL, help="a folder, or smol (default: the embedded LLaVA)")
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    try:
        settings = [json.loads(read(text, text).key) for text in args.settings]
    except ValueError as error:
        parser.error(str(error))
    os.environ.update(ENVIRONMENT)
    model = named(args.model)
    family = adapter(model).load(model, device="cpu")
    asking = (of_smol if origin(Path(model)).get("world") == SMOL else questions)(args.questions)
    engine = engine_for(model, len(family.picture(asking[0].image).ids))
    rows = [compared(engine, family, model, asking, setting) for setting in settings]
    if args.json:
        tell_json(rows)
        return 0
    head = ["setting", "answers equal", "kept equal", "ours", "engine", "difference, 95 %"]
    cells = [
        [
            row["setting"],
            f"{row['equal_answers']} of {row['questions']}",
            f"{row['equal_kept']} of {row['kept']}",
            f"{row['ours']:.1f}",
            f"{row['engine']:.1f}",
            between(*row["difference"]),
        ]
        for row in rows
    ]
    show(Table("The engine beside our own path: answers in %, right", head, cells), stderr=False)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
