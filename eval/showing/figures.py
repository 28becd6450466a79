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
from eval.comparing.results import Scored, results
from eval.reading.images import open_image
from eval.reading.read import read_json
from eval.showing import cells, charts, drawings
from eval.tables import say


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
    found = read_json(path)
    if (
        not isinstance(found, dict)
        or not {"layers", "grid", "noise_floor"} <= found.keys()
        or "trend" not in found["layers"][0]
    ):
        raise ValueError(f"{path}: expected the result of a diagnosis, as `diagnose --out {path.name}` writes it")
    return found


def diagnosis_figures(result: Mapping[str, Any], layer: int | None) -> dict[str, Figure]:
    layers = {entry["layer"]: entry for entry in result["layers"]}
    if layer is None:
        layer = 1 if 1 in layers else next(iter(layers))
    if layer not in layers:
        raise ValueError(f"the diagnosis has no layer {layer}; it has {', '.join(map(str, layers))}")
    curves, grid = layers[layer]["curves"], tuple(result["grid"])
    made = {
        "attention-maps": drawings.maps(curves, grid, f"Mean attention of layer {layer}"),
        "attention-trends": drawings.trends(
            curves, f"Attention by position, layer {layer}", layers[layer]["trend"]["found"]
        ),
        "attention-layers": drawings.layers(result["layers"], result["noise_floor"]),
    }
    if result["layers"][0]["fit_error"]:  # there are pictures enough
        made["fit-error"] = drawings.fit_errors(result["layers"])
    if "heads" in layers[layer]:
        made["attention-heads"] = drawings.heads(result["layers"])
    return made


def run_figures(scored: Sequence[Scored], info: Mapping[str, Any]) -> dict[str, Figure]:
    """Of one run. Where tokens lie is drawn for models that see one padded square."""
    tokens = {info["benchmarks"][one.benchmark.name].get("tokens") for one in scored if one.benchmark.media == "image"}
    squares = [one for one in scored if one.benchmark.media == "image"]
    rows = [row for one in squares for arm in one.arms.values() for row in arm.rows
            if {"kept", "size", "arm"} <= row["metadata"].keys()]  # fmt: skip
    made = {"scores": charts.dots(points(scored))}
    side = math.isqrt(next(iter(tokens)) or 0) if len(tokens) == 1 else 0
    if rows and side and {side * side} == tokens:
        made["selection-frequency"] = drawings.frequency(rows, side)
    return made


def points(scored: Sequence[Scored]) -> dict[str, dict[str, float]]:
    """benchmark -> arm -> value on the scale of 100."""
    from eval.comparing.contrast import scale

    return {
        one.benchmark.name: {arm: result.score.value / scale(one.benchmark.name) for arm, result in one.arms.items()}
        for one in scored
    }


def together(runs: Mapping[Path, tuple[Mapping[str, Any], list[Scored]]]) -> dict[str, Figure]:
    """What takes several runs: methods against each other, budgets against each other."""
    means: dict[str, dict[str, float]] = {}
    ratios: dict[int, float] = {}
    references: dict[str, float] = {}
    budgets: dict[str, dict[str, list[tuple[float, float]]]] = {}
    unpruned = None
    for path, (info, scored) in runs.items():
        setting = str(info["settings"]["method"])
        method = setting.split("(")[0]
        label = f"{method}\n{path.name}" if method in means else method
        for arm, (value, tokens) in arm_points(scored).items():
            if arm == "unpruned":
                unpruned = value
                continue
            means.setdefault(label, {})[arm] = value
            if arm == "none" and (found := re.search(r"Scores\(kind='(\w+)', shallow=(\d+)", setting)):
                if found[1] == "ratio":
                    ratios[int(found[2])] = value
                else:
                    references[path.name] = value
            if tokens is not None:
                budgets.setdefault(method, {}).setdefault(arm, []).append((tokens, value))
    made: dict[str, Figure] = {}
    methods = {name: by_arm for name, by_arm in means.items() if {"none", "both"} <= set(by_arm)}
    if len(methods) >= 3 and not any("\n" in name for name in methods):  # one run each
        made["radar"] = charts.radar(methods)
    if any(len(line) > 1 for arms in budgets.values() for line in arms.values()):
        made["budget"] = charts.budget(budgets, unpruned)
    if len(ratios) > 1:
        made["ratio"] = charts.ratio(ratios, references)
    return made


def arm_points(scored: Sequence[Scored]) -> dict[str, tuple[float, float | None]]:
    """arm -> mean score, and the mean number of visual tokens that a layer sees."""
    values, out = points(scored), {}
    for arm in dict.fromkeys(arm for by_arm in values.values() for arm in by_arm):
        there = [by_arm[arm] for by_arm in values.values() if arm in by_arm]
        tokens = [one.arms[arm].tokens for one in scored if arm in one.arms]
        known = [count for count in tokens if count is not None]
        out[arm] = sum(there) / len(there), sum(known) / len(known) if known else None
    return out


def kept(folders: Sequence[Path], key: str, arms: Sequence[str] | None, args: argparse.Namespace) -> Figure:
    """One question's picture, as every run and arm left it."""
    from eval.comparing.results import questions

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
    return lambda size: cells.padded(size, side)
