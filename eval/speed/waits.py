"""Who makes the host wait for the device (`python -m eval speed --waits`), on a GPU.

Three looks at one prefill and a few steps behind it, under every method:

- in CUDA's own "warn" mode every wait is noted with the line of ours that caused it. What is known to wait is in
  `DOOR`, `NEEDED` and `SIZES`; anything else is a mistake;
- where nothing needs to wait, the decoder's layers run once more in "error" mode, which ends with the first wait;
- the profiler counts the waits of the pruned and of the unpruned model.

tests/pruners/engine/test_waiting.py holds the same lists against a pretended device, on machines that have no GPU.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from eval.core.tables import Table
from eval.speed.drawn import Laid, prompt
from eval.speed.measure import Variant, varying
from eval.speed.settings import SpeedSettings

# Read once, before the model starts on the prompt: its ids and its mask.
DOOR = ("engine/hooks.py:prefill", "engine/sequence.py:real_columns")
# Once per image: whether an independent set is complete, and a solver's look for errors.
NEEDED = {
    "tokencarve": "methods/tokencarve.py:information",
    "d2pruner": "parts/mis.py:independent",
    "deeplayer": "parts/mis.py:independent",
}
# Read with the ids: how large the pictures are.
SIZES = ("models/llava_next.py:spans", "models/llava_onevision.py:spans", "models/qwen2_5_vl.py:grids")
OURS = ("pruners", "engine", "methods", "models", "parts", "debias")  # the folders whose waits are ours
STEPS = 3
# As the profiler names them: CUDA's on a GPU, and what would cause them on a CPU.
PROFILED = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "aten::_local_scalar_dense")


def place() -> str:
    """folder/file.py:function of the code that called into torch."""
    frame = sys._getframe(1)
    while frame.f_back is not None and any(
        part in frame.f_code.co_filename for part in ("/torch/", "warnings.py", "waits.py")
    ):
        frame = frame.f_back
    path = Path(frame.f_code.co_filename)
    return f"{path.parent.name}/{path.name}:{frame.f_code.co_name}"


@contextmanager
def noted(device: torch.device) -> Iterator[Counter[str]]:
    """The places that make the host wait inside the block, by CUDA's own notes. Nothing waits on a CPU."""
    counts: Counter[str] = Counter()

    def note(message: Warning | str, *rest: Any, **more: Any) -> None:
        if "synchronizing CUDA operation" in str(message):
            counts[place()] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        change(device, "warn")
        try:
            yield counts
        finally:
            change(device, "default")


def change(device: torch.device, to: str) -> None:
    """What CUDA does from now on when the host has to wait: nothing ("default"), "warn", or "error"."""
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode(to)


@contextmanager
def strict(family: Laid) -> Iterator[None]:
    """Inside the block, a wait between the first and the last layer of the decoder is an error."""
    layers, device = family.decoder.layers, family.model.device
    handles = [
        layers[0].register_forward_pre_hook(lambda *_: change(device, "error"), prepend=True),
        layers[-1].register_forward_hook(lambda *_: change(device, "default"), always_call=True),
    ]
    try:
        yield
    finally:
        change(device, "default")
        for handle in handles:
            handle.remove()


def profiled(device: torch.device, work: Callable[[], object]) -> int:
    """How often the host waited, as the profiler saw it."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=kinds, acc_events=True) as profile:
        work()
    return sum(event.count for event in profile.key_averages() if event.key in PROFILED)


@torch.inference_mode()
def measure(family: Laid, wanted: Sequence[Variant], batch: int, asked: SpeedSettings) -> list[dict[str, Any]]:
    """One row a variant: which places of ours waited, how often, and what the profiler counted."""
    device, inputs, rows = family.model.device, prompt(family, batch), []

    def work(variant: Variant) -> None:
        with variant.around(family, batch):
            out = family.model(**inputs, use_cache=True, logits_to_keep=1)
            for _ in range(STEPS):
                token = out.logits[:, -1:].argmax(-1)
                out = family.model(input_ids=token, past_key_values=out.past_key_values, use_cache=True)

    for variant in wanted:
        work(variant)  # what is made once is made now
        with noted(device) as counts:
            work(variant)
        ours = {at: times for at, times in counts.items() if at.split("/")[0] in OURS}
        known = {**dict.fromkeys((*DOOR, *SIZES), 1), NEEDED.get(variant.method or "", ""): batch}
        unknown = {at: times for at, times in ours.items() if times > known.get(at, 0)}
        error = ""
        if variant.method not in NEEDED:
            try:
                with strict(family):
                    work(variant)
            except RuntimeError as stop:
                error = str(stop).splitlines()[0]
        rows.append(
            {
                "variant": variant.label,
                "method": variant.method,
                "batch": batch,
                "tokens": family.tokens,
                "attention": variant.kernel,
                "ours": ours,
                "unknown": unknown,
                "theirs": sum(counts.values()) - sum(ours.values()),
                "in_layers": error,
                "profiled": profiled(device, partial(work, variant)),
            }
        )
    return rows


def table(result: dict[str, Any]) -> Table:
    """Who waits under every variant."""

    def listed(counts: dict[str, int]) -> str:
        return ", ".join(f"{at} x{times}" for at, times in counts.items()) or "–"

    several = varying(result["rows"])
    rows = [
        [row["variant"], *map(row.get, several), listed(row["ours"]), listed(row["unknown"]), row["theirs"],
         row["in_layers"] or "none", row["profiled"]]
        for row in result["rows"]
    ]  # fmt: skip
    notes = [
        f"{result['device']}, {result['dtype']}, torch {result['torch']}; a prefill and {STEPS} steps behind it",
        "ours, unexpected and theirs (the model's own code): CUDA's warnings; in layers: in its error mode, between "
        "the decoder's first and last layer; profiled: waits that the profiler counts, of everybody",
    ]
    head = ["variant", *several, "ours", "unexpected", "theirs", "in layers", "profiled"]
    return Table(f"{result['shape']}: who waits for the device", head, rows, notes)
