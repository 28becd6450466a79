"""A block that has read a prompt, and whose model is not run."""

import pytest
from spying import Told

from debias import Debias, Padding
from pruners.engine.hooks import Run

PADDING = Debias(padding=Padding())


@pytest.fixture(scope="module")
def batch(get, requests):
    """Two questions about a picture each; the first one's row is padded."""
    return get("llava").encode(requests[:2])


@pytest.fixture
def made(get, batch):
    """made(pruner, debias) -> a run whose hooks are gone when the test ends."""
    runs = []

    def run(pruner=None, debias=PADDING):
        runs.append(Run(pruner or Told(), get("llava"), debias, batch.sizes))
        return runs[-1]

    yield run
    for one in runs:
        one.watch.remove()


@pytest.fixture
def begun(made, batch):
    """begun(pruner, debias, beams) -> a run that has read the batch as a prompt."""

    def run(pruner=None, debias=PADDING, beams=1, trends=None):
        one = made(pruner, debias)
        one.trends = trends
        ids, mask = (batch.inputs[name].repeat_interleave(beams, 0) for name in ("input_ids", "attention_mask"))
        one.prefill(ids, mask, {})
        return one

    return run
