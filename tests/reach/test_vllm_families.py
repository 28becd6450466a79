"""The plugin on small random models of the other families, one engine after the other: `nox -s vllm`."""

from __future__ import annotations

import importlib.util
import os

import pytest
import torch

from eval.harnesses.vllm import agreement
from eval.harnesses.vllm.agreement import ended, ours, prompt, theirs
from eval.harnesses.vllm.pruning import Prunings
from eval.harnesses.vllm.settings import read
from pruners.models import Request, adapter
from tiny import folder as published

if importlib.util.find_spec("vllm") is None:
    pytest.skip("vLLM is not installed here: bash setup.sh --vllm, then nox -s vllm", allow_module_level=True)

WIDE = {"hidden_size": 128, "head_dim": 32}  # heads of 32: vLLM's attention takes none that are smaller
EXACT = [
    {"method": "vispruner", "keep": 0.25, "arm": "none"},
    {"method": "vispruner", "keep": 9},
    {"method": "visionzip", "keep": 0.25, "arm": "none"},
    {"method": "divprune", "keep": 0.3, "arm": "none"},
]
SCOUTS = [
    {"method": "fastv", "keep": 0.25, "arm": "none", "scout": 2},
    {"method": "pyramiddrop", "keep": 0.5, "arm": "none", "scout": 1},
]


@pytest.fixture(scope="module", params=["llava_next", "internvl", "qwen2_5_vl"])
def checkpoint(request, builders, tmp_path_factory):
    folder, name = tmp_path_factory.mktemp(request.param), request.param
    text = builders.config(name).text_config.to_dict() | WIDE
    text.pop("layer_types", None)
    changes = {"text_config": text}
    if name == "qwen2_5_vl":
        text["rope_parameters"]["mrope_section"] = [8, 4, 4]
        changes["vision_config"] = builders.config(name).vision_config.to_dict() | {"out_hidden_size": 128}
    builders.checkpoint(name, folder, **changes)
    if name == "llava_next":
        published.as_published(folder)
    return str(folder)


@pytest.fixture(scope="module")
def family(checkpoint):
    return adapter(checkpoint).load(checkpoint, device="cpu")


@pytest.fixture(scope="module")
def engine(checkpoint):
    before = dict(os.environ)
    os.environ.update(agreement.ENVIRONMENT)
    from vllm.distributed import cleanup_dist_env_and_memory

    engine = agreement.engine_for(checkpoint, 336)
    yield engine
    del engine
    cleanup_dist_env_and_memory()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def questions():
    return agreement.questions(8)


@pytest.fixture(scope="module")
def pruning(family, checkpoint):
    made = Prunings(checkpoint, family.model.config)
    return lambda setting: made(read(setting, "test"))


@pytest.mark.parametrize("setting", EXACT, ids=lambda setting: f"{setting['method']}-{setting['keep']}")
def test_methods_before_the_decoder_keep_and_say_what_our_own_path_does(engine, family, pruning, questions, setting):
    said, kept = ours(family, questions, pruning(setting), at_once=1)
    done, seen = theirs(engine, family, questions, setting)
    assert seen == kept
    assert [ended(family, one.outputs[0].token_ids) for one in done] == said


@pytest.mark.parametrize("setting", SCOUTS, ids=lambda setting: setting["method"])
def test_a_scout_keeps_what_the_method_keeps_and_what_stays_keeps_its_positions(
    engine, family, pruning, questions, survivors, setting
):
    _, kept = ours(family, questions, pruning(setting), at_once=1)
    done, seen = theirs(engine, family, questions, setting)
    assert seen == kept
    compact = setting["method"] == "pyramiddrop" and family.renumbers
    for question, one in zip(questions, done, strict=True):
        stayed = kept[agreement.fingerprint(family.picture(question.image).inputs["pixel_values"])]
        assert ended(family, one.outputs[0].token_ids) == survivors(family, question, stayed, compact)


def test_pictures_of_different_shapes_have_different_lengths(engine, family, questions):
    done, _ = theirs(engine, family, questions, {"method": "vispruner", "keep": 0.25})
    counts = [len(one.prompt_token_ids) - len(prompt(family, q)) for one, q in zip(done, questions, strict=True)]
    assert len(set(counts)) > 1


def test_text_alone_is_answered(engine, family):
    from vllm import SamplingParams

    ids = family.encode([Request("What is human?", [])]).inputs["input_ids"]
    with torch.inference_mode():
        said = family.model.generate(input_ids=ids, max_new_tokens=4, do_sample=False)[0, ids.shape[1] :]
    asked = {"prompt_token_ids": ids[0].tolist(), "mm_processor_kwargs": {"debias": SCOUTS[0]}}
    done = engine.generate(asked, SamplingParams(temperature=0, max_tokens=4), use_tqdm=False)
    assert ended(family, done[0].outputs[0].token_ids) == ended(family, said.tolist())
