"""What a checkpoint is loaded with: the quickest attention kernel there is, and weights of fewer bits on request."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch

log = logging.getLogger("debias")
HALF = (torch.float16, torch.bfloat16)
BITS = {"8bit": 8, "4bit": 4}


def installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


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
SPARED = ["lm_head", r"(.*\.)?(vision_tower|visual|video_tower|image_tower|multi_modal_projector)"]


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
    living = HfDeepSpeedConfig(settings)  # transformers loads in parts as long as there is one
    model = load()
    del living
    deepspeed.initialize(model=model, config_params=settings)
    held, whole = (
        sum(sizes) for sizes in zip(*((w.ds_tensor.numel(), w.ds_numel) for w in model.parameters()), strict=True)
    )
    log.info("this process holds %s of %s weights", f"{held:,}", f"{whole:,}")
    return model
