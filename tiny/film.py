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

from tiny import lessons, prompts, sight, tokenizer
from tiny.clips import FIELD, FRAMES, Clip, clip, draw_clip
from tiny.model import PATCH, llama, tower
from tiny.scenes import CELL
from tiny.student import Batch, Student

SIDE = FIELD * CELL // PATCH  # patches along each side of a frame
VISUAL = FRAMES * (1 + SIDE**2)  # Video-LLaVA keeps the CLS token of every frame


def video_llava(tokens: PreTrainedTokenizerFast) -> VideoLlavaForConditionalGeneration:
    config = VideoLlavaConfig(
        vision_config=tower(SIDE * PATCH),
        text_config=llama(len(tokens)),
        image_token_index=tokens.convert_tokens_to_ids("<image>"),
        video_token_index=tokens.convert_tokens_to_ids("<video>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=SIDE**2,
        video_seq_length=VISUAL,
        projector_hidden_act="gelu",
    )
    return VideoLlavaForConditionalGeneration(config)


def frames_processor() -> VideoLlavaImageProcessor:
    """Saved beside the tokenizer: transformers' whole processor of this model needs torchvision, ours do not."""
    side = SIDE * PATCH
    return VideoLlavaImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})


def frame_words(film: Clip) -> list[list[str]]:
    """Words of every visual token of a clip, frame by frame; none for the CLS token that leads each frame."""
    half, words = CELL // PATCH, []
    for frame in range(FRAMES):
        here = {}
        for actor in film.actors:
            place = actor.places[frame]
            if place:
                for dx in range(half):
                    for dy in range(half):
                        where = (place[0] * half + dx, place[1] * half + dy)
                        here[where] = [" big", f" {actor.colour}", f" {actor.shape}"]
        words.append([])
        for y in range(SIDE):
            for x in range(SIDE):
                named = here.get((x, y), [f" {film.background}"])
                words.append([*named, tokenizer.ROWS[y], tokenizer.COLUMNS[x]])
    return words


class Viewer(Student):
    """The student of clips: the same lessons of one dialogue each, `<video>` in place of `<image>`."""

    def __init__(self) -> None:
        super().__init__(video_llava, "<video>")
        self.decoder.embed_tokens.requires_grad_(False)

    def clips(self, first: int, size: int) -> Batch:
        """Clips with all their questions, or one, mostly bare as the benchmarks ask them."""
        films = [clip(seed) for seed in range(first, first + size)]
        dialogues, systems = [], []
        for film in films:
            rng = random.Random(film.seed)
            turns = lessons.clip_turns(film, 0)
            if rng.random() < 0.3:
                turns = turns[:1]
            dialogues.append([(prompts.short(q) if rng.random() < 0.2 else q, a) for q, a in turns])
            systems.append(prompts.SYSTEM_VIDEO if rng.random() < 0.8 else prompts.SYSTEM)
        return self.watch(films, dialogues, systems)

    def watch(self, films: list[Clip], dialogues: list[list[tuple[str, str]]], systems: list[str]) -> Batch:
        rows = [
            lessons.encode(turns, self.tokens, VISUAL, "<video>", system)
            for turns, system in zip(dialogues, systems, strict=True)
        ]
        ids, labels = lessons.collate(rows, self.pad)
        words = torch.tensor([lessons.word_ids(frame_words(film), self.tokens) for film in films])
        frames = [torch.stack([sight.pixels(picture) for picture in draw_clip(film)]) for film in films]
        positions = torch.arange(ids.shape[1]).expand(len(ids), -1)
        start = int((ids[0] == self.image).nonzero()[0])
        return Batch(ids, labels, positions, words, start, torch.stack(frames))

    def features(self, frames: torch.Tensor) -> torch.Tensor:
        """[clips, VISUAL, width of the tower]"""
        seen = self.model.model.video_tower(frames.flatten(0, 1), output_hidden_states=True).hidden_states[-2]
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
