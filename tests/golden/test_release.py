"""`Debias.paper(..., as_released=True)` against the debiasing paper's own release, on a model both sides rebuild.

tests/golden/release_*.safetensors hold what its code gave (numbers only; tests/golden/record_release.py records them).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import toy
from safetensors import safe_open
from safetensors.torch import load_file
from test_golden import GREEDY, models, spread

from debias import Debias
from pruners import make

__all__ = ["models"]  # a fixture
HERE = Path(__file__).parent
NATIVE = {
    "fastv": {"keep": 128, "layer": 2, "mode": "mask"},
    "himap": {"layer": 2, "second": 8, "keeps": (115, 90)},
    "tokencarve": {"keep": 64, "layer": 2},
    "pyramiddrop": {"layers": (2, 10, 20), "ratios": (0.32, 0.16, 0.08)},
    "sparsevlm": {"keep": 128, "layers": (3, 7, 16)},
}
RECORDED = [name for name in NATIVE if (HERE / f"release_{name}.safetensors").is_file()]


def recordings():
    for method in RECORDED:
        with safe_open(HERE / f"release_{method}.safetensors", "pt") as file:
            cases = sorted(name[: -len(".logits")] for name in file.keys() if name.endswith(".logits"))  # noqa: SIM118
        yield from ((method, case) for case in cases)


@pytest.mark.parametrize(("method", "case"), list(recordings()))
def test_native_is_what_the_release_computes(models, method, case):
    with safe_open(HERE / f"release_{method}.safetensors", "pt") as file:
        about = file.metadata()
        found = {name[len(case) + 1 :]: file.get_tensor(name) for name in file.keys() if name.startswith(f"{case}.")}  # noqa: SIM118
    if found["tie"] and toy.sorting() != about["sorted by"]:
        pytest.skip(f"which of equal scores comes first is left open; recorded by {about['sorted by']}")
    model, digest = models(int(about["seed"]))
    assert about["weights"] == digest, "toy.py draws other weights here than those the file was recorded with"
    tag, size = case.split(".")
    debias = Debias.paper(method, "gqa", tag, as_released=True)
    seed = int(about["seed"])
    inputs = {"input_ids": torch.tensor([spread(toy.prompt(seed))]), "pixel_values": toy.pixels(seed)}
    pruner, sizes, answer = make(method, **NATIVE[method]), [tuple(map(int, size.split("x")))], found["answer"].tolist()
    with pruner(model, debias, sizes) as trace, torch.inference_mode():
        logits = model(**inputs).logits[0, -1]
    if method != "tokencarve":  # what is recorded there is chosen before it is merged
        for stage, choice in enumerate(trace.images[0].choices):
            assert choice.kept[choice.kept < 576].tolist() == found[f"kept.{stage}"].tolist(), f"stage {stage}"
    torch.testing.assert_close(logits, found["logits"], atol=1e-4, rtol=0)
    with pruner(model, debias, sizes), torch.inference_mode():
        said = model.generate(**inputs, **GREEDY, max_new_tokens=len(answer))
    assert said[0, inputs["input_ids"].shape[1] :].tolist() == answer


@pytest.mark.parametrize("method", NATIVE)
def test_every_method_of_the_release_is_recorded(method):
    assert {name for name, _ in recordings()} == set(NATIVE)
    cases = [case for name, case in recordings() if name == method]
    assert {case.split(".")[0] for case in cases} == {"paper", "before", "after"}
    assert len(cases) == 19


@pytest.mark.forks
@pytest.mark.parametrize("method", NATIVE)
def test_the_release_still_says_so(method, tmp_path):
    """DEBIAS_RELEASE names a folder with the release, as record_release.py describes it."""
    if "DEBIAS_RELEASE" not in os.environ:
        pytest.skip(
            "DEBIAS_RELEASE names no folder with the authors' release; tests/golden/record_release.py says which"
        )
    command = [sys.executable, HERE / "record_release.py", os.environ["DEBIAS_RELEASE"], method, "--out", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    stored, found = (load_file(folder / f"release_{method}.safetensors") for folder in (HERE, tmp_path))
    assert stored.keys() == found.keys()
    for name, value in stored.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=0)
