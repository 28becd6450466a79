"""The sizes of real architectures, and the rates of real devices. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

BEFORE, AFTER = 35, 30  # text tokens before the picture (LLaVA-1.5's system sentence) and after it (a short question)


@dataclass(frozen=True)
class Architecture:
    """A decoder, how many visual tokens it usually reads, and the vision tower where one belongs to the measurement."""

    width: int
    inner: int
    layers: int
    heads: int
    groups: int  # key-value heads
    vocabulary: int
    tokens: int
    tower: Mapping[str, int] | None = None

    def parameters(self, shared_layers: bool = False) -> int:
        """How many numbers the model holds, but for biases and norms."""
        layer = self.width * (2 * self.width + 2 * self.width * self.groups // self.heads + 3 * self.inner)
        tower = self.tower or CLIP_TINY
        block = tower["hidden_size"] * (4 * tower["hidden_size"] + 2 * tower["intermediate_size"])
        seen = tower["hidden_size"] * (3 * tower["patch_size"] ** 2 + (tower["image_size"] // tower["patch_size"]) ** 2)
        projector = self.width * (tower["hidden_size"] + self.width)
        whole = layer * (1 if shared_layers else self.layers) + block * tower["num_hidden_layers"] + seen + projector
        return whole + 2 * self.vocabulary * self.width


def _tower(width: int, inner: int, layers: int, heads: int) -> dict[str, int]:
    """The configuration of a CLIP tower for pictures of 336 pixels."""
    sizes = {"hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers}
    return {**sizes, "num_attention_heads": heads, "image_size": 336, "patch_size": 14}


CLIP_LARGE, CLIP_TINY = _tower(1024, 4096, 24, 16), _tower(64, 128, 4, 4)
SHAPES = {
    "tiny": Architecture(64, 128, 6, 4, 4, 1000, 576, CLIP_TINY),
    "mid": Architecture(512, 1376, 8, 8, 8, 1000, 576, CLIP_TINY),
    "small": Architecture(1024, 2752, 16, 16, 16, 32064, 576, CLIP_TINY),
    "smol": Architecture(576, 1536, 30, 9, 3, 49152, 576, CLIP_TINY),
    "medium": Architecture(2048, 5504, 24, 16, 16, 32064, 576, CLIP_TINY),
    "llava-1.5-7b": Architecture(4096, 11008, 32, 32, 32, 32064, 576, CLIP_LARGE),
    "llava-1.5-13b": Architecture(5120, 13824, 40, 40, 40, 32064, 576, CLIP_LARGE),
    "llava-next-7b": Architecture(4096, 11008, 32, 32, 32, 32064, 2880),
    "video-llava-7b": Architecture(4096, 11008, 32, 32, 32, 32064, 2056),
    "internvl2.5-8b": Architecture(4096, 14336, 32, 32, 8, 92553, 3328),
}

# (bf16 TFLOP/s without sparsity, TB/s) of the makers' data sheets
DEVICES = {"a100": (312.0, 2.04), "h100": (989.0, 3.35), "h200": (989.0, 4.8)}
