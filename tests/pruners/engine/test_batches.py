"""Random left-padded batches: whatever stands beside a row, it is answered as if it were asked alone."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

STEPS, PICTURE, PATCHES = 6, "picture", 36
PADDINGS = (0, 0, 1, 5, 200)  # columns before the longest row

words = st.lists(st.integers(3, 200), min_size=1, max_size=6)
asked = st.lists(st.one_of(words, st.just(PICTURE)), max_size=5).filter(lambda row: row.count(PICTURE) < 3)
rows = st.tuples(asked, words).map(lambda parts: [*parts[0], parts[1]])
batches = st.tuples(
    st.lists(rows, min_size=1, max_size=3).filter(lambda batch: any(PICTURE in row for row in batch)),
    st.sampled_from(PADDINGS),
)


def encoded(adapter, batch, padding=0):
    """The batch as a model gets it; a picture is told by how many come before it in `batch`."""
    token = adapter.model.config.image_token_id
    ids = [[i for part in row for i in ([token] * PATCHES if part == PICTURE else part)] for row in batch]
    width = max(map(len, ids)) + padding
    inputs = {
        "input_ids": torch.tensor([[0] * (width - len(row)) + row for row in ids]),
        "attention_mask": torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids]),
    }
    return SimpleNamespace(inputs=inputs)


def shown(count):
    return torch.randn(count, 3, 84, 84, generator=torch.Generator().manual_seed(5))


def answered(run, adapter, pruner, inputs, cached):
    options = {"max_new_tokens": STEPS, "min_new_tokens": STEPS}
    if cached == "static":
        options["cache_implementation"] = "static"
    with pruner(adapter) as trace:
        out = run(adapter, inputs, **options)
    return torch.stack(out.logits), [[kept.tolist() for kept in stage] for stage in trace.kept]


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("cached", ["dynamic", "static"])
def test_a_row_is_answered_as_if_it_were_alone(method, kernel, cached, get, make, run):
    adapter, pruner = get("llava", kernel), make(method)

    @settings(max_examples=6)
    @given(batches)
    def holds(drawn):
        batch, padding = drawn
        pixels = shown(sum(row.count(PICTURE) for row in batch))
        inputs = encoded(adapter, batch, padding)
        inputs.inputs["pixel_values"] = pixels
        together, kept = answered(run, adapter, pruner, inputs, cached)
        first = 0
        for number, row in enumerate(batch):
            count = row.count(PICTURE)
            inputs = encoded(adapter, [row])
            if count:
                inputs.inputs["pixel_values"] = pixels[first : first + count]
            alone, single = answered(run, adapter, pruner, inputs, cached)
            if count:
                assert [stage[first : first + count] for stage in kept] == single
            first += count
            torch.testing.assert_close(together[:, number], alone[:, 0], rtol=0, atol=1e-3)

    holds()
