"""Two processes that share every layer (tensor parallelism over gloo), switched on by --hf-overrides: `nox -s vllm`."""

from __future__ import annotations

import importlib.util
import os

import pytest

from eval.harnesses.vllm import agreement
from eval.harnesses.vllm.agreement import ended, ours, theirs
from eval.harnesses.vllm.pruning import Prunings
from eval.harnesses.vllm.settings import VARIABLE, read
from pruners.models import adapter

if importlib.util.find_spec("vllm") is None:
    pytest.skip("vLLM is not installed here: bash setup.sh --vllm, then nox -s vllm", allow_module_level=True)

EXACT = [
    {"arm": "unpruned"},
    {"method": "vispruner", "keep": 0.25, "arm": "padding"},
    {"method": "visionzip", "keep": 0.25, "arm": "none"},
]
SCOUT = {"method": "fastv", "keep": 0.25, "arm": "padding", "scout": 2}


@pytest.fixture(scope="module")
def engine():
    before = dict(os.environ)
    os.environ.update(agreement.ENVIRONMENT | {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"})
    os.environ.pop(VARIABLE)
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    chosen = {"architectures": ["DebiasedLlavaForConditionalGeneration"], "debias": {"arm": "unpruned"}}
    engine = agreement.engine_for(agreement.MODEL, 144, tensor_parallel_size=2, hf_overrides=chosen)
    yield engine
    engine.llm_engine.engine_core.shutdown()
    os.environ.clear()
    os.environ.update(before)


def test_two_processes_say_what_one_says(engine, survivors):
    family = adapter(agreement.MODEL).load(agreement.MODEL, device="cpu")
    asking, made = agreement.questions(12), Prunings(agreement.MODEL, family.model.config)
    for setting in EXACT:
        done, _ = theirs(engine, family, asking, setting)
        said, _ = ours(family, asking, made(read(setting, "test")))
        assert [ended(family, one.outputs[0].token_ids) for one in done] == said
    done, _ = theirs(engine, family, asking, SCOUT)
    _, kept = ours(family, asking, made(read(SCOUT, "test")))
    for question, one in zip(asking, done, strict=True):
        stayed = kept[agreement.fingerprint(family.picture(question.image).inputs["pixel_values"])]
        assert ended(family, one.outputs[0].token_ids) == survivors(family, question, stayed)
