"""The matrix: methods on the families that they can serve, kernels and caches; all of it on LLaVA-1.5."""

import importlib.util
import random
from functools import cache
from pathlib import Path

import builders
import pytest
import torch
from spelled import LAYERS, START, TOKENS

import pruners.models
from pruners.models import Request

torch.set_num_threads(1)  # these models are so small that threads would only wait for each other

# Methods run at a share of 0.3 on the 8-layer models below; further fields, for those that cannot do without:
FIELDS = {"d2pruner": {"scores": "ratio", "layer": 3}}  # there is no measured prior beside a random model
METHODS = {name: {"keep": 0.3, **FIELDS.get(name, {})} for name in pruners.names()}
FAMILIES = tuple(pruners.models.families())
# These go through the engine as others do.
ALIKE = ("cdpruner", "dart", "divprune", "holov", "ivcprune", "prumerge", "prumergeplus", "vidcom2")
KERNELS = ("sdpa", "eager")
CACHES = ("dynamic", "static")
DRAWN = 2


@cache
def load_adapter(family, kernel="sdpa"):
    """The adapter of a tiny random model of LAYERS layers, made once."""
    return builders.adapter(family, attention=kernel, layers=LAYERS)


@pytest.fixture(scope="session")
def get():
    """get(family, kernel) -> the adapter of a tiny random model."""
    return load_adapter


@pytest.fixture(autouse=True)
def no_gradients():
    """Tests run under torch.no_grad()."""
    with torch.no_grad():
        yield


@pytest.fixture(scope="session")
def requests():
    """Questions of different lengths about pictures of different shapes."""
    sizes, words = ((90, 50), (40, 80), (64, 64)), ("What is it?", "What is the colour of the human?", "Is it?")
    pictures = [builders.picture(*size, seed) for seed, size in enumerate(sizes)]
    return [Request(text, [picture]) for text, picture in zip(words, pictures, strict=True)]


@pytest.fixture(scope="session")
def run():
    """run(adapter, encoded, **options) -> three tokens of answer and their logits."""

    def generated(adapter, encoded, **options):
        settings = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False, "disable_compile": True, **options}
        return adapter.model.generate(**encoded.inputs, **settings, return_dict_in_generate=True, output_logits=True)

    return generated


@pytest.fixture(scope="module")
def llava():
    """The model of the tests that spell out a method's layers (spelled.py)."""
    return builders.model("llava", layers=LAYERS)


@pytest.fixture(scope="module")
def prompt(llava):
    """Its prompt."""
    generator = torch.Generator().manual_seed(1)
    image = [llava.config.image_token_id] * TOKENS
    before, after = (torch.randint(3, 60, (n,), generator=generator).tolist() for n in (START, 7))
    return {
        "input_ids": torch.tensor([before + image + after]),
        "pixel_values": torch.randn(1, 3, 84, 84, generator=generator),
    }


def pruner(name, **fields):
    """A method at the settings of METHODS, but for the fields that are given."""
    return pruners.make(name, **{**METHODS[name], **fields})


@pytest.fixture(scope="session")
def pretend():
    """The module pretend.py, whose device every machine has."""
    spec = importlib.util.spec_from_file_location("pretend", Path(__file__).parent / "pretend.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def make():
    """make(name, **fields) -> the method at the matrix's settings."""
    return pruner


def possible(method, family):
    """Whether a method can run on a family."""
    return pruners.find(method).serves(pruners.models.family(family))


def at_home(method):
    """The family of a method's tests: LLaVA-1.5, or Video-LLaVA where a method compares frames."""
    return "llava" if possible(method, "llava") else "video_llava"


@pytest.fixture(scope="session")
def home():
    """home(method) -> the family that it is tested on wherever a test names none."""
    return at_home


def drawn(test):
    """(method, family) for a test: every method at home; on other families as many as DRAWN of those that read the
    vision tower and of the others, drawn anew for each test, but always the same ones."""
    pairs, draw = [(method, at_home(method)) for method in METHODS], random.Random(test)
    for family in FAMILIES:
        for tower in (True, False):
            here = [m for m in METHODS if possible(m, family) and pruners.find(m).reads_tower() == tower]
            pairs += [(m, family) for m in draw.sample(here, min(DRAWN, len(here))) if family != "llava"]
    return pairs


def pytest_generate_tests(metafunc):
    """Arguments named method, family, kernel and cached run over the matrix; LLaVA-1.5 over all of it, other families
    over what is drawn of it and a diagonal of kernels and caches.
    Without a family it is LLaVA-1.5, or what home() says."""
    names = metafunc.fixturenames
    given = [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
    if "method" not in names or "method" in given:
        return
    if "family" not in names:
        metafunc.parametrize("method", [m for m in METHODS if "home" in names or possible(m, "llava")])
        return
    pairs = drawn(metafunc.function.__name__)
    if "kernel" not in names:
        metafunc.parametrize(("method", "family"), pairs)
        return
    every = [(k, c) for k in KERNELS for c in CACHES]
    cases = [
        (m, f, k, c)
        for m, f in pairs
        for k, c in (every if f == at_home(m) and m not in ALIKE else zip(KERNELS, CACHES, strict=True))
    ]
    metafunc.parametrize(("method", "family", "kernel", "cached"), cases)
