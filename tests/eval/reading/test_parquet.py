"""Benchmarks that are published as Hugging Face datasets are read as their originals are."""

import io
import json
import random

import pytest
from PIL import Image

from eval import benchmarks
from eval.cli import main
from eval.reading import parquet

pa = pytest.importorskip("pyarrow", reason="needs the extra `data`")
pq = pytest.importorskip("pyarrow.parquet")


def picture(shade):
    out = io.BytesIO()
    Image.new("RGB", (8, 6), (shade, 0, 0)).save(out, "PNG")
    return {"bytes": out.getvalue(), "path": None}


ASKED = [
    (category, *asked)
    for category in ("adversarial", "popular", "random")
    for asked in (("dog", "yes"), ("cat", "no"), ("cup", "yes"), ("bus", "no"))
]
POPE = [
    {"id": str(n), "question_id": str(n), "question": f"Is there a {thing} in the image?", "answer": answer,
     "image_source": f"COCO_val2014_{n % 2:012}", "image": picture(n % 2), "category": category}
    for n, (category, thing, answer) in enumerate(ASKED)
]  # fmt: skip
MME = [
    {"question_id": f"{category}/000{n}.png", "image": picture(n), "category": category, "answer": answer,
     "question": f"Is this number {n + (answer == 'No')}? Please answer yes or no."}
    for category in ("count", "artwork") for n in range(2) for answer in ("Yes", "No")
]  # fmt: skip
GQA = [
    {"id": f"20{n}", "imageId": f"n{n}", "question": "What is it?", "answer": "a cup", "isBalanced": True,
     "types": {"structural": "query", "semantic": "obj", "detailed": "x"}}
    for n in range(3)
]  # fmt: skip
GQA_PICTURES = [{"id": f"n{n}", "image": picture(n)} for n in range(3)]


