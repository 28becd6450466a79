"""Trains what `smol` adds to its language model, in stages. Every stage can be stopped and started again.

python -m tiny.smol.train tower --run DIR     # 0: the tiny model's vision tower learns the larger field, patch by patch
python -m tiny.smol.train bridge --run DIR    # 1: the projector puts a patch on the mean of its words' vectors
python -m tiny.smol.train tune --run DIR      # 2: LoRA on every linear layer, and the projector, on questions
python -m tiny.smol.train check --run DIR     # how many held-out questions are answered right by now
python -m tiny.smol.train save --run DIR      # writes assets/smol-llava, once `tune` is through
"""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPVisionModel, LlavaForConditionalGeneration

from tiny.smol import folder as smol_folder
from tiny.smol import model as smol
from tiny.smol.lessons import IGNORE, SKILLS, Lesson, Teacher
from tiny.smol.world import GROUPS, PATCHES, smol_scene, targets, words
from tiny.training import learning, lessons, sight
from tiny.training.curriculum import Curriculum
from tiny.training.learning import learn

ASSETS = Path(__file__).parents[2] / "assets"
# first seeds of the scenes of each stage; scenes.TEST and the seeds after it stay unseen
SEEDS = {"tower": 700_000_000, "bridge": 710_000_000, "tune": 720_000_000, "check": 2_100_000_000}
STEPS = {"tower": 600, "bridge": 600, "tune": 1000}
EASY = 60  # steps of the last stage with one or two things in a picture
SETTLE = 0.6  # share of the last stage after which all skills are asked alike, and many pictures are whole
WHOLE = {"before": 0.15, "after": 0.5}  # of the batches show all 576 patches, before and after SETTLE


