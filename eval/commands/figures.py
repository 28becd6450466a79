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
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from eval import benchmarks
from eval.answering.store import Folder, decode
from eval.comparing.results import questions, results
from eval.reading.images import open_image
from eval.reading.read import read_json
from eval.showing import cells, drawings
from eval.showing.figures import diagnosis_figures, run_figures, together
from eval.tables import say
from pruners.models.canvas import padded


def command(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], dict[str, Any]]:
    parser.add_argument(
        "sources", nargs="+", type=Path, metavar="RUN_OR_JSON", help="run folders; files of diagnose --out"
    )
    parser.add_argument("--out", type=Path, help="where the figures go (default: figures/ in the first run folder)")
    parser.add_argument("--layer", type=int, help="layer of a diagnosis (default: the one before FastV's cut)")
    parser.add_argument("--data", help="where the annotations are now, when they moved")
    parser.add_argument("--sample", metavar="KEY", help="draw what was kept of this question's picture, and only that")
    parser.add_argument("--arms", help="of --sample, with commas (default: all)")
    parser.add_argument(
        "--model", help="of --sample: the checkpoint, whose config says how it cuts pictures into tiles"
    )
    return work


def work(args: argparse.Namespace) -> dict[str, Any]:
    files = [path for path in args.sources if path.suffix == ".json"]
    folders = [path for path in args.sources if path.suffix != ".json"]
    out = args.out or ((folders[0] if folders else files[0].parent) / "figures")
    made: dict[str, Figure] = {}
    if args.sample is not None:
        arms = args.arms.split(",") if args.arms else None
        made[f"kept-{re.sub('[^A-Za-z0-9]+', '-', args.sample)[:60]}"] = kept(folders, args.sample, arms, args)
        folders = []
    for path in files:
        made |= diagnosis_figures(diagnosed(path), args.layer)
    runs = {path: results(Folder(path), args.data) for path in folders}
    for path, scored in runs.items():
        suffix = f"-{path.name}" if len(runs) > 1 else ""
        info = Folder(path).info()
        made |= {f"{name}{suffix}": figure for name, figure in run_figures(scored, info).items()}
    if len(runs) > 1:
        made |= together({path: (Folder(path).info(), scored) for path, scored in runs.items()})
    paths = [str(path) for name, figure in made.items() for path in drawings.save(figure, out / name)]
    say(f"{len(made)} figures, each as .svg and .png, are in {out}")
    return {"figures": paths}


def diagnosed(path: Path) -> dict[str, Any]:
    found: Any = read_json(path)
    known = isinstance(found, dict) and {"layers", "grid", "noise_floor"} <= found.keys()
    if not known or "trend" not in found["layers"][0]:
        raise ValueError(f"{path}: expected the result of a diagnosis, as `diagnose --out {path.name}` writes it")
    return dict(found)


def kept(folders: Sequence[Path], key: str, arms: Sequence[str] | None, args: argparse.Namespace) -> Figure:
    """One question's picture, as every run and arm left it."""
    panels: dict[str, dict[str, tuple[Any, str]]] = {}
    title = ""
    for path in folders:
        info = Folder(path).info()
        for name, facts in info["benchmarks"].items():
            for arm in Folder(path).arms(name):
                row = next((row for row in Folder(path).rows(name, arm) if row["metadata"]["key"] == key), None)
                if row is None or "size" not in row["metadata"] or (arms is not None and arm not in arms):
                    continue
                data = args.data or facts["data"]
                sample = next(one for one in questions(benchmarks.get(name), data, None, facts.get("options"))
                              if one.key == key)  # fmt: skip
                title = f"{name}: {sample.text.splitlines()[0]}"
                canvas = canvas_for(facts, args.model)(tuple(row["metadata"]["size"]))
                stayed = row["metadata"]["kept"][-1] if "kept" in row["metadata"] else None
                shown = drawings.overlay(open_image(sample), None if stayed is None else decode(stayed), canvas)
                panels.setdefault(path.name, {})[arm] = (shown, row["text"])
    if not panels:
        among = f" in the arms {', '.join(arms)}" if arms else ""
        raise ValueError(
            f"no run has an answer about a picture with the key {key!r}{among}; keys stand in the rows' metadata"
        )
    return drawings.overlays(panels, title)


def canvas_for(facts: Mapping[str, Any], model: str | None) -> Callable[[tuple[int, int]], Any]:
    """How pictures of a benchmark were cut: by a checkpoint's config, or as one padded square."""
    if model is not None:
        return cells.canvas_of(model, facts.get("max_patches"))
    side = math.isqrt(facts.get("tokens") or 0)
    if side * side != facts.get("tokens"):
        raise ValueError(
            "the run does not say how its model cuts pictures into tokens; name the checkpoint with --model"
        )
    return lambda size: padded(size, side)
