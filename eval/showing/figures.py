"""The figures of a run, of a diagnosis, or of several runs, from stored numbers alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from eval.answering.store import Folder
from eval.bias.strength import Measured
from eval.reading.read import read_json
from eval.scoring.contrast import alone, mean, scale
from eval.scoring.results import Scored, results
from eval.showing import charts, drawings
from eval.showing.cells import square
from pruners import catalogue


def of_runs(folders: Sequence[Path], data: str | None = None) -> dict[str, Figure]:
    """Of run folders: each one's own figures, and those that take several. data: where annotations are now."""
    runs = {path: (Folder(path).info(), results(Folder(path), data)) for path in folders}
    made: dict[str, Figure] = {}
    for path, (info, scored) in runs.items():
        suffix = f"-{path.name}" if len(runs) > 1 else ""
        made |= {f"{name}{suffix}": figure for name, figure in run_figures(scored, info).items()}
    return made | together(runs) if len(runs) > 1 else made


def diagnosis(path: Path) -> dict[str, Any]:
    """What `diagnose --out` wrote."""
    value: Any = read_json(path)
    known = isinstance(value, dict) and {"layers", "grid", "noise_floor"} <= value.keys()
    if not known or "trend" not in value["layers"][0]:
        raise ValueError(f"{path}: expected the result of a diagnosis, as `diagnose --out {path.name}` writes it")
    return dict(value)


def diagnosis_figures(result: Mapping[str, Any], layer: int | None) -> dict[str, Figure]:
    """The figures of a diagnosis by name; maps and trends of one layer (None: the layer before FastV's cut)."""
    layers = {entry["layer"]: entry for entry in result["layers"]}
    if layer is None:
        layer = 1 if 1 in layers else next(iter(layers))
    if layer not in layers:
        raise ValueError(f"the diagnosis has no layer {layer}; it has {', '.join(map(str, layers))}")
    curves, grid = layers[layer]["curves"], tuple(result["grid"])
    kept = layers[layer]["trend"]["found"]
    made = {
        "attention-maps": drawings.maps(curves, grid, f"Mean attention of layer {layer}", kept),
        "attention-trends": drawings.trends(curves, f"Attention by position, layer {layer}", kept),
        "attention-layers": drawings.layers(result["layers"], result["noise_floor"]),
    }
    if result["layers"][0]["fit_error"]:  # there are pictures enough
        made["fit-error"] = drawings.fit_errors(result["layers"])
    if "heads" in layers[layer]:
        made["attention-heads"] = drawings.heads(result["layers"])
    return made


def run_figures(scored: Sequence[Scored], info: Mapping[str, Any]) -> dict[str, Figure]:
    """Of one run. Where tokens lie is drawn for models that see one padded square."""
    squares = [entry for entry in scored if entry.benchmark.media == "image"]
    sides = {square(info["benchmarks"][entry.benchmark.name].get("tokens")) for entry in squares}
    rows = [row for entry in squares for arm in entry.arms.values() for row in arm.rows
            if {"kept", "size", "arm"} <= row["metadata"].keys()]  # fmt: skip
    made = {"scores": charts.dots(measured(scored))}
    if rows and len(sides) == 1 and all(sides):
        made["selection-frequency"] = drawings.frequency(rows, *sides)
    return made


def method_of(info: Mapping[str, Any]) -> str:
    """The name of a run's method, without its fields; a method that is not here any more keeps the name it had."""
    name = str(info["settings"]["method"]).partition("(")[0]
    try:
        return catalogue.title(name)
    except ValueError:
        return name


def measured(scored: Sequence[Scored]) -> dict[str, dict[str, Measured]]:
    """benchmark -> arm -> value on the scale of 100, with its 95 % interval."""
    by_benchmark: dict[str, dict[str, Measured]] = {}
    for entry in scored:
        shrink = scale(entry.benchmark.name)
        for arm, result in entry.arms.items():
            value, low, high = alone(entry.benchmark, entry.samples, result)
            by_benchmark.setdefault(entry.benchmark.name, {})[arm] = value / shrink, low / shrink, high / shrink
    return by_benchmark


def together(runs: Mapping[Path, tuple[Mapping[str, Any], list[Scored]]]) -> dict[str, Figure]:
    """Figures that need several runs: methods against each other, budgets against each other."""
    means: dict[str, dict[str, float]] = {}
    ratios: dict[int, float] = {}
    references: dict[str, float] = {}
    budgets: dict[str, dict[str, list[tuple[float, float]]]] = {}
    unpruned = None
    for path, (info, scored) in runs.items():
        setting, method = str(info["settings"]["method"]), method_of(info)
        label = f"{method}\n{path.name}" if method in means else method
        for arm, (value, tokens) in arm_points(scored).items():
            if arm == "unpruned":
                unpruned = value
                continue
            means.setdefault(label, {})[arm] = value
            if arm == "none" and (match := re.search(r"Scores\(kind='(\w+)', shallow=(\d+)", setting)):
                if match[1] == "ratio":
                    ratios[int(match[2])] = value
                else:
                    references[path.name] = value
            if tokens is not None:
                budgets.setdefault(method, {}).setdefault(arm, []).append((tokens, value))
    made: dict[str, Figure] = {}
    methods = {name: by_arm for name, by_arm in means.items() if {"none", "both"} <= set(by_arm)}
    if len(methods) >= 3 and not any("\n" in name for name in methods):  # one run each
        made["radar"] = charts.radar(methods)
    if any(len({tokens for tokens, _ in line}) > 1 for arms in budgets.values() for line in arms.values()):
        made["budget"] = charts.budget(budgets, unpruned)
    if len(ratios) > 1:
        made["ratio"] = charts.ratio(ratios, references)
    return made


def arm_points(scored: Sequence[Scored]) -> dict[str, tuple[float, float | None]]:
    """arm -> mean score, and the mean number of visual tokens that a layer sees."""
    out = {}
    for arm in dict.fromkeys(arm for entry in scored for arm in entry.arms):
        mine = [(entry.arms[arm], scale(entry.benchmark.name)) for entry in scored if arm in entry.arms]
        values = [result.score.value / shrink for result, shrink in mine]
        out[arm] = sum(values) / len(values), mean([result.tokens for result, _ in mine])
    return out
