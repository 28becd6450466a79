"""The tiny Video-LLaVA: clips of eight small frames, started from what the tiny LLaVA has learned."""

from __future__ import annotations

import random

import torch
from transformers import (
    PreTrainedTokenizerFast,
    VideoLlavaConfig,
    VideoLlavaForConditionalGeneration,
    VideoLlavaImageProcessor,
)

from tiny import prompts, tokenizer
from tiny.drawn.clips import FIELD, FRAMES, Clip, clip, draw_clip
from tiny.drawn.scenes import CELL
from tiny.model import LLAVA, PATCH, llama, prepare, tower
from tiny.training import lessons, sight
from tiny.training.curriculum import Curriculum
from tiny.training.student import LessonBatch, Student

SIDE = FIELD * CELL // PATCH  # patches along each side of a frame
VISUAL = FRAMES * (1 + SIDE**2)  # Video-LLaVA keeps the CLS token of every frame


def video_llava(tokens: PreTrainedTokenizerFast) -> VideoLlavaForConditionalGeneration:
    """The model as it is before training."""
    config = VideoLlavaConfig(
        vision_config=tower(SIDE * PATCH),
        text_config=llama(len(tokens)),
        image_token_index=tokenizer.number(tokens, "<image>"),
        video_token_index=tokenizer.number(tokens, "<video>"),
        image_seq_length=SIDE**2,
        video_seq_length=VISUAL,
        **LLAVA,
    )
    model = VideoLlavaForConditionalGeneration(config)
    prepare(model, tokens)
    return model


def frames_processor() -> VideoLlavaImageProcessor:
    """Saved beside the tokenizer: transformers' whole processor of this model needs torchvision, ours do not."""
    side = SIDE * PATCH
    return VideoLlavaImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})


def frame_words(film: Clip) -> list[list[str]]:
    """Words of every visual token of a clip, frame by frame; none for the CLS token that leads each frame."""
    half = CELL // PATCH
    words: list[list[str]] = []
    for frame in range(FRAMES):
        here: lessons.Words = {}
        for actor in film.actors:
            if place := actor.places[frame]:
                lessons.name_thing(here, place[0] * half, place[1] * half, "big", actor.colour, actor.shape)
        words += [[], *lessons.filled(here, film.background, SIDE)]
    return words


class Viewer(Student):
    """The student of clips: the same lessons of one dialogue each, `<video>` in place of `<image>`."""

    build = staticmethod(video_llava)
    made = staticmethod(clip)
    named = staticmethod(frame_words)
    media, system, visual = "<video>", prompts.SYSTEM_VIDEO, VISUAL
    skills = lessons.CLIP_SKILLS
    basics = ("frame",)
    settled = ((8, 6),)
    seeds = 500

    def pixels(self, shown: Clip) -> torch.Tensor:
        return torch.stack([sight.pixels(picture) for picture in draw_clip(shown)])

    def busy(self, count: torch.Tensor) -> torch.Tensor:
        """The CLS token of every frame stays, and one patch of every shape."""
        return (count == 0) | (count == lessons.WORDS)

    def lesson(
        self, curriculum: Curriculum, first: int, lot: random.Random, whole: float, pictures: bool = False
    ) -> LessonBatch:
        weights = curriculum.weights()
        if not curriculum.ready(*self.basics):
            return self.batch(first, 48, 1, weights, 1, pictures)
        if lot.random() < whole:
            return self.batch(first, 8, 6, weights, None, pictures)
        return self.batch(first, 24, 4, weights, lot.choice((1, 8, 32)), pictures)

    def features(self, frames: torch.Tensor) -> torch.Tensor:
        """[clips, VISUAL, width of the tower]"""
        seen: torch.Tensor = self.model.model.video_tower(
            frames.flatten(0, 1), output_hidden_states=True
        ).hidden_states[-2]
        return seen.reshape(len(frames), VISUAL, -1)

    def inherit(self, student: Student) -> None:
        """Language model, projector and tower of the tiny LLaVA; of the places of its patches, the upper left ones."""
        own, old = self.model.model, student.model.model
        self.decoder.load_state_dict(student.decoder.state_dict())
        self.model.lm_head.load_state_dict(student.model.lm_head.state_dict())
        own.multi_modal_projector.load_state_dict(old.multi_modal_projector.state_dict())
        state = old.vision_tower.state_dict()
        for name in list(state):
            if name.endswith("position_embedding.weight"):
                patches = state[name][1:].view(tokenizer.PATCHES, tokenizer.PATCHES, -1)[:SIDE, :SIDE]
                state[name] = torch.cat([state[name][:1], patches.flatten(0, 1)])
            elif name.endswith("position_ids"):
                state.pop(name)
        own.video_tower.load_state_dict(state, strict=False)
