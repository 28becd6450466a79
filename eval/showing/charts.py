"""Figures of scores: plain numbers in, a matplotlib figure out, in the style of eval/showing/drawings.py."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from eval.bias.strength import Measured
from eval.scoring.contrast import Contrast, scale
from eval.scoring.verdict import MARK
from eval.showing.drawings import ARM_COLOURS, MORE_COLOURS, colour, figure, styled
from pruners import catalogue

Line = Iterable[tuple[float, float]]
BASELINES = tuple(catalogue.title(name) for name in catalogue.baselines())


def intervals(axis: Any, shown: Any, place: Any, shade: str, label: str | None = None, **dot: Any) -> None:
    """A dot for every value, and its interval where it lies: rounding or a skewed sample may put the value outside.

    shown: (value, low, high) of each; a bound may be None. dot: how the dots look.
    """
    value, low, high = np.array(shown, float).T
    axis.hlines(place, low, high, color=shade, linewidth=1.2)
    axis.plot(value, place, "o", color=shade, label=label, **{"markersize": 3.5, **dot})


@styled
def dots(points: Mapping[str, Mapping[str, Measured]]) -> Figure:
    """Every benchmark in every arm with its 95 % interval, narrow enough for a phone."""
    arms = [arm for arm in ARM_COLOURS if any(arm in by_arm for by_arm in points.values())]
    apart = 0.8 / len(arms)
    drawn, axis = figure(4.4, (0.12 * len(arms) + 0.1) * len(points) + 1.1)
    for number, arm in enumerate(arms):
        rows = [row for row, by_arm in enumerate(points.values()) if arm in by_arm]
        place = np.array(rows) + apart * (number - (len(arms) - 1) / 2)
        shown = [by_arm[arm] for by_arm in points.values() if arm in by_arm]
        intervals(axis, shown, place, colour(arm), arm)
    for row in range(1, len(points)):
        axis.axhline(row - 0.5, color="#cccccc", linewidth=0.5)
    axis.set_yticks(range(len(points)), list(points))
    axis.tick_params(axis="y", length=0)
    axis.invert_yaxis()
    axis.set_xlabel("score, with its 95 % interval")
    drawn.legend(ncols=min(3, len(arms)), loc="outside lower center", fontsize=8)
    return drawn


@styled
def forest(contrasts: Sequence[Contrast]) -> Figure:
    """One arm's differences with their intervals; filled where it differs, by the rule of scoring/contrast.py."""
    drawn, axis = figure(4.4, 0.24 * len(contrasts) + 0.9)
    axis.axvline(0, color="black", linewidth=0.6)
    for row, contrast in enumerate(contrasts):
        shade, face = (colour("both"),) * 2 if contrast.differs else (colour("none"), "white")
        shown = np.array([[contrast.delta, contrast.low, contrast.high]], float) / scale(contrast.benchmark)
        intervals(axis, shown, [row], shade, markersize=5, markerfacecolor=face)
    axis.set_yticks(range(len(contrasts)), [contrast.benchmark for contrast in contrasts])
    axis.invert_yaxis()
    arms = {contrast.b for contrast in contrasts}
    axis.set_xlabel(f"{', '.join(arms) if len(arms) == 1 else 'arm'} − {contrasts[0].a}, points")
    return drawn


@styled
def radar(methods: Mapping[str, Mapping[str, float]]) -> Figure:
    """Mean score of every method, without and with debiasing."""
    names = list(methods)
    angles = np.linspace(0, 2 * np.pi, len(names), endpoint=False)
    drawn, axis = figure(4.8, 4.4, subplot_kw={"projection": "polar"})
    high = max(methods[name][arm] for name in names for arm in ("none", "both"))
    for arm in ("none", "both"):
        values = [methods[name][arm] for name in names]
        ring = np.append(angles, angles[0]), [*values, values[0]]
        label = {"none": "as it is", "both": "debiased"}[arm]
        axis.plot(*ring, ".-", color=colour(arm), linewidth=1.6, label=label)
        axis.fill(*ring, color=colour(arm), alpha=0.12, linewidth=0)
    labels = [f"{name}\n{methods[name]['none']:.1f} → {methods[name]['both']:.1f}" for name in names]
    axis.set_xticks(angles, labels)
    for angle, text in zip(angles, axis.get_xticklabels(), strict=True):  # away from the circle
        across, up = np.cos(angle), np.sin(angle)
        text.set_horizontalalignment("center" if abs(across) < 0.3 else "left" if across > 0 else "right")
        text.set_verticalalignment("center" if abs(up) < 0.3 else "bottom" if up > 0 else "top")
    axis.set_ylim(0, 10 * math.ceil(high / 10))
    axis.tick_params(axis="x", pad=2)
    axis.tick_params(axis="y", labelsize=7, labelcolor="#666666")
    axis.set_rlabel_position(180 / len(names))
    axis.spines["polar"].set_color("#BBBBBB")
    drawn.legend(loc="outside lower center", ncols=2)
    return drawn


