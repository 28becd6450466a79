"""Trains the tiny models in stages, as LLaVA is trained. Every stage can be stopped and started again.

python -m tiny.train tower --run DIR          # 0: the vision tower learns to name patches
python -m tiny.train words --run DIR          # 1: the language model, on scenes given as sums of word embeddings
python -m tiny.train bridge --run DIR         # 2: the projector puts a patch on the sum of its words' embeddings
python -m tiny.train tune --run DIR           # 3: language model and projector on real pictures
python -m tiny.train save --run DIR           # writes assets/tiny-llava
and video_words, video_bridge, video, video_save likewise; all: every stage in order
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPVisionModel

from tiny import folder, meanings, tokenizer
from tiny.drawn.scenes import scene
from tiny.model import PATCH
from tiny.model import tower as tower_config
from tiny.training import film, learning, lessons, sight
from tiny.training.curriculum import Curriculum
from tiny.training.film import Viewer
from tiny.training.learning import learn
from tiny.training.student import SEEDS, LessonBatch, Student

SHARP = 10.0  # of the vectors by which names are told apart
SETTLE = 0.6  # of the last stage: from there on all skills are asked alike, about whole pictures
ASSETS = Path(__file__).parent.parent / "assets"


def on_words(run: Path, stage: str, student: Student, steps: int, whole: Callable[[float], float]) -> None:
    """The language model alone, on what patches are named by. `whole`: the share of batches that show every patch, by
    the share of the steps that are done."""
    curriculum = Curriculum(student.skills)
    modules = {key: student.modules()[key] for key in ("decoder", "head")}

    def material(step: int, share: float) -> tuple[LessonBatch, torch.Tensor]:
        batch = student.lesson(curriculum, SEEDS[stage] + student.seeds * step, random.Random(step), whole(share))
        visual = student.word_sums(batch.words)
        if curriculum.ready(*student.basics):  # the bridge will put patches near these sums, not on them
            visual = visual + 0.15 * torch.randn_like(visual) * visual.detach().std()
        return batch, visual

    teach(run, stage, student, curriculum, modules, steps, material, cool=False)


def words(run: Path, steps: int, device: str) -> None:
    """The language model alone, on few things in short sequences, then on more; whole pictures are left to `tune`."""
    on_words(run, "words", Student(device), steps, lambda share: 0.0)


def video_words(run: Path, steps: int, device: str) -> None:
    """The language model learns to watch clips, given as sums of word embeddings."""
    viewer = Viewer(device)
    learning.recall(viewer, run, "words")
    on_words(run, "video_words", viewer, steps, lambda share: 0.4 * (share > 0.7))


def on_pictures(run: Path, stage: str, student: Student, steps: int, whole: float, earlier: tuple[str, str]) -> None:
    """Language model and projector as two earlier stages left them, put together on real pictures or clips; the tower
    stays as it is. `whole`: the share of batches that show every patch."""
    curriculum = Curriculum(student.skills)
    learning.recall(student, run, *earlier)
    curriculum.load_state_dict(torch.load(run / f"{earlier[0]}.pt", weights_only=True)["curriculum"])
    modules = {key: student.modules()[key] for key in ("decoder", "head", "projector")}

    def material(step: int, share: float) -> tuple[LessonBatch, torch.Tensor]:
        first, lot = SEEDS[stage] + student.seeds * step, random.Random(step)
        if share < SETTLE:
            batch = student.lesson(curriculum, first, lot, whole, pictures=True)
        else:
            size, n = lot.choice(student.settled)
            batch = student.batch(first, size, n, curriculum.everything(), pictures=True)
        with torch.no_grad(), torch.autocast(student.device, torch.bfloat16):
            features = student.features(batch.pictures)
        if batch.index is not None:
            features = features.gather(1, batch.index[..., None].expand(-1, -1, features.shape[2]))
        return batch, modules["projector"](features.float())

    teach(run, stage, student, curriculum, modules, steps, material)


def tune(run: Path, steps: int, device: str) -> None:
    """Language model and projector on real pictures."""
    on_pictures(run, "tune", Student(device), steps, 0.3, ("words", "bridge"))


def video(run: Path, steps: int, device: str) -> None:
    """Language model and projector on real clips."""
    on_pictures(run, "video", Viewer(device), steps, 0.4, ("video_words", "video_bridge"))


def teach(
    run: Path,
    stage: str,
    student: Student,
    curriculum: Curriculum,
    modules: dict[str, nn.Module],
    steps: int,
    material: Callable[[int, float], tuple[LessonBatch, torch.Tensor]],
    cool: bool = True,
) -> None:
    """A stage of the language model: `material` gives a step's batch and its visual tokens."""

    def step_loss(step: int, share: float) -> tuple[torch.Tensor, float]:
        batch, visual = material(step, share)
        loss, shown, right = student.loss(batch, visual, step, language=0.02)
        curriculum.learn(batch.skills, right)
        return loss, shown

    kept = modules | {"curriculum": curriculum}
    learn(run, stage, kept, steps, 1e-3, step_loss, curriculum.report, cool=cool)


def towers(run: Path, steps: int, device: str) -> None:
    """The vision tower learns to name patches."""
    torch.manual_seed(0)
    tower = CLIPVisionModel(tower_config(tokenizer.PATCHES * PATCH))
    check = sight.batch(SEEDS["check"], 64, device)
    sight.teach(run, tower, steps, 1.5e-3, lambda step: sight.batch(SEEDS["tower"] + 64 * step, 64, device), check)


