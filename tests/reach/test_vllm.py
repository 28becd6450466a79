"""The plugin inside vLLM, on the embedded model: `nox -s vllm`, in the environment that `bash setup.sh --vllm` makes.

One engine in this process answers all questions: with chunked prefill, continuous batching, prefix and picture caches,
as they are by default. Requests name their own method, budget and arm.
"""

from __future__ import annotations

import importlib.util
import os

import pytest

from eval.core.embedded import EMBEDDED
from eval.harnesses.vllm import agreement
from eval.harnesses.vllm.agreement import ours, prompt, theirs
from eval.harnesses.vllm.pruning import Prunings
from eval.harnesses.vllm.settings import read
from pruners.models import adapter

if importlib.util.find_spec("vllm") is None:
    pytest.skip("vLLM is not installed here: bash setup.sh --vllm, then nox -s vllm", allow_module_level=True)

FOLDER = str(EMBEDDED["image"])


@pytest.fixture(scope="module")
def questions():
    return agreement.questions(24)


@pytest.fixture(scope="module")
def family():
    return adapter(FOLDER).load(FOLDER, device="cpu")


@pytest.fixture(scope="module")
def engine():
    before = dict(os.environ)
    os.environ.update(agreement.ENVIRONMENT)
    yield agreement.engine_for(FOLDER, 144)
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def pruning(family):
    """The setting of a request as our own path runs it."""
    made = Prunings(FOLDER, family.model.config)
    return lambda **setting: made(read(setting, "test"))


def answers(done):
    return [list(one.outputs[0].token_ids) for one in done]


def lengths(done):
    return [len(one.prompt_token_ids) for one in done]


EXACT = [
    ("vispruner", 0.25, "padding"),
    ("vispruner", 13, "none"),
    ("visionzip", 0.25, "padding"),
    ("divprune", 0.2, "none"),
]


@pytest.mark.parametrize(("method", "keep", "arm"), EXACT)
def test_methods_before_the_decoder_keep_and_say_what_our_own_path_does(
    engine, family, questions, pruning, method, keep, arm
):
    setting = {"method": method, "keep": keep, "arm": arm}
    said, kept = ours(family, questions, pruning(**setting))
    done, seen = theirs(engine, family, questions, setting)
    assert seen == kept
    assert answers(done) == said
    count = int(144 * keep) if isinstance(keep, float) else keep
    assert lengths(done) == [len(prompt(family, one)) - 1 + count for one in questions]


SCOUTS = [
    {"method": "fastv", "arm": "both", "scout": 2},
    {"method": "fastv", "arm": "padding", "layer": 4, "scout": 4},
    {"method": "d2pruner", "arm": "padding", "scout": 2},
    {"method": "pyramiddrop", "arm": "none", "scout": 1},
]


@pytest.mark.parametrize("setting", SCOUTS, ids=lambda setting: f"{setting['method']}-{setting['arm']}")
def test_a_scout_keeps_what_the_method_keeps(engine, family, questions, pruning, setting):
    setting = {**setting, "keep": 0.25}
    _, kept = ours(family, questions[:16], pruning(**setting))
    _, seen = theirs(engine, family, questions[:16], setting)
    assert seen == kept


def test_a_scout_reads_the_question_of_its_own_request(engine, family, questions):
    """The same picture with other questions: each is chosen for anew, and not taken from a cache."""
    image = questions[1].image
    asking = [agreement.PictureQuestion(one.kind, one.text, image, "") for one in questions[:8]]
    setting = {"method": "fastv", "keep": 0.1, "arm": "none", "scout": 2}
    kept = [next(iter(theirs(engine, family, [one], setting)[1].values())) for one in asking if one.text]
    assert len({tuple(one) for one in kept}) > 1


def test_unpruned_requests_are_answered_by_the_plain_model(engine, family, questions, pruning):
    said, _ = ours(family, questions, pruning(arm="unpruned"))
    done, _ = theirs(engine, family, questions, {"arm": "unpruned"})
    assert answers(done) == said
    assert lengths(done) == [len(prompt(family, one)) - 1 + 144 for one in questions]


def test_asked_again_from_the_caches_nothing_changes(engine, family, questions):
    def ask(keep):
        done, kept = theirs(engine, family, questions[:8], {"method": "vispruner", "keep": keep, "arm": "padding"})
        return answers(done), lengths(done), kept

    first, other = ask(0.3), ask(0.5)
    for keep, before in ((0.3, first), (0.5, other), (0.3, first)):
        again = ask(keep)
        assert again[:2] == before[:2]
        assert again[2].items() <= before[2].items()  # of those pictures that are not in the cache any more
    assert first[1] != other[1]


@pytest.fixture(scope="module")
def processor(engine):
    from vllm.multimodal import MULTIMODAL_REGISTRY

    return MULTIMODAL_REGISTRY.create_processor(engine.llm_engine.model_config)


def cached_as(processor, family, question, uuid=None, **asked):
    """The name under which vLLM caches a picture of a request."""
    items = processor.info.parse_mm_data({"image": question.image})
    uuids = None if uuid is None else {"image": [uuid]}
    done = processor(prompt(family, question), items, uuids, {"debias": asked} if asked else {})
    return done["mm_hashes"]["image"][0]


def test_two_settings_never_share_a_cached_picture(processor, family, questions):
    one = {"method": "vispruner", "keep": 0.25, "arm": "padding"}
    scouts = [{"method": "fastv", "keep": 0.25, "scout": 2, "arm": arm} for arm in ("none", "both")]
    changes = [{}, {"keep": 36}, {"keep": 0.5}, {"arm": "none"}, {"method": "visionzip"}, {"important_ratio": 0.25}]
    settings = [*({**one, **change} for change in changes), {"arm": "unpruned"}, *scouts]
    for uuid in (None, "mine"):  # also where the client names its pictures itself
        names = [cached_as(processor, family, questions[0], uuid, **asked) for asked in settings]
        assert len(set(names)) == len(settings)
        assert names == [cached_as(processor, family, questions[0], uuid, **asked) for asked in settings]


def test_only_a_scout_caches_by_the_question_too(processor, family, questions):
    texts = dict.fromkeys(one.text for one in questions)
    asking = [agreement.PictureQuestion("", text, questions[0].image, "") for text in list(texts)[:2]]
    for asked, same in (
        ({"method": "vispruner", "keep": 9}, True),
        ({"method": "fastv", "keep": 9, "scout": 2}, False),
    ):
        assert (len({cached_as(processor, family, one, **asked) for one in asking}) == 1) is same


def test_what_cannot_be_served_is_refused_and_the_server_goes_on(engine, family, questions):
    for asked, message in (
        ({"method": "fastv", "keep": 0.25}, 'ask for it: "scout": 2'),
        ({"method": "vispruner", "arm": "trend"}, "has the arms none and padding"),
    ):
        with pytest.raises(ValueError, match=message):
            theirs(engine, family, questions[:1], asked)
    theirs(engine, family, questions[:1], {"method": "vispruner", "keep": 0.25})


def test_a_request_for_more_tokens_than_the_server_was_started_for_is_refused(processor, family, questions):
    config = processor.info.prunings.config
    config.debias = {"method": "vispruner", "keep": 0.25}
    try:
        with pytest.raises(ValueError, match=r"72 tokens of a picture are asked for, .* started for 36 at most"):
            cached_as(processor, family, questions[0], method="vispruner", keep=0.5)
        assert processor.info.get_max_image_tokens() == 36
    finally:
        del config.debias
