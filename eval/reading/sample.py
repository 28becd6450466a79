"""The three values that evaluation passes around: a question, an answer row, a score."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from eval.reading.read import lines, read_json, records

Row = dict[str, Any]

# Other people's scripts call the two things we need by these names; the first that is present counts.
# Video-LLaVA's rows hold the ground truth as "answer", so "pred" goes before it.
ID_FIELDS = ("question_id", "questionId", "id", "image")
TEXT_FIELDS = ("text", "prediction", "pred", "answer")


@dataclass(frozen=True)
class Sample:
    """One question of a benchmark, as the files ask it. Knows no model."""

    id: str | int  # LLaVA's question_id, as it stands in the question file
    text: str  # what the user asks, without the image placeholder
    image: Path | bytes | None = None  # bytes: an encoded image that came inside the question file
    video: Path | None = None
    group: str = ""  # what the question shares with others: its image, video or circular group
    target: Any = None  # None: the answer is not public
    category: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    key: str = ""  # unique inside the benchmark; the id, where ids do not repeat
    root: Path | None = None  # the folder that the image's path must not leave

    def __post_init__(self) -> None:
        if not self.key:
            object.__setattr__(self, "key", str(self.id))
        if not self.group:
            object.__setattr__(self, "group", self.key)

    def but(self, **changes: Any) -> Sample:
        """The same question, with some fields changed."""
        return replace(self, **changes)


def make_row(sample: Sample, text: str, model_id: str, metadata: Mapping[str, Any]) -> Row:
    """An answer in LLaVA's format. Its `answer_id` is a digest, so that a run repeated is a file repeated."""
    metadata = {"key": sample.key, **metadata}
    seed = repr((sample.key, model_id, metadata.get("benchmark"), metadata.get("arm"), metadata.get("run")))
    return {
        "question_id": sample.id,
        "prompt": sample.meta.get("prompt", sample.text),
        "text": text,
        "answer_id": hashlib.sha256(seed.encode()).hexdigest()[:22],
        "model_id": model_id,
        **sample.meta.get("row", {}),
        "metadata": metadata,
    }


def read_rows(paths: str | Path | Iterable[str | Path]) -> Iterator[Row]:
    """Answer rows of one or more files, from any script: JSON lines, a JSON list, or an object id -> answer."""
    for path in [paths] if isinstance(paths, str | Path) else paths:
        for where, row in _answer_records(Path(path)):
            try:
                row_id(row), row_text(row)
            except ValueError as error:
                raise ValueError(f"{path}, {where}: {error}") from None
            yield row


def _answer_records(path: Path) -> Iterator[tuple[str, Row]]:
    first = next((line.strip() for _, line in lines(path)), "")
    if first.startswith("{") and not any(f'"{name}"' in first for name in ID_FIELDS + TEXT_FIELDS):
        for id, text in read_json(path).items():
            yield f"entry {id!r}", {"question_id": id, "text": text}
    else:
        yield from records(path)


def row_id(row: Mapping[str, Any]) -> str:
    """The question's id as a string: the same id is a number in one file and a string in another."""
    for name in ID_FIELDS:
        value = row.get(name)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, str | int) and not isinstance(value, bool):
            return str(value)
    raise ValueError(f"expected an answer row with a question_id (a string or a whole number), found {_fields(row)}")


def row_text(row: Mapping[str, Any]) -> str:
    """An answer's text."""
    for name in TEXT_FIELDS:
        if name in row:
            if isinstance(row[name], str):
                return str(row[name])
            raise ValueError(f"expected a string in {name!r}, found {row[name]!r:.80}")
    raise ValueError(f"expected an answer row with a 'text', found {_fields(row)}")


def _fields(row: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, row)) or "an empty record"


@dataclass(frozen=True)
class Score:
    """What a benchmark says about one set of answers."""

    name: str  # what a table may call it: "pope"; stand-ins have names of their own ("vizwiz_val", "msvd_em")
    value: float  # headline, 0..100; MME: points
    metric: str  # what the value is, in words
    parts: dict[str, float]  # sub-scores
    items: dict[str, float]  # sample.key -> 0..1
    groups: dict[str, str]  # sample.key -> what to resample by
    n: int  # questions counted, answered or not
    missing: int  # questions without an answer: wrong, and counted
    unparsed: int  # answers in which the parser found no choice
    info: dict[str, Any] = field(default_factory=dict)  # conditions of the number: split, normaliser, judge, ...
    unjudged: tuple[str, ...] = ()  # keys of answers that the judge gave no grade for: no part of the score
