"""The headline as a function of weights, which the bootstrap draws from, against scoring the resampled set itself."""

from __future__ import annotations

import numpy as np
import pytest

from eval.benchmarks import get
from eval.reading.sample import Sample

CATEGORIES = {
    "pope": ("adversarial", "popular", "random"),
    "mme": ("count", "OCR", "code_reasoning"),
    "mmbench": ("x", "y"),
    "gqa": ("",),
    "refcoco": ("val", "testA", "testB"),
    "scienceqa": ("",),
}


def samples(name):
    found = []
    for number in range(24):
        group = number // 2
        category = CATEGORIES[name][group % len(CATEGORIES[name])]
        found.append(
            Sample(
                number,
                "?",
                image=b"x" if number % 4 else None,
                group=f"{category} {group}",
                category=category,
                target="yes" if number % 3 else "no",
            )
        )
    return found


@pytest.mark.parametrize("name", CATEGORIES)
@pytest.mark.parametrize("seed", range(8))
def test_weights_are_a_resample(name, seed):
    random = np.random.default_rng(seed)
    benchmark, asked = get(name), samples(name)
    items = random.integers(0, 2, len(asked)).astype(float)
    times = {sample.group: random.integers(1, 4) for sample in asked}
    weights = np.array([float(times[sample.group]) for sample in asked])
    copies = [
        (sample.but(key=f"{sample.key} {copy}", group=f"{sample.group} {copy}"), item)
        for sample, item in zip(asked, items, strict=True)
        for copy in range(times[sample.group])
    ]
    again, values = [sample for sample, _ in copies], np.array([item for _, item in copies])
    value = benchmark.statistic(asked, items)
    expected = float(benchmark.statistic(again, values)(np.ones(len(again))))
    assert value(weights) == pytest.approx(expected)
    # Many draws at once are the same as one by one.
    assert value(np.stack([weights, np.ones(len(asked))])) == pytest.approx(
        [expected, float(value(np.ones(len(asked))))]
    )
    assert 0 <= expected <= (2000 if name == "mme" else 100)


@pytest.mark.parametrize("name", CATEGORIES)
def test_right_is_better(name):
    asked = samples(name)
    ones = np.ones(len(asked))
    benchmark = get(name)
    assert benchmark.statistic(asked, 0 * ones)(ones) == 0
    assert benchmark.statistic(asked, ones)(ones) == (400 if name == "mme" else 100)
    assert benchmark.statistic(asked, ones)(0 * ones) == 0  # nothing drawn: no division by zero


def test_few_questions_may_leave_mme_without_perception():
    asked = [Sample(number, "?", image=b"x", category="code_reasoning", target="yes") for number in range(2)]
    assert get("mme").statistic(asked, np.ones(2))(np.ones((5, 2))).tolist() == [0] * 5
