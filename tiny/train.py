"""Trains the tiny models in stages, as LLaVA is trained. Every stage can be stopped and started again.

python -m tiny.train tower --run DIR     # 0: the vision tower learns to name patches
python -m tiny.train words --run DIR     # 1: the language model, on scenes given as sums of word embeddings
python -m tiny.train bridge --run DIR    # 2: the projector puts a patch on the sum of its words' embeddings
python -m tiny.train tune --run DIR      # 3: language model and projector on real pictures
python -m tiny.train save --run DIR      # writes assets/tiny-llava
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import CLIPVisionModel

from tiny import folder, lessons, sight, tokenizer
from tiny.drawing import draw
from tiny.learning import learn
from tiny.model import PATCH
from tiny.model import tower as tower_config
from tiny.scenes import scene
from tiny.student import EVERY, SEEDS, Student, measure

ASSETS = Path(__file__).parent.parent / "assets"


def words(run: Path, minutes: float) -> None:
    """The language model alone. Few things, then many; short sequences, then whole pictures."""
    student = Student()
    modules = {"decoder": student.decoder, "head": student.model.lm_head}
    level = {"at": 0}

    def step_loss(step: int, share: float) -> tuple[torch.Tensor, float]:
        first = SEEDS["words"] + 100 * step
        level["at"] = 0 if share < 0.2 else 1 if share < 0.7 else 2
        if level["at"] == 0:
            batch = student.batch(first, 8, 12, lessons.EASY, (2, 5), thin=True)
        elif level["at"] == 1:
            batch = student.batch(first, 10, 12, EVERY, (3, 9), thin=True)
        else:
            batch = student.batch(first, 10, 12, EVERY, (3, 9))
        visual = student.word_sums(batch.words)
        visual = visual + 0.15 * torch.randn_like(visual) * visual.detach().std()
        return student.loss(batch, visual, step, language=0.1)

    counter = {"reports": 0}

    def report() -> dict:
        counter["reports"] += 1
        return measure(student, pictures=False) if counter["reports"] % 4 == 0 else {}

    parameters = [p for module in modules.values() for p in module.parameters()]
    learn(run, "words", parameters, modules, minutes, 2e-3, step_loss, report)


def towers(run: Path, minutes: float) -> None:
    """The vision tower names patches; linear heads over its features are thrown away afterwards."""
    torch.manual_seed(0)
    tower = CLIPVisionModel(tower_config(tokenizer.PATCHES * PATCH))
    names = sight.Names(tower.config.hidden_size)
    check = sight.batch(SEEDS["check"], 64)

    def step_loss(step: int, share: float) -> tuple[torch.Tensor, float]:
        images, truth = sight.batch(SEEDS["tower"] + 64 * step, 64)
        with torch.autocast("cpu", torch.bfloat16):
            found = names(sight.features(tower, images))
        loss = sight.loss([logits.float() for logits in found], truth)
        return loss, loss.item()

    @torch.no_grad()
    def report() -> dict:
        return sight.accuracy(names(sight.features(tower, check[0])), check[1])

    parameters = [*tower.parameters(), *names.parameters()]
    learn(run, "tower", parameters, {"tower": tower, "names": names}, minutes, 1.5e-3, step_loss, report)


def recall(student: Student, run: Path, *stages: str) -> None:
    """Puts the results of earlier stages into the student."""
    places = {
        "decoder": student.decoder,
        "head": student.model.lm_head,
        "tower": student.model.model.vision_tower,
        "projector": student.model.model.multi_modal_projector,
    }
    for stage in stages:
        path = run / f"{stage}.pt"
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing: run the stage {stage!r} first")
        state = torch.load(path, weights_only=True)
        for key in places.keys() & state.keys():
            places[key].load_state_dict(state[key])


def bridge(run: Path, minutes: float) -> None:
    """The projector, and the tower a little, put every patch on the sum of its words' embeddings."""
    student = Student()
    recall(student, run, "tower", "words")
    modules = {"tower": student.model.model.vision_tower, "projector": student.model.model.multi_modal_projector}

    def step_loss(step: int, share: float) -> tuple[torch.Tensor, float]:
        scenes = [scene(SEEDS["bridge"] + 32 * step + k, things=(3, 12)) for k in range(32)]
        images = torch.stack([sight.pixels(draw(s)) for s in scenes])
        named = torch.tensor([lessons.patch_ids(s, student.tokens) for s in scenes])
        with torch.no_grad():
            goal = student.word_sums(named)
            weight = torch.where(named[:, :, 4] != student.pad, 1.0, 0.1)
        with torch.autocast("cpu", torch.bfloat16):
            found = student.seen(images)
        error = (found.float() - goal).square().mean(-1) / goal.var()
        loss = (error * weight).sum() / weight.sum()
        return loss, loss.item()

    parameters = [p for module in modules.values() for p in module.parameters()]
    learn(run, "bridge", parameters, modules, minutes, 1e-3, step_loss, lambda: {})


def tune(run: Path, minutes: float) -> None:
    """Language model and projector on real pictures: many questions a picture, or one as the benchmarks ask it."""
    student = Student()
    recall(student, run, "words", "bridge")
    modules = {
        "decoder": student.decoder,
        "head": student.model.lm_head,
        "projector": student.model.model.multi_modal_projector,
    }
    tower = student.model.model.vision_tower.requires_grad_(False)

    def step_loss(step: int, share: float) -> tuple[torch.Tensor, float]:
        first = SEEDS["tune"] + 100 * step
        size, n = (16, 1) if step % 5 == 4 else (8, 12)
        batch = student.batch(first, size, n, pictures=True)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            seen = sight.features(tower, batch.images)
        visual = student.model.model.multi_modal_projector(seen.float())
        return student.loss(batch, visual, step, language=0.02)

    counter = {"reports": 0}

    def report() -> dict:
        counter["reports"] += 1
        return measure(student, pictures=True) if counter["reports"] % 4 == 0 else {}

    parameters = [p for module in modules.values() for p in module.parameters()]
    learn(run, "tune", parameters, modules, minutes, 1e-3, step_loss, report)


def save(run: Path, minutes: float) -> None:
    student = Student()
    recall(student, run, "bridge", "tune")
    folder.write(student.model, folder.processor(student.tokens), ASSETS / "tiny-llava")


STAGES = {"tower": towers, "words": words, "bridge": bridge, "tune": tune, "save": save}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=list(STAGES))
    parser.add_argument("--run", type=Path, required=True, help="folder for checkpoints and learning curves")
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--threads", type=int, default=1)
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    flags.run.mkdir(parents=True, exist_ok=True)
    STAGES[flags.stage](flags.run, flags.minutes)


if __name__ == "__main__":
    main()
