"""What a vLLM server or a request may ask for: read, refused by name, and told apart. No vLLM is needed."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from eval.core.embedded import EMBEDDED
from eval.harnesses.vllm import settings

FOLDER = str(EMBEDDED["image"])


def read(**given):
    return settings.read(json.dumps(given), "DEBIAS_VLLM")


@pytest.fixture(scope="module")
def prunings():
    from transformers import AutoConfig

    from eval.harnesses.vllm.pruning import Prunings

    return Prunings(FOLDER, AutoConfig.from_pretrained(FOLDER))


def test_reading_gives_one_spelling():
    asked = read(method="VisPruner", keep=0.25, arm="padding", important_ratio=0.5)
    assert (asked.method, asked.keep, asked.arm) == ("vispruner", 0.25, "padding")
    assert settings.read(asked.key, "again") == asked
    assert read(method="vispruner").arm == "padding"  # all the debiasing that means something to the method
    assert read(method="fastv", scout=2).arm == "both"
    assert read(arm="unpruned").method is None


def test_keys_of_different_settings_differ():
    one = {"method": "vispruner", "keep": 0.25, "arm": "padding"}
    others = [{**one, "keep": 0.5}, {**one, "keep": 36}, {**one, "arm": "none"}, {**one, "method": "visionzip"},
              {**one, "important_ratio": 0.25}, {"arm": "unpruned"}, {"method": "fastv", "scout": 2}]  # fmt: skip
    assert len({read(**given).key for given in [one, *others]}) == len(others) + 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("{", "DEBIAS_VLLM: expected JSON such as"),
        ("[1]", "DEBIAS_VLLM: expected an object such as"),
        ("{}", "expected the name of a method in 'method'"),
        ('{"method": "vispruned"}', "did you mean vispruner"),
        ('{"method": "vispruner", "arm": "both"}', "vispruner has the arms none and padding, not 'both'"),
        ('{"method": "vispruner", "kep": 3}', "setting of vispruner"),
        ('{"method": "fastv", "scout": -1}', "scout=-1: expected a number of decoder layers"),
        ('{"method": "fastv", "arm": 3}', "expected the name of an arm"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(given, message):
    with pytest.raises(ValueError, match=r"^DEBIAS_VLLM: ") as error:
        settings.read(given, "DEBIAS_VLLM")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "fastv"}, 'fastv cuts before layer 2 .* ask for it: "scout": 2'),
        ({"method": "fastv", "layer": 3, "scout": 2}, 'cuts before layer 3 .*"scout": 3'),
        ({"method": "vispruner", "scout": 2}, "vispruner cuts before the decoder and needs no scout"),
        ({"method": "illava"}, "illava takes tokens out inside the vision tower"),
        ({"method": "tokencarve", "scout": 2}, "tokencarve makes new tokens inside the decoder"),
        ({"method": "fastv", "scout": 2, "mode": "mask"}, "mode='mask' ranks anew at every step"),
        ({"method": "random", "scout": 2}, 'random looks at nothing.*"scout": 0'),
        ({"method": "vispruner", "keep": 0}, "leaves nothing of a picture"),
        ({"method": "vispruner", "keep": 145}, "sees a picture as 144 tokens"),
        ({"method": "fastv", "scout": 2, "trend": "fitted"}, "no trend of fastv is known"),
        ({"method": "fastv", "scout": 2, "trend": "mine.toml"}, "--trend mine.toml: no such file"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(prunings, given, message):
    with pytest.raises(ValueError, match=message):
        prunings(read(**given))


def test_budgets_are_those_of_the_method(prunings):
    from pruners import make

    assert prunings(read(method="vispruner", keep=0.25)).count(144) == 36
    assert prunings(read(method="vispruner", keep=13)).count(144) == 13
    assert prunings(read(method="vispruner")).count(144) == 32  # 128 of 576, as a share of this model's
    assert prunings(read(arm="unpruned")).count(144) == 144
    first = make("pyramiddrop", keep=0.3).cuts(12)[0].layer
    served = prunings(read(method="pyramiddrop", keep=0.3, scout=first))
    assert served.count(144) == make("pyramiddrop", keep=0.3).counts(12, 144)[0]


def test_the_debias_of_an_arm_is_that_of_a_run(prunings):
    from eval.answering.resolved import Resolved
    from eval.core.settings import Settings

    for arm in ("none", "trend", "padding", "both"):
        run = Resolved(Settings("fastv", keep=0.25, arms=[arm], model=FOLDER), [], {"image": FOLDER})
        assert prunings(read(method="fastv", keep=0.25, arm=arm, scout=2)).debias == run.debias_for(None, "image", arm)


def test_a_server_is_told_by_its_model_or_by_its_environment(monkeypatch):
    class Config:
        debias = None

    monkeypatch.delenv(settings.VARIABLE, raising=False)
    assert settings.asked_of(Config()) is None
    monkeypatch.setenv(settings.VARIABLE, settings.EXAMPLE)
    assert settings.asked_of(Config()).method == "vispruner"
    Config.debias = {"method": "visionzip", "keep": 9}
    assert settings.asked_of(Config()).method == "visionzip"
    Config.debias = 3
    with pytest.raises(ValueError, match="hf-overrides, debias: expected an object"):
        settings.asked_of(Config())


def test_the_entry_point_loads_neither_torch_nor_vllm():
    code = "import sys, eval.harnesses.vllm.plugin; print({'torch', 'transformers', 'vllm'} & {*sys.modules})"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "set()"


def test_every_model_that_is_registered_is_there():
    import ast

    from eval.harnesses.vllm.plugin import MODELS

    root = Path(__file__).parents[2]
    for place in MODELS.values():
        module, kind = place.split(":")
        tree = ast.parse((root / module.replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8"))
        assert kind in {node.name for node in tree.body if isinstance(node, ast.ClassDef)}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_places_come_through_the_engine_in_every_precision(dtype):
    from eval.harnesses.vllm.positions import BASE, apart, together

    line = torch.arange(BASE**2)
    places = torch.stack([torch.zeros_like(line), line, line.flip(0)], 1)
    tokens = torch.randn(len(places), 5).to(getattr(torch, dtype))
    same, found = apart(together(tokens, places), 5)
    assert torch.equal(same, tokens)
    assert torch.equal(found, places)
    assert not apart(tokens, 5)[1].any()  # embeddings made elsewhere


def test_positions_match_those_of_the_whole_prompt_token_by_token(prunings):
    """Against counting: text, pictures of every kind of setting with marks around them, embeddings made elsewhere."""
    from eval.harnesses.vllm.positions import Placed
    from eval.harnesses.vllm.pruning import KEY, TOKENS, written

    class Model(Placed):
        config = prunings.config

    model, rng = Model(), random.Random(0)
    model.prunings = prunings
    known = [None, read(arm="unpruned"), read(method="vispruner", keep=0.25), read(method="fastv", keep=9, scout=2)]
    for _ in range(20):
        features, expected, at = [], [], 0
        length = 0
        for _ in range(rng.randrange(4)):
            text = rng.randrange(5)
            expected += range(at, at + text)
            at, offset = at + text, length + text
            asked = rng.choice(known)
            kept = 7 if asked is None else prunings(asked).count(144)
            mark = rng.randrange(2)
            where = torch.tensor([False] * mark + [True] * kept + [False] * mark)
            data = {} if asked is None else {KEY: written(asked.key), TOKENS: torch.tensor(144)}
            data = {name: SimpleNamespace(data=value) for name, value in data.items()}
            place = SimpleNamespace(offset=offset, length=len(where), is_embed=where if mark else None)
            features.append(SimpleNamespace(data=data, mm_position=place))
            extent = 144 if asked is not None and asked.method == "fastv" else kept
            own = range(at + mark, at + mark + kept) if asked is None else [at + mark] * kept
            expected += [*range(at, at + mark), *own, *range(at + mark + extent, at + 2 * mark + extent)]
            at, length = at + 2 * mark + extent, offset + len(where)
        expected += range(at, at + 3)
        positions, ahead = model.get_mrope_input_positions(range(len(expected)), features)
        assert positions.tolist() == [expected] * 3
        assert ahead == at + 3 - len(expected)


def test_the_bench_compares_each_setting_with_the_unpruned_model():
    from eval.harnesses.vllm import bench

    dice = random.Random(1)
    base = [dice.uniform(0.8, 1.2) for _ in range(9)]
    taken = {"plain": [(641, seconds) for seconds in base], "half": [(209, seconds / 2) for seconds in base]}
    plain, half = bench.compared(taken, "plain", room=10_000)
    assert (plain["setting"], plain["tokens"], plain["ttft_ratio"]) == ("plain", 641, 1)
    assert (half["tokens"], half["requests"]) == (209, 10_000 // (209 + bench.ANSWER))
    assert half["tokens_ratio"] == pytest.approx(209 / 641)
    # rounds are drawn in pairs, so that a machine's drift cancels
    assert [half[name] for name in ("ttft_ratio", "ttft_low", "ttft_high")] == pytest.approx([0.5] * 3)


def test_the_bench_writes_a_checkpoint_without_weights_whose_processor_fits_the_tower(tmp_path):
    from transformers import AutoConfig, LlavaProcessor

    from eval.harnesses.vllm import bench
    from eval.speed.shapes import SHAPES

    bench.written(SHAPES["mid"], tmp_path)
    config, processor = AutoConfig.from_pretrained(tmp_path), LlavaProcessor.from_pretrained(tmp_path)
    assert config.architectures == ["LlavaForConditionalGeneration"]
    assert config.text_config.vocab_size > max(config.image_token_id, 800)  # the words of its questions are below
    batch = processor(text="<image>", images=Image.new("RGB", (40, 30)), return_tensors="pt")
    assert batch["pixel_values"].shape[-1] == config.vision_config.image_size == 336
    assert int((batch["input_ids"] == config.image_token_id).sum()) == config.image_seq_length == 576
