"""Compiled steps of decoding, with a compiler that hands back what it is given. No model is loaded."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from pruners.engine import compiled
from pruners.engine.compiled import LENT, Compiled
from pruners.engine.hooks import Run
from pruners.engine.limits import Unsupported


class Model:
    """Answers with what it was called with, and what the layers were lent meanwhile."""

    def __call__(self, **inputs):
        return inputs, LENT.given


@pytest.fixture
def asked(monkeypatch):
    """(step, options) of each that was compiled."""
    found = []
    monkeypatch.setattr(torch, "compile", lambda step, **options: found.append((step, options)) or step)
    return found


def block(model, length=9, mode="gather", begin=None):
    """What stands in for the model's own steps in a `with` block, and how often a step has ended there."""
    ended, cache = [], SimpleNamespace(layers=[SimpleNamespace(max_cache_len=length), SimpleNamespace()])
    method = (mode, "a method's value")
    pruner = type("Method", (tuple,), {"mode": mode})(method)
    state = SimpleNamespace(adapter=SimpleNamespace(model=model), pruner=pruner, cache=cache, given=[{"mask": 1}])
    return Compiled(state, begin or (lambda args, inputs: None), lambda: ended.append(1)), ended


def test_a_step_is_lent_what_the_layers_get(asked):
    model, ids = Model(), torch.zeros(1, 1)
    _, ended = block(model)
    own = SimpleNamespace(to_dict=lambda: {"fullgraph": True})
    out = model.get_compiled_call(own)(input_ids=ids)
    assert out == ({"input_ids": ids}, ({"mask": 1},))
    assert (LENT.given, ended, asked[0][1]) == ((), [1], {"fullgraph": True})
    changed, _ = block(model, begin=lambda args, inputs: (args, {**inputs, "position_ids": 7}))
    assert model.get_compiled_call(own)(input_ids=ids)[0] == {"input_ids": ids, "position_ids": 7}
    assert len(asked) == 1  # another block, and the same step
    changed.remove()
    assert "get_compiled_call" not in vars(model)
    block(model)
    assert model.get_compiled_call(None)(input_ids=ids)
    assert set(asked[1][1]) > {"fullgraph", "mode"}  # transformers' own options


def test_a_step_is_compiled_for_each_shape_and_the_oldest_makes_room(asked, monkeypatch):
    monkeypatch.setattr(compiled, "STEPS", 2)
    model, own = Model(), SimpleNamespace(to_dict=dict)

    def run(batch, length=9):
        block(model, length)
        model.get_compiled_call(own)(input_ids=torch.zeros(batch, 1))
        return len(asked)

    assert [run(1), run(2), run(1)] == [1, 2, 2]
    assert [run(1, length=8), run(1), run(2)] == [3, 3, 4]  # that of batch 2 had not been asked for longest
    code = {step.__code__ for step, _ in asked}
    assert len({id(step.__code__) for step, _ in asked}) == 4
    assert len(code) == 1
    run_of_another = Model()
    block(run_of_another)
    run_of_another.get_compiled_call(own)(input_ids=torch.zeros(1, 1))
    assert len(asked) == 5


def test_ranking_anew_is_left_to_the_model():
    model = Model()
    block(model, mode="mask")
    assert model.get_compiled_call(None) is model


def test_a_forward_that_is_compiled_already_is_refused():
    model = Model()
    model.forward = SimpleNamespace(_torchdynamo_orig_callable=1)
    with pytest.raises(Unsupported, match="the model's forward was compiled before pruning"):
        block(model)


def test_layers_of_a_compiled_step_take_what_it_is_lent(monkeypatch):
    """Nothing of a block's own: what its hooks settle was settled before."""
    run, done = Run.__new__(Run), []
    run.state = SimpleNamespace(segments=["some"], given=[])
    for name in ("enter", "begin", "end", "record"):
        monkeypatch.setattr(run, name, lambda *given, name=name: done.append(name) or name, raising=False)

    def tried(given, lent, compiling):
        run.state.given = given
        monkeypatch.setattr(LENT, "given", lent)
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiling)
        found = [run.on_layer(number, None, (1,), {"own": 2}) for number in (0, 1)]
        began = run.on_model(None, (), {})
        run.on_answer(None, (), None)
        run.on_attention(0, None, (), {}, None)
        said, done[:] = list(done), []
        return found, began, said

    one, other = [{}, {"mask": 3}], ({"mask": 4}, {})
    assert tried(one, other, False) == ([None, ((1,), {"own": 2, "mask": 3})], "begin", ["begin", "end"])
    assert tried(one, other, True) == ([((1,), {"own": 2, "mask": 4}), None], None, [])
    entered = ["enter", "enter"]
    assert tried([], other, False) == (entered, "begin", [*entered, "begin", "end", "record"])
    assert tried([], (), True) == (entered, None, entered)
    run.state.segments = []
    assert tried([], other, False) == (entered, "begin", [*entered, "begin", "end"])
