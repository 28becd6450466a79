"""Keys, code that comes with checkpoints, and the page that promises."""

from __future__ import annotations

import ast
import re
import shutil
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from judge import LyingJudge

from eval.scoring.judge import Answered, Judge

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(path for package in ("debias", "pruners", "eval", "tiny") for path in (ROOT / package).rglob("*.py"))


def test_every_promise_names_a_test_that_is_there():
    page = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    named = re.findall(r"(tests/[\w/]+\.py)::(\w+)", page)
    assert len(named) > 15
    for file, name in named:
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file}::{name}"
    for line in page.partition("## Tried")[0].splitlines():
        if line.startswith("| ") and not line.startswith("| promise"):
            assert "::test_" in line, line


def called(path):
    """(name of what is called, the call) of a source file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_the_sources_hold_no_door_for_code():
    refused = {"eval", "exec", "compile", "os.system", "os.popen", "pickle.load", "pickle.loads", "yaml.load",
               "marshal.loads", "__import__"}  # fmt: skip
    assert {path.parent.name for path in SOURCES} >= {"debias", "pruners", "models", "eval", "benchmarks", "tiny"}
    for path in SOURCES:
        for name, call in called(path):
            assert name not in refused, f"{path}: {name}"
            arguments = {word.arg: ast.unparse(word.value) for word in call.keywords}
            if name.startswith("subprocess."):
                assert "shell" not in arguments, path
            assert arguments.get("trust_remote_code", "False") == "False", path
            assert arguments.get("allow_pickle", "False") == "False", path
            if name.endswith("torch.load"):
                assert arguments.get("weights_only") == "True", path
            if name.endswith(".from_pretrained") and path.is_relative_to(ROOT / "pruners"):
                assert arguments.get("trust_remote_code") == "False", path
            if name.endswith(("AutoModel.from_pretrained", "ModelForImageTextToText.from_pretrained")):
                assert arguments.get("use_safetensors") == "True", path


def test_weights_are_safetensors_and_no_code_comes_with_them(checkpoints, tmp_path):
    import json

    import torch

    from pruners.models import adapter

    trap = tmp_path / "ran"
    folder = shutil.copytree(checkpoints["image"], tmp_path / "model")
    code = f"open({str(trap)!r}, 'w').close()\nclass Evil:\n    pass\n"
    (folder / "evil.py").write_text(code)
    names = {"AutoConfig": "evil.Evil", "AutoModelForImageTextToText": "evil.Evil", "AutoProcessor": "evil.Evil",
             "AutoTokenizer": ["evil.Evil", "evil.Evil"]}  # fmt: skip
    for name in ("config.json", "tokenizer_config.json"):
        found = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**found, "auto_map": names}))
    adapter(str(folder)).load(str(folder), dtype=torch.float32)
    assert not trap.exists()

    class Payload:
        def __reduce__(self):
            return (open, (str(trap), "w"))

    (folder / "model.safetensors").unlink()
    torch.save({"weight": Payload()}, folder / "pytorch_model.bin")
    with pytest.raises((OSError, ValueError)):
        adapter(str(folder)).load(str(folder), dtype=torch.float32)
    assert not trap.exists()


def test_a_key_is_not_sent_on_to_another_host(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-the-key")
    seen = []
    with LyingJudge() as other:

        class Moved(BaseHTTPRequestHandler):
            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(307)
                self.send_header("Location", f"{other.url}/chat/completions")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *arguments):
                pass

        answer = other.answer
        other.answer = lambda to, way: (seen.append(to.headers.get("Authorization")), answer(to, way))
        server = HTTPServer(("127.0.0.1", 0), Moved)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        judge = Judge(f"http://127.0.0.1:{server.server_port}/v1", "j", tmp_path / "c", attempts=1, timeout=30)
        judge.ask("mmvet", Answered("a", "b", "c"))
        server.shutdown()
    assert seen == [None]


def test_a_key_in_the_address_is_not_shown(tmp_path):
    judge = Judge("http://name:sk-the-key@127.0.0.1:9/v1", "j", tmp_path / "c", attempts=1, timeout=1)
    with pytest.raises(ValueError, match=r"http://127\.0\.0\.1:9/v1 did not answer") as error:
        judge.ask("mmvet", Answered("a", "b", "c"))
    assert "sk-the-key" not in str(error.value)