def views(first: int, size: int, things: tuple[int, int], device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures, and what each of their patches shows."""
    return sight.shown([smol_scene(seed, things) for seed in range(first, first + size)], device, targets)


def grown(tower: CLIPVisionModel) -> None:
    """The tiny model's tower on a longer field: the places between its patches are filled in smoothly."""
    small = LlavaForConditionalGeneration.from_pretrained(ASSETS / "tiny-llava", dtype=torch.float32)
    inner: Any = small.model
    state = inner.vision_tower.state_dict()
    name = next(key for key in state if key.endswith("position_embedding.weight"))
    old = state[name]
    side = int((len(old) - 1) ** 0.5)
    grid = old[1:].T.reshape(1, -1, side, side)
    larger = F.interpolate(grid, (PATCHES, PATCHES), mode="bicubic", align_corners=False)
    state[name] = torch.cat([old[:1], larger.flatten(2)[0].T])
    for key in [key for key in state if key.endswith("position_ids")]:
        del state[key]
    tower.load_state_dict(state)


def towers(run: Path, steps: int, device: str, fast: bool) -> None:
    """The vision tower learns to name the patches of the larger field."""
    torch.manual_seed(0)
    tower = CLIPVisionModel(smol.tower_config())
    grown(tower)
    check = views(SEEDS["check"], 32, (2, 8), device)

    def lesson(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        return views(SEEDS["tower"] + 16 * step, 16, (4, 24), device)

    sight.teach(run, tower, steps, 1e-3, lesson, check, GROUPS, fast)


class SmolStudent:
    """The model in training: everything of the language model is frozen but its LoRAs."""

    def __init__(self, device: str = "cpu", fast: bool = True) -> None:
        torch.manual_seed(0)
        self.device, self.fast = device, fast
        self.tokens = smol.tokens()
        self.model = smol.assemble(smol.language_model(), self.tokens)
        self.model.requires_grad_(False)
        inner: Any = self.model.model
        self.tower, self.projector, self.decoder = (
            inner.vision_tower,
            inner.multi_modal_projector.requires_grad_(True),
            inner.language_model,
        )
        self.added = smol.adapt(self.decoder)
        self.model.to(torch.device(device))  # type: ignore[arg-type]  # its wrapper hides self
        self.thin = Thin(self.added)
        self.teacher = Teacher(self.tokens)

    def modules(self) -> dict[str, Any]:
        """The parts that stages train and hand on, by the names in their checkpoints."""
        return {"tower": self.tower, "projector": self.projector, "lora": self.thin}

    def features(self, pictures: torch.Tensor) -> torch.Tensor:
        """What the frozen tower makes of pictures."""
        with torch.no_grad():
            return sight.features(self.tower, pictures.to(self.device))

    def answers(self, lesson: Lesson, features: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of every word of the answers, and the words that are wanted there."""
        with torch.autocast(self.device, torch.bfloat16, enabled=self.fast):
            seen = self.features(lesson.pictures) if features is None else features
            index = lesson.index.to(self.device)
            shown = self.projector(seen.gather(1, index[..., None].expand(-1, -1, seen.shape[2])))
            opening = torch.tensor(self.teacher.opening, device=self.device).expand(len(index), -1)
            text = lesson.text.to(self.device)
            words = [self.decoder.embed_tokens(opening), shown.float(), self.decoder.embed_tokens(text)]
            states = self.decoder(
                inputs_embeds=torch.cat(words, 1),
                attention_mask=lesson.seen.to(self.device),
                position_ids=lesson.positions.to(self.device),
                use_cache=False,
            ).last_hidden_state[:, :-1]
            labels = lesson.labels[:, 1:].to(self.device)
            there = labels != IGNORE
            logits: torch.Tensor = self.model.lm_head(states[there])
        return logits.float(), labels[there]

    def right(self, logits: torch.Tensor, wanted: torch.Tensor) -> list[bool]:
        """For every answer, which ends with the end token: whether all its words are the most likely."""
        return lessons.right(logits, wanted, self.teacher.end)


class Thin(nn.Module):
    """The learned matrices of all LoRAs under flat names, so that checkpoints leave the language model out."""

    def __init__(self, added: nn.ModuleDict) -> None:
        super().__init__()
        self.matrices = nn.ParameterDict({k.replace(".", ":"): v for k, v in smol.thin_matrices(added).items()})


def meanings(student: SmolStudent, truth: torch.Tensor) -> torch.Tensor:
    """The mean of the vectors of the words that name each patch: truth [..., groups] -> [..., width]."""
    table = student.decoder.embed_tokens.weight
    kinds, place = torch.unique(truth[..., :5].flatten(0, -2), dim=0, return_inverse=True)
    vectors = []
    for kind in kinds.cpu().numpy():
        named = [table[student.teacher.ids(f" {word}")].mean(0) for word in words(kind)]
        vectors.append(torch.stack(named).mean(0))
    return torch.stack(vectors)[place].view(*truth.shape[:-1], -1)


def every_thing() -> torch.Tensor:
    """Each size, colour and shape that a thing can have, as `targets` has it."""
    values = [range(1, len(GROUPS[key])) for key in ("size", "colour", "shape")]
    return torch.tensor([[*kind, 0, 0] for kind in itertools.product(*values)])


def bridge(run: Path, steps: int, device: str, fast: bool) -> None:
    """The projector puts every patch on the mean of its words' vectors; empty patches weigh a tenth."""
    student = SmolStudent(device, fast)
    learning.recall(student, run, "tower")
    scale = student.decoder.embed_tokens.weight.std()
    things = every_thing().to(device)
    named = meanings(student, things)
    images, truth = views(SEEDS["check"], 32, (2, 8), device)
    seen = student.features(images)

    def step_loss(step: int, share: float) -> tuple[torch.Tensor, float]:
        images, truth = views(SEEDS["bridge"] + 8 * step, 8, (4, 24), device)
        projected = student.projector(student.features(images))
        goal = meanings(student, truth)
        error = ((projected - goal) / scale).square().mean(-1)
        weight = torch.where(truth[..., 0] > 0, 1.0, 0.1)
        loss = (error * weight).sum() / weight.sum()
        return loss, loss.item()

    @torch.no_grad()
    def report() -> dict[str, float]:
        """The share of patches of things that lie nearest to the vector of just that thing."""
        there = truth[..., 0] > 0
        nearest = torch.cdist(student.projector(seen[there]), named).argmin(1)
        return {"named": (things[nearest, :3] == truth[there][:, :3]).all(1).float().mean().item()}

    modules = {"tower": student.tower, "projector": student.projector}
    learn(run, "bridge", modules, steps, 2e-3, step_loss, report, warm_up=20)


def mix(curriculum: Curriculum) -> dict[str, float]:
    """How often each skill is asked: colour and shape lead, since all else leans on them; later, weak skills lead."""
    if not curriculum.ready("colour", "shape"):
        return {"colour": 3.0, "shape": 3.0, "size": 1.0, "exist": 1.0}
    return {name: 1.1 - share for name, share in curriculum.accuracy.items()}


def lesson(teacher: Teacher, curriculum: Curriculum, step: int, share: float) -> Lesson:
    """The batch of one step: few things and few empty patches first, whole pictures and all skills alike at the end."""
    first, lot, late = SEEDS["tune"] + 1000 * step, random.Random(step), share >= SETTLE
    if not late and not curriculum.ready("colour", "shape"):
        return teacher.lesson(first, 16, 4, mix(curriculum), (1, 2) if step < EASY else (1, 3), thin=1)
    weights = curriculum.everything() if late else mix(curriculum)
    if lot.random() < WHOLE["after" if late else "before"]:
        return teacher.lesson(first, 3, 12, weights)
    things, thin = lot.choice(((1, 3), (2, 5), (2, 8))), lot.choice((1, 4, 16, 64))
    return teacher.lesson(first, 8, 6, weights, things, thin)


def tune(run: Path, steps: int, device: str, fast: bool) -> None:
    """LoRA and projector on questions; tower and the language model's own weights stay as they are."""
    student, curriculum = SmolStudent(device, fast), Curriculum(SKILLS)
    learning.recall(student, run, "bridge")

    def step_loss(step: int, share: float) -> tuple[torch.Tensor, float]:
        batch = lesson(student.teacher, curriculum, step, share)
        logits, wanted = student.answers(batch)
        loss = F.cross_entropy(logits, wanted)
        curriculum.learn(batch.skills, student.right(logits, wanted))
        return loss, loss.item()

    modules = {"projector": student.projector, "lora": student.thin, "curriculum": curriculum}
    slow = list(student.projector.parameters())

    def report() -> dict[str, int]:
        return {name: round(100 * share) for name, share in curriculum.accuracy.items()}

    learn(run, "tune", modules, steps, 1e-3, step_loss, report, warm_up=20, slow=slow)


@torch.no_grad()
def check(run: Path, steps: int, device: str, fast: bool) -> None:
    """Right answers to held-out questions by skill, on whole pictures with 2 to 8 things; `steps` pictures."""
    student = SmolStudent(device, fast)
    learning.recall(student, run, "bridge", "tune")
    done = torch.load(run / "tune.pt", map_location="cpu", weights_only=True)["step"]
    print(json.dumps({"step": done, **accuracy(student, steps or 100)}), flush=True)


def accuracy(student: SmolStudent, pictures: int) -> dict[str, float]:
    """Shares of right answers by skill, at most six questions a picture; `blind` is shown the next picture instead."""
    right: dict[str, list[bool]] = {name: [] for name in SKILLS}
    blind: list[bool] = []
    for first in range(0, pictures, 4):
        batch = student.teacher.lesson(SEEDS["check"] + 10_000_000 + 100 * first, min(4, pictures - first), 6)
        seen = student.features(batch.pictures)
        for skill, hit in zip(batch.skills, student.right(*student.answers(batch, seen)), strict=True):
            right[skill].append(hit)
        if len(seen) > 1:
            blind += student.right(*student.answers(batch, seen.roll(1, 0)))
    shares = {name: round(sum(hits) / len(hits), 3) for name, hits in right.items() if hits}
    asked = sum(map(len, right.values()))
    whole = {"all": round(sum(shares.values()) / len(shares), 3), "blind": round(sum(blind) / max(1, len(blind)), 3)}
    return {"pictures": pictures, "questions": asked, **shares, **whole}


def save(run: Path, steps: int, device: str, fast: bool) -> None:
    """Ships what was learned; never a run that is still on its way."""
    state = torch.load(run / "tune.pt", map_location="cpu", weights_only=True)
    if "optimizer" in state:
        raise ValueError(f"{run / 'tune.pt'} is of step {state['step']}, on its way: go on with the stage 'tune' first")
    student = SmolStudent(device, fast)
    learning.recall(student, run, "bridge", "tune")
    smol_folder.ship(student.model, smol.thin_matrices(student.added), student.tokens, ASSETS / "smol-llava")


STAGES = {"tower": towers, "bridge": bridge, "tune": tune, "check": check, "save": save}


def main() -> None:
    """Runs one stage."""
    parser = learning.command(__doc__, STAGES)
    parser.add_argument("--precise", action="store_true", help="float32 products, for processors without bfloat16")
    flags = learning.begun(parser)
    STAGES[flags.stage](flags.run, flags.steps or STEPS.get(flags.stage, 0), flags.device, not flags.precise)


if __name__ == "__main__":
    main()
