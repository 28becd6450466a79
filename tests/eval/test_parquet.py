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
