"""What all pruned models share: a picture's embeddings are pruned before anything else of the engine sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, ClassVar

import torch
from torch import Tensor

from eval.harnesses.vllm import scout
from eval.harnesses.vllm.positions import Placed, together
from eval.harnesses.vllm.pruning import KEY, OURS, PROMPT, SOURCE, Pruning, Prunings, survivors, text_of
from eval.harnesses.vllm.settings import read
from eval.harnesses.vllm.tower import watched
from pruners.engine.seen import Seen, patches
from pruners.models import Adapter


class Debiased(Placed):
    """Over one of vLLM's models."""

    served: type[Adapter]  # the family's adapter, over what vLLM calls its parts
    rows: ClassVar[str] = ""  # the input that says how many rows of `pixel_values` each picture has; "": one entry each
    behind: Any = None  # as tower.watched() takes it
    language_model: Any

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        if vllm_config.parallel_config.pipeline_parallel_size > 1:
            raise ValueError("where pictures' tokens stand is known to the first pipeline stage alone; use one stage")
        compiled = vllm_config.compilation_config
        if compiled.cudagraph_mm_encoder or compiled.compile_mm_encoder:
            raise ValueError("a vision tower that runs as a graph shows us nothing; leave it as vLLM has it by default")
        if getattr(compiled.cudagraph_mode, "name", "") == "FULL":
            raise ValueError(
                "in a graph of whole prompts pictures have no places; take cudagraph_mode FULL_AND_PIECEWISE"
            )
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        self.prunings = Prunings(str(vllm_config.model_config.model), self.config)

    def pixels(self, given: Mapping[str, Any]) -> Sequence[Tensor]:
        """What the tower gets of each picture."""
        if not self.rows:
            return list(given["pixel_values"])
        counts = given[self.rows].reshape(len(given[self.rows]), -1).prod(-1)
        parts: Sequence[Tensor] = given["pixel_values"].split(counts.tolist())
        return parts

    def embed_multimodal(self, **kwargs: Any) -> Any:
        """For each picture [m, D]: the tokens that go on."""
        if kwargs.get(KEY) is None:  # made elsewhere, and taken as they are
            return super().embed_multimodal(**kwargs)  # type: ignore[misc]
        asked = [self.prunings(read(text_of(key), KEY)) for key in kwargs[KEY]]
        own = {name: value for name, value in kwargs.items() if name not in OURS}
        adapter, embedded, start = self.served(self), [], 0
        pixels, named = self.pixels(own), (*OURS, *self.served.media)
        with ExitStack() as inside:
            reads = any(setting.reads_tower for setting in asked)
            runs = inside.enter_context(watched(adapter.tower, self.behind)) if reads else []
            whole = super().embed_multimodal(**own)  # type: ignore[misc]
        for number, (pruning, tokens) in enumerate(zip(asked, whole, strict=True)):
            mine = {name: kwargs[name][number] for name in named if name in kwargs} | {"pixel_values": pixels[number]}
            kept, place = self.pruned(pruning, adapter, tokens, mine, runs, start)
            embedded.append(together(kept, self.places(pruning, mine, place)))
            start += views(pixels[number])
        return embedded

    def pruned(
        self,
        pruning: Pruning,
        adapter: Adapter,
        tokens: Tensor,
        mine: Mapping[str, Any],
        runs: list[Seen],
        start: int,
    ) -> tuple[Tensor, Tensor]:
        """What goes on of one picture's tokens [N, D], and which of them these are, or stand for. mine: what came with
        it. start: its first row in the tower."""
        if pruning.pruner is None:
            return tokens, torch.arange(len(tokens), device=tokens.device)
        picture = int(self.config.image_token_id)
        ids = alone(picture, len(tokens), tokens.device)
        if pruning.reads_prompt:
            ids = expanded(mine[PROMPT].to(tokens.device), picture, len(tokens))
        width, height = mine[SOURCE].tolist()
        media = {name: mine[name][None] for name in adapter.media if name in mine}
        segment = pruning.segment(adapter, ids, media, (width, height))
        embeds = self.language_model.model.embed_input_ids(ids.masked_fill(ids == picture, 0))
        embeds = embeds.index_copy(0, segment.images[0][0].slots, tokens.to(embeds.dtype))
        if pruning.reads_tower:
            span = segment.images[0][0].span
            tower = adapter.tower
            known = patches(adapter, lambda n: getattr(tower.layers[n], tower.attention), runs[0], start, span)
            choice = pruning.choose(pruning.view(adapter, segment, embeds, patches=known))
        else:
            positions = self.everywhere(mine, segment.images[0][0].slots, len(embeds))
            choice = scout.chosen(pruning, adapter, segment, embeds, positions)
        if Pruning.note is not None:
            Pruning.note(mine, choice)
        return survivors(choice, tokens), choice.place


def views(pixels: Tensor) -> int:
    """Rows of the tower's batch that show a picture."""
    return 1 if pixels.dim() == 3 else len(pixels)


def alone(picture: int, tokens: int, device: torch.device) -> Tensor:
    """A prompt that is a picture of so many tokens, and one token of text behind it."""
    return torch.tensor([picture] * tokens + [0 if picture else 1], device=device)


def expanded(prompt: Tensor, picture: int, tokens: int) -> Tensor:
    """A prompt with as many tokens for its picture as that has."""
    at = int((prompt == picture).nonzero()[0, 0])
    return torch.cat([prompt[:at], prompt.new_full((tokens,), picture), prompt[at + 1 :]])
