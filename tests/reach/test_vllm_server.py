"""`vllm serve` with the plugin, as docs/serving.md starts it, asked by the official OpenAI client: `nox -s vllm`."""

from __future__ import annotations

import base64
import importlib.util
import io
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

from eval.core.embedded import EMBEDDED

if importlib.util.find_spec("vllm") is None:
    pytest.skip("vLLM is not installed here: bash setup.sh --vllm, then nox -s vllm", allow_module_level=True)

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "assets" / "example.png"
QUESTION = "What colour is the circle?"
SETTINGS = '{"method": "vispruner", "keep": 0.25, "arm": "padding"}'


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of a server on a free port, in processes of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    program = str(Path(sys.executable).with_name("vllm"))
    flags = ["--dtype", "float32", "--enforce-eager", "--max-model-len", "320", "--max-num-batched-tokens", "320"]
    flags.append("--trust-request-mm-kwargs")  # requests name settings of their own
    place = ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", "tiny"]
    own = {"DEBIAS_VLLM": SETTINGS, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    with open(log, "wb") as said:
        running = subprocess.Popen(
            [program, "serve", str(EMBEDDED["image"]), *flags, *place],
            env={**os.environ, **own, "OMP_NUM_THREADS": "1"},
            stdout=said,
            stderr=subprocess.STDOUT,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            assert running.poll() is None, log.read_text(errors="replace")[-4000:]
            try:
                with urllib.request.urlopen(f"{address}/health", timeout=5):
                    break
            except OSError:
                time.sleep(1)
        yield address
    finally:
        running.terminate()
        running.wait(60)


def url(picture):
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"


def ask(server, picture, question=QUESTION, **asked):
    from openai import OpenAI

    client = OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0)
    content = [{"type": "image_url", "image_url": {"url": url(picture)}}, {"type": "text", "text": question}]
    extra = {"add_special_tokens": True}  # the model was trained with a BOS, which its chat template leaves out
    if asked:
        extra["mm_processor_kwargs"] = {"debias": asked}
    said = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": content}], max_tokens=5, temperature=0, extra_body=extra
    )
    return said.choices[0].message.content.strip(), said.usage.prompt_tokens


def test_the_openai_client_gets_the_answer_of_the_pruned_model(server):
    from debias import Debias
    from pruners import make
    from pruners.models import Request, adapter

    picture = PICTURE.read_bytes()
    said, tokens = ask(server, picture)
    family = adapter(str(EMBEDDED["image"])).load(str(EMBEDDED["image"]), device="cpu")
    batch = family.encode([Request(QUESTION, [Image.open(PICTURE)])])
    with make("vispruner", keep=0.25)(family.model, Debias.paper("vispruner", arm="padding"), sizes=batch.sizes):
        out = family.model.generate(**batch.inputs, max_new_tokens=5, do_sample=False)
    assert said == family.decode(out[:, batch.inputs["input_ids"].shape[1] :])[0]
    assert tokens == batch.inputs["input_ids"].shape[1] - 144 + 36


def test_a_request_names_its_own_method(server):
    picture = PICTURE.read_bytes()
    _, whole = ask(server, picture)
    said, tokens = ask(server, picture, method="visionzip", keep=20, arm="none")
    assert said
    assert tokens == whole - 36 + 20
    said, tokens = ask(server, picture, method="fastv", keep=16, arm="padding", scout=2)
    assert said
    assert tokens == whole - 36 + 16


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"method": "fastv", "keep": 16}, "ask for it"),
        ({"method": "vispruner", "keep": 0.5}, "72 tokens of a picture are asked for"),
        ({"method": "vispruned"}, "did you mean vispruner"),
    ],
)
def test_what_cannot_be_served_is_status_400(server, asked, message):
    from openai import BadRequestError

    with pytest.raises(BadRequestError, match=message):
        ask(server, PICTURE.read_bytes(), **asked)
    assert ask(server, PICTURE.read_bytes())[0]  # and the server goes on


def test_sixteen_at_once_are_answered_each_about_its_own_picture(server):
    from concurrent.futures import ThreadPoolExecutor

    pictures = []
    for number in range(16):
        image = Image.open(PICTURE).convert("RGB").resize((96 - 3 * number, 64 + 2 * number))
        held = io.BytesIO()
        image.save(held, "PNG")
        pictures.append(held.getvalue())
    alone = [ask(server, picture) for picture in pictures]
    with ThreadPoolExecutor(16) as clients:
        assert list(clients.map(lambda picture: ask(server, picture), pictures)) == alone