def pull(seen: torch.Tensor, words: torch.Tensor, student: Student) -> torch.Tensor:
    """Squared distance to the sums of the words' embeddings, as a share of their variance; empty patches weigh less."""
    goal = student.word_sums(words)
    named = (words != student.pad).sum(2)
    weight = torch.where(named > 5, 1.0, 0.1) * (named > 0)
    error = (seen.float() - goal).square().mean(-1) / goal.var()
    loss: torch.Tensor = (error * weight).sum() / weight.sum()
    return loss


def name_logits(seen: torch.Tensor, student: Student) -> list[torch.Tensor]:
    """How near every patch is to the vector of each name, group by group, as `sight.Names` has it."""
    near = []
    for group, values in sight.GROUPS.items():
        named = meanings.numbers(group, student.tokens)
        logits = SHARP * seen.float() @ student.vectors[named].T
        near.append(F.pad(logits, (len(values) - len(named), 0), value=-torch.inf))
    return near


def naming(near: list[torch.Tensor], truth: torch.Tensor) -> torch.Tensor:
    """Cross entropy of the names that are there, each group alike: squared distance forgets rare ones (characters)."""
    parts = []
    for k, values in enumerate(sight.GROUPS.values()):
        there = (truth[..., k] > 0) | bool(values[0])
        parts.append(F.cross_entropy(near[k][there], truth[..., k][there]))
    return torch.stack(parts).sum()


def bridge(run: Path, steps: int, device: str) -> None:
    """The projector, and the tower a little, put every patch on the sum of its words' embeddings."""
    student = Student(device)
    learning.recall(student, run, "tower")
    modules = {key: student.modules()[key] for key in ("tower", "projector")}
    check = sight.batch(SEEDS["check"], 64, device)

    def step_loss(step: int, share: float) -> tuple[torch.Tensor, float]:
        scenes = [scene(SEEDS["bridge"] + 32 * step + k, things=(3, 12), signs=(1, 3)) for k in range(32)]
        words = torch.tensor([lessons.word_ids(lessons.patch_words(s), student.tokens) for s in scenes], device=device)
        images, truth = sight.shown(scenes, device)
        with torch.autocast(device, torch.bfloat16):
            seen = student.seen(images)
        loss = pull(seen, words, student) + 0.1 * naming(name_logits(seen, student), truth)
        return loss, loss.item()

    @torch.no_grad()
    def report() -> dict[str, float]:
        return sight.accuracy(name_logits(student.seen(check[0]), student), check[1])

    learn(run, "bridge", modules, steps, 1e-3, step_loss, report)


def save(run: Path, device: str, to: Path) -> None:
    """Writes the model of pictures into a folder below `to`."""
    student = Student(device)
    learning.recall(student, run, "bridge", "tune")
    folder.write(student.model, student.tokens, [folder.processor(student.tokens)], to / "tiny-llava")


def video_bridge(run: Path, steps: int, device: str) -> None:
    """Tower and projector of the tiny LLaVA get used to small frames, somewhat blurred as compressed films are."""
    student, viewer = Student(device), Viewer(device)
    learning.recall(student, run, "bridge")
    viewer.inherit(student)
    modules = {key: viewer.modules()[key] for key in ("tower", "projector")}

    def step_loss(step: int, share: float) -> tuple[torch.Tensor, float]:
        batch = viewer.batch(SEEDS["video_bridge"] + 8 * step, 8, 6, pictures=True)
        with torch.autocast(device, torch.bfloat16):
            seen = viewer.seen(batch.pictures + 0.05 * torch.randn_like(batch.pictures))
        loss = pull(seen, batch.words, viewer)
        return loss, loss.item()

    learn(run, "video_bridge", modules, steps, 5e-4, step_loss, lambda: {})


def video_save(run: Path, device: str, to: Path) -> None:
    """Writes the model of clips into a folder below `to`."""
    viewer = Viewer(device)
    learning.recall(viewer, run, "video_bridge", "video")
    inner = viewer.model.model
    # one size of picture serves both towers of the class; pictures were not trained on
    inner.image_tower.load_state_dict(inner.video_tower.state_dict())
    parts = [viewer.tokens, film.frames_processor()]
    folder.write(viewer.model, viewer.tokens, parts, to / "tiny-video-llava")


# what each stage does, and in how many steps
STAGES: dict[str, tuple[Callable[[Path, int, str], None], int]] = {
    "tower": (towers, 1100),
    "words": (words, 8600),
    "bridge": (bridge, 3000),
    "tune": (tune, 3850),
    "video_words": (video_words, 1300),
    "video_bridge": (video_bridge, 500),
    "video": (video, 900),
}
WRITTEN: dict[str, Callable[[Path, str, Path], None]] = {"save": save, "video_save": video_save}


def main() -> None:
    """Runs one stage, or all in order; a stage that is through already is left as it is."""
    parser = learning.command(__doc__, [*STAGES, *WRITTEN, "all"])
    parser.add_argument("--to", type=Path, default=ASSETS, help="where save and video_save write to (default: assets/)")
    flags = learning.begun(parser)
    for stage in [*STAGES, *WRITTEN] if flags.stage == "all" else [flags.stage]:
        print(f"{stage}: begins", flush=True)
        if stage in WRITTEN:
            WRITTEN[stage](flags.run, flags.device, flags.to)
        else:
            work, steps = STAGES[stage]
            work(flags.run, flags.steps or steps, flags.device)


if __name__ == "__main__":
    main()
