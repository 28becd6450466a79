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
from tiny.drawn.drawing import draw
from tiny.drawn.scenes import scene
from tiny.model import PATCH
from tiny.model import tower as tower_config
from tiny.training import film, learning, lessons, sight
from tiny.training.curriculum import Curriculum
from tiny.training.film import Viewer
from tiny.training.learning import learn
from tiny.training.student import SEEDS, Batch, Student

SHARP = 10.0  # of the vectors by which names are told apart
EASY, DRILL = 0.7, 0.7  # a skill that is known less well is drilled in so many batches
SETTLE = 0.6  # of the last stage: from there on all skills are asked alike, about whole pictures
ASSETS = Path(__file__).parent.parent / "assets"


def words(run: Path, steps: int, device: str) -> None:
    """The language model alone, on few things in short sequences, then on more; whole pictures are left to `tune`."""
    student, curriculum = Student(device), Curriculum(lessons.SKILLS)
    modules = {key: student.modules()[key] for key in ("decoder", "head")}

    def material(step: int, share: float) -> tuple[Batch, torch.Tensor]:
        batch = lesson(student, curriculum, SEEDS["words"] + 700 * step, random.Random(step), whole=0)
        visual = word_sums(student, batch, noisy=curriculum.ready(*lessons.FIRST))
        return batch, visual

    teach(run, "words", student, curriculum, modules, steps, material, cool=False)


def word_sums(student: Student, batch: Batch, noisy: bool) -> torch.Tensor:
    """Patches as the bridge will make them: near the sums of their words' embeddings."""
    visual = student.word_sums(batch.words)
    return visual + 0.15 * torch.randn_like(visual) * visual.detach().std() if noisy else visual


def teach(
    run: Path,
    stage: str,
    student: Student,
    curriculum: Curriculum,
    modules: dict[str, nn.Module],
    steps: int,
    material: Callable[[int, float], tuple[Batch, torch.Tensor]],
    cool: bool = True,
) -> None:
    """A stage of the language model: `material` gives a step's batch and its visual tokens."""

    def step_loss(step: int, share: float) -> tuple[torch.Tensor, float]:
        batch, visual = material(step, share)
        loss, shown, right = student.loss(batch, visual, step, language=0.02)
        curriculum.learn(batch.skills, right)
        return loss, shown

    kept = modules | {"curriculum": curriculum}
    learn(run, stage, trained(modules), kept, steps, 1e-3, step_loss, curriculum.report, cool=cool)


def lesson(
    student: Student, curriculum: Curriculum, first: int, lot: random.Random, whole: float, pictures: bool = False
) -> Batch:
    """The next batch: `whole` is the share of batches that show every patch and ask much."""
    weights = curriculum.weights()
    if not curriculum.ready(*lessons.FIRST):
        return student.batch(first, 64, 1, weights, (1, 3), (0, 0), thin=1, pictures=pictures)
    if lot.random() < whole:
        return student.batch(first, 8, 10, weights, pictures=pictures)
    focus = curriculum.focus
    if focus and curriculum.accuracy[focus] < EASY and lot.random() < DRILL:
        # nothing but the new skill, where little stands: there is little to mistake anything for
        skill = lessons.SKILLS[focus]
        things, signs = ((0, 0), (1, 2)) if skill.signs else ((skill.things, skill.things + 2), (0, 0))
        return student.batch(first, 64, 2, {focus: 1.0}, things, signs, thin=1, pictures=pictures)
    things, signs = lot.choice((((1, 4), (0, 1)), ((2, 6), (0, 2)), ((3, 9), (0, 1)), ((0, 4), (1, 2))))
    return student.batch(first, 28, 4, weights, things, signs, thin=lot.choice((1, 4, 16)), pictures=pictures)


def towers(run: Path, steps: int, device: str) -> None:
    """The vision tower learns to name patches."""
    torch.manual_seed(0)
    tower = CLIPVisionModel(tower_config(tokenizer.PATCHES * PATCH))
    check = sight.batch(SEEDS["check"], 64, device)
    sight.teach(run, tower, steps, 1.5e-3, lambda step: sight.batch(SEEDS["tower"] + 64 * step, 64, device), check)


