"""The launcher for VLMEvalKit: with a stand-in that calls our model as the kit does, and with the real one.

The real one runs where VLMEVALKIT names its checkout and this Python has what its requirements.txt names.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import openpyxl
import pytest

from eval.cli import main
from eval.commands.vlmevalkit import given
from eval.harnesses.vlmevalkit import Model, multiple_choice

ROOT = Path(__file__).parents[2]
QUESTION = "What colour is the circle?"
# A kit of a few lines: a table of models, a base class whose `generate` hands over to `generate_inner`, and a run.py
# that makes the models that --model names, asks them, and writes what they said.
KIT = {
    "vlmeval/__init__.py": "",
    "vlmeval/config.py": "supported_VLM = {'other': None}\n",
    "vlmeval/dataset.py": """
def DATASET_TYPE(name):
    return {'choices': 'MCQ', 'clips': 'MCQ', 'yes': 'Y/N'}.get(name, 'VQA')


def DATASET_MODALITY(name):
    return 'VIDEO' if name == 'clips' else 'IMAGE'
""",
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
                try:
                    answer = [message[-1]['value'], model.generate(message, data)]
                except Exception as error:
                    print('the kit goes on after', error)
                    continue
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
    words += ["--data", "plain", "choices", "yes", "clips", "--photos", *map(str, photos), "--work-dir", str(tmp_path)]
    assert main(["vlmevalkit", *words]) == 0
    assert json.loads(capsys.readouterr().out) == {"models": ["debias_fastv_padding", "debias_fastv_unpruned"]}
    said = json.loads((tmp_path / "said.json").read_text())
    texts, _ = answers(QUESTION)
    assert said["debias_fastv_padding"]["plain"] == [[QUESTION, text] for text in texts]
    letter = "Answer with the option's letter from the given choices directly."
    assert said["debias_fastv_padding"]["choices"][0][0] == f"{QUESTION}\nA. red\nB. blue\n{letter}"
    short = "Answer the question using a single word or phrase."
    assert said["debias_fastv_unpruned"]["yes"][0][0] == f"{QUESTION}\n{short}"
    assert said["debias_fastv_padding"]["clips"] == said["debias_fastv_padding"]["plain"]  # the kit's own words
    noted = [json.loads(line) for line in rows.read_text().splitlines()]
    assert len(noted) == 16
    assert all(bool(row["pictures"]) == (row["arm"] == "padding") for row in noted)
    assert (list(sys.path), list(sys.argv)) == before


def test_failures_that_the_kit_swallows_are_told(kit, photos, tmp_path, capsys):
    words = ["--kit", str(kit), "--arms", "none", "--device", "cpu", "--run", "--work-dir", str(tmp_path)]
    assert main(["vlmevalkit", *words, "--data", "plain", "--photos", str(photos[0]), "not/there.png"]) == 1
    said = capsys.readouterr().err
    assert "the kit goes on after" in said
    assert "went on after 1 failures" in said
    assert "not/there.png" in said.partition("went on after")[2]


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
    from eval.core.embedded import EMBEDDED

    assert Model(method="fastv", arm="none", pretrained=str(EMBEDDED["video"])).VIDEO_LLM
    assert not Model.VIDEO_LLM


REAL = os.environ.get("VLMEVALKIT")
real = pytest.mark.skipif(REAL is None, reason="VLMEVALKIT names no checkout of VLMEvalKit")
# A data set of clips as the kit's own are written, put into its table before the launcher starts.
CLIPS = """
import os, sys
from functools import partial
sys.path.insert(0, sys.argv[1])
from vlmeval.dataset import DATASET_CLASSES
from vlmeval.dataset.video_base import VideoBaseDataset
from vlmeval.dataset.video_dataset_config import supported_video_datasets
from vlmeval.smp import load


class Clips(VideoBaseDataset):
    TYPE = "MCQ"  # as some of the kit's clips are called, too

    @classmethod
    def supported_datasets(cls):
        return ["debias_clips"]

    def prepare_dataset(self, name):
        return {"root": os.environ["LMUData"], "data_file": os.path.join(os.environ["LMUData"], "debias_clips.tsv")}

    def build_prompt(self, line, video_llm):
        row = self.data.iloc[line]
        clip = [("video", os.path.join(self.data_root, row["video"] + ".mp4"))]
        shown = clip if video_llm else [("image", path) for path in self.save_video_frames(row["video"])]
        return [{"type": kind, "value": value} for kind, value in [*shown, ("text", row["question"])]]

    @classmethod
    def evaluate(cls, file, **_):
        data = load(file)
        return {"accuracy": float((data["prediction"] == data["answer"]).mean())}


