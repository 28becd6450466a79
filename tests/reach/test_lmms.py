"""lmms-eval finds the model `debias` and runs it: with a stand-in made of its recorded interface always, and with the
real one, from its own command line, where it is installed (`pip install ".[lmms]"` in an environment of its own,
then this file with that Python)."""

from __future__ import annotations

import abc
import importlib
import importlib.util
import inspect
import json
import os
import subprocess
import sys
from dataclasses import make_dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# What lmms-eval (0.7) asks of a model of another package: names alone. `test_the_record_is_true` compares it with an
# installed one, and the stand-in is built from it.
GROUP = "lmms_eval.models"
MANIFEST = ("model_id", "simple_class_path", "chat_class_path", "aliases")
ABSTRACT = {
    "generate_until": ("self", "requests"),
    "generate_until_multi_round": ("self", "requests"),
    "loglikelihood": ("self", "requests"),
}
CONCRETE = {"clean": ("self",), "set_cache_hook": ("self", "cache_hook")}
KEYWORDS = ("batch_size", "max_batch_size", "device")  # given to every model beside its own model_args
SIMPLE = ("context", "generation_kwargs", "doc_to_visual", "doc_id", "task", "split")  # what request.args holds
CHAT = ("context", "doc_to_messages", "generation_kwargs", "doc_id", "task", "split")

ROOT = Path(__file__).parents[2]
ENTRY = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][GROUP]
QUESTION = "What colour is the circle?"
real = pytest.mark.skipif(
    importlib.util.find_spec("lmms_eval") is None,
    reason='lmms-eval is not installed (pip install ".[lmms]", in an environment of its own)',
)


def base_class():
    """lmms-eval's base class, as far as the record goes."""

    def method(name, parameters):
        scope: dict = {}
        exec(f"def {name}({', '.join(parameters)}): pass", scope)
        return scope[name]

    body = {name: abc.abstractmethod(method(name, found)) for name, found in ABSTRACT.items()}
    body |= {name: method(name, found) for name, found in CONCRETE.items()}

    def init(self):
        self.task_dict = {}

    return abc.ABCMeta("lmms", (), {**body, "__init__": init, "is_simple": True})


@pytest.fixture
def lmms(monkeypatch):
    """eval.harnesses.lmms, written against the stand-in."""
    manifest = make_dataclass("ModelManifest", [(name, object, None) for name in MANIFEST])
    holds = {"lmms_eval.api.model": {"lmms": base_class()}, "lmms_eval.models.registry_v2": {"ModelManifest": manifest}}
    for name in (
        "lmms_eval",
        "lmms_eval.api",
        "lmms_eval.api.model",
        "lmms_eval.models",
        "lmms_eval.models.registry_v2",
    ):
        module = ModuleType(name)
        module.__path__ = []
        vars(module).update(holds.get(name, {}))
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "eval.harnesses.lmms", raising=False)
    yield importlib.import_module("eval.harnesses.lmms")
    sys.modules.pop("eval.harnesses.lmms", None)


def requests(kind, photos, **generation):
    """Requests in lmms-eval's order of arguments, and the documents that they are about."""
    from PIL import Image

    def visuals(doc):
        return [Image.open(doc["photo"])]

    def messages(doc):
        content = [{"type": "image", "url": visuals(doc)[0]}, {"type": "text", "text": QUESTION}]
        return [{"role": "user", "content": content}]

    given = {
        "context": QUESTION,
        "generation_kwargs": {"max_new_tokens": 5, "until": ["\n\n"], **generation},
        "doc_to_visual": visuals,
        "doc_to_messages": messages,
        "task": "two",
        "split": "test",
    }
    order = SIMPLE if kind == "Simple" else CHAT
    asked = [SimpleNamespace(args=tuple({**given, "doc_id": n}[name] for name in order)) for n in range(len(photos))]
    return asked, {"two": {"test": [{"photo": photo} for photo in photos]}}


