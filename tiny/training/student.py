"""A model in training: batches of lessons, the loss, and what it can answer with all and with few visual tokens."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tiny import prompts, tokenizer
from tiny.drawn.drawing import draw
from tiny.drawn.scenes import scene
from tiny.model import hidden, llava
from tiny.training import lean, lessons, sight
from tiny.training.curriculum import Curriculum

VISUAL = tokenizer.PATCHES**2
EASY, DRILL = 0.7, 0.7  # a skill that is known less well is drilled in so many batches
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


@dataclass
class LessonBatch:
    """Dialogues about scenes or clips, padded to one length; `start`: where in all of them the picture begins."""

    ids: torch.Tensor
    labels: torch.Tensor
    positions: torch.Tensor
    words: torch.Tensor
    start: int
    skills: list[str]  # of every answer
    images: torch.Tensor | None = None
    index: torch.Tensor | None = None  # of the patches that were left, in a thin batch

    def to(self, device: str) -> LessonBatch:
        """The same on a device."""
        moved: dict[str, Any] = {
            k: value.to(device) for k, value in vars(self).items() if isinstance(value, torch.Tensor)
        }
        return replace(self, **moved)

    @property
    def visual(self) -> int:
        """How many visual tokens each row has."""
        return self.words.shape[1]

    @property
    def pictures(self) -> torch.Tensor:
        """The pictures or frames, which a batch of words has none of."""
        if self.images is None:
            raise ValueError("this batch was made of words alone, without pictures")
        return self.images


class Student:
    """A tiny model, its tokenizer, its lessons, and the loss of one batch. Its lessons are about scenes; those of a
    student of clips are in film.py."""

    build: Callable[[PreTrainedTokenizerFast], PreTrainedModel] = staticmethod(llava)
    made: Callable[..., Any] = staticmethod(scene)  # what a seed shows
    named: Callable[[Any], list[list[str]]] = staticmethod(lessons.patch_words)  # the words of every visual token of it
    media, system, visual = "<image>", prompts.SYSTEM, VISUAL
    skills: Mapping[str, lessons.Skill] = lessons.SKILLS
    basics: tuple[str, ...] = lessons.FIRST  # skills that are learned before all others, in batches of their own
    settled: Sequence[tuple[int, int]] = ((8, 10), (16, 1))  # the last batches: so many scenes, so many questions each
    seeds = 700  # that one step has to itself

    def __init__(self, device: str = "cpu") -> None:
        torch.manual_seed(0)
        self.tokens = tokenizer.build()
        self.device = device
        self.model: Any = self.build(self.tokens).to(torch.device(device))  # type: ignore[arg-type]  # its wrapper hides self
        self.decoder = self.model.model.language_model
        self.fast = True
        lean.install(self.decoder)
        self.image = tokenizer.number(self.tokens, self.media)
        self.pad = self.tokens.pad_token_id

    # -- lessons -------------------------------------------------------------------------------------------------------
    def pixels(self, shown: Any) -> torch.Tensor:
        """A scene or clip as the model's tower takes it."""
        return sight.pixels(draw(shown))

    def busy(self, count: torch.Tensor) -> torch.Tensor:
        """The visual tokens that stay in a thin batch, by how many words they have: those that show something."""
        return count > 5

    def lesson(
        self, curriculum: Curriculum, first: int, lot: random.Random, whole: float, pictures: bool = False
    ) -> LessonBatch:
        """The next batch: `whole` is the share of batches that show every patch and ask much."""
        weights = curriculum.weights()
        if not curriculum.ready(*self.basics):
            return self.batch(first, 64, 1, weights, 1, pictures, things=(1, 3), signs=(0, 0))
        if lot.random() < whole:
            return self.batch(first, 8, 10, weights, pictures=pictures)
        focus = curriculum.focus
        if focus and curriculum.accuracy[focus] < EASY and lot.random() < DRILL:
            # nothing but the new skill, where little stands: there is little to mistake anything for
            skill = self.skills[focus]
            things, signs = ((0, 0), (1, 2)) if skill.signs else ((skill.things, skill.things + 2), (0, 0))
            return self.batch(first, 64, 2, {focus: 1.0}, 1, pictures, things=things, signs=signs)
        things, signs = lot.choice((((1, 4), (0, 1)), ((2, 6), (0, 2)), ((3, 9), (0, 1)), ((0, 4), (1, 2))))
        return self.batch(first, 28, 4, weights, lot.choice((1, 4, 16)), pictures, things=things, signs=signs)

    def batch(
        self,
        first: int,
        size: int,
        n: int,
        weights: Mapping[str, float] | None = None,
        thin: int | None = None,
        pictures: bool = False,
        **limits: Any,
    ) -> LessonBatch:
        """Up to n questions about each of `size` scenes or clips. `weights`: how often each skill is asked (all alike).
        `limits`: of what stands in a scene."""
        made = (self.made(seed, **limits) for seed in range(first, first + 10 * size))
        chosen = lessons.gathered(made, size, n, weights, self.skills)
        skills = [skill for _, asked in chosen for _, skill in asked.values()]
        dialogues = [[(question, answer) for question, (answer, _) in asked.items()] for _, asked in chosen]
        return self.collate([shown for shown, _ in chosen], dialogues, skills, thin, pictures)

    def collate(
        self,
        shown: Sequence[Any],
        dialogues: Sequence[list[lessons.Turn]],
        skills: list[str],
        thin: int | None = None,
        pictures: bool = False,
    ) -> LessonBatch:
        """A dialogue about each scene or clip. `thin`: how many patches that show nothing remain, the rest is left out
        (positions stay)."""
        rows = [lessons.encode(turns, self.tokens, self.visual, self.media, self.system) for turns in dialogues]
        words = torch.tensor([lessons.word_ids(self.named(here), self.tokens) for here in shown])
        images = torch.stack([self.pixels(here) for here in shown]) if pictures else None
        ids, labels = lessons.collate(rows, self.pad)
        positions = torch.arange(ids.shape[1]).expand(len(ids), -1)
        start, visual, index = int((ids[0] == self.image).nonzero()[0]), words.shape[1], None
        if thin is not None:
            index = lessons.thinned(self.busy((words != self.pad).sum(2)), thin, int(ids.sum()))
            words = words.gather(1, index[..., None].expand(-1, -1, words.shape[2]))
            ids, labels, positions = (
                torch.cat([t[:, :start], t[:, start : start + visual].gather(1, index), t[:, start + visual :]], 1)
                for t in (ids, labels, positions)
            )
        return LessonBatch(ids, labels, positions, words, start, skills, images, index).to(self.device)

    # -- what it makes of them -----------------------------------------------------------------------------------------
    @property
    def vectors(self) -> torch.Tensor:
        """The word vectors, which are never trained."""
        table: torch.Tensor = self.decoder.embed_tokens.weight
        return table

    def word_sums(self, words: torch.Tensor) -> torch.Tensor:
        """[rows, n, width] the sum of the vectors of the words of each patch [rows, n, words]."""
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
        """What the tower makes of pictures, before the projector."""
        return sight.features(self.modules()["tower"], images)

    def seen(self, images: torch.Tensor) -> torch.Tensor:
        """Pictures as the decoder's embeddings."""
        projected: torch.Tensor = self.modules()["projector"](self.features(images))
        return projected

    def states(self, batch: LessonBatch, visual: torch.Tensor) -> torch.Tensor:
        """The decoder's last states [rows, length, width], with these visual tokens in their places."""
        text = self.decoder.embed_tokens(batch.ids)
        joined = torch.cat([text[:, : batch.start], visual, text[:, batch.start + batch.visual :]], 1)
        out = self.decoder(inputs_embeds=joined, position_ids=batch.positions, use_cache=False)
        states: torch.Tensor = out.last_hidden_state
        return states

    def loss(
        self, batch: LessonBatch, visual: torch.Tensor, step: int, language: float
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


def answered(batch: LessonBatch, logits: torch.Tensor) -> list[bool]:
    """For every answer in the batch: whether all its tokens are the most likely."""
    labels = batch.labels[:, 1:]
    known = labels != lessons.IGNORE
    return lessons.right(logits[known], labels[known])
