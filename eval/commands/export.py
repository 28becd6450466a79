"""Writes the file that a benchmark's server expects, and reads it again before calling it done.

examples:
  python -m eval export vqav2 --answers answers.jsonl --data playground/data/eval --out upload.json
  python -m eval export mmbench --answers answers.jsonl --data playground/data/eval --out upload.xlsx
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from openpyxl import Workbook, load_workbook
from openpyxl.cell import WriteOnlyCell
from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

from eval.benchmarks import get
from eval.benchmarks.base import questions
from eval.benchmarks.mmbench import Mmbench
from eval.core.files import whole
from eval.core.tables import tell
from eval.reading.read import Faults, table
from eval.reading.sample import Sample, read_rows
from eval.scoring.normalise import m4c

Answers = Mapping[str, str]
Paths = str | Path | Sequence[str | Path]

OFFICIAL = {"vqav2": "test-dev", "vizwiz": "test", "mmbench": "", "mmbench_cn": "", "mmvet": ""}
ALL_VQAV2 = "llava_vqav2_mscoco_test2015.jsonl"
# Columns that MMBench's server does not want back; a release that lacks one of them is fine.
DROPPED = ("hint", "category", "source", "image", "comment", "l2-category")
PREDICTION_COLUMN = 6
LONGEST_CELL = 32_767  # characters, Excel's limit


def export(
    name: str, answers: Paths, data: str | Path, out: str | Path, allow_partial: bool = False, split: str = ""
) -> dict[str, Any]:
    """Writes one benchmark's submission, reads it again, and says what it holds: file, records, missing."""
    if name not in OFFICIAL:
        raise ValueError(f"{name} has no submission file; benchmarks that do: {', '.join(OFFICIAL)}")
    benchmark, split = get(name), split or OFFICIAL[name]
    samples = benchmark.load(data, media=False, split=split) if split else benchmark.load(data, media=False)
    home = benchmark.home(Path(data))
    # VQAv2's server wants every question of the whole test set, of which test-dev is a part.
    asked = list(questions(home / ALL_VQAV2, home, Faults())) if name == "vqav2" else samples
    given = benchmark.answers(read_rows(answers if isinstance(answers, str | Path) else list(answers)), asked)
    missing = [sample.key for sample in samples if sample.key not in given]
    if missing and not allow_partial:
        raise ValueError(
            f"{name}: {len(missing):,} of {len(samples):,} questions have no answer, first {missing[0]!r}; "
            "expected all of them (allow_partial submits empty answers)"
        )
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole(out) as file:
        if isinstance(benchmark, Mmbench):
            same = _write_xlsx(file, list(_table(home / f"{split or benchmark.dev}.tsv", given)))
        else:
            value = _submission(name, [(sample, given.get(sample.key, "")) for sample in asked])
            file.write(json.dumps(value).encode())
            file.seek(0)
            same = json.load(file) == value
        if not same:
            raise ValueError(f"{out}: what was read back is not what was written")
    return {"benchmark": name, "file": str(out), "records": len(asked), "missing": len(missing)}


def _submission(name: str, answers: Sequence[tuple[Sample, str]]) -> Any:
    """What a server that takes JSON expects."""
    if name == "mmvet":
        return {f"v1_{sample.id}": text for sample, text in answers}
    if name == "vizwiz":
        return [{"image": sample.group, "answer": m4c(text)} for sample, text in answers]
    return [{"question_id": int(sample.id), "answer": m4c(text)} for sample, text in answers]


def _write_xlsx(file: IO[bytes], rows: Sequence[Sequence[str | int]]) -> bool:
    """Write a table, and say whether it is read back as it was. Cells are text, whatever they begin with: none is a
    formula."""
    book = Workbook(write_only=True)
    sheet = book.create_sheet("Sheet1")
    for row in rows:
        cells = [WriteOnlyCell(sheet, value) for value in row]
        for cell in cells:
            cell.data_type = "s" if isinstance(cell.value, str) else cell.data_type
        sheet.append(cells)
    book.save(file)
    book = load_workbook(file, read_only=True)
    read = [[("" if value is None else value) for value in row] for row in book.active.iter_rows(values_only=True)]
    book.close()
    return [row + [""] * (len(rows[0]) - len(row)) for row in read] == rows


def _table(source: Path, answers: Answers) -> Iterator[list[str | int]]:
    columns: list[str] = []
    for _, row in table(source, ("index", "question")):
        if not columns:
            columns = [name for name in row if name not in DROPPED]
            yield [*columns[:PREDICTION_COLUMN], "prediction", *columns[PREDICTION_COLUMN:]]
        cells: list[str | int] = [int(row[name]) if name == "index" else _cell(row[name]) for name in columns]
        yield [*cells[:PREDICTION_COLUMN], _cell(answers.get(str(int(row["index"])), "")), *cells[PREDICTION_COLUMN:]]


def _cell(text: str) -> str:
    """What a cell can hold: no control characters, one kind of line end, not longer than Excel allows."""
    text = re.sub(ILLEGAL_CHARACTERS_RE, "", text)
    return text.replace("\r\n", "\n").replace("\r", "\n")[:LONGEST_CELL]


def arguments(parser: argparse.ArgumentParser) -> None:
    """The benchmark, the answers and annotations, and the file to write."""
    add = parser.add_argument
    add("benchmark", choices=list(OFFICIAL), metavar="BENCHMARK", help=", ".join(OFFICIAL))
    add("--answers", type=Path, nargs="+", required=True, metavar="FILE", help="answer files, or shards")
    add("--data", type=Path, required=True, metavar="DIR", help="data root, or the benchmark's folder")
    add("--out", type=Path, required=True, metavar="FILE", help="the file to write (.json, mmbench: .xlsx)")
    add("--split", default="", help="another split or release, as for `score`")
    add("--allow-partial", action="store_true", help="submit empty answers where there are none")


def work(args: argparse.Namespace) -> dict[str, Any]:
    """Writes the submission; returns its name and what it holds."""
    done = export(args.benchmark, args.answers, args.data, args.out, args.allow_partial, args.split)
    if not args.json:
        tell(f"{done['file']}: {done['records']:,} records, {done['missing']:,} without an answer")
    return done
