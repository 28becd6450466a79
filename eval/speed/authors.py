"""The authors' implementation beside ours: one prefill each, in turn, on the same shape with random weights.

    python -m eval speed --against fork --method fastv,pyramiddrop --shape llava-1.5-7b

Both sides are timed alike, from the prompt's ids and the picture's pixels to the first new token: vision tower,
prefill, pruning, debias, and what generate() adds. Theirs runs in a process and environment of its own, with the
attention that it has. `ratio` is theirs over ours in the same round, the median over the rounds.
"""

from __future__ import annotations

import statistics
import time
from contextlib import nullcontext
from typing import Any

import torch

from debias import Debias
from debias.names import one_of
from eval.core.settings import UNPRUNED
from eval.core.tables import Table, say
from eval.forks.backend import Worker
from eval.forks.options import options, wire
from eval.forks.reader import PLACE, wire_pixels
from eval.forks.setup import described, environment, setup
from eval.speed.drawn import Laid, build, prompt
from eval.speed.measure import FULL, SIZE, in_turn, machine
from eval.speed.settings import SpeedSettings
from eval.speed.shapes import BEFORE, SHAPES
from pruners import Pruner, make

Times = tuple[float, float]  # milliseconds on the clock, and of the processor


def measured(asked: SpeedSettings, device: torch.device) -> dict[str, Any]:
    """Every method's variants, ours and theirs in turn; the authors' code first, since it may be missing."""
    fitting = [name for name, known in SHAPES.items() if known.tower is not None]
    shape = SHAPES[one_of("shape", asked.shape, fitting)]
    if list(asked.tokens or [shape.tokens]) != [shape.tokens] or list(asked.batch_size) != [1] or len(asked.keep) != 1:
        raise ValueError(
            "--against fork measures the shape's own visual tokens, one question at a time, with one --keep: the "
            "authors' code takes no more"
        )
    for method in asked.method:
        setup(method)
        options(method, make(method, keep=asked.keep[0]), shape.tokens, shape.layers)  # or what it cannot do
    whose = {method: described(method) for method in asked.method}
    arms = list(dict.fromkeys([UNPRUNED, *asked.arms]))
    for method in asked.method:
        if not setup(method).patched and {"trend", "padding", "both"} & set(arms):
            raise ValueError(
                f"the authors' code of {method} is not patched, and runs no debiased arm: add --arms none, or "
                f"bash scripts/apply_patches.sh {method}"
            )
    asked.check_memory(str(device))
    dtype = asked.dtype or ("float16" if device.type == "cuda" else "float32")
    say(f"speed: building {asked.shape}, {dtype}, on {device}")
    family = build(shape, shape.tokens, str(device), getattr(torch, dtype), asked.attention[0])
    rows = [row for method in asked.method for row in measure(family, method, arms, asked, dtype)]
    return {
        "shape": asked.shape,
        "keep": asked.keep[0],
        "forks": whose,
        **machine(device, getattr(torch, dtype)),
        "attention": asked.attention[0],
        "rounds": asked.rounds,
        "rows": rows,
    }


def measure(family: Laid, method: str, arms: list[str], wanted: SpeedSettings, dtype: str) -> list[dict[str, Any]]:
    """A row for each arm of one method: ours and the authors' code in turn."""
    pruner, inputs, layers = make(method, keep=wanted.keep[0]), prompt(family, 1), len(family.decoder.layers)
    config = family.model.config
    environment(method)
    worker = Worker(method, threads=torch.get_num_threads())

    def both(arm: str) -> tuple[Times, Times]:
        debias = Debias() if arm == UNPRUNED else FULL.with_arm(arm)
        ours = native(family, None if arm == UNPRUNED else pruner, debias, inputs)
        reply = worker.ask({**question, "debias": wire(debias), "prune": arm != UNPRUNED}, f"arm {arm}")
        return ours, (reply["ms"], reply["processor_ms"])

    try:
        setting = {
            "method": method,
            "config": {**config.to_dict(), "text_config": config.text_config.to_dict()},
            "options": options(method, pruner, family.tokens, layers),
            "device": str(family.model.device),
            "dtype": dtype,
        }
        worker.ask(setting, "starting it")
        question = asked(inputs, int(config.image_token_id))
        times = in_turn(both, arms, wanted.rounds)
    finally:
        worker.close()
    return [summary(method, arm, pairs, family.model.device.type == "cpu") for arm, pairs in times.items()]


def asked(inputs: dict[str, torch.Tensor], image: int) -> dict[str, Any]:
    """The prompt of eval.speed.shapes as a fork takes it: one placeholder for the picture, and its pixels."""
    ids = inputs["input_ids"][0].tolist()
    folded = [*ids[:BEFORE], PLACE, *(token for token in ids[BEFORE:] if token != image)]
    rest = {"prompt": "", "image": None, "frames": None, "size": SIZE, "new_tokens": 1, "logits": False}
    return {**rest, "ids": folded, "pixels": wire_pixels(inputs["pixel_values"])}


@torch.inference_mode()
def native(family: Laid, pruner: Pruner | None, debias: Debias, inputs: dict[str, torch.Tensor]) -> Times:
    """One prefill and first token of ours; pruner None: unpruned."""
    begun, worked = time.perf_counter(), time.process_time()
    with nullcontext() if pruner is None else pruner(family, debias, sizes=[SIZE]):
        # Read as numbers, so that a device has finished.
        family.model.generate(**inputs, do_sample=False, max_new_tokens=1).tolist()
    return 1000 * (time.perf_counter() - begun), 1000 * (time.process_time() - worked)


def summary(method: str, arm: str, pairs: list[tuple[Times, Times]], processor: bool) -> dict[str, Any]:
    """A row of the table. pairs: ours and theirs of each round; processor: whether processor time was taken."""

    def side(which: int) -> dict[str, Any]:
        taken = [pair[which][0] for pair in pairs]
        values = {"ms": statistics.median(taken), "range_ms": [min(taken), max(taken)]}
        return {**values, "processor_ms": statistics.median(pair[which][1] for pair in pairs)} if processor else values

    def ratio(unit: int) -> float:
        return statistics.median(theirs[unit] / ours[unit] for ours, theirs in pairs)

    whole = {"method": method, "arm": arm, "ours": side(0), "theirs": side(1), "ratio": ratio(0)}
    return {**whole, "processor_ratio": ratio(1)} if processor else whole


def table(result: dict[str, Any]) -> Table:
    """Ours and theirs side by side."""
    processor = result["device"] == "cpu"
    head = ["method", "arm", "ours ms", "range", "theirs ms", "range", "ratio", *(["of processor time"] * processor)]
    rows = []
    for row in result["rows"]:
        sides = [(row[who]["ms"], "{:.0f}-{:.0f}".format(*row[who]["range_ms"])) for who in ("ours", "theirs")]
        last = [row["processor_ratio"]] * processor
        rows.append([row["method"], row["arm"], *sides[0], *sides[1], row["ratio"], *last])
    notes = [
        f"{result['device']}, {result['threads']} threads, {result['dtype']}, ours {result['attention']}, "
        f"torch {result['torch']}; medians of {result['rounds']} rounds in turn, from ids and pixels to first token",
        "ratio: theirs over ours in the same round, median; " + "; ".join(result["forks"].values()),
    ]
    return Table(f"{result['shape']}, keep {result['keep']}: ours and the authors' code", head, rows, notes)