DATASET_CLASSES.append(Clips)
supported_video_datasets["debias_clips"] = partial(Clips, dataset="debias_clips", nframe=4)
from eval.cli import main

sys.exit(main(sys.argv[2:]))
"""


def launch(folder, start, *words):
    where = {"PYTHONPATH": str(ROOT), "LMUData": str(folder), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, *start, "vlmevalkit", "--kit", REAL, "--max-new-tokens", "5", "--device", "cpu", *words],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, **where},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def predictions(folder, model, data):
    """What the kit stored as the model's answers."""
    (path,) = (folder / "out" / model).glob(f"T*/{model}_{data}.xlsx")
    head, *rows = openpyxl.load_workbook(path).active.iter_rows(values_only=True)
    return [row[head.index("prediction")] for row in rows]


@real
@pytest.mark.long
def test_the_real_kit_asks_about_pictures(photos, answers, tmp_path):
    """Its run.py infers and scores a table of choices; scored apart, it takes the same answers again."""
    lines = ["index\tquestion\tA\tB\tanswer\timage"]
    for number, photo in enumerate(photos):
        picture = base64.b64encode(photo.read_bytes()).decode()
        lines.append(f"{number}\t{QUESTION}\tred\tblue\tA\t{picture}")
    (tmp_path / "debias_two.tsv").write_text("\n".join(lines))
    settings = ["--method", "fastv", "--keep", "36", "--arms", "padding"]
    run = ["--run", "--data", "debias_two", "--judge", "exact_matching", "--work-dir", "out", "--mode"]
    launch(tmp_path, ["-m", "eval"], *settings, "--rows", "rows.jsonl", *run, "infer")
    texts, _ = answers(multiple_choice({"question": QUESTION, "A": "red", "B": "blue"}))
    model = "debias_fastv_padding"
    assert predictions(tmp_path, model, "debias_two") == texts
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 2
    assert "Overall" in launch(tmp_path, ["-m", "eval"], *settings, *run, "eval")
    launch(tmp_path, ["-m", "eval"], *settings, *run, "all")
    assert len(list((tmp_path / "out" / model).glob("T*/*_acc.csv"))) == 2


@real
@pytest.mark.long
@pytest.mark.parametrize("kind", ["image", "video"])
def test_the_real_kit_asks_about_clips(kind, tmp_path):
    """A model of clips gets the file, and one of pictures the frames that the kit took from it."""
    from eval.core.embedded import EMBEDDED
    from eval.harnesses.pruned import Pruned
    from tiny.drawn.clips import clip, draw_clip
    from tiny.layouts.media import write_video

    for number in range(2):
        frames = [frame.resize((160, 160)) for frame in draw_clip(clip(2 * 10**9 + number))]
        write_video(frames, tmp_path / f"clip{number}.mp4")  # decord, with which the kit reads, trips over small ones
    table = tmp_path / "debias_clips.tsv"
    table.write_text(f"index\tvideo\tquestion\tanswer\n0\tclip0\t{QUESTION}\tx\n1\tclip1\t{QUESTION}\ty\n")
    words = ["--method", "fastv", "--keep", "0.25", "--arms", "none", "--model", str(EMBEDDED[kind])]
    words += ["--run", "--data", "debias_clips", "--judge", "exact_matching", "--work-dir", "out"]
    assert "accuracy" in launch(tmp_path, ["-c", CLIPS, REAL], *words)
    pruned = Pruned.from_text(EMBEDDED[kind], keep=0.25, arm="none", device="cpu")
    expected = []
    for number in range(2):
        frames = sorted((tmp_path / "images" / "debias_clips" / f"clip{number}").glob("*.jpg"))
        media = [("video", tmp_path / f"clip{number}.mp4")] if kind == "video" else [("image", path) for path in frames]
        expected.append(pruned([pruned.request([*media, ("text", QUESTION)])], 5)[0].text)
    assert predictions(tmp_path, "debias_fastv_none", "debias_clips") == expected
