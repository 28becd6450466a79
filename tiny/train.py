"""Trains the tiny models in stages, as LLaVA is trained. Every stage can be stopped and started again.

python -m tiny.train tower --run DIR     # 0: the vision tower learns to name patches
python -m tiny.train words --run DIR     # 1: the language model, on scenes given as sums of word embeddings
python -m tiny.train bridge --run DIR    # 2: the projector puts a patch on the sum of its words' embeddings
python -m tiny.train tune --run DIR      # 3: language model and projector on real pictures
python -m tiny.train save --run DIR      # writes assets/tiny-llava
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch
from torch import nn
from transformers import CLIPVisionModel

from tiny import film, folder, lessons, sight, tokenizer
from tiny.drawing import draw
from tiny.film import Viewer
from tiny.learning import learn
from tiny.model import PATCH
from tiny.model import tower as tower_config
from tiny.scenes import scene
from tiny.student import SEEDS, Batch, Student, answered, measure

ASSETS = Path(__file__).parent.parent / "assets"


def words(run: Path, minutes: float) -> None:
    """The language model alone. Few things, then many; short sequences, then whole pictures."""
    student = Student()
    modules = {key: student.modules()[key] for key in ("decoder", "head")}

    def step_loss(step: int, share: float) -> tuple[torch.Tensor, float]:
        first = SEEDS["words"] + 200 * step
        if share < 0.18:
            things = (1, 3) if share < 0.12 else (2, 6)
            batch = student.batch(first, 48, 1, lessons.FIRST, things, (0, 0), "short", thin=1)
            batch.positions = torch.arange(batch.ids.shape[1]).expand(len(batch.ids), -1)
        elif share < 0.3:
            batch = student.batch(first, 32, 2, lessons.SECOND, (2, 6), (0, 1), "short", thin=4)
        else:
            lot = random.Random(step).choices(lessons.DRILLS, [drill[0] for drill in lessons.DRILLS])[0]
            _, kinds, form, things, signs = lot
            batch = student.batch(first, 24, 4, kinds, things, signs, form, thin=4)
        visual = student.word_sums(batch.words)
        if share > 0.18:
            visual = visual + 0.15 * torch.randn_like(visual) * visual.detach().std()
        return student.loss(batch, visual, step, language=0.02 if share > 0.18 else 0.0)

    counter = {"reports": 0}

    def report() -> dict:
        counter["reports"] += 1
        return measure(student, pictures=False, size=10) if counter["reports"] % 6 == 0 else {}

    learn(run, "words", trained(modules), modules, minutes, 1e-3, step_loss, report, cool=False)


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
    places = student.modules()
    for stage in stages:
        path = run / f"{stage}.pt"
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing: run the stage {stage!r} first")
        state = torch.load(path, weights_only=True)
        for key in places.keys() & state.keys():
            places[key].load_state_dict(state[key])


def trained(modules: dict[str, nn.Module]) -> list[nn.Parameter]:
    return [p for module in modules.values() for p in module.parameters() if p.requires_grad]


def pull(found: torch.Tensor, words: torch.Tensor, student: Student) -> torch.Tensor:
    """Squared distance to the sums of the words' embeddings, as a share of their variance; empty patches weigh less."""
    goal = student.word_sums(words)
    named = (words != student.pad).sum(2)
    weight = torch.where(named > 3, 1.0, 0.1) * (named > 0)
    error = (found.float() - goal).square().mean(-1) / goal.var()
    return (error * weight).sum() / weight.sum()


def bridge(run: Path, minutes: float) -> None:
    """The projector, and the tower a little, put every patch on the sum of its words' embeddings."""
    student = Student()
    recall(student, run, "tower")
    modules = {key: student.modules()[key] for key in ("tower", "projector")}

    def step_loss(step: int, share: float) -> tuple[torch.Tensor, float]:
        scenes = [scene(SEEDS["bridge"] + 32 * step + k, things=(3, 12)) for k in range(32)]
        images = torch.stack([sight.pixels(draw(s)) for s in scenes])
        named = torch.tensor([lessons.patch_ids(s, student.tokens) for s in scenes])
        with torch.autocast("cpu", torch.bfloat16):
            found = student.seen(images)
        loss = pull(found, named, student)
        return loss, loss.item()

    learn(run, "bridge", trained(modules), modules, minutes, 1e-3, step_loss, lambda: {})


