"""Questions for `smol` as a data root in GQA's layout, so that every command can ask them: one question a picture.

root = ensure()                       # made on first use, the same every time
python -m tiny.smol.data DIR --first 1500000000 --n 600 --padded 400

With `boxes` the root also holds RefCOCO's layout about the same pictures: an expression and the box that it means.
`smol` was never taught to answer with a box; the boxes say where the tokens that a method keeps should lie.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tiny.benchmarks import cached
from tiny.drawn.questions import Question, questions, referring
from tiny.drawn.scenes import Scene
from tiny.layouts.lots import Files
from tiny.layouts.media import grounded
from tiny.smol.world import KINDS, smol_scene

SIZES = {"ci": 12, "default": 240, "full": 960}  # how many questions
# First seeds. Training uses none of them, nor does the study in assets/studies/smol.toml.
HALVES = {"scored": 1_500_000_000, "heldout": 1_600_000_000}
STRUCTURE = {
    "colour": "query",
    "shape": "query",
    "size": "choose",
    "exist": "verify",
    "where": "choose",
    "count": "query",
}


def asked(
    first: int, n: int, padded: int = 0, things: tuple[int, int] = (2, 8), kinds: tuple[str, ...] = KINDS
) -> Iterator[tuple[Scene, Question]]:
    """n scenes from seed `first` on, with a question each; the kinds take turns, and `padded` scenes are no squares.

    A scene that cannot answer the kind whose turn it is is passed over, as squares are once there are enough of them.
    """
    seed, squares, done = first, 0, 0
    while done < n:
        scene = smol_scene(seed, things)
        drawn = questions(scene, seed, (kinds[done % len(kinds)],))
        seed += 1
        square = scene.cols == scene.rows
        if drawn and not (square and squares >= n - padded):
            yield scene, drawn[0]
            squares += square
            done += 1


def write(root: Path, first: int, n: int, padded: int = 0, boxes: bool = False, **how: Any) -> None:
    """Writes the questions below `root`, in pictures without loss; asked plainly, as they were taught.

    boxes: also an expression of every picture that has a thing with a name of its own, and its box.
    """
    files = Files(root=root)
    lines: list[dict[str, Any]] = []
    truth: dict[str, Any] = {}
    meant: list[dict[str, Any]] = []
    for scene, question in asked(first, n, padded, **how):
        name, key = f"s{scene.seed}.png", str(scene.seed)
        files.picture(scene, f"gqa/data/images/{name}")
        lines.append({"question_id": key, "image": name, "text": question.text, "category": "default"})
        truth[key] = {
            "question": question.text,
            "imageId": f"s{scene.seed}",
            "isBalanced": True,
            "answer": question.answer,
            "types": {"structural": STRUCTURE[question.kind], "semantic": question.kind, "detailed": question.kind},
            "semantic": [],
            "groups": {"global": question.kind, "local": question.kind},
            "boxes": [list(box) for box in question.boxes],
        }
        if boxes and (reference := referring(scene, 0, beside=0)):  # it knows things by their own names alone
            meant.append(grounded(f"gqa/data/images/{name}", scene.size, *reference))
    files.lines(lines, "gqa/llava_gqa_testdev_balanced.jsonl")
    files.json(truth, "gqa/data/testdev_balanced_questions.json")
    if boxes:
        files.lines(meant, "refcoco/refcoco_val.jsonl")


def ensure(size: str = "default", half: str = "scored", boxes: bool = False) -> Path:
    """The data root of one half, two thirds of its pictures padded; written if it is not there yet."""
    n = SIZES[size]
    name = f"smol-{size}-{half}{'-boxes' if boxes else ''}"
    return cached(name, lambda root: write(root, HALVES[half], n, padded=2 * n // 3, boxes=boxes))


def main() -> None:
    """Writes one data root."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="a new folder")
    parser.add_argument("--first", type=int, required=True, help="the first scene's seed")
    parser.add_argument("--n", type=int, required=True, help="how many questions")
    parser.add_argument("--padded", type=int, default=0, help="at least so many pictures that are not square")
    parser.add_argument("--boxes", action="store_true", help="also RefCOCO's layout: an expression and its box")
    flags = parser.parse_args()
    if flags.root.exists() and any(flags.root.iterdir()):
        raise SystemExit(f"{flags.root} holds files already; name an empty or a new folder")
    write(flags.root, flags.first, flags.n, flags.padded, flags.boxes)


if __name__ == "__main__":
    main()