def recall(student: Student, run: Path, *stages: str) -> None:
    """Puts the results of earlier stages into the student."""
    learning.recall(student.modules(), run, *stages, device=student.device)


def trained(modules: dict[str, nn.Module]) -> list[nn.Parameter]:
    return [p for module in modules.values() for p in module.parameters() if p.requires_grad]


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
    recall(student, run, "tower")
    modules = {key: student.modules()[key] for key in ("tower", "projector")}
    check = sight.batch(SEEDS["check"], 64, device)

    def step_loss(step: int, share: float) -> tuple[torch.Tensor, float]:
        scenes = [scene(SEEDS["bridge"] + 32 * step + k, things=(3, 12), signs=(1, 3)) for k in range(32)]
        images = torch.stack([sight.pixels(draw(s)) for s in scenes]).to(device)
        words = torch.tensor([lessons.patch_ids(s, student.tokens) for s in scenes], device=device)
        truth = torch.tensor([sight.targets(s) for s in scenes], device=device)
        with torch.autocast(device, torch.bfloat16):
            seen = student.seen(images)
        loss = pull(seen, words, student) + 0.1 * naming(name_logits(seen, student), truth)
        return loss, loss.item()

    @torch.no_grad()
    def report() -> dict[str, float]:
        return sight.accuracy(name_logits(student.seen(check[0]), student), check[1])

    learn(run, "bridge", trained(modules), modules, steps, 1e-3, step_loss, report)


def united(student: Student, curriculum: Curriculum, run: Path, words: str, bridge: str) -> dict[str, nn.Module]:
    """Language model, curriculum and projector as two stages left them; what learns when they are put together."""
    recall(student, run, words, bridge)
    curriculum.load_state_dict(torch.load(run / f"{words}.pt", weights_only=True)["curriculum"])
    return {key: student.modules()[key] for key in ("decoder", "head", "projector")}


def tune(run: Path, steps: int, device: str) -> None:
    """Language model and projector on real pictures; the tower stays as it is."""
    student, curriculum = Student(device), Curriculum(lessons.SKILLS)
    modules = united(student, curriculum, run, "words", "bridge")

    def material(step: int, share: float) -> tuple[Batch, torch.Tensor]:
        first, lot = SEEDS["tune"] + 700 * step, random.Random(step)
        if share < SETTLE:
            batch = lesson(student, curriculum, first, lot, whole=0.3, pictures=True)
        else:
            size, n = lot.choice(((8, 10), (16, 1)))
            batch = student.batch(first, size, n, curriculum.everything(), pictures=True)
        visual = seen(student, modules["projector"], batch)
        return batch, visual

    teach(run, "tune", student, curriculum, modules, steps, material)


def seen(student: Student, projector: nn.Module, batch: Batch) -> torch.Tensor:
    """What the frozen tower and the projector make of the patches that are in the batch."""
    with torch.no_grad(), torch.autocast(student.device, torch.bfloat16):
        features = student.features(batch.pictures)
    if batch.index is not None:
        features = features.gather(1, batch.index[..., None].expand(-1, -1, features.shape[2]))
    projected: torch.Tensor = projector(features.float())
    return projected


def save(run: Path, steps: int, device: str, to: Path | None = None) -> None:
    student = Student(device)
    recall(student, run, "bridge", "tune")
    folder.write(student.model, student.tokens, [folder.processor(student.tokens)], (to or ASSETS) / "tiny-llava")


def video_bridge(run: Path, steps: int, device: str) -> None:
    """Tower and projector of the tiny LLaVA get used to small frames, somewhat blurred as compressed films are."""
    student, viewer = Student(device), Viewer(device)
    recall(student, run, "bridge")
    viewer.inherit(student)
    modules = {key: viewer.modules()[key] for key in ("tower", "projector")}

    def step_loss(step: int, share: float) -> tuple[torch.Tensor, float]:
        batch = viewer.clips(SEEDS["video_bridge"] + 8 * step, 8)
        with torch.autocast(device, torch.bfloat16):
            seen = viewer.seen(batch.pictures + 0.05 * torch.randn_like(batch.pictures))
        loss = pull(seen, batch.words, viewer)
        return loss, loss.item()

    learn(run, "video_bridge", trained(modules), modules, steps, 5e-4, step_loss, lambda: {})


