"""The attention kernels that a model may be loaded with. Loads no torch."""

from __future__ import annotations

import importlib.util

# Each with the package that it needs: without it, transformers might fetch one from a hub.
KERNELS = {
    "sdpa": "",
    "eager": "",
    "flash_attention_2": "flash_attn",
    "flash_attention_3": "flash_attn_interface",
    "flex_attention": "",
}


def known_kernel(attention: str) -> str:
    """The name of an attention kernel; any other could ask for a hub's code."""
    if attention not in KERNELS:
        raise ValueError(f"unknown attention kernel {attention!r:.80}; known: {', '.join(KERNELS)}")
    if KERNELS[attention] and not installed(KERNELS[attention]):
        raise ValueError(f"the attention kernel {attention} needs the package {KERNELS[attention]}")
    return attention


def installed(package: str) -> bool:
    """Whether a package is there to import; it is not imported."""
    return importlib.util.find_spec(package) is not None
