"""The native methods against the authors' own code: same kept tokens, same logits, on a model both sides rebuild.

tests/golden/*.safetensors hold what their code gave (numbers only; tests/golden/record.py records them).
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest
import torch
import toy
from safetensors import safe_open
from safetensors.torch import save_file

from pruners import make

HERE = Path(__file__).parent

# Padding weighs in the merged token as in the authors' code.
ILLAVA = {"keep": 0.7, "layer": 8, "tower_keep": 1.0, "silence_merge": False}
# What each recorded case is called here, and its arm. Schedules are given in full: the defaults scale with depth.
NATIVE = {
    "fastv_mask": ("fastv", {"keep": 128, "layer": 2, "mode": "mask"}),
    "fastv_inplace": ("fastv", {"keep": 128, "layer": 2}),
    "pyramiddrop": ("pyramiddrop", {"layers": (2, 10, 20), "ratios": (0.32, 0.16, 0.08)}),
    "sparsevlm": ("sparsevlm", {"keep": 128, "layers": (3, 7, 16)}),
    "himap": ("himap", {"layer": 2, "second": 8, "keeps": (115, 90)}),
    "tokencarve": ("tokencarve", {"keep": 128, "layer": 2}),
    "vispruner": ("vispruner", {"keep": 128, "important_ratio": 0.5}),
    "illava": ("illava", ILLAVA),
    "illava_trend": ("illava", ILLAVA, "trend"),
    "illava_padding": ("illava", ILLAVA, "padding"),
    "illava_both": ("illava", ILLAVA, "both"),
}
GREEDY = {"do_sample": False, "eos_token_id": toy.TEXT["eos_token_id"], "pad_token_id": 0}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The toy in transformers, one model per seed, read from a folder as any checkpoint is."""
    from transformers import LlavaForConditionalGeneration

    @functools.cache
    def made(seed):
        folder = tmp_path_factory.mktemp("toy")
        state = toy.weights(seed)
        save_file(state, folder / "model.safetensors", {"format": "pt"})
        (folder / "config.json").write_text(
            json.dumps({**toy.CONFIG, "architectures": ["LlavaForConditionalGeneration"]})
        )
        model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
        return model, toy.digest(state)

    return made


@pytest.mark.parametrize("case", NATIVE)
@pytest.mark.parametrize("which", [0, 1])
def test_kept_tokens_and_logits_are_those_of_the_authors_code(models, case, which):
    method, fields, *arm = NATIVE[case]
    with safe_open(HERE / f"{case}.safetensors", "pt") as file:
        about = file.metadata()
        seed = json.loads(about["seeds"])[which]
        recorded = {name[2:]: file.get_tensor(name) for name in file.keys() if name.startswith(f"{seed}.")}  # noqa: SIM118
    model, digest = models(seed)
    assert about[f"weights.{seed}"] == digest, "toy.py draws other weights here than those the file was recorded with"
    inputs = {"input_ids": torch.tensor([spread(toy.prompt(seed))]), "pixel_values": toy.pixels(seed)}
    pruner, debias = make(method, **fields), toy.debias(*arm)
    with pruner(model, debias, [toy.SIZE]) as trace, torch.inference_mode():
        logits = model(**inputs).logits[0, -1]
    stages = sum(name.startswith("kept.") for name in recorded)
    assert len(trace.kept) == stages
    for stage in range(stages):
        theirs, ours = raster(recorded, stage), trace.kept[stage][0]
        # Recycled tokens are no patch; where they end up is judged by the logits.
        assert ours[ours >= 0].tolist() == theirs[theirs >= 0].tolist(), f"stage {stage}"
    torch.testing.assert_close(logits, recorded["logits"], atol=1e-4, rtol=0)
    if "answer" in recorded:
        answer = recorded["answer"].tolist()
        with pruner(model, debias, [toy.SIZE]), torch.inference_mode():
            found = model.generate(**inputs, **GREEDY, max_new_tokens=len(answer))
        assert found[0, inputs["input_ids"].shape[1] :].tolist() == answer


def spread(ids):
    return [copy for i in ids for copy in [i] * (toy.TOKENS if i == toy.IMAGE_ID else 1)]


def raster(recorded, stage):
    """Upstream counts among the tokens it still has; here, as everywhere in this repository, by the original patch."""
    index = torch.arange(toy.TOKENS)
    for earlier in range(stage + 1):
        chosen = recorded[f"kept.{earlier}"].long()
        recycled = index.new_full((max(0, int(chosen.max()) + 1 - len(index)),), -1)
        index = torch.cat([index, recycled])[chosen]
    return index
