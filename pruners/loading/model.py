"""How a checkpoint becomes a model: every tensor in its place, the quickest attention kernel there is, fewer bits on
request."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pruners.loading.folder import Shapes
from pruners.loading.kernels import installed, known_kernel

log = logging.getLogger("debias")
HALF = (torch.float16, torch.bfloat16)
BITS = {"8bit": 8, "4bit": 4}


def loaded(
    folder: Path,
    shapes: Shapes,
    dtype: torch.dtype | str,
    device: str | torch.device | None,
    attention: str | None,
    tensor_parallel: int,
    zero: bool,
    allow_missing: bool,
) -> Any:
    """The model in a folder whose tensors have these shapes; the rest means what it means to Adapter.load."""
    options: dict[str, Any] = {}
    if dtype in BITS:
        options["quantization_config"] = fewer_bits(BITS[str(dtype)], device)
        dtype = torch.float32 if kind(device) == "cpu" else torch.bfloat16
    config = config_of(folder)
    kept: Any = config.dtype if dtype == "auto" else dtype
    kept = getattr(torch, kept) if isinstance(kept, str) else kept
    options["dtype"] = kept or torch.float32 if zero else dtype
    asked = quickest(device, kept) if attention in (None, "auto") else str(attention)
    config._attn_implementation = known_kernel(asked)  # whatever the checkpoint says, in every part of it
    weighed(folder, config, shapes)
    if tensor_parallel > 1:
        from transformers.distributed.configuration_utils import DistributedConfig

        options["distributed_config"] = DistributedConfig(tp_size=tensor_parallel)
    elif device is not None and not zero:
        options["device_map"] = device

    def whole() -> Any:
        return built(folder, config, allow_missing, options)

    return in_parts(whole, options["dtype"]) if zero else whole()


@contextmanager
def sentences(folder: Path) -> Iterator[None]:
    """Whatever transformers stumbles over in a checkpoint that looked in order becomes a message that names it."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, ImportError):
        raise
    except Exception as error:  # also a parser's own kind, or whatever a wrong type led to
        if isinstance(error, (ValueError, OSError)) and str(folder) in str(error):
            raise
        kind = "" if type(error) is ValueError else f" ({type(error).__name__})"
        raise ValueError(f"{folder}: {shortened(error)}{kind}") from error


def shortened(error: object) -> str:
    """A message of another library, which may hold whole files."""
    said = " ".join(str(error).split())
    return said if len(said) <= 500 else said[:500] + " ..."


