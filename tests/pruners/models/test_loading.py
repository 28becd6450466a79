"""Which attention kernel and which weights a checkpoint is loaded with, by what is installed."""

import importlib.util
import sys
import types

import pytest
import torch

from pruners.models import adapter, families, loading


@pytest.fixture
def machine(monkeypatch):
    """machine(capability, packages): an NVIDIA GPU (None: none), and the packages that can be found."""

    def made(capability, packages):
        real = importlib.util.find_spec
        known = {"flash_attn", "bitsandbytes", "torchao"}
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name, *more: (object() if name in packages else None) if name in known else real(name, *more),
        )
        monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *args: capability)

    return made


@pytest.mark.parametrize(
    ("capability", "packages", "device", "dtype", "kernel"),
    [
        ((8, 0), {"flash_attn"}, "cuda", torch.bfloat16, "flash_attention_2"),
        ((9, 0), {"flash_attn"}, "cuda:1", torch.float16, "flash_attention_2"),
        ((9, 0), {"flash_attn"}, "auto", torch.float16, "flash_attention_2"),
        ((9, 0), set(), "cuda", torch.bfloat16, "sdpa"),  # PyTorch's own flash
        ((9, 0), {"flash_attn"}, "cuda", torch.float32, "sdpa"),
        ((9, 0), {"flash_attn"}, "cuda", None, "sdpa"),
        ((7, 5), {"flash_attn"}, "cuda", torch.float16, "sdpa"),
        ((9, 0), {"flash_attn"}, "cpu", torch.bfloat16, "sdpa"),
        (None, {"flash_attn"}, "auto", torch.bfloat16, "sdpa"),
        (None, {"flash_attn"}, None, torch.bfloat16, "sdpa"),
    ],
)
def test_the_quickest_kernel(machine, capability, packages, device, dtype, kernel):
    machine(capability, packages)
    assert loading.quickest(device, dtype) == kernel


def test_a_checkpoint_is_loaded_with_it(builders, tmp_path, monkeypatch):
    folder = builders.checkpoint("llava", tmp_path)
    asked = []
    monkeypatch.setattr(
        "pruners.models.loading.quickest", lambda device, dtype: asked.append((device, dtype)) or "eager"
    )
    for given in (None, "auto"):
        assert adapter(folder).load(folder, attention=given).decoder.config._attn_implementation == "eager"
    assert asked == [(None, torch.float32)] * 2  # the checkpoint's own precision
    assert adapter(folder).load(folder, attention="sdpa").decoder.config._attn_implementation == "sdpa"
    assert len(asked) == 2


def test_fewer_bits(machine, monkeypatch):
    import transformers

    machine(None, set())
    with pytest.raises(ValueError, match="pip install bitsandbytes"):
        loading.fewer_bits(8)
    machine(None, {"bitsandbytes"})
    seen = {}
    monkeypatch.setattr(transformers, "BitsAndBytesConfig", lambda **options: seen.update(options))
    loading.fewer_bits(4)
    assert (seen["load_in_4bit"], seen["load_in_8bit"]) == (True, False)
    assert seen["llm_int8_skip_modules"] == loading.SPARED


@pytest.mark.parametrize("family", families())
def test_only_the_decoder_has_fewer_bits(builders, family):
    """By the rule of transformers itself."""
    from transformers.quantizers.quantizers_utils import should_convert_module

    one = builders.adapter(family, layers=2)
    names = {name for name, module in one.model.named_modules() if isinstance(module, torch.nn.Linear)}
    decoder = {name for name, module in one.model.named_modules() if module is one.decoder}.pop()
    changed = {name for name in names if should_convert_module(name, loading.SPARED)}
    assert changed == {name for name in names if name.startswith(f"{decoder}.")}
    assert len(changed) == 2 * 7 < len(names)


def test_four_bits_of_torchao_are_not_for_a_cpu(machine, monkeypatch):
    machine(None, {"torchao"})
    made = types.SimpleNamespace(Int8WeightOnlyConfig=None, Int4WeightOnlyConfig=None)
    monkeypatch.setitem(sys.modules, "torchao", types.ModuleType("torchao"))
    monkeypatch.setitem(sys.modules, "torchao.quantization", made)
    with pytest.raises(ValueError, match="pip install bitsandbytes"):
        loading.fewer_bits(4, "cpu")


@pytest.mark.parametrize(("bits", "package"), [(8, "bitsandbytes"), (4, "bitsandbytes"), (8, "torchao")])
def test_pruning_with_fewer_bits(builders, tmp_path, monkeypatch, requests, bits, package):
    pytest.importorskip(package)
    from debias import Debias, Padding, Trend
    from pruners import make

    monkeypatch.setattr(loading, "installed", lambda name: name == package)
    text = builders.config("llava").text_config.to_dict()
    # bitsandbytes packs rows of 64 weights, 32 at a time.
    text |= {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16, "num_key_value_heads": 4}
    folder = builders.checkpoint("llava", tmp_path, text_config=text)
    full, family = (adapter(folder).load(folder, dtype=dtype) for dtype in ("float32", f"{bits}bit"))
    linear = family.decoder.layers[0].mlp.up_proj.weight
    assert linear.dtype != torch.float32 or type(linear) is not torch.nn.Parameter
    tower = next(part for name, part in family.model.named_parameters() if name.endswith("mlp.fc1.weight"))
    assert (type(tower), tower.dtype) == (torch.nn.Parameter, torch.float32)
    encoded = full.encode(requests[:2])
    kept = []
    for one in (full, family):
        with make("fastv", keep=12)(one, Debias(Trend.exponential(0.01), Padding()), encoded.sizes) as trace:
            one.model.generate(**encoded.inputs, max_new_tokens=2, do_sample=False)
        kept.append([set(index.tolist()) for index in trace.kept[0]])
    assert all(len(few) == 12 and len(few & whole) >= (9 if bits == 8 else 4) for whole, few in zip(*kept, strict=True))


def test_weights_in_parts_need_deepspeed(builders, tmp_path, monkeypatch):
    folder = builders.checkpoint("llava", tmp_path)
    monkeypatch.setattr(loading, "installed", lambda name: False)
    with pytest.raises(ValueError, match="pip install deepspeed"):
        adapter(folder).load(folder, zero=True)