@styled
def budget(lines: Mapping[str, Mapping[str, Line]], unpruned: float | None = None) -> Figure:
    """Mean score against the mean number of visual tokens a layer sees: a panel per method, each with the baselines."""
    methods = [name for name in lines if name not in BASELINES] or list(lines)
    columns = min(5, len(methods)) if len(methods) != 6 else 3
    rows = math.ceil(len(methods) / columns)
    drawn, axes = figure(max(3.6, 1.75 * columns + 0.6), 1.9 * rows + 0.9, rows, columns, sharex=True, sharey=True)
    for axis, method in zip(axes.flat, methods, strict=False):
        if unpruned is not None:
            axis.axhline(unpruned, color=colour("unpruned"), linewidth=0.8, label="unpruned")
        for name, style in zip(reversed(BASELINES), cycle((":", "-.")), strict=False):
            if name in lines and name != method:
                axis.plot(*along(lines[name]["none"]), style, color="#333333", linewidth=1.1, label=name.lower())
        for number, (arm, points) in enumerate(lines[method].items()):
            if arm != "unpruned":
                style = "o--" if arm == "none" else "o-"
                axis.plot(*along(points), style, color=colour(arm, number), markersize=3, linewidth=1.3, label=arm)
        axis.set_title(method)
    for axis in axes.flat[len(methods) :]:
        axis.set_axis_off()
    drawn.supxlabel("visual tokens a layer sees, mean", fontsize=9)
    drawn.supylabel("mean score", fontsize=9)
    labelled = {
        label: line for axis in axes.flat for line, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    drawn.legend(list(labelled.values()), list(labelled), loc="outside upper center", ncols=7, fontsize=8)
    return drawn


def along(points: Line) -> tuple[Sequence[float], Sequence[float]]:
    """The x and the y of points, from left to right."""
    x, y = zip(*sorted(points), strict=True)
    return x, y


@styled
def effects(gaps: Mapping[str, Mapping[str, Measured]], label: str) -> Figure:
    """A difference by row and budget, with its 95 % interval."""
    budgets = list(dict.fromkeys(name for row in gaps.values() for name in row))
    drawn, axis = figure(5.4, 0.32 * len(gaps) + 1.1)
    axis.axvline(0, color="black", linewidth=0.6)
    for number, name in enumerate(budgets):
        place = [row + 0.2 * (number - (len(budgets) - 1) / 2) for row, gap in enumerate(gaps.values()) if name in gap]
        shown = [gap[name] for gap in gaps.values() if name in gap]
        intervals(axis, shown, place, MORE_COLOURS[number % len(MORE_COLOURS)], name)
    axis.set_yticks(range(len(gaps)), list(gaps))
    axis.invert_yaxis()
    axis.set_xlabel(label)
    drawn.legend(loc="outside lower center", ncols=len(budgets), fontsize=8)
    return drawn


@styled
def strengths(rows: Mapping[str, Mapping[str, Mapping[str, Measured]]], titles: Mapping[str, str]) -> Figure:
    """Methods by arms, a panel for each kind of strength, with 95 % intervals. rows[method][arm][kind]."""
    arms = list(dict.fromkeys(arm for by_arm in rows.values() for arm in by_arm))
    drawn, (axes,) = figure(7.2, 0.42 * len(rows) + 1.1, 1, len(titles), sharey=True)
    for axis, (kind, title) in zip(axes, titles.items(), strict=True):
        axis.axvline(0, color="black", linewidth=0.6)
        for number, arm in enumerate(arms):
            place = np.arange(len(rows)) + 0.17 * (number - (len(arms) - 1) / 2)
            shown = [by_arm[arm][kind] for by_arm in rows.values()]
            intervals(axis, shown, place, colour(arm, number), arm if axis is axes[0] else None)
        axis.set(title=title, xlabel="sigma")
    axes[0].set_yticks(range(len(rows)), list(rows))
    axes[0].invert_yaxis()
    drawn.legend(loc="outside lower center", ncols=len(arms), fontsize=8)
    return drawn


@styled
def sweep(
    series: Mapping[str, Mapping[float, Measured]], published: Mapping[str, Mapping[float, float]], x: str, y: str
) -> Figure:
    """A difference along a budget or a depth, with 95 % bands and what was published: a panel per benchmark, and one of
    the mean."""
    drawn, (axes,) = figure(1.9 * len(series) + 0.6, 2.6, 1, len(series), sharey=True)
    for number, (axis, (name, points)) in enumerate(zip(axes, series.items(), strict=True)):
        place = sorted(points)
        value, low, high = np.array([points[key] for key in place]).T
        shade = MORE_COLOURS[number % len(MORE_COLOURS)]
        axis.axhline(0, color="black", linewidth=0.6)
        axis.fill_between(place, low, high, color=shade, alpha=0.18, linewidth=0)
        axis.plot(place, value, ".-", color=shade, linewidth=1.3)
        if name in published:
            axis.plot(*along(published[name].items()), "D", color="black", markersize=4, label="published")
            axis.legend(fontsize=7)
        axis.set_title(name)
        axis.tick_params(axis="x", labelsize=8)
    drawn.supxlabel(x, fontsize=9)
    axes[0].set_ylabel(y)
    return drawn


@styled
def heat(cells: Mapping[str, Mapping[str, Contrast]], label: str) -> Figure:
    """Differences by row and column, those that differ in bold; what was not run is left white."""
    columns = list(dict.fromkeys(name for row in cells.values() for name in row))
    values = np.array([[row[name].delta if name in row else np.nan for name in columns] for row in cells.values()])
    reach = max(float(np.nanmax(np.abs(values))), 0.1)
    drawn, axis = figure(max(4.0, 0.95 * len(columns) + 1.9), 0.3 * len(cells) + 1.3)
    shown = axis.imshow(values, cmap="RdBu", vmin=-reach, vmax=reach, aspect="auto")
    for row, by_column in enumerate(cells.values()):
        for column, name in enumerate(columns):
            contrast = by_column.get(name)
            if contrast is not None:
                text = f"{contrast.delta + 0.0:+.1f}".replace("-", "−") + (MARK if contrast.differs else "")
                axis.text(column, row, text, ha="center", va="center", fontsize=8,
                          fontweight="bold" if contrast.differs else "normal",
                          color="white" if abs(contrast.delta) > 0.7 * reach else "black")  # fmt: skip
    axis.set_xticks(range(len(columns)), columns)
    axis.set_yticks(range(len(cells)), list(cells))
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    drawn.colorbar(shown, ax=axis, label=label, fraction=0.05)
    return drawn


@styled
def ratio(shallow: Mapping[int, float], references: Mapping[str, float]) -> Figure:
    """Mean score of ratio debiasing by the shallow layer that is divided by; other arithmetic as lines across."""
    drawn, axis = figure(5.4, 3.0)
    axis.plot(*along(shallow.items()), "o-", color=MORE_COLOURS[0], label="divided by the shallow layer")
    for number, (name, value) in enumerate(references.items(), 1):
        style = ("--", ":", "-.")[number % 3]
        axis.axhline(value, linestyle=style, linewidth=1.2, color=MORE_COLOURS[number % len(MORE_COLOURS)], label=name)
    axis.set_xlabel("shallow layer, of 32")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_ylabel("mean score")
    drawn.legend(loc="outside lower center", ncols=2, fontsize=8)
    return drawn


@styled
def boxes(measured: Mapping[str, tuple[Measured, Measured]]) -> Figure:
    """IoU of kept tokens with the box that is referred to, and of as many random tokens; whiskers: 95 % intervals."""
    drawn, axis = figure(5.4, 0.34 * len(measured) + 1.1)
    for number, (name, ((value, low, high), (chance, _, _))) in enumerate(measured.items()):
        axis.barh(number, value, color=colour(name.split()[-1], number))
        axis.hlines(number, low, high, color="#333333", linewidth=1)
        label = "as many tokens drawn at random" if number == 0 else ""
        axis.vlines(chance, number - 0.4, number + 0.4, color="black", linestyle=":", linewidth=1.6, label=label)
    axis.set_yticks(range(len(measured)), list(measured))
    axis.invert_yaxis()
    axis.set_xlabel("IoU of the kept tokens with the box")
    drawn.legend(loc="outside lower center", fontsize=8)
    return drawn


DASHES = {"unpruned": "-", "random": "--", "grid": ":"}


@styled
def by_layer(
    lines: Mapping[str, Mapping[str, Mapping[int, float]]],
    flat: Mapping[str, float],
    rises: Sequence[Mapping[str, Any]],
) -> Figure:
    """Scores by the layer that is read, above how steeply the attention of every layer rises.

    lines: method -> arm -> layer of the cut -> score. flat: scores that no layer decides. rises: of each layer.
    """
    drawn, axes = figure(3.3 * len(lines) + 0.6, 4.6, 2, len(lines), sharex=True, height_ratios=(2, 1))
    for column, (method, arms) in enumerate(lines.items()):
        above, below = axes[:, column]
        if column:
            above.sharey(axes[0, 0])
            below.sharey(axes[1, 0])
        for name, value in flat.items():
            above.axhline(value, color="#777777", linewidth=0.9, linestyle=DASHES.get(name, "-."), label=name)
        for number, (arm, points) in enumerate(arms.items()):
            shade = colour(arm, number)
            above.plot(*along(points.items()), "o-", color=shade, markersize=3.5, linewidth=1.4, label=arm)
        above.set_title(method, fontsize=10)
        below.axhline(0, color="black", linewidth=0.6)
        for layer, record in enumerate(rises):
            value, low, high = record["rise"]
            shade = colour("both") if record["found"] else "#999999"
            below.vlines(layer + 1, low, high, color=shade, linewidth=1.2)
            below.plot(layer + 1, value, "o", color=shade, markersize=3.5)
        below.set_xlabel("layer of the cut")
    axes[0, 0].set_ylabel("score")
    axes[1, 0].set_ylabel("rise of the\nlayer before")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    across = min(3 if len(lines) == 1 else 7, len(labels))
    drawn.legend(handles, labels, ncols=across, loc="outside lower center", fontsize=8)
    return drawn