def clips(
    viewer: Viewer, curriculum: Curriculum, first: int, lot: random.Random, whole: float, pictures: bool
) -> Batch:
    """The next batch of clips, as `lesson` has it for scenes."""
    weights = curriculum.weights()
    if not curriculum.ready("frame"):
        return viewer.clips(first, 48, 1, weights, 1, pictures)
    if lot.random() < whole:
        return viewer.clips(first, 8, 6, weights, None, pictures)
    return viewer.clips(first, 24, 4, weights, lot.choice((1, 8, 32)), pictures)


def video_words(run: Path, steps: int, device: str) -> None:
    """The language model learns to watch clips, given as sums of word embeddings."""
    viewer, curriculum = Viewer(device), Curriculum(lessons.CLIP_SKILLS)
    recall(viewer, run, "words")
    modules = {key: viewer.modules()[key] for key in ("decoder", "head")}

    def material(step: int, share: float) -> tuple[Batch, torch.Tensor]:
        first, whole = SEEDS["video_words"] + 500 * step, 0.4 * (share > 0.7)
        batch = clips(viewer, curriculum, first, random.Random(step), whole, pictures=False)
        visual = word_sums(viewer, batch, noisy=curriculum.ready("frame"))
        return batch, visual

    teach(run, "video_words", viewer, curriculum, modules, steps, material, cool=False)


def video(run: Path, steps: int, device: str) -> None:
    """Language model and projector on real clips."""
    viewer, curriculum = Viewer(device), Curriculum(lessons.CLIP_SKILLS)
    modules = united(viewer, curriculum, run, "video_words", "video_bridge")

    def material(step: int, share: float) -> tuple[Batch, torch.Tensor]:
        first = SEEDS["video"] + 500 * step
        if share < SETTLE:
            batch = clips(viewer, curriculum, first, random.Random(step), whole=0.4, pictures=True)
        else:
            batch = viewer.clips(first, 8, 6, curriculum.everything())
        visual = seen(viewer, modules["projector"], batch)
        return batch, visual

    teach(run, "video", viewer, curriculum, modules, steps, material)


def video_save(run: Path, steps: int, device: str, to: Path | None = None) -> None:
    viewer = Viewer(device)
    recall(viewer, run, "video_bridge", "video")
    inner = viewer.model.model
    # one size of picture serves both towers of the class; pictures were not trained on
    inner.image_tower.load_state_dict(inner.video_tower.state_dict())
    parts = [viewer.tokens, film.frames_processor()]
    folder.write(viewer.model, viewer.tokens, parts, (to or ASSETS) / "tiny-video-llava")


STEPS = {
    "tower": 1100,
    "words": 8600,
    "bridge": 3000,
    "tune": 3850,
    "video_words": 1300,
    "video_bridge": 500,
    "video": 900,
}

STAGES: dict[str, Callable[..., None]] = {
    "tower": towers,
    "words": words,
    "bridge": bridge,
    "tune": tune,
    "save": save,
    "video_words": video_words,
    "video_bridge": video_bridge,
    "video": video,
    "video_save": video_save,
}


def everything(run: Path, steps: int, device: str, to: Path | None = None) -> None:
    """All stages in order; a stage that is through already is left as it is."""
    for stage, work in STAGES.items():
        print(f"{stage}: begins", flush=True)
        work(run, steps or STEPS.get(stage, 0), device, **({"to": to} if stage.endswith("save") else {}))
    print("all stages are through", flush=True)


def main() -> None:
    parser = learning.command(__doc__, [*STAGES, "all"])
    parser.add_argument("--to", type=Path, help="where save and video_save write to, instead of assets/")
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    flags.run.mkdir(parents=True, exist_ok=True)
    if flags.stage == "all":
        return everything(flags.run, flags.steps or 0, flags.device, flags.to)
    steps, written = flags.steps or STEPS.get(flags.stage, 0), {"to": flags.to} if flags.stage.endswith("save") else {}
    STAGES[flags.stage](flags.run, steps, flags.device, **written)


if __name__ == "__main__":
    main()