def test_the_entry_point_names_both_classes(lmms):
    module, _, function = ENTRY["debias"].partition(":")
    manifest = getattr(importlib.import_module(module), function)()
    assert manifest.model_id == "debias"
    for path, simple in ((manifest.simple_class_path, True), (manifest.chat_class_path, False)):
        place, _, name = path.rpartition(".")
        kind = getattr(importlib.import_module(place), name)
        assert kind.is_simple is simple
        assert issubclass(kind, sys.modules["lmms_eval.api.model"].lmms)


def test_the_entry_point_is_light():
    """It is read whenever lmms-eval starts, whatever model is asked for; and its failure would hide other packages'."""
    module = ENTRY["debias"].partition(":")[0]
    code = f"import sys, {module}; print(sorted({{'torch', 'pruners', 'PIL'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("kind", ["Simple", "Chat"])
def test_the_classes_have_the_recorded_signatures(lmms, kind):
    found = getattr(lmms, kind)
    assert not inspect.isabstract(found)
    for name, parameters in {**ABSTRACT, **CONCRETE}.items():
        assert tuple(inspect.signature(getattr(found, name)).parameters) == parameters, name
    assert set(KEYWORDS) <= set(inspect.signature(found).parameters)


@pytest.mark.parametrize("kind", ["Simple", "Chat"])
def test_two_rows_with_the_stand_in(lmms, kind, photos, answers, tmp_path):
    texts, _ = answers(QUESTION)
    rows = tmp_path / "rows.jsonl"
    model = getattr(lmms, kind)(
        method="fastv", keep=36, arm="padding", rows=str(rows), batch_size=2, max_batch_size=None, device="cpu"
    )
    asked, model.task_dict = requests(kind, photos)
    before = [repr(request.args[:3]) for request in asked]
    assert model.generate_until(asked) == texts
    assert [repr(request.args[:3]) for request in asked] == before  # requests are the harness's
    noted = [json.loads(line) for line in rows.read_text().splitlines()]
    assert [(row["task"], row["doc_id"], row["arm"]) for row in noted] == [("two", 0, "padding"), ("two", 1, "padding")]
    stopped = requests(kind, photos, until=[texts[0][1:]])[0]
    assert model.generate_until(stopped)[0] == texts[0][:1]
    with pytest.raises(ValueError, match="likelihoods"):
        model.loglikelihood(asked)
    with pytest.raises(ValueError, match="several rounds"):
        model.generate_until_multi_round(asked)
    model.clean()
    assert model.pruned.model is None


def test_what_the_model_cannot_do_is_refused(lmms, photos):
    with pytest.raises(ValueError, match="batch_size=auto"):
        lmms.Simple(batch_size="auto")
    with pytest.raises(ValueError, match="did you mean keep"):
        lmms.Simple(kepp=3, device="cpu")
    chat = lmms.Chat.__new__(lmms.Chat)
    asked, chat.task_dict = requests("Chat", photos[:1])
    args = list(asked[0].args)
    args[1] = lambda doc: [{"role": "system", "content": []}, {"role": "user", "content": []}]
    with pytest.raises(ValueError, match="two: a conversation of system, user"):
        chat.parts(args)


def test_stop_strings(lmms):
    assert lmms.until("a\n\nb", ["\n\n"]) == "a\n\nb"  # the default of tasks that name none
    assert lmms.until("red. And", [".", ""]) == "red"
    assert lmms.until(" red ", None) == "red"
    assert lmms.until("a USER: b", "USER:") == "a"


TASK = """
task: debias_three
dataset_path: json
dataset_kwargs:
  data_files:
    test: {rows}
test_split: test
output_type: generate_until
doc_to_visual: !function three.visuals
doc_to_text: "{{{{question}}}}"
doc_to_target: answer
generation_kwargs:
  max_new_tokens: 5
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
"""
VISUALS = "from PIL import Image\n\n\ndef visuals(doc):\n    return [Image.open(doc['image'])]\n"
ALONE = [sys.executable, "-m"]
# without a GPU the processes talk over gloo
TWO = [*ALONE, "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0", "-m"]