def tune(run: Path, minutes: float) -> None:
    """Language model and projector on real pictures: many questions a picture, or one as the benchmarks ask it."""
    student = Student()
    recall(student, run, "words", "bridge")
    modules = {key: student.modules()[key] for key in ("decoder", "head", "projector")}

    def step_loss(step: int, share: float) -> tuple[torch.Tensor, float]:
        first = SEEDS["tune"] + 100 * step
        size, n = (16, 1) if step % 4 == 3 else (8, 10)
        batch = student.batch(first, size, n, pictures=True)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            features = student.features(batch.images)
        visual = modules["projector"](features.float())
        return student.loss(batch, visual, step, language=0.02)

    counter = {"reports": 0}

    def report() -> dict:
        counter["reports"] += 1
        return measure(student, pictures=True, size=10) if counter["reports"] % 6 == 0 else {}

    learn(run, "tune", trained(modules), modules, minutes, 1e-3, step_loss, report)


def save(run: Path, minutes: float) -> None:
    student = Student()
    recall(student, run, "bridge", "tune")
    folder.write(student.model, student.tokens, [folder.processor(student.tokens)], ASSETS / "tiny-llava")


def video_bridge(run: Path, minutes: float) -> None:
    """Tower and projector of the tiny LLaVA get used to small frames, somewhat blurred as compressed films are."""
    student, viewer = Student(), Viewer()
    recall(student, run, "bridge")
    viewer.inherit(student)
    modules = {key: viewer.modules()[key] for key in ("tower", "projector")}

    def step_loss(step: int, share: float) -> tuple[torch.Tensor, float]:
        batch = viewer.clips(SEEDS["video_bridge"] + 8 * step, 8)
        with torch.autocast("cpu", torch.bfloat16):
            found = viewer.seen(batch.images + 0.05 * torch.randn_like(batch.images))
        loss = pull(found, batch.words, viewer)
        return loss, loss.item()

    learn(run, "video_bridge", trained(modules), modules, minutes, 5e-4, step_loss, lambda: {})


def video(run: Path, minutes: float) -> None:
    """The language model of the tiny LLaVA learns to watch clips."""
    viewer = Viewer()
    recall(viewer, run, "words", "video_bridge")
    modules = {key: viewer.modules()[key] for key in ("decoder", "head", "projector")}

    def loss_of(batch: Batch, step: int) -> tuple[torch.Tensor, float]:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            features = viewer.features(batch.images)
        return viewer.loss(batch, modules["projector"](features.float()), step, language=0.02)

    def step_loss(step: int, share: float) -> tuple[torch.Tensor, float]:
        return loss_of(viewer.clips(SEEDS["video"] + 10 * step, 10), step)

    @torch.no_grad()
    def report() -> dict:
        batch = viewer.clips(SEEDS["check"], 32)
        logits = viewer.model.lm_head(viewer.states(batch, viewer.seen(batch.images))[:, :-1])
        right = answered(batch, logits)
        return {"right": round(100 * sum(right) / len(right))}

    learn(run, "video", trained(modules), modules, minutes, 1e-3, step_loss, report)


def video_save(run: Path, minutes: float) -> None:
    viewer = Viewer()
    recall(viewer, run, "video_bridge", "video")
    inner = viewer.model.model
    # one size of picture serves both towers of the class; pictures were not trained on
    inner.image_tower.load_state_dict(inner.video_tower.state_dict())
    folder.write(viewer.model, viewer.tokens, [viewer.tokens, film.frames_processor()], ASSETS / "tiny-video-llava")


MINUTES = {"tower": 10, "words": 35, "bridge": 8, "tune": 15, "video_bridge": 4, "video": 20}

STAGES = {
    "tower": towers,
    "words": words,
    "bridge": bridge,
    "tune": tune,
    "save": save,
    "video_bridge": video_bridge,
    "video": video,
    "video_save": video_save,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=list(STAGES))
    parser.add_argument("--run", type=Path, required=True, help="folder for checkpoints and learning curves")
    parser.add_argument("--minutes", type=float, help="how long the stage learns, not counting what it measures")
    parser.add_argument("--threads", type=int, default=1)
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    flags.run.mkdir(parents=True, exist_ok=True)
    STAGES[flags.stage](flags.run, flags.minutes or MINUTES.get(flags.stage, 0))


if __name__ == "__main__":
    main()
