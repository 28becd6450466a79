"""Stage 0: the vision tower learns to name what each patch shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from transformers import CLIPVisionModel

from tiny import tokenizer
from tiny.drawn.drawing import draw
from tiny.drawn.scenes import BACKGROUNDS, COLOURS, DIGITS, LETTERS, SHAPES, SIZES, Scene, scene
from tiny.training.learning import learn
from tiny.training.lessons import patch_words

# every patch has one value of each group; the first stands for "none of them"
GROUPS: dict[str, tuple[str, ...]] = {
    "size": ("", *(f" {word}" for word in SIZES)),
    "colour": ("", *(f" {word}" for word in COLOURS)),
    "shape": ("", *(f" {word}" for word in SHAPES), " sign"),
    "character": ("", *LETTERS, *DIGITS),
    "ground": ("", *(f" {word}" for word in BACKGROUNDS), tokenizer.BORDER),
    "place": ("", *tokenizer.PLACES),
    "head": ("", tokenizer.HEAD),
    "row": tokenizer.ROWS,
    "column": tokenizer.COLUMNS,
    "cell row": ("", *tokenizer.CELL_ROWS),
    "cell column": ("", *tokenizer.CELL_COLUMNS),
}
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])


def targets(scene: Scene) -> list[list[int]]:
    """For each patch its place in every group."""
    return [
        [next((k for k, value in enumerate(values) if value in words), 0) for values in GROUPS.values()]
        for words in patch_words(scene)
    ]


def pixels(picture: Image.Image) -> torch.Tensor:
    """What the processor makes of a picture that has the right longer side: padded with the mean colour, normalised."""
    array = torch.from_numpy(np.asarray(picture, np.float32)) / 255
    height, width = array.shape[:2]
    side = max(height, width)
    square = (MEAN * 255).int().float().div(255).expand(side, side, 3).clone()
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = array
    return ((square - MEAN) / STD).permute(2, 0, 1)


def features(tower: CLIPVisionModel, images: torch.Tensor) -> torch.Tensor:
    """Patch features of the layer that LLaVA reads: the last but one, without the CLS token."""
    layers: tuple[torch.Tensor, ...] = tower(images, output_hidden_states=True).hidden_states
    return layers[-2][:, 1:]


class Names(nn.Module):
    """Linear heads over the features, one for each group."""

    def __init__(self, width: int, groups: Mapping[str, tuple[str, ...]] = GROUPS) -> None:
        super().__init__()
        self.heads = nn.ModuleList([nn.Linear(width, len(values)) for values in groups.values()])

    def forward(self, seen: torch.Tensor) -> list[torch.Tensor]:
        return [head(seen) for head in self.heads]


def shown(
    scenes: Sequence[Scene], device: str, named: Callable[[Scene], Any] = targets
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures of scenes, and what each of their patches shows, as `named` has it."""
    truth = torch.from_numpy(np.array([named(here) for here in scenes]))
    return torch.stack([pixels(draw(here)) for here in scenes]).to(device), truth.to(device)


def batch(first: int, size: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures of `size` scenes from seed `first` on, and what their patches show."""
    return shown([scene(seed, things=(4, 14), signs=(1, 3)) for seed in range(first, first + size)], device)


def loss(names: list[torch.Tensor], truth: torch.Tensor, groups: Mapping[str, tuple[str, ...]]) -> torch.Tensor:
    """Cross entropy by group; empty patches are many and weigh a tenth."""
    weight = torch.where(truth[..., list(groups).index("ground")] == 0, 1.0, 0.1)
    parts = [
        F.cross_entropy(logits.flatten(0, 1), truth[..., k].flatten(), reduction="none")
        for k, logits in enumerate(names)
    ]
    return torch.stack([(part * weight.flatten()).sum() / weight.sum() for part in parts]).sum()


def accuracy(
    names: list[torch.Tensor], truth: torch.Tensor, groups: Mapping[str, tuple[str, ...]] = GROUPS
) -> dict[str, float]:
    """Per group, over the patches that have something in it."""
    shares = {}
    for k, group in enumerate(groups):
        there = truth[..., k] > 0
        shares[group] = (names[k].argmax(-1) == truth[..., k])[there].float().mean().item()
    return shares


def teach(
    run: Path,
    tower: CLIPVisionModel,
    steps: int,
    rate: float,
    lesson: Callable[[int], tuple[torch.Tensor, torch.Tensor]],
    check: tuple[torch.Tensor, torch.Tensor],
    groups: Mapping[str, tuple[str, ...]] = GROUPS,
    fast: bool = True,
) -> None:
    """The stage "tower": it names patches; the linear heads over its features are thrown away afterwards.

    lesson: the pictures of a step, and what their patches show. check: others, which are never learned from.
    """
    device = check[0].device.type
    tower.to(torch.device(device))  # type: ignore[arg-type]  # its wrapper hides self
    names = Names(tower.config.hidden_size, groups).to(device)

    def step_loss(step: int, share: float) -> tuple[torch.Tensor, float]:
        images, truth = lesson(step)
        with torch.autocast(device, torch.bfloat16, enabled=fast):
            named = names(features(tower, images))
        error = loss([logits.float() for logits in named], truth, groups)
        return error, error.item()

    @torch.no_grad()
    def report() -> dict[str, float]:
        return accuracy(names(features(tower, check[0])), check[1], groups)

    learn(run, "tower", {"tower": tower, "names": names}, steps, rate, step_loss, report)
