"""A model in training: batches of lessons, the loss, and what it can answer with all and with few visual tokens."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tiny import tokenizer
from tiny.drawn.drawing import draw
from tiny.drawn.scenes import scene
from tiny.model import hidden, llava
from tiny.training import lean, lessons, sight

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
    "video_words": 600_000_000,
    "check": 2_000_000_000,
}


def dialogue(asked: lessons.Asked) -> list[lessons.Turn]:
    return [(question, answer) for question, (answer, _) in asked.items()]


@dataclass
class Batch:
    ids: torch.Tensor
    labels: torch.Tensor
    positions: torch.Tensor
    words: torch.Tensor
    start: int
    skills: list[str]  # of every answer
    images: torch.Tensor | None = None
    index: torch.Tensor | None = None  # of the patches that were left, in a thin batch

    def to(self, device: str) -> Batch:
        moved: dict[str, Any] = {
            k: value.to(device) for k, value in vars(self).items() if isinstance(value, torch.Tensor)
        }
        return replace(self, **moved)

    @property
    def visual(self) -> int:
        return self.words.shape[1]

    @property
    def pictures(self) -> torch.Tensor:
        if self.images is None:
            raise ValueError("this batch was made of words alone, without pictures")
        return self.images


class Student:
    """The model, its tokenizer, and the loss of one batch."""

    def __init__(
        self,
        device: str = "cpu",
        build: Callable[[PreTrainedTokenizerFast], PreTrainedModel] = llava,
        media: str = "<image>",
    ) -> None:
        torch.manual_seed(0)
        self.tokens = tokenizer.build()
        self.device = device
        self.model: Any = build(self.tokens).to(torch.device(device))  # type: ignore[arg-type]  # its wrapper hides self
        self.decoder = self.model.model.language_model
        self.fast = True
        lean.install(self.decoder)
        self.image = tokenizer.number(self.tokens, media)
        self.pad = self.tokens.pad_token_id

    def batch(
        self,
        first: int,
        size: int,
        n: int,
        weights: dict[str, float] | None = None,
        things: tuple[int, int] = (3, 9),
        signs: tuple[int, int] = (0, 2),
        thin: int | None = None,
        pictures: bool = False,
    ) -> Batch:
        """Up to n questions about each of `size` scenes. `weights`: how often each skill is asked (all alike).
        `thin`: how many patches that show nothing remain, the rest is left out (positions stay)."""
        seen = (scene(seed, things=things, signs=signs) for seed in range(first, first + 10 * size))
        scenes = lessons.gathered(seen, size, n, weights, lessons.SKILLS)
        rows = [lessons.encode(dialogue(asked), self.tokens, VISUAL) for _, asked in scenes]
        words = torch.tensor([lessons.patch_ids(s, self.tokens) for s, _ in scenes])
        images = torch.stack([sight.pixels(draw(s)) for s, _ in scenes]) if pictures else None
        skills = [skill for _, asked in scenes for _, skill in asked.values()]
        return self.collate(rows, words, skills, images, thin, (words != self.pad).sum(2) > 5)

    def collate(
        self,
        rows: list[tuple[list[int], list[int]]],
        words: torch.Tensor,
        skills: list[str],
        images: torch.Tensor | None,
        thin: int | None,
        busy: torch.Tensor,
    ) -> Batch:
        """`busy` marks the visual tokens that stay in a thin batch."""
        ids, labels = lessons.collate(rows, self.pad)
        positions = torch.arange(ids.shape[1]).expand(len(ids), -1)
        start, visual, index = int((ids[0] == self.image).nonzero()[0]), words.shape[1], None
        if thin is not None:
            index = lessons.thinned(busy, thin, int(ids.sum()))
            words = words.gather(1, index[..., None].expand(-1, -1, words.shape[2]))
            ids, labels, positions = (
                torch.cat([t[:, :start], t[:, start : start + visual].gather(1, index), t[:, start + visual :]], 1)
                for t in (ids, labels, positions)
            )
        return Batch(ids, labels, positions, words, start, skills, images, index).to(self.device)

    @property
    def vectors(self) -> torch.Tensor:
        table: torch.Tensor = self.decoder.embed_tokens.weight
        return table

    def word_sums(self, words: torch.Tensor) -> torch.Tensor:
        vectors: torch.Tensor = self.decoder.embed_tokens(words)
        return vectors.mul((words != self.pad)[..., None]).sum(2)

    def modules(self) -> dict[str, Any]:
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
        projected: torch.Tensor = self.modules()["projector"](self.features(images))
        return projected

    def states(self, batch: Batch, visual: torch.Tensor) -> torch.Tensor:
        text = self.decoder.embed_tokens(batch.ids)
        joined = torch.cat([text[:, : batch.start], visual, text[:, batch.start + batch.visual :]], 1)
        out = self.decoder(inputs_embeds=joined, position_ids=batch.positions, use_cache=False)
        states: torch.Tensor = out.last_hidden_state
        return states

    def loss(
        self, batch: Batch, visual: torch.Tensor, step: int, language: float
    ) -> tuple[torch.Tensor, float, list[bool]]:
        """Of the answers, and which of them are right; plus `language` times next-word prediction on some of the text.

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
            look = hidden(self.decoder, EARLY, columns.to(self.device))
        with look, torch.autocast(self.device, torch.bfloat16, enabled=self.fast):
            states = self.states(batch, visual)[:, :-1]
            answers = batch.labels[:, 1:] != lessons.IGNORE
            logits, labels = self.model.lm_head(states[answers]).float(), batch.labels[:, 1:][answers]
            loss = F.cross_entropy(logits, labels)
            answer_loss, right = loss.item(), lessons.right(logits, labels)
            if language:
                following = batch.ids[:, 1:]
                sample = torch.rand(following.shape, generator=chance) < 0.3
                text = (following != self.pad) & (following != self.image) & sample.to(self.device)
                logits = self.model.lm_head(states[text]).float()
                loss = loss + language * F.cross_entropy(logits, following[text])
        return loss, answer_loss, right


def answered(batch: Batch, logits: torch.Tensor) -> list[bool]:
    """For every answer in the batch: whether all its tokens are the most likely."""
    labels = batch.labels[:, 1:]
    known = labels != lessons.IGNORE
    return lessons.right(logits[known], labels[known])