def put(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


@pytest.fixture
def published(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "data"
    put(root / "POPE" / "test-00000-of-00002.parquet", POPE[:5])
    put(root / "POPE" / "test-00001-of-00002.parquet", POPE[5:])
    put(root / "MME" / "test.parquet", MME)
    put(root / "GQA" / "testdev_balanced_instructions" / "testdev.parquet", GQA)
    put(root / "GQA" / "testdev_balanced_images" / "testdev.parquet", GQA_PICTURES)
    return root


def test_parquet_holds_the_questions_labels_and_pictures(published):
    root = parquet.laid_out(published)
    assert parquet.laid_out(published) == root  # once
    for name, rows, pictures in (("pope", POPE, POPE), ("mme", MME, MME), ("gqa", GQA, GQA_PICTURES)):
        samples = benchmarks.get(name).load(root)
        assert [one.target for one in samples] == [row["answer"].lower() for row in rows]
        bare = [row["question"].removesuffix(" Please answer yes or no.") for row in rows]
        assert [one.text for one in samples] == [
            f"{question}\nAnswer the question using a single word or phrase." for question in bare
        ]
        assert [one.image.read_bytes() for one in samples] == [row["image"]["bytes"] for row in pictures]
    assert benchmarks.get("gqa").load(root)[0].meta["types"]["structural"] == "query"


TEN = ["a cup"] * 7 + ["cup"] * 3
VQA = [
    {"question_id": 40 + n, "image_id": 9, "question": f"What is it, {n}?", "answers": [{"answer": a} for a in TEN],
     "answer_type": "other", "multiple_choice_answer": "a cup", "question_type": "what", "image": picture(3)}
    for n in range(2)
]  # fmt: skip
VIZWIZ = [
    {"question_id": f"VizWiz_val_{n:08}", "question": "What is it?", "answers": TEN, "category": "other",
     "image": picture(n)} for n in range(2)
]  # fmt: skip
TEXTVQA = [
    {"image_id": "0a1b", "question_id": 34602 + n, "question": f"Which brand, {n}?", "answers": TEN,
     "ocr_tokens": ["ACME", "COLA"], "image": picture(5), "set_name": "val"} for n in range(2)
]  # fmt: skip
SCIENCEQA = [
    {"image": picture(7) if n != 1 else None, "question": "Which?", "choices": ["salt", "sand"], "answer": n % 2,
     "hint": "Look." if n else "", "subject": "natural science"} for n in range(3)
]  # fmt: skip
MMBENCH = [
    {"index": index, "question": "Which?", "hint": "nan" if index < 9 else "Look.", "A": "salt", "B": "sand", "C": None,
     "D": None, "answer": "B", "category": "c", "image": picture(index % 8), "L2-category": "l", "split": "dev"}
    for index in (7, 1000007, 8)
]  # fmt: skip
MMVET = [
    {"question_id": f"v1_{n}", "question": "What is x?", "answer": "3<OR>three", "capability": "ocr,math",
     "image_source": "x", "image": picture(11)} for n in range(2)
]  # fmt: skip
REFCOCO = [
    {"question_id": str(n), "image": picture(13), "question": "Describe.", "answer": ["left cup", "the cup"],
     "bbox": [1.0, 2.0, 3.0, 4.0], "file_name": f"{n}.jpg", "segmentation": [0.0], "iscrowd": 0} for n in range(2)
]  # fmt: skip
SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."


@pytest.mark.parametrize(
    ("place", "rows", "name", "texts", "targets", "groups"),
    [
        (
            "validation-0.parquet",
            VQA,
            "vqav2",
            [f"What is it, {n}?\n{SHORT}" for n in range(2)],
            [(TEN, "other")] * 2,
            1,
        ),
        (
            "val-0.parquet",
            VIZWIZ,
            "vizwiz",
            ["What is it?\nWhen the provided information is insufficient, respond with 'Unanswerable'.\n" + SHORT] * 2,
            [(TEN, "other")] * 2,
            2,
        ),
        (
            "validation-0.parquet",
            TEXTVQA,
            "textvqa",
            [f"Which brand, {n}?\nReference OCR token: ACME, COLA\n{SHORT}" for n in range(2)],
            [(TEN, "")] * 2,
            1,
        ),
        (
            "ScienceQA-IMG/test-0.parquet",
            SCIENCEQA,
            "scienceqa",
            [f"{hint}Which?\nA. salt\nB. sand\n{LETTER}" for hint in ("", "Context: Look.\n")],
            [(0, "natural science")] * 2,
            2,
        ),
        ("en/dev-0.parquet", MMBENCH, "mmbench", None, [("B", "c")] * 3, 2),
        ("cn/dev-0.parquet", MMBENCH, "mmbench_cn", None, [("B", "c")] * 3, 2),
        ("test-0.parquet", MMVET, "mmvet", ["What is x?"] * 2, [("3<OR>three", "default")] * 2, 1),
        ("RefCOCO/testA-0.parquet", REFCOCO, "refcoco", None, [((1, 2, 4, 6), "testA")] * 4, 1),
        ("RefCOCOplus/val-0.parquet", REFCOCO, "refcoco+", None, [((1, 2, 4, 6), "val")] * 4, 1),
        ("RefCOCOg/test-0.parquet", REFCOCO, "refcocog", None, [((1, 2, 4, 6), "test")] * 4, 1),
    ],
)
def test_published_columns_become_the_benchmarks_own_questions(
    tmp_path, monkeypatch, place, rows, name, texts, targets, groups
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    put(tmp_path / "data" / place, rows)
    root = parquet.laid_out(tmp_path / "data")
    assert [known for known in benchmarks.NAMES if benchmarks.get(known).lies_in(root)] == [name]
    samples = benchmarks.get(name).load(root)
    assert [(one.target, one.category) for one in samples] == targets
    assert texts is None or [one.text for one in samples] == texts
    assert len({one.group for one in samples}) == groups
    seen = {one.image if isinstance(one.image, bytes) else one.image.read_bytes() for one in samples}
    assert seen <= {row["image"]["bytes"] for row in rows if row["image"]}
    if name == "refcoco":
        assert samples[0].text.endswith("describes: left cup")
    if name == "scienceqa":
        assert len(benchmarks.get(name).load(root, text_only=True)) == 3


def test_a_folder_of_parquet_is_scored_and_run(published, checkpoints, tmp_path, capsys):
    rng, samples = random.Random(1), benchmarks.get("pope").load(parquet.laid_out(published))
    said = [{"question_id": one.id, "text": rng.choice(("yes", "no"))} for one in samples]
    answers = tmp_path / "answers.jsonl"
    answers.write_text("".join(f"{json.dumps(row)}\n" for row in said))
    assert main(["score", "pope", "--answers", str(answers), "--data", str(published), "--json"]) == 0
    parts = json.loads(capsys.readouterr().out)["parts"]
    right = sum(row["text"] == one["answer"] for row, one in zip(said, POPE, strict=True))
    found = sum(parts[f"{kind}/accuracy"] for kind in ("adversarial", "popular", "random")) / 3
    assert found == pytest.approx(100 * right / len(POPE))
    words = ["run", "--model", str(checkpoints["image"]), "--data", str(published), "--dry-run", "--json"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["benchmarks"] == {"gqa": 3, "pope": 12, "mme": 8}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"one": 1}], r"x\.parquet: columns one belong to no benchmark that is read so"),
        ([{**POPE[0], "image_source": "../out"}], r"row 1: expected the plain name of a file, found '\.\./out"),
        ([{**POPE[0], "image": {"bytes": None, "path": "x.png"}}], "expected a picture with its bytes"),
        ([{**POPE[0], "category": "other"}], "expected the category adversarial, popular, random, found 'other'"),
        (GQA_PICTURES, "pictures of GQA without its questions"),
        ([{**VQA[0], "answers": []}], "row 1: no answers; expected the split validation"),
        ([{**MMBENCH[0], "split": "test"}], "row 1: expected the split dev, found 'test'"),
        (REFCOCO, "expected a file of refcoco whose name begins with val or testA or testB"),
        (None, r"x\.parquet: not a parquet file"),
    ],
)
def test_a_bad_file_is_named_and_leaves_nothing(tmp_path, monkeypatch, rows, message):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if rows is None:
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "x.parquet").write_bytes(b"nothing")
    else:
        put(tmp_path / "data" / "x.parquet", rows)
    with pytest.raises(ValueError, match=message):
        parquet.laid_out(tmp_path / "data")
    assert not list((tmp_path / "cache" / "debias" / "parquet").glob("*"))
