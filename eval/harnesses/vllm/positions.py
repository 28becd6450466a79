"""Which positions the engine gives the tokens that are left.

vLLM asks a model with positions of several axes ("M-RoPE") where the tokens of a request stand. All our models answer:
the others pass the first axis on, so that a method whose tokens keep their positions has them in the engine, too. What
a tower method keeps is not known when vLLM asks. The tokens of a picture carry their places in further channels, which
are taken off when the prompt is put together and are added to the positions of that step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from eval.harnesses.vllm.pruning import KEY, TOKENS, Pruning, Prunings, text_of
from eval.harnesses.vllm.settings import read

AXES = 3  # of vLLM's positions
BASE = 128  # places are written in two digits, which 16-bit floats hold exactly


class Placed:
    """Over one of vLLM's models."""

    supports_mrope: ClassVar[bool] = True
    prunings: Prunings
    moved: tuple[Tensor, Tensor] | None = None  # where in this step pictures' tokens stand, and [3, m] their places
    config: Any

    @property
    def width(self) -> int:
        """Channels of a token."""
        return int(self.config.get_text_config().hidden_size)

    def extent(self, pruning: Pruning, mine: Mapping[str, Any], kept: int) -> int:
        """How many positions a picture takes up, of which so many tokens are left."""
        return kept if pruning.renumbers else int(mine[TOKENS])

    def places(self, pruning: Pruning, mine: Mapping[str, Any], place: Tensor) -> Tensor:
        """[m, 3] positions of the tokens `place` of a picture, counted from its first."""
        line = torch.arange(len(place), device=place.device) if pruning.renumbers else place
        return line[:, None].expand(-1, AXES)

    def everywhere(self, mine: Mapping[str, Any], slots: Tensor, length: int) -> Tensor:
        """Positions of a whole prompt with a whole picture at `slots`, as the decoder takes them."""
        return torch.arange(length, device=slots.device)

    def get_mrope_input_positions(self, input_tokens: Sequence[int], mm_features: Sequence[Any]) -> tuple[Tensor, int]:
        """Positions [3, n] of a prompt, in which all tokens of a picture stand at its first, and how far the answer's
        positions are ahead of its number of tokens."""
        steps = torch.ones(len(input_tokens), dtype=torch.long)
        for feature in mm_features:
            mine = {name: part.data for name, part in (feature.data or {}).items()}
            if KEY not in mine:  # made elsewhere: a token is a position
                continue
            where, offset = feature.mm_position.is_embed, feature.mm_position.offset
            own = torch.arange(feature.mm_position.length) if where is None else where.nonzero()[:, 0]
            steps[offset + own] = 0
            steps[offset + own[-1]] = self.extent(self.prunings(read(text_of(mine[KEY]), KEY)), mine, len(own))
        ends = steps.cumsum(0)
        return (ends - steps).expand(AXES, -1).contiguous(), int(ends[-1]) - len(input_tokens)

    def embed_input_ids(
        self, input_ids: Tensor, multimodal_embeddings: Any = None, *, is_multimodal: Tensor | None = None
    ) -> Tensor:
        """Embeddings of a step; the places that pictures' tokens carry are kept for `forward`."""
        self.moved = None
        if multimodal_embeddings is not None and len(multimodal_embeddings):
            assert is_multimodal is not None
            pairs = [apart(embedded, self.width) for embedded in multimodal_embeddings]
            multimodal_embeddings = [tokens for tokens, _ in pairs]
            where = is_multimodal.nonzero()[:, 0].to(input_ids.device, non_blocking=True)
            self.moved = where, torch.cat([places for _, places in pairs]).T
        embeds: Tensor = super().embed_input_ids(  # type: ignore[misc]
            input_ids, multimodal_embeddings, is_multimodal=is_multimodal
        )
        return embeds

    def forward(self, input_ids: Tensor | None, positions: Tensor, *args: Any, **kwargs: Any) -> Any:
        """As the model's own, with pictures' tokens in their places."""
        if self.moved is not None:
            positions.index_add_(1, self.moved[0], self.moved[1].to(positions))
            self.moved = None
        return super().forward(input_ids, self.seen(positions), *args, **kwargs)  # type: ignore[misc]

    def seen(self, positions: Tensor) -> Tensor:
        """[3, n] positions as the decoder takes them."""
        return positions[0]


def together(tokens: Tensor, places: Tensor) -> Tensor:
    """[m, D + 6] tokens [m, D] with their places [m, 3]."""
    digits = torch.cat([places // BASE, places % BASE], 1)
    return torch.cat([tokens, digits.to(tokens)], 1)


def apart(whole: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The tokens and their places again; embeddings made elsewhere carry none, and stand where they stand."""
    tokens, digits = whole[:, :width], whole[:, width:].long()
    if not digits.shape[1]:
        return tokens, torch.zeros(len(whole), AXES, dtype=torch.long, device=whole.device)
    return tokens, digits[:, :AXES] * BASE + digits[:, AXES:]
