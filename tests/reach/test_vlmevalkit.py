"""The launcher for VLMEvalKit: with a stand-in that calls our model as the kit does."""

from __future__ import annotations

import json
import sys

import pytest

from eval.cli import main
from eval.vlmevalkit import Model, given, multiple_choice

QUESTION = "What colour is the circle?"
# A kit of a few lines: a table of models, a base class whose `generate` hands over to `generate_inner`, and a run.py
# that makes the models that --model names, asks them, and writes what they said.
KIT = {
    "vlmeval/__init__.py": "",
    "vlmeval/config.py": "supported_VLM = {'other': None}\n",
    "vlmeval/dataset.py": "def DATASET_TYPE(name):\n    return {'choices': 'MCQ', 'yes': 'Y/N'}.get(name, 'VQA')\n",
    "vlmeval/vlm/__init__.py": "",
    "vlmeval/vlm/base.py": """
class BaseModel:
    def __init__(self):
        self.dump_image_func = None

    def set_dump_image(self, function):
        self.dump_image_func = function

    def dump_image(self, line, dataset):
        return self.dump_image_func(line)

    def generate(self, message, dataset=None):
        return self.generate_inner(message, dataset)
""",
    "run.py": """
import argparse, json
from vlmeval.config import supported_VLM

if __name__ == '__main__':
    parser = argparse.ArgumentParser()
    parser.add_argument('--model', nargs='+')
    parser.add_argument('--data', nargs='+')
    parser.add_argument('--photos', nargs='+')
    parser.add_argument('--work-dir')
    args = parser.parse_args()
    print('the kit is talking')
    said = {}
    for name in args.model:
        model = supported_VLM[name]()
        model.set_dump_image(lambda line: [line['path']])
        for data in args.data:
            for photo in args.photos:
                line = {'question': 'What colour is the circle?', 'A': 'red', 'B': 'blue', 'C': float('nan')}
                line['path'] = photo
                if model.use_custom_prompt(data):
                    message = model.build_prompt(line, dataset=data)
                else:
                    message = [dict(type='image', value=photo), dict(type='text', value=line['question'])]
                answer = [message[-1]['value'], model.generate(message, data)]
                said.setdefault(name, {}).setdefault(data, []).append(answer)
    with open(args.work_dir + '/said.json', 'w') as file:
        json.dump(said, file)
""",
}


@pytest.fixture
def kit(tmp_path):
    for name, text in KIT.items():
        path = tmp_path / "kit" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    yield tmp_path / "kit"
    for name in [name for name in sys.modules if name.split(".")[0] == "vlmeval"]:
        del sys.modules[name]


def test_the_kit_runs_our_models(kit, photos, answers, tmp_path, capsys):
    before = list(sys.path), list(sys.argv)
    rows = tmp_path / "rows.jsonl"
    words = [
        "--kit",
        str(kit),
        "--method",
        "fastv",
        "--keep",
        "36",
        "--arms",
        "padding,unpruned",
        "--max-new-tokens",
        "5",
    ]
    words += ["--rows", str(rows), "--device", "cpu", "--json", "--run"]
    words += ["--data", "plain", "choices", "yes", "--photos", *map(str, photos), "--work-dir", str(tmp_path)]
    assert main(["vlmevalkit", *words]) == 0
    assert json.loads(capsys.readouterr().out) == {"models": ["debias_fastv_padding", "debias_fastv_unpruned"]}
    said = json.loads((tmp_path / "said.json").read_text())
    texts, _ = answers(QUESTION)
    assert said["debias_fastv_padding"]["plain"] == [[QUESTION, text] for text in texts]
    letter = "Answer with the option's letter from the given choices directly."
    assert said["debias_fastv_padding"]["choices"][0][0] == f"{QUESTION}\nA. red\nB. blue\n{letter}"
    short = "Answer the question using a single word or phrase."
    assert said["debias_fastv_unpruned"]["yes"][0][0] == f"{QUESTION}\n{short}"
    noted = [json.loads(line) for line in rows.read_text().splitlines()]
    assert len(noted) == 12
    assert all(bool(row["pictures"]) == (row["arm"] == "padding") for row in noted)
    assert (list(sys.path), list(sys.argv)) == before


def test_a_folder_that_is_no_kit_is_named(tmp_path, capsys):
    assert main(["vlmevalkit", "--kit", str(tmp_path), "--run", "--data", "POPE"]) == 1
    assert "no VLMEvalKit there" in capsys.readouterr().err


def test_a_kit_that_does_not_start_is_explained(kit, capsys):
    (kit / "vlmeval" / "config.py").write_text("import a_package_that_is_not_there\n")
    assert main(["vlmevalkit", "--kit", str(kit), "--run", "--data", "POPE"]) == 1
    assert "a_package_that_is_not_there" in capsys.readouterr().err


def test_fields_among_the_flags():
    words = ["--keep", "64", "--layers", "2", "3", "--no-silence-pool", "--scores=ratio"]
    assert given(words) == {"keep": ["64"], "layers": ["2", "3"], "no_silence_pool": [], "scores": ["ratio"]}


def test_chinese_questions_get_the_chinese_instruction():
    line = {"hint": "看图", "question": "圆是什么颜色？", "A": "红", "B": "None", "D": "蓝"}
    assert multiple_choice(line) == "看图\n圆是什么颜色？\nA. 红\nB. None\nD. 蓝\n请直接回答选项字母。"


def test_clips_are_taken_by_families_that_know_them():
    from eval.choices import EMBEDDED

    assert Model(method="fastv", arm="none", pretrained=str(EMBEDDED["video"])).VIDEO_LLM
    assert not Model.VIDEO_LLM
