"""A model in training: batches of lessons, the loss, and what it can answer with all and with few visual tokens."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tiny import lean, lessons, sight, tokenizer
from tiny.drawing import draw
from tiny.model import hidden, llava
from tiny.scenes import scene

VISUAL = tokenizer.PATCHES**2
EARLY = range(2)  # the layers in which the picture is hidden at random while training
# first seeds of the scenes of each stage; scenes.TEST and the seeds after it stay unseen
SEEDS = {
    "words": 0,
    "tower": 100_000_000,
    "bridge": 200_000_000,
    "tune": 300_000_000,
    "video": 400_000_000,
    "video_bridge": 500_000_000,
    "check": 2_000_000_000,
}


@dataclass
class Batch:
    ids: torch.Tensor
    labels: torch.Tensor
    positions: torch.Tensor
    words: torch.Tensor
    start: int
    images: torch.Tensor | None = None

    @property
    def visual(self) -> int:
        return self.words.shape[1]


class Student:
    """The model, its tokenizer, and the loss of one batch."""

    def __init__(
        self, build: Callable[[PreTrainedTokenizerFast], PreTrainedModel] = llava, media: str = "<image>"
    ) -> None:
        torch.manual_seed(0)
        self.tokens = tokenizer.build()
        self.model = build(self.tokens)
        self.decoder = self.model.model.language_model
        self.fast = True
        lean.install(self.decoder)
        self.image = self.tokens.convert_tokens_to_ids(media)
        self.pad = self.tokens.pad_token_id

    def batch(
        self,
        first: int,
        size: int,
        n: int,
        kinds: tuple[str, ...] = lessons.EVERY,
        things: tuple[int, int] = (3, 9),
        signs: tuple[int, int] = (0, 2),
        form: str = "any",
        thin: int | None = None,
        pictures: bool = False,
    ) -> Batch:
        """`thin`: how many patches that show nothing remain, the rest is left out (positions stay)."""
        scenes, turns = [], []
        for seed in range(first, first + 4 * size):
            here = scene(seed, things=things, signs=signs)
            asked = lessons.turns(here, 0, n, kinds, form)
            if asked and len(scenes) < size:
                scenes.append(here)
                turns.append(asked)
        rows = [lessons.encode(asked, self.tokens, VISUAL) for asked in turns]
        ids, labels = lessons.collate(rows, self.pad)
        words = torch.tensor([lessons.patch_ids(s, self.tokens) for s in scenes])
        positions = torch.arange(ids.shape[1]).expand(len(ids), -1)
        start = int((ids[0] == self.image).nonzero()[0])
        images = torch.stack([sight.pixels(draw(s)) for s in scenes]) if pictures else None
        size = len(scenes)
        if thin is not None:
            noise = torch.rand(size, VISUAL, generator=torch.Generator().manual_seed(first))
            busy = (words[:, :, 4] != self.pad).float() + noise / 2
            index = busy.topk(min(VISUAL, int((busy >= 1).sum(1).max()) + thin), 1).indices.sort(1).values
            words = words.gather(1, index[..., None].expand(-1, -1, words.shape[2]))
            ids, labels, positions = (
                torch.cat(
                    [t[:, :start], t[:, start : start + VISUAL].gather(1, index), t[:, start + VISUAL :]],
                    1,
                )
                for t in (ids, labels, positions)
            )
        return Batch(ids, labels, positions, words, start, images)

    def word_sums(self, words: torch.Tensor) -> torch.Tensor:
        return (self.decoder.embed_tokens(words) * (words != self.pad)[..., None]).sum(2)

    def modules(self) -> dict[str, nn.Module]:
        """The parts that stages train and hand on, by the names in their checkpoints."""
        inner = self.model.model
        tower = inner.video_tower if hasattr(inner, "video_tower") else inner.vision_tower
        return {
            "decoder": self.decoder,
            "head": self.model.lm_head,
            "tower": tower,
            "projector": inner.multi_modal_projector,
        }

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return sight.features(self.modules()["tower"], images)

    def seen(self, images: torch.Tensor) -> torch.Tensor:
        return self.modules()["projector"](self.features(images))

    def states(self, batch: Batch, visual: torch.Tensor) -> torch.Tensor:
        text = self.decoder.embed_tokens(batch.ids)
        joined = torch.cat([text[:, : batch.start], visual, text[:, batch.start + batch.visual :]], 1)
        return self.decoder(inputs_embeds=joined, position_ids=batch.positions, use_cache=False).last_hidden_state

    def loss(self, batch: Batch, visual: torch.Tensor, step: int, language: float) -> tuple[torch.Tensor, float]:
        """Answers, plus `language` times next-word prediction on a sample of all text.

        In nine batches of ten the first two layers see none or a random part of the picture: a large model reads its
        picture in the middle layers, a tiny one would do it all in the first.
        """
        chance = torch.Generator().manual_seed(step)
        look: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        lot = torch.rand(1, generator=chance).item()
        if lot < 0.9:
            columns = torch.zeros(batch.ids.shape, dtype=torch.bool)
            share = torch.rand(len(columns), 1, generator=chance) if lot > 0.6 else torch.ones(len(columns), 1)
            gone = torch.rand(len(columns), batch.visual, generator=chance) < share
            columns[:, batch.start : batch.start + batch.visual] = gone
            look = hidden(self.decoder, EARLY, columns)
        with look, torch.autocast("cpu", torch.bfloat16, enabled=self.fast):
            states = self.states(batch, visual)[:, :-1]
            answers = batch.labels[:, 1:] != lessons.IGNORE
            logits = self.model.lm_head(states[answers]).float()
            loss = F.cross_entropy(logits, batch.labels[:, 1:][answers])
            answer_loss = loss.item()
            if language:
                following = batch.ids[:, 1:]
                sample = torch.rand(following.shape, generator=chance) < 0.3
                text = (following != self.pad) & (following != self.image) & sample
                logits = self.model.lm_head(states[text]).float()
                loss = loss + language * F.cross_entropy(logits, following[text])
        return loss, answer_loss


def answered(batch: Batch, logits: torch.Tensor) -> list[bool]:
    """For every answer in the batch: are all its tokens the most likely ones?"""
    labels = batch.labels[:, 1:]
    right, known = logits.argmax(-1) == labels, labels != lessons.IGNORE
    found = []
    for row in range(len(labels)):
        marks = known[row].nonzero().flatten().tolist()
        for place, column in enumerate(marks):
            if place == 0 or marks[place - 1] != column - 1:
                found.append(True)
            found[-1] = found[-1] and bool(right[row, column])
    return found


FAMILIES = {
    "single": ("colour", "shape", "size", "exist"),
    "several": ("count", "compare", "same"),
    "place": ("relation", "where"),
    "next": ("next_colour", "next_shape"),
    "chain": ("chain_colour", "chain_shape"),
    "print": ("read", "first", "last"),
}


@torch.no_grad()
def measure(student: Student, pictures: bool, size: int = 16, cuts: tuple[int, ...] = (2, 4)) -> dict[str, list[int]]:
    """Percent right for each family of questions: all tokens, then a random tenth left from the layers in `cuts` on."""
    result: dict[str, list[int]] = {}
    for family, kinds in FAMILIES.items():
        batch = student.batch(SEEDS["check"] + 1000 * len(result), size, 6, kinds, pictures=pictures)
        visual = student.seen(batch.images) if batch.images is not None else student.word_sums(batch.words)
        order = torch.rand(size, VISUAL, generator=torch.Generator().manual_seed(1)).argsort(1)
        columns = torch.zeros(batch.ids.shape, dtype=torch.bool)
        columns[:, batch.start : batch.start + VISUAL] = order >= round(VISUAL / 10)
        result[family] = []
        for layer in (None, *cuts):
            last = len(student.decoder.layers)
            cut = hidden(student.decoder, range(last if layer is None else layer, last), columns)
            with cut:
                right = answered(batch, student.model.lm_head(student.states(batch, visual)[:, :-1]))
            result[family].append(round(100 * sum(right) / max(1, len(right))))
    return result
