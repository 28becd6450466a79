"""Vision features computed once and shared by questions and by the arms of a run.

Only for methods that do not look into the vision tower. Where a model encodes a picture (or clip) on its own, they are
kept by picture: each is encoded alone, so that its features do not depend on which others were in the batch or already
known. Where pictures become tiles or differ in size, the arms of one batch share what the tower made of it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from eval.reading.recent import Recent
from pruners.models import families, family

ENTRIES = {"get_image_features": "pixel_values", "get_video_features": "pixel_values_videos"}


class Features(Recent[Tensor]):
    """Features by the picture's content, on the host."""

    def __init__(self, budget: int = 2 << 30) -> None:
        super().__init__(budget, lambda features: features.nbytes)
        self.encoded = 0  # how often the tower ran
        self._batch: tuple[list[str], dict[Any, Any]] = ([], {})

    def of(self, key: str, encode: Callable[[], Tensor]) -> Tensor:
        """The features of a picture: those that are held, or else what `encode` returns."""
        features = self.get(key)
        if features is None:
            features = encode()
            self.encoded += 1
            self.put(key, hosted(features))
        return features

    @contextmanager
    def shared(self, model: Any, keys: Sequence[str]) -> Iterator[None]:
        """Inside the block `model` takes the features of its pictures, `keys` in order, from here."""
        inner = model.model
        replaced = []
        for entry, argument in ENTRIES.items():
            if hasattr(inner, entry):
                original, kind = getattr(inner, entry), features_of(model)
                if kind != "together":
                    setattr(inner, entry, self._lookup(original, argument, list(keys), kind == "listed"))
                else:
                    setattr(inner, entry, self._repeat(original, argument, list(keys)))
                replaced.append(entry)
        try:
            yield
        finally:
            for entry in replaced:
                vars(inner).pop(entry, None)  # the class's own method shows again

    def _lookup(self, original: Callable[..., Any], argument: str, keys: list[str], listed: bool) -> Callable[..., Any]:
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        @functools.wraps(original)  # generate() reads the signature
        def features(*args: Any, **kwargs: Any) -> Any:
            pixels = args[0] if args else kwargs.get(argument)
            rest = {name: value for name, value in kwargs.items() if name not in (argument, "return_dict")}
            if pixels is None or len(pixels) != len(keys):
                return original(*args, **kwargs)
            parts: list[Tensor] = []
            for i, key in enumerate(keys):

                def encode(i: int = i) -> Tensor:
                    outcome: Any = original(pixels[i : i + 1], *args[1:], return_dict=True, **rest).pooler_output
                    block: Tensor = outcome[0] if listed else outcome  # a clip is a block per frame
                    return block

                parts.append(self.of(key, encode).to(pixels.device, non_blocking=True))
            pooled: Any = parts if listed else torch.cat(parts)
            return BaseModelOutputWithPooling(pooler_output=pooled)

        return features

    def _repeat(self, original: Callable[..., Any], argument: str, keys: list[str]) -> Callable[..., Any]:
        """The whole outcome for the last batch of pictures, `keys` in order."""

        @functools.wraps(original)
        def features(*args: Any, **kwargs: Any) -> Any:
            pixels = args[0] if args else kwargs.get(argument)
            if pixels is None or not self.budget:
                return original(*args, **kwargs)
            if self._batch[0] != keys:
                self._batch = keys, {}
            name = argument, tuple(pixels.shape)  # a clip's method may call that of pictures
            if name not in self._batch[1]:
                self._batch[1][name] = original(*args, **kwargs)
                self.encoded += 1
            return self._batch[1][name]

        return features


def hosted(features: Tensor) -> Tensor:
    """On the host; from a GPU by a copy that nobody waits for, into memory that it can be read from in the same way."""
    if not features.is_cuda:
        return features.cpu()
    return torch.empty_like(features, device="cpu", pin_memory=True).copy_(features, non_blocking=True)


def features_of(model: Any) -> str:
    """How a model hands on the features of several pictures; "together" where no adapter says."""
    kind = str(getattr(model.config, "model_type", ""))
    return family(kind).features if kind in families() else "together"