@pytest.fixture
def three(photos, answers, tmp_path):
    """A folder with a task, and what the library itself answers. The second expected answer is wrong."""
    photos = [*photos, photos[0]]
    texts, kept = ([*found, found[0]] for found in answers(QUESTION))
    lines = [
        json.dumps({"image": str(photo), "question": QUESTION, "answer": target})
        for photo, target in zip(photos, [texts[0], "neither", texts[2]], strict=True)
    ]
    (tmp_path / "rows.json").write_text("\n".join(lines))
    (tmp_path / "three.yaml").write_text(TASK.format(rows=tmp_path / "rows.json"))
    (tmp_path / "three.py").write_text(VISUALS)
    installed = tmp_path / "installed" / "debias_entry-0.dist-info"  # as pip would write it from this pyproject.toml
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: debias-entry\nVersion: 0\n")
    (installed / "entry_points.txt").write_text(f"[{GROUP}]\ndebias = {ENTRY['debias']}\n")
    return tmp_path, texts, kept


def run(folder, launcher, *words, settings="method=fastv,keep=36,arm=padding,rows=out/kept.jsonl"):
    where = {"PYTHONPATH": os.pathsep.join([str(folder / "installed"), str(ROOT)]), "HF_HOME": str(folder / "home")}
    task = ["--tasks", "debias_three", "--include_path", str(folder), "--output_path", "out", "--log_samples"]
    model = ["--model", "debias", "--model_args", settings, "--batch_size", "2", "--device", "cpu"]
    return subprocess.run(
        [*launcher, "lmms_eval", *model, *task, *words],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, **where, "HF_HUB_OFFLINE": "1"},
        check=False,
    )


def one(folder, pattern):
    found = list(folder.glob(pattern))
    assert len(found) == 1, found
    return found[0]


@real
@pytest.mark.long
@pytest.mark.parametrize(
    ("launcher", "words", "kind"),
    [
        (ALONE, [], "eval.harnesses.lmms.Chat (chat)"),
        (ALONE, ["--force_simple"], "eval.harnesses.lmms.Simple (simple)"),
        (TWO, [], "eval.harnesses.lmms.Chat (chat)"),
    ],
    ids=["chat", "simple", "two processes"],
)
def test_its_command_line(three, launcher, words, kind):
    from eval.answering.store import decode

    folder, texts, kept = three
    done = run(folder, launcher, *words)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "|debias_three|" in done.stdout, done.stderr[-3000:]
    out = folder / "out"
    results = json.loads(one(out, "**/*_results.json").read_text())
    assert results["results"]["debias_three"]["exact_match,none"] == pytest.approx(2 / 3)
    assert results["config"]["model_backend"] == kind
    samples = [json.loads(line) for line in one(out, "**/*_samples_debias_three.jsonl").read_text().splitlines()]
    assert [row["filtered_resps"] for row in sorted(samples, key=lambda row: row["doc_id"])] == texts
    files = sorted(path.name for path in out.glob("kept*"))
    assert files == (["kept.0.jsonl", "kept.1.jsonl"] if launcher is TWO else ["kept.jsonl"])
    noted = [json.loads(line) for name in files for line in (out / name).read_text().splitlines()]
    assert {row["doc_id"]: sorted(decode(row["pictures"][0]["kept"][0])) for row in noted} == dict(enumerate(kept))
    # of three questions for two processes, lmms-eval asks one twice
    assert len(noted) == (4 if launcher is TWO else 3)


@real
@pytest.mark.long
def test_a_wrong_setting_is_said_where_it_prints_errors(three):
    done = run(three[0], ALONE, settings="method=fastv,kepp=3")
    assert "did you mean keep" in done.stderr
    assert "|debias_three|" not in done.stdout


@real
def test_the_record_is_true():
    from lmms_eval.api.model import lmms as real
    from lmms_eval.models.registry_v2 import ModelManifest

    assert set(ABSTRACT) == set(real.__abstractmethods__)
    for name, parameters in {**ABSTRACT, **CONCRETE}.items():
        assert tuple(inspect.signature(getattr(real, name)).parameters) == parameters, name
    assert tuple(inspect.signature(ModelManifest).parameters) == MANIFEST
