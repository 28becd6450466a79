from __future__ import annotations

import csv
import json

import pytest
from openpyxl import load_workbook

from eval.benchmarks import get
from eval.cli import main
from eval.commands.export import export
from tiny.layouts.choice import COLUMNS


def lines(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def answers(tmp_path, texts):
    return lines(tmp_path / "answers.jsonl", [{"question_id": id, "prompt": "?", "text": t} for id, t in texts.items()])


def vqav2(tmp_path):
    def record(id):
        return {"question_id": id, "image": "x.jpg", "text": "What?", "category": "default"}

    lines(tmp_path / "vqav2/llava_vqav2_mscoco_test-dev2015.jsonl", [record(id) for id in (11000, 11002)])
    lines(tmp_path / "vqav2/llava_vqav2_mscoco_test2015.jsonl", [record(id) for id in (11000, 11001, 11002)])


def test_vqav2_holds_every_test_question(tmp_path):
    vqav2(tmp_path)
    out = tmp_path / "out" / "upload.json"
    done = export("vqav2", answers(tmp_path, {11002: "The two dogs.", 11000: "Coca-Cola"}), tmp_path, out)
    assert done == {"benchmark": "vqav2", "file": str(out), "records": 3, "missing": 0}
    assert json.loads(out.read_text()) == [
        {"question_id": 11000, "answer": "coca cola"},
        {"question_id": 11001, "answer": ""},
        {"question_id": 11002, "answer": "2 dogs"},
    ]
    assert [path.name for path in out.parent.iterdir()] == ["upload.json"]


def test_missing_answers_are_not_submitted_by_accident(tmp_path):
    vqav2(tmp_path)
    out = tmp_path / "upload.json"
    file = answers(tmp_path, {11000: "x"})
    with pytest.raises(ValueError, match=r"vqav2: 1 of 2 questions have no answer, first '11002'"):
        export("vqav2", file, tmp_path, out)
    assert not out.exists()
    assert export("vqav2", file, tmp_path, out, allow_partial=True)["missing"] == 1
    with pytest.raises(ValueError, match="the answers hold question '99'"):
        export("vqav2", answers(tmp_path, {99: "x"}), tmp_path, out)


def test_vizwiz(tmp_path):
    records = [{"question_id": n, "image": f"VizWiz_test_{n:08d}.jpg", "text": "What?"} for n in range(2)]
    lines(tmp_path / "vizwiz/llava_test.jsonl", records)
    (tmp_path / "vizwiz/val").mkdir()  # val is on the disk too: the server still wants test
    export("vizwiz", answers(tmp_path, {1: "Unanswerable", 0: "A can."}), tmp_path, tmp_path / "up.json")
    assert json.loads((tmp_path / "up.json").read_text()) == [
        {"image": "VizWiz_test_00000000.jpg", "answer": "can"},
        {"image": "VizWiz_test_00000001.jpg", "answer": "unanswerable"},
    ]


def test_mmvet(tmp_path):
    lines(tmp_path / "mm-vet/llava-mm-vet.jsonl", [{"image": "v1_0.png", "text": "What?", "question_id": 0}])
    (tmp_path / "mm-vet/mm-vet.json").write_text(json.dumps({"v1_0": {"answer": "x", "capability": ["ocr"]}}))
    out = tmp_path / "mmvet.json"
    export("mmvet", answers(tmp_path, {0: "It is X.\n"}), tmp_path, out)
    assert json.loads(out.read_text()) == {"v1_0": "It is X.\n"}
    samples = get("mmvet").load(tmp_path)
    assert get("mmvet").score([{"question_id": "v1_0", "text": "It is X."}], samples).value == 100


def bench(tmp_path, columns=COLUMNS):
    rows = [dict.fromkeys(columns, ""), dict.fromkeys(columns, "")]
    for number, row in enumerate(rows):
        row.update(index=str(5 + number * 1_000_000), question="=1+1\n?", image="QUJD")
        row.update(A="None of them", B="NA", answer="AB"[number])
    path = tmp_path / "mmbench/mmbench_dev_20230712.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)


def test_mmbench(tmp_path):
    bench(tmp_path)
    out = tmp_path / "up.xlsx"
    export("mmbench", answers(tmp_path, {5: "=HYPERLINK(\x00)", 1000005: "B\r\n图"}), tmp_path, out)
    sheet = load_workbook(out).active
    rows = [[cell.value for cell in row] for row in sheet.iter_rows()]
    assert rows[0] == ["index", "question", "A", "B", "C", "D", "prediction", "answer", "split"]
    assert rows[1][:8] == [5, "=1+1\n?", "None of them", "NA", None, None, "=HYPERLINK()", "A"]
    assert rows[2][6] == "B\n图"
    assert sheet["B2"].data_type == sheet["G2"].data_type == "s"  # text, not a formula


def test_releases_of_mmbench_with_fewer_columns(tmp_path):
    bench(tmp_path, [name for name in COLUMNS if name not in ("comment", "source")])
    export("mmbench", answers(tmp_path, {5: "A", 1000005: "B"}), tmp_path, tmp_path / "up.xlsx")
    assert load_workbook(tmp_path / "up.xlsx").active["G1"].value == "prediction"


def test_a_benchmark_without_a_submission_file(tmp_path):
    with pytest.raises(ValueError, match="gqa has no submission file; benchmarks that do: vqav2, vizwiz, mmbench"):
        export("gqa", tmp_path / "a", tmp_path, tmp_path / "b")


def test_the_command(tmp_path, capsys):
    vqav2(tmp_path)
    file = answers(tmp_path, {11000: "x", 11002: "y"})
    out = tmp_path / "up.json"
    words = ["export", "vqav2", "--answers", str(file), "--data", str(tmp_path), "--out", str(out), "--json"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["records"] == 3
    assert main([*words[:3], str(answers(tmp_path, {})), *words[4:]]) == 1
    assert "expected one JSON record per line" in capsys.readouterr().err
