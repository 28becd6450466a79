"""One question about one picture or clip, in several arms: the answers, and pictures of what was kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from debias import Debias, Span
from debias.core import layout, slots_valid
from eval.answering.store import decode
from eval.core.settings import UNPRUNED
from eval.harnesses.pruned import Pruned
from eval.serving.sheets import sheet
from eval.showing import drawings
from pruners.models import Request


@dataclass(frozen=True)
class Panel:
    """What one arm made of the question."""

    arm: str
    text: str
    picture: Image.Image  # with everything dimmed that was not kept
    tokens: int  # visual tokens in the prompt
    kept: list[int] | None  # raster indices of those that were left behind the last cut; None: nothing was cut
    padding: int  # how many of them show nothing but border

    def facts(self) -> dict[str, Any]:
        """The panel without its picture, for JSON."""
        return {"answer": self.text, "tokens": self.tokens, "kept": self.kept, "padding": self.padding}


def in_arms(pruned: Pruned, arms: Sequence[str] = ()) -> list[Pruned]:
    """The model in each of the arms; by default unpruned, and in every arm that means something to the method."""
    wanted = list(arms) or [UNPRUNED, *pruned.chosen.pruner.arms()]
    return [pruned.beside(arms=(arm,)) for arm in wanted]


def panels(arms: Sequence[Pruned], request: Request, max_new_tokens: int) -> Iterator[Panel]:
    """The panel of each arm in turn. arms: the method in each of them, on one model."""
    spans = arms[0].spans(request)
    shown = sheet(arms[0].adapter, request, spans)
    total, border = sum(span.total for span in spans), padded(arms[0].chosen.settings.method, spans)
    for pruned in arms:
        (answer,) = pruned([request], max_new_tokens)
        kept: list[int] | None = [] if answer.kept else None
        first = 0
        for span, record in zip(spans, answer.kept, strict=False):
            assert kept is not None
            kept += [first + place for place in decode(record["kept"][-1])]
            first += span.total
        picture = drawings.overlay(shown.picture, kept, shown.canvas)
        yield Panel(pruned.arm, answer.text, picture, total, kept, len(border & {*(kept or ())}))


def padded(method: str, spans: Sequence[Span]) -> set[int]:
    """The tokens, counted through all spans, that the padding step would silence."""
    padding, first, places = Debias.paper(method, None, "padding").padding, 0, set()
    for span in spans:
        valid = None if padding is None else slots_valid(padding, *layout(span), torch.device("cpu"))
        if valid is not None:
            places |= {first + place for place in (~valid).nonzero().flatten().tolist()}
        first += span.total
    return places
