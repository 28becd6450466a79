"""Benchmarks as they are published in Hugging Face `datasets` form, column by column, and how LLaVA keeps them.

A row is an object by column, a picture an object with the file's bytes. What the originals name and a dataset does not
(a question of ScienceQA, a file of RefCOCO) is numbered, or named by its content.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from eval.benchmarks import mmbench, mmbench_cn, mmvet, refcoco, scienceqa, textvqa, vizwiz, vqav2
from eval.benchmarks.base import SHORT

Record = Mapping[str, Any]
Rows = Iterator[tuple[str, Record]]  # (file and row, for messages, and the record)


@dataclass(frozen=True)
class Published:
    """A benchmark as it is published.

    columns: those that it is known by. hub: datasets of the hub that hold it, and which of their files are needed.
    write: makes of its rows, below the data root, the files that LLaVA has; `name` is the benchmark's.
    """

    columns: frozenset[str]
    hub: Mapping[str, Sequence[str]]
    write: Callable[[Rows, Path, str], None]


def write_pope(rows: Rows, root: Path, name: str) -> None:
    """Questions and labels apart, labels by category."""
    questions: list[Record] = []
    labels: dict[str, list[Record]] = {"adversarial": [], "popular": [], "random": []}
    for where, record in rows:
        image, category = f"{plain(record['image_source'], where)}.jpg", record["category"]
        if category not in labels:
            raise ValueError(f"{where}: expected the category {', '.join(labels)}, found {category!r:.40}")
        put(root / "pope" / "val2014" / image, record["image"], where)
        labels[category].append({"image": image, "text": record["question"], "label": record["answer"].strip().lower()})
        questions.append(asked(len(questions), image, record, SHORT, category))
    for category, known in labels.items():
        lines(root / "pope" / "coco" / f"coco_pope_{category}.json", known)
    lines(root / "pope" / "llava_pope_test.jsonl", questions)


def write_mme(rows: Rows, root: Path, name: str) -> None:
    """A text with both questions beside each picture."""
    release = root / "MME" / "MME_Benchmark_release_version"
    questions: list[Record] = []
    for where, record in rows:
        category, image = record["question_id"].partition("/")[0], record["question_id"].rpartition("/")[2]
        place = release / plain(category, where) / plain(image, where)
        put(place, record["image"], where)
        question = record["question"].replace("\n", " ").strip()
        with open(place.with_name(f"{image.partition('.')[0]}.txt"), "a", encoding="utf-8") as file:
            file.write(f"{question}\t{record['answer'].strip()}\n")
        key, bare = f"{category}/{image}", question.removesuffix("Please answer yes or no.")
        questions.append(asked(key, key, {"question": bare}, SHORT, category))
    lines(root / "MME" / "llava_mme.jsonl", questions)


def write_gqa(rows: Rows, root: Path, name: str) -> None:
    """The questions without their pictures, which lie in files of their own."""
    questions: list[Record] = []
    truth: dict[str, Record] = {}
    for where, record in rows:
        key, image = str(record["id"]), f"{plain(record['imageId'], where)}.jpg"
        truth[key] = {column: value for column, value in record.items() if column != "image"}
        questions.append(asked(key, image, record, SHORT))
    lines(root / "gqa" / "llava_gqa_testdev_balanced.jsonl", questions)
    whole(root / "gqa" / "data" / "testdev_balanced_questions.json", truth)


def write_gqa_pictures(rows: Rows, root: Path, name: str) -> None:
    """The pictures that the questions of GQA name."""
    for where, record in rows:
        put(root / "gqa" / "data" / "images" / f"{plain(record['id'], where)}.jpg", record["image"], where)


def write_vqav2(rows: Rows, root: Path, name: str) -> None:
    """The validation split: questions, and their annotations."""
    questions, truth, home = [], [], root / "vqav2"
    for where, record in rows:
        if not record["answers"]:
            raise ValueError(f"{where}: no answers; expected the split validation")
        put(home / "val2014" / f"COCO_val2014_{int(record['image_id']):012d}.jpg", record["image"], where)
        questions.append({key: record[key] for key in ("question_id", "image_id", "question")})
        truth.append({key: record[key] for key in ("question_id", "answers", "answer_type")})
    whole(home / vqav2.VAL, {"questions": questions})
    whole(home / vqav2.VAL_TRUTH, {"annotations": truth})


def write_vizwiz(rows: Rows, root: Path, name: str) -> None:
    """The split val in one file."""
    known = []
    for where, record in rows:
        if not record["answers"]:
            raise ValueError(f"{where}: no answers; expected the split val")
        image = f"{plain(record['question_id'], where).removesuffix('.jpg')}.jpg"
        put(root / "vizwiz" / "val" / image, record["image"], where)
        answers, kind = [{"answer": answer} for answer in record["answers"]], record["category"]
        known.append({"image": image, "question": record["question"], "answers": answers, "answer_type": kind})
    whole(root / "vizwiz" / vizwiz.VAL, known)


def write_textvqa(rows: Rows, root: Path, name: str) -> None:
    """Questions with the OCR tokens, and the human answers."""
    questions, truth, home = [], [], root / "textvqa"
    for where, record in rows:
        key = plain(record["image_id"], where)
        put(home / "train_images" / f"{key}.jpg", record["image"], where)
        text = f"{textvqa.OCR} {', '.join(record['ocr_tokens'])}\n{SHORT}"
        questions.append(asked(key, f"{key}.jpg", record, text))
        truth.append({column: record[column] for column in ("image_id", "question_id", "question", "answers")})
    lines(home / textvqa.QUESTIONS, questions)
    whole(home / textvqa.TRUTH, {"data": truth})


def write_scienceqa(rows: Rows, root: Path, name: str) -> None:
    """Conversations and problems; a row has the number of its place for an id."""
    questions, problems, home = [], {}, root / "scienceqa"
    for number, (where, record) in enumerate(rows):
        key, hint, choices = str(number), record["hint"], list(record["choices"])
        options = [f"{letter}. {choice}" for letter, choice in zip(scienceqa.LETTERS, choices, strict=False)]
        text = "\n".join([*([f"Context: {hint}"] if hint else []), record["question"], *options])
        asks: dict[str, Any] = {"id": key}
        if record["image"] is not None:
            asks["image"], text = f"{key}/image.png", f"<image>\n{text}"
            put(home / "images" / "test" / key / "image.png", record["image"], where)
        answer = int(record["answer"])
        said = scienceqa.LETTERS[answer] if 0 <= answer < len(choices) else ""
        asks["conversations"] = [{"from": "human", "value": text}, {"from": "gpt", "value": said}]
        questions.append(asks)
        problems[key] = {"choices": choices, "answer": answer, "subject": record["subject"]}
    whole(home / scienceqa.QUESTIONS, questions)
    whole(home / "problems.json", problems)


def write_mmbench(rows: Rows, root: Path, name: str) -> None:
    """A tab-separated table with the pictures in base64."""
    kind = mmbench_cn.MmbenchCn if name == "mmbench_cn" else mmbench.Mmbench
    home = root / kind.folders[0]
    home.mkdir(parents=True, exist_ok=True)
    head = ["index", "question", "hint", *mmbench.LETTERS, "answer", "category", "image", "l2-category"]
    with open(home / f"{kind.dev}.tsv", "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, delimiter="\t")
        table.writerow(head)
        for where, record in rows:
            if record.get("split") not in (None, "dev"):
                raise ValueError(f"{where}: expected the split dev, found {record['split']!r:.40}")
            level = {"l2-category": record.get("l2-category", record.get("L2-category"))}
            cells = {**record, **level, "image": base64.b64encode(held(record["image"], where)).decode()}
            table.writerow(["" if cells[column] is None else cells[column] for column in head])


def write_mmvet(rows: Rows, root: Path, name: str) -> None:
    """The questions, and their answers with the capabilities."""
    questions: list[Record] = []
    truth, home = {}, root / mmvet.Mmvet.folders[0]
    for where, record in rows:
        key, image = record["question_id"].removeprefix("v1_"), called(record["image"], where)
        put(home / "images" / image, record["image"], where)
        questions.append(asked(key, image, record))
        needs = [word.strip() for word in record["capability"].split(",")]
        truth[f"v1_{key}"] = {"answer": record["answer"], "capability": needs}
    lines(home / mmvet.QUESTIONS, questions)
    whole(home / mmvet.TRUTH, truth)


def write_refcoco(rows: Rows, root: Path, name: str) -> None:
    """A file a split; boxes by their corners, a line for each expression."""
    by_split: dict[str, list[Record]] = {}
    for where, record in rows:
        split = re.split(r"\W", Path(where).name)[0]
        if split not in refcoco.SIZES[name]:
            raise ValueError(
                f"{where}: expected a file of {name} whose name begins with {' or '.join(refcoco.SIZES[name])}"
            )
        image = f"pictures/{called(record['image'], where)}"
        put(root / "refcoco" / image, record["image"], where)
        (width, height), (x, y, w, h) = Image.open(io.BytesIO(held(record["image"], where))).size, record["bbox"]
        known = {"image": image, "width": width, "height": height, "bbox": [x, y, x + w, y + h]}
        by_split.setdefault(split, []).extend({**known, "sent": sent} for sent in record["answer"])
    for split, found in by_split.items():
        lines(root / "refcoco" / f"{name}_{split}.jsonl", found)


PUBLISHED = {  # told apart by their columns, in this order
    "textvqa": Published(
        frozenset({"image_id", "question_id", "question", "answers", "ocr_tokens", "image"}),
        {"lmms-lab/textvqa": ("data/validation-*.parquet",)},
        write_textvqa,
    ),
    "vqav2": Published(
        frozenset({"question_id", "image_id", "question", "answers", "answer_type", "image"}),
        {"lmms-lab/VQAv2": ("data/validation-*.parquet",)},
        write_vqav2,
    ),
    "refcoco": Published(
        frozenset({"image", "answer", "bbox", "file_name"}),
        {
            # val holds two ways of splitting at once, and so does val of RefCOCOg
            "lmms-lab/RefCOCO": ("data/testA-*.parquet", "data/testB-*.parquet"),
            "lmms-lab/RefCOCOplus": ("data/val-*.parquet", "data/testA-*.parquet", "data/testB-*.parquet"),
            "lmms-lab/RefCOCOg": ("data/test-*.parquet",),
        },
        write_refcoco,
    ),
    "scienceqa": Published(
        frozenset({"image", "question", "choices", "answer", "hint", "subject"}),
        {
            "lmms-lab/ScienceQA": ("ScienceQA-IMG/test-*.parquet",),
            "lmms-lab/ScienceQA-IMG": ("data/test-*.parquet",),
        },
        write_scienceqa,
    ),
    "mmbench": Published(
        frozenset({"index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image"}),
        {
            "lmms-lab/MMBench": ("en/dev-*.parquet", "cn/dev-*.parquet"),
            "lmms-lab/MMBench_EN": ("data/dev-*.parquet",),
            "lmms-lab/MMBench_CN": ("data/dev-*.parquet",),
        },
        write_mmbench,
    ),
    "mmvet": Published(
        frozenset({"question_id", "image", "question", "answer", "capability"}),
        {"lmms-lab/MMVet": ("data/*.parquet",)},
        write_mmvet,
    ),
    "pope": Published(
        frozenset({"question", "answer", "category", "image", "image_source"}),
        {"lmms-lab/POPE": ("data/*.parquet",)},
        write_pope,
    ),
    "vizwiz": Published(
        frozenset({"question_id", "image", "question", "answers", "category"}),
        {"lmms-lab/VizWiz-VQA": ("data/val-*.parquet",)},
        write_vizwiz,
    ),
    "mme": Published(
        frozenset({"question_id", "question", "answer", "category", "image"}),
        {"lmms-lab/MME": ("data/*.parquet",)},
        write_mme,
    ),
    "gqa": Published(
        frozenset({"id", "imageId", "question", "answer"}),
        {"lmms-lab/GQA": ("testdev_balanced_instructions/*.parquet", "testdev_balanced_images/*.parquet")},
        write_gqa,
    ),
    "gqa pictures": Published(frozenset({"id", "image"}), {}, write_gqa_pictures),
}


def benchmark_of(columns: frozenset[str], place: str) -> tuple[str, Published] | None:
    """Which benchmark a file with these columns holds; of several with the same, the one that its place names."""
    for name, known in PUBLISHED.items():
        if not known.columns <= columns:
            continue
        if name == "mmbench" and re.findall(r"(?:^|[^a-z])(en|cn)(?![a-z])", place.lower())[-1:] == ["cn"]:
            name = "mmbench_cn"
        if name == "refcoco" and (kinds := re.findall(r"refcoco(\+|plus|g|)", place.lower())):
            name += {"plus": "+"}.get(kinds[-1], kinds[-1])
        return name, known
    return None


def asked(key: str | int, image: str, record: Record, instruction: str = "", category: str = "default") -> Record:
    """A question as a line of LLaVA's question files."""
    text = "\n".join([record["question"].strip(), *([instruction] if instruction else [])])
    return {"question_id": key, "image": image, "text": text, "category": category}


def plain(name: Any, where: str) -> str:
    """A name that a file may have."""
    if not isinstance(name, str) or not re.fullmatch(r"[\w][\w .-]*", name):
        raise ValueError(f"{where}: expected the plain name of a file, found {name!r:.80}")
    return name


def held(picture: Any, where: str) -> bytes:
    """The bytes of a picture as it lies in a dataset."""
    found = picture.get("bytes") if isinstance(picture, dict) else None
    if not isinstance(found, bytes):
        raise ValueError(f"{where}: expected a picture with its bytes in the column image, found {picture!r:.80}")
    return found


def called(picture: Any, where: str) -> str:
    """A name for a picture by its content, so that questions about the same picture name the same file."""
    return f"{hashlib.sha256(held(picture, where)).hexdigest()[:20]}.jpg"


def put(path: Path, picture: Any, where: str) -> None:
    """Write a picture as it lies in the dataset, unless it is there."""
    found = held(picture, where)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(found)


def lines(path: Path, records: Sequence[Record]) -> None:
    """Write a file of JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")


def whole(path: Path, value: Any) -> None:
    """Write a file of one JSON value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
