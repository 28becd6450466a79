"""Which attention kernel and which weights a checkpoint is loaded with, by what is installed."""

import importlib.util
import logging
import re
import sys
import types
import weakref

import pytest
import torch

from pruners.loading import kernels
from pruners.loading import model as loading
from pruners.models import adapter, families
from pruners.models.base import Adapter


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


def test_the_quickest_kernel(machine):
    for capability, packages, device, dtype, kernel in (
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
    ):
        machine(capability, packages)
        assert loading.quickest(device, dtype) == kernel


def test_a_checkpoint_is_loaded_with_it(builders, tmp_path, monkeypatch):
    folder = builders.checkpoint("llava", tmp_path)
    asked = []
    monkeypatch.setattr(
        "pruners.loading.model.quickest", lambda device, dtype: asked.append((device, dtype)) or "eager"
    )
    for given in (None, "auto"):
        assert adapter(folder).load(folder, attention=given).decoder.config._attn_implementation == "eager"
    assert asked == [(None, torch.float32)] * 2  # the checkpoint's own precision
    assert adapter(folder).load(folder, attention="sdpa").decoder.config._attn_implementation == "sdpa"
    assert len(asked) == 2


def test_fewer_bits_need_a_package(machine):
    machine(None, set())
    with pytest.raises(ValueError, match=r"weights of 8 bits need a package: pip install bitsandbytes \(or torchao\)"):
        loading.fewer_bits(8)


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


def test_what_bitsandbytes_is_asked_for(machine, monkeypatch):
    import transformers

    machine(None, {"bitsandbytes", "torchao"})
    asked = []
    monkeypatch.setattr(transformers, "BitsAndBytesConfig", lambda **options: asked.append(options) or "fewer")
    assert [loading.fewer_bits(bits) for bits in (8, 4)] == ["fewer"] * 2
    same = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "bfloat16"}
    same["llm_int8_skip_modules"] = loading.SPARED
    assert asked == [{"load_in_8bit": bits == 8, "load_in_4bit": bits == 4, **same} for bits in (8, 4)]
    assert logging.getLogger("bitsandbytes.autograd._functions").level == logging.ERROR


def test_what_torchao_is_asked_for(machine, monkeypatch):
    import transformers

    machine(None, {"torchao"})
    made = types.SimpleNamespace(Int8WeightOnlyConfig=lambda **o: (8, o), Int4WeightOnlyConfig=lambda **o: (4, o))
    monkeypatch.setitem(sys.modules, "torchao", types.ModuleType("torchao"))
    monkeypatch.setitem(sys.modules, "torchao.quantization", made)
    monkeypatch.setattr(transformers, "TorchAoConfig", lambda kind, **options: (kind, options))
    spared = {"modules_to_not_convert": loading.SPARED}
    assert loading.fewer_bits(8) == ((8, {}), spared)
    assert loading.fewer_bits(4, "cuda") == ((4, {"int4_packing_format": "tile_packed_to_4d"}), spared)


def test_where_a_model_goes():
    places = {None: "cpu", "auto": "cuda", "cpu": "cpu", "cuda:1": "cuda", torch.device("cuda", 0): "cuda"}
    assert [loading.kind(device) for device in places] == list(places.values())
    for parts, place in (({"a": "cpu", "b": "cuda:1"}, "cuda"), ({"a": "disk", "b": 0}, "cuda"), ({"a": "cpu"}, "cpu")):
        assert loading.kind(parts) == place


def test_kernels_need_their_packages(machine, monkeypatch):
    assert kernels.installed("torch")
    assert not kernels.installed("a_package_that_nobody_has")
    packages = {"sdpa": "", "eager": "", "flash_attention_2": "flash_attn"}
    assert {**packages, "flash_attention_3": "flash_attn_interface", "flex_attention": ""} == kernels.KERNELS
    for there in (True, False):
        monkeypatch.setattr(kernels, "installed", lambda name, there=there: there)
        for name, package in kernels.KERNELS.items():
            if package and not there:
                with pytest.raises(ValueError, match=f"the attention kernel {name} needs the package {package}"):
                    kernels.known_kernel(name)
            else:
                assert kernels.known_kernel(name) == name
    with pytest.raises(
        ValueError, match="unknown attention kernel 'kernels/one'; known: sdpa, eager, flash_attention_2,"
    ):
        kernels.known_kernel("kernels/one")
    assert loading.BITS == {"8bit": 8, "4bit": 4}


