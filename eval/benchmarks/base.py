"""What the benchmarks have in common: finding the files, joining answers to questions, adding up a score."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from debias.names import nearest
from eval.reading.images import check_image
from eval.reading.read import Fault, Faults, label, records, want
from eval.reading.sample import Row, Sample, Score, row_id, row_text

T = TypeVar("T")
Array = np.ndarray[Any, np.dtype[np.float64]]
Statistic = Callable[[Array], Array]

SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."


class Benchmark:
    """One benchmark. A subclass reads its files (`read`), judges one answer (`item`), and says what the headline is."""

    folders: tuple[str, ...]  # its names below the data root
    marks: tuple[str, ...]  # files that show that a folder is this benchmark's
    expected_n: int  # questions of the official set
    metric: str
    media: str = "image"
    conversation: str = "vicuna_v1"
    max_new_tokens: int = 128
    unanswered: str = ""  # where to score a split without public answers

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"<benchmark {self.name}>"

    # Questions ------------------------------------------------------------------------------------------

    def load(
        self, data: str | Path, *, media: bool = True, faults: Faults | None = None, **options: Any
    ) -> list[Sample]:
        """All questions below `data` (the data root, or the benchmark's own folder), in file order.

        `media=False` leaves images and videos aside: scoring needs the annotations only.
        """
        known = list(inspect.signature(self.read).parameters)[3:]  # behind home, faults and media
        for name in options:
            if name not in known:
                has = f"it has {', '.join(known)}" if known else "it has none"
                raise ValueError(f"{self.name} has no option {name!r}{nearest(name, known)}; {has}")
        faults = faults or Faults()
        home = self.home(Path(data))
        samples: dict[str, Sample] = {}
        for sample in self.read(home, faults, media, **options):
            if sample.key in samples:
                faults.add(home, f"{self.name} asks {shown(sample.key)} twice; expected every question once")
            samples[sample.key] = sample
        if not samples and not faults.all:
            faults.add(home, f"expected questions of {self.name}, found none")
        return list(samples.values())

    def read(self, home: Path, faults: Faults, media: bool) -> Iterator[Sample]:
        """The questions of the files in `home`, as they are read. Further arguments are the options of a benchmark."""
        raise TypeError(f"{type(self).__name__} does not say how it is read")

    def home(self, data: Path) -> Path:
        """The folder with the benchmark's files: one of its names below the data root, or `data` itself."""
        places = [*(data / folder for folder in self.folders), data]
        for place in places:
            if any(any(place.glob(mark)) for mark in self.marks):
                return place
        looked = ", ".join(str(place) for place in places)
        raise ValueError(f"{data}: no files of {self.name}; expected {' or '.join(self.marks)} in {looked}")

    def lies_in(self, data: Path) -> bool:
        """Whether the benchmark's files are below a data root."""
        try:
            self.home(data)
        except ValueError:
            return False
        return True

    def check(self, data: str | Path, **options: Any) -> list[Fault]:
        """Reads the whole benchmark, every record and every image, and says all that is wrong with it."""
        faults = Faults(stop=False)
        try:
            samples = self.load(data, faults=faults, **options)
        except ValueError as error:
            return [*faults.all, Fault(str(data), str(error))]
        for line in self.unofficial(samples):
            faults.add(data, line, warning=True)
        first = {sample.image or sample.video: sample for sample in reversed(samples)}
        first.pop(None, None)
        with ThreadPoolExecutor(8) as pool:
            for fault in pool.map(check_image, reversed(first.values())):
                if fault:
                    faults.all.append(fault)
        return faults.all

    def sizes(self, samples: Sequence[Sample]) -> list[tuple[str, int, int]]:
        """(what, how many there are, how many the official set has)."""
        return [(self.name, len(samples), self.expected_n)]

    def unofficial(self, samples: Sequence[Sample]) -> list[str]:
        """In what the questions are not the official set; empty when they are."""
        return [
            f"{what} has {n:,} questions, the official set {expected:,}"
            for what, n, expected in self.sizes(samples)
            if n != expected
        ]

    # Answers --------------------------------------------------------------------------------------------

    def key(self, row: Row) -> str:
        """The key of the sample that a row answers, found from what LLaVA writes into a row."""
        return row_id(row)

    def prompt(self, row: Row) -> str:
        """The prompt of a row, for benchmarks whose ids do not tell questions apart."""
        if not isinstance(row.get("prompt"), str):
            name = f"{self.name}: the answer for {row_id(row)!r}"
            raise ValueError(f"{name} has no prompt; expected one that holds the question")
        return str(row["prompt"])

    def answers(self, rows: Iterable[Row], samples: Sequence[Sample]) -> dict[str, str]:
        """key -> answer. Joined by id, never by position; what does not fit stops here."""
        known = {sample.key for sample in samples}
        by_key: dict[str, str] = {}
        for row in rows:
            # Rows of ours carry the key, and it counts when it is this benchmark's.
            metadata = row.get("metadata") or {}
            ours = metadata.get("benchmark") == self.name
            key = str(metadata["key"]) if ours and "key" in metadata else self.key(row)
            if key not in known:
                raise ValueError(
                    f"{self.name}: the answers hold {shown(key)}, none of the data's {len(known):,} questions; "
                    "expected answers to the same split and version of the benchmark"
                )
            if key in by_key:
                raise ValueError(f"{self.name}: {shown(key)} is answered twice; expected one answer per question")
            by_key[key] = row_text(row)
        return by_key

    def score(self, rows: Iterable[Row], samples: Sequence[Sample], judge: Any = None) -> Score:
        """Scores answer rows. A question without an answer is wrong, and counted. `judge`: where benchmarks need it."""
        self.require_truth(samples)
        return self.tally(samples, self.answers(rows, samples), self.item)

    def require_truth(self, samples: Sequence[Sample]) -> None:
        """ValueError where there are no questions, or where the answers of some are not public."""
        if not samples:
            raise ValueError(f"{self.name}: no questions to score")
        hidden = next((sample for sample in samples if sample.target is None), None)
        if hidden:
            raise ValueError(f"{self.name}: the answer to {shown(hidden.key)} is not public; {self.unanswered}")

    def tally(
        self, samples: Sequence[Sample], answers: Mapping[str, str], judged: Callable[[Sample, str], float | None]
    ) -> Score:
        """The score, given how one answer is judged (0..1, or None)."""
        items: dict[str, float] = {}
        unparsed = 0
        for sample in samples:
            items[sample.key] = 0.0
            if sample.key in answers:
                item = judged(sample, answers[sample.key])
                unparsed += item is None or self.unclear(sample, answers[sample.key])
                items[sample.key] = item or 0.0
        values = np.array(list(items.values()))
        return Score(
            name=self.called(samples),
            value=float(self.statistic(samples, values)(np.ones(len(items)))),
            metric=self.metric,
            parts=self.parts(samples, values, answers),
            items=items,
            groups={sample.key: sample.group for sample in samples},
            n=len(samples),
            missing=len(samples) - len(answers),
            unparsed=unparsed,
            info=self.info(samples, answers),
        )

    def called(self, samples: Sequence[Sample]) -> str:
        """The score's name: a stand-in for the official number never carries the official name."""
        return self.name

    def item(self, sample: Sample, answer: str) -> float | None:
        """0..1 for one answer; None where the parser finds no choice in it (scored 0, and counted)."""
        raise TypeError(f"{type(self).__name__} does not say how an answer is judged")

    def unclear(self, sample: Sample, answer: str) -> bool:
        """True for an answer that is scored, but only because the official parser takes anything for a choice."""
        return False

    def statistic(self, samples: Sequence[Sample], items: Array) -> Statistic:
        """The headline value as a function of how often each sample counts: weights [..., n] -> value [...].

        With weights of 1 it is the score; with the counts of a resample it is what the bootstrap needs.
        """
        return mean(items)

    def parts(self, samples: Sequence[Sample], items: Array, answers: Mapping[str, str]) -> dict[str, float]:
        """The sub-scores by name."""
        return {}

    def info(self, samples: Sequence[Sample], answers: Mapping[str, str]) -> dict[str, Any]:
        """Conditions of the score: split, frame, judge, ..."""
        return {}


def questions(path: Path, root: Path, faults: Faults, **fixed: Any) -> Iterator[Sample]:
    """The questions of one of LLaVA's question files, with pictures in `root`."""
    for where, record in records(path, faults):
        with faults.at(path, where):
            name = want(record, "image")
            id, text, category = (
                want(record, "question_id", int, str),
                want(record, "text"),
                label(record, "category"),
            )
            yield Sample(id, text, root / name, group=name, category=category, root=root, **fixed)


def truth_of(id: str | int, truth: Mapping[str, T], source: Path) -> T:
    """What a file of answers says about a question."""
    if str(id) not in truth:
        raise ValueError(f"question {id!r} is not in {source}; expected the same version in both")
    return truth[str(id)]


def ten_answers(record: Mapping[str, Any]) -> list[str]:
    """The ten human answers of a VQA record, given as strings or as objects with an `answer`."""
    answers = [
        answer if isinstance(answer, str) else want(answer, "answer") for answer in want(record, "answers", list)
    ]
    if len(answers) != 10:
        raise ValueError(f"expected 10 human answers, found {len(answers)}")
    return answers


def shown(key: str) -> str:
    """A question's key in a message, cut where it is long."""
    return f"question {key!r:.160}"


def mean(items: Array, where: Array | None = None) -> Statistic:
    """The weighted mean of the items x 100, over all of them or over those in the mask; 0 where nothing counts."""
    mask = np.ones(len(items)) if where is None else where.astype(float)
    return lambda weights: ratio(100 * (weights @ (items * mask)), weights @ mask)


def all_right(samples: Sequence[Sample], items: Array) -> tuple[Array, Array]:
    """For groups that count as a whole: (1 where the whole group is right, 1 at the first sample of each group)."""
    right: dict[str, float] = {}
    first: dict[str, int] = {}
    for index, (sample, item) in enumerate(zip(samples, items.tolist(), strict=True)):
        right[sample.group] = min(right.get(sample.group, item), item)
        first.setdefault(sample.group, index)
    marks = np.zeros(len(items))
    marks[list(first.values())] = 1
    return np.array([right[sample.group] for sample in samples]), marks


def ratio(top: Array, bottom: Array) -> Array:
    """0 where there is nothing to divide by."""
    return top / np.where(bottom == 0, np.inf, bottom)


def means(labels: Iterable[str], items: Iterable[float], prefix: str = "") -> dict[str, float]:
    """Mean x 100 of the items under each label, labels in alphabetical order; an empty label is no label."""
    groups: dict[str, list[float]] = {}
    for name, item in zip(labels, items, strict=True):
        if name:
            groups.setdefault(name, []).append(float(item))
    return {prefix + name: 100 * sum(values) / len(values) for name, values in sorted(groups.items())}
