"""Benchmarks that are published as Hugging Face datasets: written once in LLaVA's layout, which everything else reads.
Needs pyarrow.

    --data hf:lmms-lab/POPE      the dataset of the hub, fetched on first use
    --data FOLDER                a folder with its .parquet files
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.benchmarks.base import SHORT
from eval.files import cache_home
from pruners.models.folder import fetched

HUB = "hf:"
# What is fetched of the published datasets; of others, every .parquet file.
PARTS = {
    "lmms-lab/POPE": ("data/*.parquet",),
    "lmms-lab/MME": ("data/*.parquet",),
    "lmms-lab/GQA": ("testdev_balanced_instructions/*.parquet", "testdev_balanced_images/*.parquet"),
}
# Told apart by their columns, in this order.
COLUMNS = {
    "pope": {"question", "answer", "category", "image", "image_source"},
    "mme": {"question_id", "question", "answer", "category", "image"},
    "gqa": {"id", "imageId", "question", "answer"},
    "gqa images": {"id", "image"},
}
Record = Mapping[str, Any]


def is_parquet(data: Path) -> bool:
    """Whether --data names a dataset of the hub or a folder of parquet files."""
    return str(data).startswith(HUB) or (data.is_dir() and next(data.rglob("*.parquet"), None) is not None)


def there(data: Path) -> None:
    """ValueError where pyarrow is not."""
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise ValueError(
            f"--data {data}: parquet files need pyarrow: pip install 'attention-debiasing[data]'"
        ) from None


def laid_out(data: Path) -> Path:
    """The data root: LLaVA's layout of what the parquet files hold, in the cache; any other folder is itself."""
    if not is_parquet(data):
        return data
    there(data)
    name = str(data).removeprefix(HUB)
    root = fetched(name, PARTS.get(name, ("*.parquet",)), "dataset") if str(data).startswith(HUB) else data
    files = sorted(root.rglob("*.parquet"))
    seen = [(str(file.relative_to(root)), (at := file.stat()).st_size, at.st_mtime_ns) for file in files]
    out = cache_home() / "parquet" / hashlib.sha256(json.dumps([str(root.resolve()), seen]).encode()).hexdigest()[:16]
    if not out.is_dir():
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent) as draft:
            write(files, Path(draft, "root"))
            os.replace(Path(draft, "root"), out)
    return out


def write(files: Sequence[Path], root: Path) -> None:
    """Every benchmark of the files, in LLaVA's layout below `root`."""
    by_kind: dict[str, list[Path]] = {}
    for file in files:
        by_kind.setdefault(kind_of(file), []).append(file)
    if "gqa images" in by_kind and "gqa" not in by_kind:
        raise ValueError(f"{by_kind['gqa images'][0]}: pictures of GQA without its questions; expected both folders")
    for kind, make in (("pope", pope), ("mme", mme), ("gqa", gqa)):
        if kind in by_kind:
            make(by_kind[kind], by_kind.get(f"{kind} images", []), root)


def kind_of(file: Path) -> str:
    """Which benchmark a file holds, by its columns."""
    import pyarrow.parquet

    try:
        columns = set(pyarrow.parquet.read_schema(file).names)
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise ValueError(f"{file}: not a parquet file ({str(error).splitlines()[0]})") from None
    for kind, needed in COLUMNS.items():
        if needed <= columns:
            return kind
    known = "; ".join(f"{kind}: {', '.join(sorted(needed))}" for kind, needed in COLUMNS.items())
    raise ValueError(f"{file}: columns {', '.join(sorted(columns))} belong to no benchmark that is read so ({known})")


def rows(files: Sequence[Path]) -> Iterator[tuple[str, Record]]:
    """(place, record) of every row of some files, a few in memory at a time."""
    import pyarrow.parquet

    for file in files:
        number = 0
        for batch in pyarrow.parquet.ParquetFile(file).iter_batches(64):
            for record in batch.to_pylist():
                number += 1
                yield f"{file}, row {number}", record


def pope(files: Sequence[Path], _: Sequence[Path], root: Path) -> None:
    questions: list[Record] = []
    labels: dict[str, list[Record]] = {"adversarial": [], "popular": [], "random": []}
    for where, record in rows(files):
        name, category = f"{plain(record['image_source'], where)}.jpg", record["category"]
        if category not in labels:
            raise ValueError(f"{where}: expected the category {', '.join(labels)}, found {category!r:.40}")
        put(root / "pope" / "val2014" / name, record["image"], where)
        labels[category].append({"image": name, "text": record["question"], "label": record["answer"].strip().lower()})
        text = f"{record['question'].strip()}\n{SHORT}"
        questions.append({"question_id": len(questions), "image": name, "text": text, "category": category})
    for category, known in labels.items():
        lines(root / "pope" / "coco" / f"coco_pope_{category}.json", known)
    lines(root / "pope" / "llava_pope_test.jsonl", questions)


def mme(files: Sequence[Path], _: Sequence[Path], root: Path) -> None:
    release = root / "MME" / "MME_Benchmark_release_version"
    questions: list[Record] = []
    for where, record in rows(files):
        category, name = record["question_id"].partition("/")[0], record["question_id"].rpartition("/")[2]
        place = release / plain(category, where) / plain(name, where)
        put(place, record["image"], where)
        question = record["question"].replace("\n", " ").strip()
        with open(place.with_name(f"{name.partition('.')[0]}.txt"), "a", encoding="utf-8") as file:
            file.write(f"{question}\t{record['answer'].strip()}\n")
        text = f"{question.removesuffix('Please answer yes or no.').strip()}\n{SHORT}"
        key = f"{category}/{name}"
        questions.append({"question_id": key, "image": key, "text": text, "category": category})
    lines(root / "MME" / "llava_mme.jsonl", questions)


def gqa(files: Sequence[Path], pictures: Sequence[Path], root: Path) -> None:
    questions: list[Record] = []
    truth: dict[str, Record] = {}
    for where, record in rows(files):
        key, name = str(record["id"]), f"{plain(record['imageId'], where)}.jpg"
        truth[key] = {column: value for column, value in record.items() if column != "image"}
        questions.append({"question_id": key, "image": name, "text": f"{record['question'].strip()}\n{SHORT}"})
    for where, record in rows(pictures):
        put(root / "gqa" / "data" / "images" / f"{plain(record['id'], where)}.jpg", record["image"], where)
    lines(root / "gqa" / "llava_gqa_testdev_balanced.jsonl", questions)
    (root / "gqa" / "data").mkdir(parents=True, exist_ok=True)
    (root / "gqa" / "data" / "testdev_balanced_questions.json").write_text(json.dumps(truth), encoding="utf-8")


def plain(name: Any, where: str) -> str:
    """A name that a file may have."""
    if not isinstance(name, str) or not re.fullmatch(r"[\w][\w .-]*", name):
        raise ValueError(f"{where}: expected the plain name of a file, found {name!r:.80}")
    return name


def put(path: Path, picture: Any, where: str) -> None:
    """Write a picture as it lies in the dataset: an object with the file's bytes."""
    held = picture.get("bytes") if isinstance(picture, dict) else None
    if not isinstance(held, bytes):
        raise ValueError(f"{where}: expected a picture with its bytes in the column image, found {picture!r:.80}")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(held)


def lines(path: Path, records: Sequence[Record]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
