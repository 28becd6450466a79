"""Draw the figures of a run, a diagnosis or several runs: each an .svg and a .png, from stored numbers alone.

examples:
  python -m eval figures runs/fastv                        where kept tokens lie, by aspect ratio; scores of the arms
  python -m eval figures runs/fastv runs/pyramiddrop ...   also the radar of methods
  python -m eval figures runs/fastv-16 runs/fastv-32 ...   also accuracy against budget
  python -m eval figures runs/reproduce/ratio/*            also what dividing by a shallow layer does
  python -m eval figures RUN [RUN ...] --sample KEY        what each run and arm kept of one question's picture
  python -m eval figures diagnosis.json --layer 1          mean attention maps and trends (from `diagnose --out`)
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from eval.answering.store import Folder
from eval.core.tables import say


def arguments(parser: argparse.ArgumentParser) -> None:
    """The runs and diagnoses to draw, and where the figures go."""
    add = parser.add_argument
    add("sources", nargs="+", type=Path, metavar="RUN_OR_JSON", help="run folders; files of diagnose --out")
    add("--out", type=Path, help="where the figures go (default: figures/ in the first run folder)")
    add("--layer", type=int, help="layer of a diagnosis (default: the layer before FastV's cut)")
    add("--data", help="where the annotations are now, when they moved")
    add("--sample", metavar="KEY", help="draw what was kept of this question's picture, and only that")
    add("--arms", help="of --sample, with commas (default: all)")
    add("--model", help="of --sample: the checkpoint, whose config says how it cuts pictures into tiles")


def work(args: argparse.Namespace) -> dict[str, Any]:
    """Draws the figures; returns their paths."""
    files = [path for path in args.sources if path.suffix == ".json"]
    folders = [path for path in args.sources if path.suffix != ".json"]
    for path in folders:
        Folder(path).info()

    from eval.showing import drawings, figures, kept

    out = args.out or ((folders[0] if folders else files[0].parent) / "figures")
    made: dict[str, Any] = {}
    if args.sample is not None:
        arms = args.arms.split(",") if args.arms else None
        made[kept.name(args.sample)] = kept.kept(folders, args.sample, arms, args.data, args.model)
        folders = []
    for path in files:
        made |= figures.diagnosis_figures(figures.diagnosis(path), args.layer)
    made |= figures.of_runs(folders, args.data)
    paths = [str(path) for name, figure in made.items() for path in drawings.save(figure, out / name)]
    say(f"{len(made)} figures, each as .svg and .png, are in {out}")
    return {"figures": paths}