def test_a_stumble_is_told_in_a_sentence(tmp_path):
    def told(error):
        try:
            with loading.sentences(tmp_path):
                raise error
        except Exception as found:
            return found

    for error in (torch.OutOfMemoryError("a"), MemoryError("b"), ImportError("c")):
        assert told(error) is error
    for error in (ValueError(f"{tmp_path}: d"), FileNotFoundError(f"e {tmp_path}")):
        assert told(error) is error  # it names the folder already
    said = {
        ValueError("two\n  lines"): "two lines",
        KeyError(str(tmp_path)): f"'{tmp_path}' (KeyError)",
        OSError("elsewhere"): "elsewhere (OSError)",
        UnicodeDecodeError(
            "utf-8", b"", 0, 1, "x"
        ): "'utf-8' codec can't decode bytes in position 0-0: x (UnicodeDecodeError)",
        TypeError("f" * 500): "f" * 500 + " (TypeError)",
        TypeError("f" * 501): "f" * 500 + " ... (TypeError)",
    }
    for error, words in said.items():
        found = told(error)
        assert (type(found), str(found), found.__cause__) == (ValueError, f"{tmp_path}: {words}", error)


@pytest.fixture
def transformer(monkeypatch):
    """What transformers is asked for, without a model: .asked, and .model and .report to hand on."""
    import transformers

    known = types.SimpleNamespace(asked=[], model=torch.nn.Linear(2, 4, bias=False), report={})

    class Auto:
        @staticmethod
        def from_config(config):
            known.asked.append((config, torch.empty(1).device.type))
            return known.model

        @staticmethod
        def from_pretrained(folder, **options):
            known.asked.append((folder, options))
            return known.model, known.report

    monkeypatch.setattr(transformers, "AutoModelForImageTextToText", Auto)
    return known


def test_a_configuration_of_too_many_weights_is_refused(transformer, tmp_path):
    """8 weights are twice 4."""
    config = types.SimpleNamespace()
    for shapes in ({"a": (2, 2)}, {"a": (1, 2), "b": (2,)}, {"a": (9,)}):
        loading.weighed(tmp_path, config, shapes)
    assert transformer.asked[0] == (config, "meta")
    with pytest.raises(ValueError, match=f"{tmp_path}: config.json describes 8 weights, but the files hold 3"):
        loading.weighed(tmp_path, config, {"a": (3,)})
    loading.weighed(tmp_path, types.SimpleNamespace(quantization_config={}), {"a": (3,)})


def test_tensors_that_do_not_fit_are_told(transformer, tmp_path, caplog):
    config = types.SimpleNamespace(_attn_implementation="eager")
    transformer.report = {"missing_keys": set(), "unexpected_keys": [], "mismatched_keys": []}
    assert loading.built(tmp_path, config, False, {"dtype": "auto"}) is transformer.model
    assert transformer.asked == [(str(tmp_path), {
        "config": config, "attn_implementation": "eager", "use_safetensors": True, "trust_remote_code": False,
        "output_loading_info": True, "ignore_mismatched_sizes": True, "dtype": "auto",
    })]  # fmt: skip
    transformer.report = {
        "missing_keys": {"e", "d", "c", "b", "a"}, "unexpected_keys": list("fihg"), "mismatched_keys": [("j", 1, 2)],
    }  # fmt: skip
    told = (
        f"{tmp_path}: its tensors are not those of its configuration: 5 missing (a, b, c, d, ...); "
        "4 unknown (f, g, h, i); 1 of another shape (j)"
    )
    with pytest.raises(ValueError, match=re.escape(f"{told}. Restore the checkpoint; `run --allow-missing` goes on")):
        loading.built(tmp_path, config, False, {})
    with caplog.at_level(logging.WARNING, "debias"):
        assert loading.built(tmp_path, config, True, {}) is transformer.model
    assert [(record.name, record.getMessage()) for record in caplog.records] == [("debias", told)]


HALF = torch.bfloat16


LOADED = [
    ({}, {"dtype": "auto"}, None),
    ({"dtype": HALF}, {"dtype": HALF}, None),
    ({"dtype": "8bit"}, {"dtype": torch.float32, "quantization_config": (8, None)}, None),
    (
        {"dtype": "4bit", "device": "cuda"},
        {"dtype": HALF, "device_map": "cuda", "quantization_config": (4, "cuda")},
        None,
    ),
    ({"device": "auto"}, {"dtype": "auto", "device_map": "auto"}, None),
    ({"tensor_parallel": 2, "device": "cuda"}, {"dtype": "auto", "distributed_config": 2}, None),
    ({"zero": True, "device": "cpu"}, {"dtype": torch.float16}, torch.float16),
    ({"zero": True, "dtype": "bfloat16"}, {"dtype": HALF}, HALF),
    ({"zero": True, "dtype": None}, {"dtype": torch.float32}, torch.float32),
]