def config_of(folder: Path) -> Any:
    """The configuration as transformers reads it."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(str(folder), trust_remote_code=False)


def weighed(folder: Path, config: Any, shapes: Shapes) -> None:
    """Refuse a configuration of far more weights than the files hold, before any memory is taken for them."""
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        outline: Any = AutoModelForImageTextToText.from_config(config)
    held, needed = sum(map(math.prod, shapes.values())), sum(weight.numel() for weight in outline.parameters())
    if needed > 2 * held and getattr(config, "quantization_config", None) is None:
        raise ValueError(f"{folder}: config.json describes {needed:,} weights, but the files hold {held:,}")


def built(folder: Path, config: Any, allow_missing: bool, options: Mapping[str, Any]) -> Any:
    """The model with its weights. Tensors that are missing, that it does not know or of another shape are refused."""
    from transformers import AutoModelForImageTextToText

    loaded: Any = AutoModelForImageTextToText.from_pretrained(
        str(folder),
        config=config,
        attn_implementation=config._attn_implementation,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        **options,
    )
    model, report = loaded
    kinds = {"missing_keys": "missing", "unexpected_keys": "unknown", "mismatched_keys": "of another shape"}
    wrong = []
    for key, what in kinds.items():
        names = sorted(name if isinstance(name, str) else str(name[0]) for name in report[key])
        if names:
            wrong.append(f"{len(names)} {what} ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})")
    if wrong:
        message = f"{folder}: its tensors are not those of its configuration: {'; '.join(wrong)}"
        if not allow_missing:
            raise ValueError(f"{message}. Restore the checkpoint; `run --allow-missing` goes on all the same")
        log.warning("%s", message)
    return model


def kind(device: Any) -> str:
    """ "cpu" or "cuda": where a model goes that is loaded on a device, by "auto", or by a map of its parts."""
    if device is None:
        return "cpu"
    if isinstance(device, Mapping):
        return "cuda" if any(isinstance(place, int) or "cuda" in str(place) for place in device.values()) else "cpu"
    return "cuda" if str(device) == "auto" else torch.device(device).type


def quickest(device: Any, dtype: torch.dtype | None) -> str:
    """flash_attention_2, where its package is installed and can run: half precision on an NVIDIA GPU since Ampere.

    Else sdpa, which picks PyTorch's own flash kernel wherever the mask allows it.
    """
    if kind(device) != "cuda" or dtype not in HALF or not installed("flash_attn") or not torch.cuda.is_available():
        return "sdpa"
    return "flash_attention_2" if torch.cuda.get_device_capability() >= (8, 0) else "sdpa"


# What keeps its weights: transformers looks for these expressions at the beginning of a module's full name.
SPARED = [
    "lm_head",
    r"(.*\.)?(vision_tower|vision_model|visual|video_tower|image_tower|multi_modal_projector|connector)",
]


def fewer_bits(bits: int, device: Any = None) -> Any:
    """How transformers is told to load a language model's weights in 8 or 4 bits; the vision tower stays as it is."""
    import transformers

    if installed("bitsandbytes"):
        # It would say at every product that it works in float16.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        return transformers.BitsAndBytesConfig(
            load_in_8bit=bits == 8,
            load_in_4bit=bits == 4,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype="bfloat16",
            llm_int8_skip_modules=SPARED,
        )
    if installed("torchao"):
        from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig

        if bits == 4 and kind(device) == "cpu":
            raise ValueError("torchao has no weights of 4 bits for a CPU: pip install bitsandbytes")
        packed = {"int4_packing_format": "tile_packed_to_4d"}  # of torch itself; the default needs one more package
        config = Int8WeightOnlyConfig() if bits == 8 else Int4WeightOnlyConfig(**packed)
        return transformers.TorchAoConfig(config, modules_to_not_convert=SPARED)
    raise ValueError(f"weights of {bits} bits need a package: pip install bitsandbytes (or torchao)")


def in_parts(load: Callable[[], Any], dtype: torch.dtype) -> Any:
    """The model that `load` makes, every weight cut into parts that the processes of the launch hold: DeepSpeed's ZeRO,
    stage 3. A layer's weights are whole only while it runs, so all processes have to run the same layers in step."""
    if not installed("deepspeed"):
        raise ValueError("weights in parts need DeepSpeed: pip install deepspeed")
    import deepspeed
    import torch.distributed as dist
    from transformers.integrations.deepspeed import HfDeepSpeedConfig

    if not dist.is_initialized():
        raise ValueError("weights in parts need a process group: call torch.distributed.init_process_group(...) first")
    deepspeed.init_distributed(dist_backend=dist.get_backend(), verbose=False)
    settings = {
        "train_micro_batch_size_per_gpu": 1,  # wanted, and without a meaning here
        # Its own linear layer, put in the place of torch's, would round a sum with a bias twice.
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0, "memory_efficient_linear": False},
        "bf16": {"enabled": dtype == torch.bfloat16},
        "fp16": {"enabled": dtype == torch.float16},
    }
    living = HfDeepSpeedConfig(settings)  # transformers loads in parts as long as this lives
    model = load()
    del living
    deepspeed.initialize(model=model, config_params=settings)
    held, whole = (sum(map(size, model.parameters())) for size in (lambda w: w.ds_tensor.numel(), lambda w: w.ds_numel))
    log.info("this process holds %s of %s weights", f"{held:,}", f"{whole:,}")
    return model
