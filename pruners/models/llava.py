"""LLaVA-1.5 (7B, 13B): one padded square per image, CLIP ViT-L/14 at 336, LLaMA. https://arxiv.org/abs/2310.03744"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from PIL import Image
from torch import Tensor

from debias import Span
from pruners.loading.folder import square
from pruners.models import images
from pruners.models.base import Adapter, Features, Opens
from pruners.models.finding import shared, split
from pruners.models.request import Shown, Size
from pruners.parts.canvas import Canvas, padded
from pruners.parts.tower import Tower, layer_of


class Llava(Adapter):
    """Pictures are padded to a square with CLIP's mean colour, which the processor on the hub does not do."""

    opens: ClassVar[Opens] = "tokens"
    one_square: ClassVar[bool] = True
    fills: ClassVar[bool] = True
    features: ClassVar[Features] = "listed"
    known: ClassVar[tuple[str, ...]] = ("llava-hf/llava-1.5-7b-hf", "llava-hf/llava-1.5-13b-hf")

    @classmethod
    def canvas(
        cls, config: Mapping[str, Any], prepared: Mapping[str, Any], max_patches: int | None = None
    ) -> Callable[[Size], Canvas]:
        side = square(config) if cls.one_square else None
        return super().canvas(config, prepared, max_patches) if side is None else partial(padded, side=side)

    @property
    def conversations(self) -> tuple[str, ...]:
        """A language model that chats in ChatML keeps to it, whatever tower was put before it."""
        chats = str(getattr(self.tokenizer, "chat_template", None))
        return ("chatml",) if "<|im_start|>" in chats else super().conversations

    @property
    def side(self) -> int:
        """Patches along one side of a picture."""
        vision = self.model.config.vision_config
        return int(vision.image_size) // int(vision.patch_size)

    @property
    def tower(self) -> Tower:
        module = self.inner.vision_tower
        layers = module.encoder.layers
        chosen = self.model.config.vision_feature_layer
        if not isinstance(chosen, int):
            raise ValueError(
                f"vision_feature_layer={chosen}: methods that prune at the vision tower need a single feature layer"
            )
        cls = self.model.config.vision_feature_select_strategy == "default"
        return Tower(module, layers, layer_of(chosen, layers), cls)

    def spans(self, inputs: Mapping[str, Any], sizes: Sequence[Size | None] | None = None) -> list[list[Span]]:
        token, grid = int(self.model.config.image_token_id), (self.side, self.side)
        rows = [split(ids, token, self.side**2) for ids in inputs["input_ids"]]
        return [
            [Span(start, grid, size=size) for start, size in zip(*row, strict=True)]
            for row in zip(rows, shared(rows, sizes), strict=True)
        ]

    def picture(self, image: Image.Image) -> Shown:
        colour = images.mean_colour(self.setting("image_mean"))
        edge = int(self.model.config.vision_config.image_size)
        pixels = self.pixels(images.square_resized(image, colour, edge, self.fill))
        token = int(self.model.config.image_token_id)
        return Shown([token] * self.side**2, {"pixel_values": pixels[None]}, [image.size])

    def pixels(self, image: Image.Image) -> Tensor:
        """[3, s, s]: squashed to what the vision tower takes, normalised."""
        edge = int(self.model.config.vision_config.image_size)
        return images.normalised(
            images.resized(image, (edge, edge)), self.setting("image_mean"), self.setting("image_std")
        )