def test_what_a_model_is_loaded_with(monkeypatch, tmp_path):
    from transformers.distributed import configuration_utils

    heard, config = {}, types.SimpleNamespace(dtype=torch.float16)
    monkeypatch.setattr(loading, "config_of", lambda folder: config)
    monkeypatch.setattr(loading, "weighed", lambda *told: heard.update(weighed=told))
    monkeypatch.setattr(loading, "fewer_bits", lambda bits, device: (bits, device))
    monkeypatch.setattr(loading, "quickest", lambda device, kept: heard.update(kept=kept) or "sdpa")
    monkeypatch.setattr(loading, "built", lambda *told: heard.update(built=told) or "model")
    monkeypatch.setattr(loading, "in_parts", lambda load, dtype: heard.update(parts=dtype) or load())
    monkeypatch.setattr(configuration_utils, "DistributedConfig", lambda tp_size: tp_size)
    for given, options, parts in LOADED:
        heard.clear()
        asked = {"dtype": "auto", "device": None, "attention": None, "tensor_parallel": 1, "zero": False, **given}
        assert loading.loaded(tmp_path, {"a": (1,)}, **asked, allow_missing="perhaps") == "model"
        assert heard["weighed"] == (tmp_path, config, {"a": (1,)})
        assert heard["built"] == (tmp_path, config, "perhaps", options)
        assert heard.get("parts") == parts
        kept = torch.float16 if options["dtype"] == "auto" else asked["dtype"]
        kept = options["dtype"] if isinstance(kept, str) else kept
        assert heard["kept"] == kept
        assert config._attn_implementation == "sdpa"
    with pytest.raises(ValueError, match="unknown attention kernel 'another'"):
        loading.loaded(tmp_path, {}, **{**asked, "attention": "another"}, allow_missing=False)


def test_weights_in_parts(monkeypatch, caplog):
    """Loaded while transformers knows of the parts, and handed to DeepSpeed when it no longer does."""
    import torch.distributed as dist
    from transformers.integrations import deepspeed as integration

    class Known:
        def __init__(self, settings):
            living.append(weakref.ref(self))
            heard["settings"] = settings

    def weights(held, whole):
        return types.SimpleNamespace(ds_tensor=torch.zeros(held), ds_numel=whole)

    def load():
        assert living[0]() is not None
        return types.SimpleNamespace(parameters=lambda: iter([weights(600, 1000), weights(500, 1000)]))

    def begin(**given):
        heard["begun"] = given

    def initialize(**given):
        heard.update(given, ended=living[0]() is None)

    living, heard, deepspeed = [], {}, types.ModuleType("deepspeed")
    deepspeed.init_distributed, deepspeed.initialize = begin, initialize
    monkeypatch.setitem(sys.modules, "deepspeed", deepspeed)
    monkeypatch.setattr(integration, "HfDeepSpeedConfig", Known)
    monkeypatch.setattr(loading, "installed", lambda name: name == "deepspeed")
    with pytest.raises(ValueError, match="weights in parts need a process group: call torch"):
        loading.in_parts(load, torch.float16)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_backend", lambda: "gloo")
    for dtype, kinds in ((torch.float16, (False, True)), (torch.bfloat16, (True, False)), (None, (False, False))):
        living.clear()
        with caplog.at_level(logging.INFO, "debias"):
            model = loading.in_parts(load, dtype)
        assert heard["begun"] == {"dist_backend": "gloo", "verbose": False}
        assert (
            heard["settings"]
            == heard["config_params"]
            == {
                "train_micro_batch_size_per_gpu": 1,
                "zero_optimization": {
                    "stage": 3,
                    "stage3_param_persistence_threshold": 0,
                    "memory_efficient_linear": False,
                },
                "bf16": {"enabled": kinds[0]},
                "fp16": {"enabled": kinds[1]},
            }
        )
        assert heard["model"] is model
        assert heard["ended"]
        assert caplog.messages[-1] == "this process holds 1,100 of 2,000 weights"


def test_outlines_have_no_weights(builders, tmp_path):
    folder = builders.checkpoint("llava", tmp_path)
    outline = adapter(folder).outline(folder)
    assert type(outline) is adapter(folder)
    assert {part.device.type for part in outline.model.parameters()} == {"meta"}


def test_no_remote_code_whoever_asks(monkeypatch, tmp_path):
    """Said wherever transformers could take it, and not left to what it takes by itself."""
    import transformers

    asked = []

    def noting(name):
        def note(*given, **options):
            asked.append((name, given, options))
            return name

        return staticmethod(note)

    for name in ("AutoConfig", "AutoTokenizer", "AutoModelForImageTextToText"):
        kind = type(name, (), {"from_pretrained": noting(name), "from_config": noting(name)})
        monkeypatch.setattr(transformers, name, kind)
    safe, place = {"trust_remote_code": False}, (str(tmp_path),)
    assert Adapter.load_processor(str(tmp_path))[1] == "AutoTokenizer"
    assert Adapter.outline(tmp_path).model == "AutoModelForImageTextToText"
    assert loading.config_of(tmp_path) == "AutoConfig"
    assert asked == [
        ("AutoTokenizer", place, safe), ("AutoConfig", place, safe),
        ("AutoModelForImageTextToText", ("AutoConfig",), safe), ("AutoConfig", place, safe),
    ]  # fmt: skip
