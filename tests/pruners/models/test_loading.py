"""Which attention kernel and which weights a checkpoint is loaded with, by what is installed."""

import importlib.util

import pytest
import torch

from pruners.models import adapter, loading


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
    monkeypatch.setattr("pruners.models.base.quickest", lambda device, dtype: asked.append((device, dtype)) or "eager")
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
    assert "vision_tower" in seen["llm_int8_skip_modules"]


@pytest.mark.parametrize(("bits", "package"), [(8, "bitsandbytes"), (4, "bitsandbytes"), (8, "torchao")])
def test_pruning_with_fewer_bits(builders, tmp_path, monkeypatch, requests, bits, package):
    pytest.importorskip(package)
    from debias import Debias, Padding, Trend
    from pruners import make

    monkeypatch.setattr(loading, "installed", lambda name: name == package)
    folder = builders.checkpoint("llava", tmp_path, layers=4)
    full, family = (adapter(folder).load(folder, dtype=dtype) for dtype in ("float32", f"{bits}bit"))
    linear = family.decoder.layers[0].mlp.up_proj.weight
    assert linear.dtype != torch.float32 or type(linear) is not torch.nn.Parameter
    encoded = full.encode(requests[:2])
    kept = []
    for one in (full, family):
        with make("fastv", keep=12)(one, Debias(Trend.exponential(0.01), Padding()), encoded.sizes) as trace:
            one.model.generate(**encoded.inputs, max_new_tokens=2, do_sample=False)
        kept.append([set(index.tolist()) for index in trace.kept[0]])
    assert all(len(few) == 12 and len(few & whole) >= (9 if bits == 8 else 4) for whole, few in zip(*kept, strict=True))
