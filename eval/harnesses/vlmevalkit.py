"""Pruned models inside VLMEvalKit: under names of their own in its table of models, for the time of its run.py."""

from __future__ import annotations

import runpy
import string
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import torch

from eval.benchmarks.base import SHORT
from eval.benchmarks.mmbench import Mmbench, asked
from eval.benchmarks.mmbench_cn import MmbenchCn
from eval.harnesses.pruned import Pruned, Rows


def launch(
    script: Path, arms: Sequence[str], settings: Mapping[str, Any], words: Sequence[str], rows: str | None = None
) -> list[str]:
    """Runs the kit's run.py on a method in each of its arms; returns the names of its models.

    settings: what `Model` takes. words: what the kit is told behind them. rows: a file for the tokens that stayed.
    """
    # made here: while the kit makes a model it hides from it that it is one of several processes
    settings = {**settings, "rows": None if rows is None else Rows(rows)}
    failures: list[str] = []
    sys.path.insert(0, str(script.parent.resolve()))
    registered = register(arms, {**settings, "failures": failures})
    typed, sys.argv = sys.argv, [str(script), "--model", *registered, *words]
    try:
        with redirect_stdout(sys.stderr):
            runpy.run_path(str(script), run_name="__main__")
    finally:
        sys.argv = typed
        sys.path.remove(str(script.parent.resolve()))
    if failures:
        raise ValueError(
            f"VLMEvalKit went on after {len(failures)} failures, and what it scored is not the whole. The first: "
            f"{failures[0]}"
        )
    return registered


def register(arms: Sequence[str], settings: Mapping[str, Any]) -> list[str]:
    """The names under which the kit now knows the method, one for each arm."""
    try:
        from vlmeval.config import supported_VLM
    except ImportError as error:
        raise ValueError(f"VLMEvalKit does not start here: {error}. Install what its requirements.txt names") from error
    kind = model_class()
    names = []
    for arm in arms:
        names.append(f"debias_{settings['method']}_{arm}")
        supported_VLM[names[-1]] = partial(kind, arm=arm, **settings)
    return names


def model_class() -> type:
    """The class as the kit wants it."""
    from vlmeval.dataset import DATASET_MODALITY, DATASET_TYPE
    from vlmeval.vlm.base import BaseModel

    tells = {"type_of": staticmethod(DATASET_TYPE), "modality_of": staticmethod(DATASET_MODALITY)}
    return type("Debias", (Model, BaseModel), tells)


class Model:
    """What the kit asks of a model. Its BaseModel is mixed in when it runs, and brings `generate` and `dump_image`."""

    INTERLEAVE = True
    VIDEO_LLM = False
    type_of: Callable[[str], str]
    modality_of: Callable[[str], str]
    dump_image: Callable[..., Sequence[str]]

    def __init__(
        self, longest: int = 1024, rows: Rows | None = None, failures: list[str] | None = None, **settings: Any
    ) -> None:
        super().__init__()
        self.longest, self.rows = longest, rows
        self.failures = [] if failures is None else failures
        # the kit shows each process the devices that it may use, so the first is right
        given = {
            "device": "cuda" if torch.cuda.is_available() else "cpu",
            **{k: v for k, v in settings.items() if v is not None},
        }
        with noted(self.failures, f"{settings.get('method')}, arm {settings.get('arm')}"):
            self.pruned = Pruned.from_text(**given)
        self.VIDEO_LLM = self.pruned.media == "video"

    def use_custom_prompt(self, dataset: str) -> bool:
        """Questions about clips are the kit's: only its data set knows how many frames it shows."""
        return self.type_of(dataset) in ("MCQ", "Y/N") and self.modality_of(dataset) != "VIDEO"

    def build_prompt(self, line: Mapping[str, Any], dataset: str) -> list[dict[str, str]]:
        """The parts of a question of the kit's table, as the model's family is asked."""
        pictures = [{"type": "image", "value": path} for path in self.dump_image(line, dataset)]
        text = multiple_choice(line) if self.type_of(dataset) == "MCQ" else f"{line['question']}\n{SHORT}"
        return [*pictures, {"type": "text", "value": text}]

    def generate_inner(self, message: Sequence[Mapping[str, Any]], dataset: str | None = None) -> str:
        """The answer to a question in parts."""
        with noted(self.failures, f"{dataset}, {[part['value'] for part in message]}"):
            request = self.pruned.request([(part["type"], part["value"]) for part in message])
            answer = self.pruned([request], self.longest)[0]
        if self.rows is not None:
            self.rows.add(answer, task=dataset, prompt=request.text, arm=self.pruned.arm)
        return answer.text


@contextmanager
def noted(failures: list[str], where: str) -> Iterator[None]:
    """The kit logs an error, leaves out the data set and ends with success; so we remember it ourselves."""
    try:
        yield
    except Exception as error:
        failures.append(f"{where}: {error}")
        raise


def multiple_choice(line: Mapping[str, Any]) -> str:
    """A question with its options, as MMBench's are put to LLaVA, in English or Chinese."""
    there = {name: str(line[name]) for name in ("hint", "question", *string.ascii_uppercase) if present(line, name)}
    choices = {letter: there[letter] for letter in string.ascii_uppercase if letter in there}
    text = asked(there.get("hint", ""), there["question"], choices)
    chinese = any("\u4e00" <= sign <= "\u9fff" for sign in text)
    return f"{text}\n{(MmbenchCn if chinese else Mmbench).instruction}"


def present(line: Mapping[str, Any], name: str) -> bool:
    """Whether a cell of the kit's table is filled; an empty cell is NaN, which is not equal to itself."""
    return name in line and line[name] is not None and line[name] == line[name]
