"""The plugin on a small random LLaVA-NeXT: several views of a picture, newlines, lengths that follow its shape."""

from __future__ import annotations

import importlib.util
import os

import pytest

from eval.harnesses.vllm import agreement
from eval.harnesses.vllm.agreement import ours, prompt, theirs
from eval.harnesses.vllm.pruning import Prunings
from eval.harnesses.vllm.settings import read
from pruners.models import adapter
from tiny import folder as published

if importlib.util.find_spec("vllm") is None:
    pytest.skip("vLLM is not installed here: bash setup.sh --vllm, then nox -s vllm", allow_module_level=True)


@pytest.fixture(scope="module")
def checkpoint(builders, tmp_path_factory):
    """Wide enough for vLLM's attention: heads of 32."""
    folder = tmp_path_factory.mktemp("next")
    vocabulary = len(builders.tokenizer("llava_next"))
    builders.checkpoint("llava_next", folder, text_config=builders._llama(vocabulary, 4, hidden_size=128))
    published.as_published(folder)
    return str(folder)


@pytest.fixture(scope="module")
def family(checkpoint):
    return adapter(checkpoint).load(checkpoint, device="cpu")


@pytest.fixture(scope="module")
def engine(checkpoint):
    before = dict(os.environ)
    os.environ.update(agreement.ENVIRONMENT)
    from vllm import LLM

    yield LLM(checkpoint, **{**agreement.ENGINE, "max_num_batched_tokens": 512, "max_model_len": 512})
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def questions():
    return agreement.questions(8)


@pytest.mark.parametrize(
    "setting",
    [
        {"method": "vispruner", "keep": 0.25, "arm": "padding"},
        {"method": "vispruner", "keep": 20, "arm": "none"},
        {"method": "visionzip", "keep": 0.25, "arm": "none"},
    ],
    ids=lambda setting: f"{setting['method']}-{setting['arm']}",
)
def test_pictures_of_several_views_keep_and_say_what_our_own_path_does(engine, family, checkpoint, questions, setting):
    pruning = Prunings(checkpoint, family.model.config)(read(setting, "test"))
    said, kept = ours(family, questions, pruning, at_once=1)
    done, seen = theirs(engine, family, questions, setting)
    assert seen == kept
    assert [list(one.outputs[0].token_ids) for one in done] == said
    counts = [len(one.prompt_token_ids) - len(prompt(family, q)) + 1 for one, q in zip(done, questions, strict=True)]
    assert len(set(counts)) > 1 or isinstance(setting["keep"], int)


def test_a_scout_keeps_what_the_method_keeps(engine, family, checkpoint, questions):
    setting = {"method": "fastv", "keep": 0.25, "arm": "padding", "scout": 2}
    pruning = Prunings(checkpoint, family.model.config)(read(setting, "test"))
    _, kept = ours(family, questions, pruning, at_once=1)
    _, seen = theirs(engine, family, questions, setting)
    assert seen == kept
