"""What a tiny model can do and what its attention looks like, on scenes it never saw.

python -m tiny.probe assets/tiny-llava [--scenes 200] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import math
import random
from pathlib import Path
from typing import Any

import torch
from transformers import LlavaForConditionalGeneration, LlavaProcessor, VideoLlavaForConditionalGeneration

from tiny import folder, prompts
from tiny.drawn.clips import CLIP_KINDS, Clip, clip, clip_questions
from tiny.drawn.drawing import draw
from tiny.drawn.questions import KINDS, Question, questions, referring, with_options
from tiny.drawn.scenes import TEST, Scene, scene
from tiny.model import hidden
from tiny.training import film
from tiny.training.student import answered

FORMS = ("choice", "chinese", "ocr", "bare", "refer")
LONGEST = 26  # tokens of an answer
Marks = dict[str, dict[str, list[bool]]]  # by kind and way of looking, which answers are right


def asked(first: int, scenes: int) -> list[tuple[str, Scene, str, str]]:
    """(kind or form, scene, prompt, answer): one question of every kind, and of every form, for each scene."""
    rows = []
    for seed in range(first, first + scenes):
        here = scene(seed)
        rng = random.Random(seed)
        every = questions(here, 0, tuple(KINDS))
        for question in every:
            words = prompts.unsure if question.kind == "absent" else prompts.short
            rows.append((question.kind, here, words(question.text), question.answer))
        others: list[Question] = rng.sample(every, len(every))
        offered = [q for q in (with_options(q, here, rng) for q in others) if q]
        for form, usable in (
            ("choice", offered),
            ("chinese", [q for q in offered if q.chinese]),
        ):
            for question in usable[:1]:
                text = prompts.choice(question, chinese=form == "chinese")
                rows.append((form, here, text, question.letter))
        for question in [q for q in others if q.kind == "read"][:1]:
            rows.append(("ocr", here, prompts.ocr(question.text, [s.text for s in here.signs]), question.answer))
        for question in [q for q in others if q.kind != "absent"][:1]:
            rows.append(("bare", here, question.text, question.answer))
        expression = referring(here, seed)
        if expression:
            answer = prompts.box_answer(expression[1], here.size)
            rows.append(("refer", here, prompts.refer(expression[0]), answer))
    return rows


class Probe:
    """A model that is asked one question after another, without padding."""

    def __init__(self, model: LlavaForConditionalGeneration, processor: LlavaProcessor) -> None:
        self.model, self.processor = model.eval(), processor
        self.decoder = model.model.language_model

    def inputs(self, text: str, scene: Scene) -> tuple[torch.Tensor, torch.Tensor]:
        """Input embeddings [1, n, width] of a prompt, and where in it the picture is."""
        batch = self.processor(text=prompts.dialogue([(text, "")]), images=draw(scene), return_tensors="pt")
        ids = batch["input_ids"]
        where = ids[0] == self.model.config.image_token_id
        embedded = self.decoder.embed_tokens(ids)
        embedded[:, where] = torch.cat(list(self.model.model.get_image_features(batch["pixel_values"]).pooler_output))
        return embedded, where

    @torch.no_grad()
    def answers(
        self, rows: list[tuple[str, Scene, str, str]], blind: bool = False, cut: int | None = None, keep: float = 0.1
    ) -> list[str]:
        """Greedy answers; with `cut`, a random part of the visual tokens alone is seen from that layer on.

        blind: about the pictures of other scenes.
        """
        chance = torch.Generator().manual_seed(0)
        said = []
        layers = len(self.decoder.layers)
        pruned = range(layers if cut is None else cut, layers)
        for number, (_, here, text, _) in enumerate(rows):
            embedded, where = self.inputs(text, scene(TEST + 777_000_000 + number) if blind else here)
            visual = int(where.sum())
            gone = torch.rand(visual, generator=chance).argsort() >= round(visual * keep)
            words: list[int] = []
            while len(words) < LONGEST:
                columns = torch.zeros(embedded.shape[:2], dtype=torch.bool)
                columns[0, : len(where)][where] = gone
                with hidden(self.decoder, pruned, columns):
                    states = self.decoder(inputs_embeds=embedded, use_cache=False).last_hidden_state
                word = self.model.lm_head(states[:, -1]).argmax(-1)
                if int(word) == self.model.generation_config.eos_token_id:
                    break
                words.append(int(word))
                embedded = torch.cat([embedded, self.decoder.embed_tokens(word)[None]], 1)
            said.append(self.processor.tokenizer.decode(words, skip_special_tokens=True).strip())
        return said

    @torch.no_grad()
    def attention(self, rows: list[tuple[str, Scene, str, str]]) -> torch.Tensor:
        """[layers, visual]: what the last prompt token gives each visual token, averaged over heads and rows."""
        before = self.decoder.config._attn_implementation
        self.decoder.set_attn_implementation("eager")
        looked = []
        for _, here, text, _ in rows:
            embedded, where = self.inputs(text, here)
            out = self.decoder(inputs_embeds=embedded, use_cache=False, output_attentions=True)
            looked.append(torch.stack([layer[0, :, -1, where].mean(0) for layer in out.attentions]))
        self.decoder.set_attn_implementation(before)
        return torch.stack(looked).mean(0)


def right(kind: str, said: str, answer: str) -> bool:
    """Whether an answer is the right one; a box, whether it covers at least half of what both boxes cover."""
    if kind != "refer":
        return said == answer
    try:
        first, second = ([float(part) for part in text.strip("[]").split(",")] for text in (said, answer))
        (a, b, c, d), (e, f, g, h) = first, second
    except ValueError:
        return False
    both = max(0.0, min(c, g) - max(a, e)) * max(0.0, min(d, h) - max(b, f))
    return both >= 0.5 * ((c - a) * (d - b) + (g - e) * (h - f) - both)


def slope(curve: torch.Tensor) -> float:
    """Rate of the exponential that fits the curve: log attention gained from the first token to the last."""
    place = torch.linspace(0, 1, len(curve))
    level = curve.clamp_min(1e-9).log()
    return float(((place - place.mean()) * (level - level.mean())).sum() / (place - place.mean()).square().sum())


def percentages(marks: Marks) -> dict[str, Any]:
    """Percent right by kind, with how many were asked; and the mean over kinds."""
    kinds: dict[str, dict[str, float]] = {}
    for kind, ways in marks.items():
        kinds[kind] = {name: round(100 * sum(hits) / len(hits), 1) for name, hits in ways.items()}
    mean = {name: round(sum(line[name] for line in kinds.values()) / len(kinds), 1) for name in ways}
    return {"kinds": {kind: line | {"n": len(marks[kind]["whole"])} for kind, line in kinds.items()}, "mean": mean}


def report(path: Path, scenes: int) -> dict[str, Any]:
    """Percent right by kind and way of looking, and the attention by layer, on questions about so many scenes."""
    probe = Probe(*folder.load(path))
    rows = asked(TEST + 500_000_000, scenes)
    rows.sort(key=lambda row: row[0])
    settings: dict[str, dict[str, Any]] = {
        "whole": {},
        "blind": {"blind": True},
        "tenth@2": {"cut": 2},
        "tenth@4": {"cut": 4},
    }
    there = {row[0] for row in rows}
    marks: Marks = {kind: {name: [] for name in settings} for kind in (*KINDS, *FORMS) if kind in there}
    for name, options in settings.items():
        for k in range(0, len(rows), 32):
            part = rows[k : k + 32]
            for (kind, _, _, answer), said in zip(part, probe.answers(part, **options), strict=True):
                marks[kind][name].append(right(kind, said, answer))
    square = [row for row in rows if row[1].cols == row[1].rows][:128]
    padded = [row for row in rows if row[1].cols == 2 * row[1].rows][:64]
    trend, border = probe.attention(square), probe.attention(padded)
    side = math.isqrt(border.shape[1])
    outside = torch.ones(side, side, dtype=torch.bool)
    outside[side // 4 : side - side // 4] = False
    return {
        **percentages(marks),
        "trend": [round(slope(curve), 2) for curve in trend],
        "rows": [[round(v, 5) for v in curve.view(side, side).mean(1).tolist()] for curve in trend],
        "padding_share": [round(float(curve[outside.flatten()].sum() / curve.sum()), 3) for curve in border],
    }


@torch.no_grad()
def report_clips(path: Path, clips: int) -> dict[str, Any]:
    """Percent right by kind, one bare question a clip: with the clip, and with the clip of another question."""
    viewer = film.Viewer()
    viewer.model.load_state_dict(VideoLlavaForConditionalGeneration.from_pretrained(path).state_dict())
    marks: Marks = {kind: {"whole": [], "blind": []} for kind in CLIP_KINDS}
    for number, kind in enumerate(CLIP_KINDS):
        films: list[Clip] = []
        dialogues: list[list[tuple[str, str]]] = []
        seed = TEST + 600_000_000 + number * 1_000_000
        while len(films) < clips:
            here = clip(seed)
            for question in clip_questions(here, 0, (kind,)):
                films.append(here)
                dialogues.append([(question.text, question.answer)])
            seed += 1
        for k in range(0, clips, 16):
            part = slice(k, k + 16)
            batch = viewer.collate(films[part], dialogues[part], [kind] * len(films[part]), pictures=True)
            seen = viewer.seen(batch.pictures)
            for name, shown in (("whole", seen), ("blind", seen.roll(1, 0))):
                states = viewer.states(batch, shown)
                marks[kind][name] += answered(batch, viewer.model.lm_head(states[:, :-1]))
    return percentages(marks)


def main() -> None:
    """Prints the report of a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args()
    torch.set_num_threads(1)
    video = (flags.folder / "config.json").read_text().find("video_llava") >= 0
    result = report_clips(flags.folder, flags.scenes) if video else report(flags.folder, flags.scenes)
    if flags.json:
        flags.json.write_text(json.dumps(result, indent=1) + "\n")
    for kind, line in {**result["kinds"], "MEAN": result["mean"]}.items():
        print(f"{kind:14}" + "".join(f"{name} {value:6} " for name, value in line.items()))
    if video:
        return
    print("trend, log last over first token, by layer:", result["trend"])
    print("share of attention on padding (half of the tokens), by layer:", result["padding_share"])


if __name__ == "__main__":
    main()
