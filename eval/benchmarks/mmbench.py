"""MMBench dev: multiple choice, asked once for every rotation of the options, all of which must be answered right."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from eval.benchmarks.base import LETTER, Array, Benchmark, Statistic, all_right, mean, means
from eval.reading.read import Faults, table
from eval.reading.sample import Sample

LETTERS = "ABCD"
ROTATION = 1_000_000  # the rotations of question 7 are 1000007, 2000007, 3000007
AFFIXES = ("{}.", "{},", "{}:", "{})", "{}).", "({})", "({}).", ":{}", ":{},", ":{}.", ":{})", ":{}).")


class Mmbench(Benchmark):
    """Multiple choice in English. A question counts when all its rotations are answered right."""

    folders: tuple[str, ...] = ("mmbench",)
    dev: str = "mmbench_dev_20230712"
    marks: tuple[str, ...] = ("mmbench_*.tsv",)
    expected_n: int = 4377
    expected_groups: int = 1176
    instruction: str = LETTER
    max_new_tokens = 1024
    metric = "circular accuracy"
    unanswered = "export the answers and upload them to mmbench.opencompass.org.cn"

    def read(self, home: Path, faults: Faults, media: bool, split: str = "") -> Iterator[Sample]:
        """`split`: the name of another release's file, without `.tsv`."""
        path = home / f"{split or self.dev}.tsv"
        pictures: dict[str, bytes] = {}  # the rotations of a question repeat its picture
        for where, row in table(path, ("index", "question", "A", "B", "image"), faults):
            with faults.at(path, where):
                index = whole(row["index"])
                choices = options(row)
                if len(choices) < 2:
                    raise ValueError(f"question {index}: expected the options A and B, found {list(choices)}")
                answer = row.get("answer", "").strip()
                if answer and answer not in choices:
                    raise ValueError(
                        f"question {index}: expected an answer among {', '.join(choices)}, found {answer!r:.40}"
                    )
                hint = row.get("hint", "")
                prompt = asked("" if blank(hint) else hint, row["question"], choices)
                picture = self._picture(row["image"], index, pictures) if media else None
                yield Sample(
                    index,
                    f"{prompt}\n{self.instruction}",
                    picture,
                    group=str(index % ROTATION),
                    target=answer or None,
                    category=row.get("category", ""),
                    meta={
                        "choices": choices,
                        "level": row.get("l2-category", ""),
                        "prompt": prompt,
                        "row": {"round_id": 0, "options": list(choices.values()), "option_char": list(choices)},
                    },
                )

    def _picture(self, text: str, index: int, pictures: dict[str, bytes]) -> bytes:
        group = str(index % ROTATION)
        if text.strip().isdigit():  # later releases name the row that holds the picture
            known = pictures.get(str(int(text) % ROTATION))
            if known is None:
                raise ValueError(
                    f"question {index}: its picture is that of question {text}, which comes later or never"
                )
            pictures[group] = known
            return known
        try:
            picture = base64.b64decode("".join(text.split()), validate=True)
        except (binascii.Error, ValueError):
            raise ValueError(f"question {index}: expected a picture in base64, found {text!r:.40}") from None
        if pictures.get(group) != picture:
            pictures[group] = picture
        return pictures[group]

    def sizes(self, samples: Sequence[Sample]) -> list[tuple[str, int, int]]:
        groups = len({sample.group for sample in samples})
        return [
            (self.name, len(samples), self.expected_n),
            (f"{self.name} without rotations", groups, self.expected_groups),
        ]

    def item(self, sample: Sample, answer: str) -> float | None:
        letter = parsed(answer, sample.meta["choices"])
        return None if letter is None else float(letter == sample.target)

    def statistic(self, samples: Sequence[Sample], items: Array) -> Statistic:
        return mean(*all_right(samples, items))

    def parts(self, samples: Sequence[Sample], items: Array, answers: Mapping[str, str]) -> dict[str, float]:
        right, first = all_right(samples, items)
        once = np.flatnonzero(first).tolist()
        chosen = [samples[place] for place in once]
        return {
            "rows": 100 * float(items.mean()),
            "questions": float(len(chosen)),
            **means([sample.category for sample in chosen], right[once], "category/"),
            **means([sample.meta["level"] for sample in chosen], right[once], "l2-category/"),
        }


def asked(hint: str, question: str, choices: Mapping[str, str]) -> str:
    """A question as LLaVA is asked it, before the instruction."""
    return "\n".join([*([hint] if hint else []), question, *(f"{letter}. {text}" for letter, text in choices.items())])


def options(row: Mapping[str, str]) -> dict[str, str]:
    """letter -> option, up to the first that is missing."""
    texts: dict[str, str] = {}
    for letter in LETTERS:
        text = row.get(letter, "")
        if blank(text):
            break
        texts[letter] = text
    return texts


def blank(text: str) -> bool:
    """Missing, as LLaVA sees it. `NA` and `null` are text: only pandas takes them for missing."""
    return text.lower() in ("", "nan", "none")


def whole(text: str) -> int:
    """The whole number that a cell holds."""
    if not text.strip().isdecimal():
        raise ValueError(f"expected a whole number in 'index', found {text!r:.40}")
    return int(text)


def parsed(answer: str, choices: Mapping[str, str]) -> str | None:
    """The option that an answer names: by its letter standing alone, or by its text; None where the rules find none."""
    words = answer.split()
    for form in ("{}", *AFFIXES):
        named = [letter for letter in choices if form.format(letter) in words]
        if len(named) == 1:
            if form == "{}" and "A" in words and len(words) > 3:
                break  # more likely the article
            return named[0]
    answer = answer.lower()
    named = [letter for letter, text in choices.items() if text.lower() in answer]
    return named[0] if len(named) == 1 else None
