"""generate() with a static cache compiles the decoding step; pruned, plain, and one after the other it stays exact."""

import gc
import weakref

import pytest
import torch
from transformers import CompileConfig

import pruners
from debias import Debias, Padding, Trend
from pruners.engine.compiled import _made
from pruners.engine.limits import Unsupported
from pruners.engine.prefix import Prefix

DEBIAS = Debias(Trend.exponential(0.01), Padding())


def ids(adapter, encoded, backend=None):
    """Five tokens of answer; `backend` None: not compiled."""
    options = {"cache_implementation": "static", "max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    if backend is None:
        options["disable_compile"] = True
    else:
        config = CompileConfig(backend=backend, mode=None, fullgraph=True)
        config._compile_all_devices = True
        options["compile_config"] = config
    return adapter.model.generate(**encoded.inputs, **options)[:, -5:].tolist()


def graphs():
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def again(adapter, encoded, backend):
    """Whether torch compiles even the plain model's step again for every new cache, as 2.8 does."""
    ids(adapter, encoded, backend)
    before = graphs()
    ids(adapter, encoded, backend)
    return graphs() > before


def check(adapter, encoded, names, backend, others=None):
    torch._dynamo.reset()
    plain = ids(adapter, encoded)
    assert ids(adapter, encoded, backend) == plain
    many = again(adapter, encoded, backend)
    for name in names:
        pruner = pruners.make(name, keep=0.3)
        with pruner(adapter, DEBIAS, encoded.sizes):
            expected = ids(adapter, encoded)
        before = graphs()
        with pruner(adapter, DEBIAS, encoded.sizes) as trace:
            assert ids(adapter, encoded, backend) == expected
            assert ids(adapter, encoded, backend) == expected  # the same step, not compiled again
        assert trace.ms["steps"] == 4
        assert graphs() == before + 1 or many
        for debias, batch in ((DEBIAS, encoded), (Debias(), encoded), (DEBIAS, others or encoded)):  # other blocks
            with pruner(adapter, debias, batch.sizes):
                expected = ids(adapter, batch)
            with pruner(adapter, debias, batch.sizes):
                assert ids(adapter, batch, backend) == expected
        assert graphs() == before + 1 or many
    assert ids(adapter, encoded, backend) == plain  # what was compiled for a block stays in it
    assert "get_compiled_call" not in vars(adapter.model)


@pytest.fixture
def small(builders):
    return builders.adapter("llava", layers=4)


def test_a_compiled_step_is_exact(small, requests):
    """One graph and no break in it, with masks (a padded batch), other positions, and a cut before layer 0."""
    others = small.encode(requests[1::-1])  # padded the other way round
    check(small, small.encode(requests[:2]), ["fastv", "pyramiddrop", "vispruner"], "eager", others)


@pytest.mark.long
def test_with_a_prefix_a_step_is_compiled_for_its_block(small, requests):
    encoded, pruner = small.encode(requests[:1]), pruners.make("fastv", keep=0.3)
    many = again(small, encoded, "eager")
    with pruner(small, DEBIAS, encoded.sizes):
        expected, before = ids(small, encoded), graphs()
    for block in range(2):
        prefix = Prefix()
        with pruner(small, DEBIAS, encoded.sizes, prefix=prefix):
            assert [ids(small, encoded, "eager") for _ in range(2)] == [expected] * 2
        assert prefix.reused == 2
        assert graphs() == before + 1 + block or many


@pytest.mark.long
def test_few_compiled_steps_are_kept(small, requests, monkeypatch):
    monkeypatch.setattr("pruners.engine.compiled.STEPS", 1)
    encoded = small.encode(requests[:1])
    for keep in (3, 4, 3):
        with pruners.make("fastv", keep=keep)(small):
            expected = ids(small, encoded)
        before = graphs()
        with pruners.make("fastv", keep=keep)(small):
            assert ids(small, encoded, "eager") == expected
        assert graphs() == before + 1
    model = weakref.ref(small.model)
    assert [key[0].keep for key in _made[small.model]] == [3]
    small.model = None
    del small
    gc.collect()
    assert model() is None or all(part is not model() for part in _made)


@pytest.mark.long
def test_a_step_compiled_to_machine_code_is_exact(small, requests):
    check(small, small.encode(requests[:1]), ["fastv"], "inductor")


def test_ranking_anew_is_not_compiled(small, requests):
    encoded = small.encode(requests[:1])
    pruner = pruners.make("fastv", keep=0.3, mode="mask")
    with pruner(small):
        expected = ids(small, encoded)
    with pruner(small):
        assert ids(small, encoded, "eager") == expected


def test_a_forward_that_was_compiled_before_is_refused(small):
    small.model.forward = torch.compile(small.model.forward, backend="eager")
    with pytest.raises(Unsupported, match="let generate"), pruners.make("fastv")(small):
        pass
    assert not small.decoder.layers[0]._forward_pre_hooks
