"""One style, and one function a figure: plain numbers in, a matplotlib figure out.

Colours are Okabe and Ito's, which the colour-blind tell apart, without the yellow: too pale for lines.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from eval.answering.store import decode
from eval.bias.strength import mean as interval
from pruners.parts.canvas import Canvas

ARM_COLOURS = {
    "unpruned": "#000000",
    "none": "#999999",
    "trend": "#56B4E9",
    "padding": "#E69F00",
    "both": "#009E73",
    "no RoPE": "#CC79A7",
    "chance": "#666666",
}
MORE_COLOURS = ("#0072B2", "#D55E00", "#CC79A7", "#009E73", "#56B4E9", "#E69F00", "#000000")
STYLE: Any = {  # matplotlib types its settings by name
    "font.size": 9,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "debias",  # the same figure is the same file
    "figure.constrained_layout.use": True,
}
styled = matplotlib.rc_context(STYLE)  # decorates what draws

DARK = b"""<style>:root { color-scheme: light dark } @media (prefers-color-scheme: dark) {
text { fill: #e4e4e4 !important } [style*="fill: #ffffff"] { fill: #1c1c1c !important }
[style*="stroke: #000000"] { stroke: #e4e4e4 !important } [style*="fill: #000000"] { fill: #e4e4e4 !important }
}</style>
"""


def colour(name: str, number: int = 0) -> str:
    """An arm's colour; for other names the colour of their number."""
    return ARM_COLOURS.get(name, MORE_COLOURS[number % len(MORE_COLOURS)])


def figure(width: float, height: float, *grid: int, **shared: Any) -> tuple[Figure, Any]:
    """A figure, and its panel; or its panels in rows and columns, where a `grid` of them is given."""
    drawn: Any = Figure(figsize=(width, height), layout="constrained")
    return drawn, drawn.subplots(*grid, **shared, squeeze=not grid)


@styled
def rendered(drawn: Figure, kind: str = "png", dpi: float | str = 160) -> bytes:
    """The figure as a PNG or SVG file, the same for the same figure."""
    out = io.BytesIO()
    drawn.savefig(out, format=kind, dpi=dpi, metadata={"Date": None} if kind == "svg" else {"Software": None})
    return out.getvalue()


def orientation(width: int, height: int) -> str:
    """The shape of a picture in a word."""
    return "square" if width == height else "portrait" if width < height else "landscape"


def save(drawn: Figure, stem: Path) -> list[Path]:
    """stem.svg and stem.png."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in ("svg", "png")]
    for path in paths:
        path.write_bytes(rendered(drawn, path.suffix[1:]))
    return paths


def vector(drawn: Figure) -> bytes:
    """The figure as an SVG file that follows a page's dark mode: text and lines light, no white behind them."""
    head, tag, rest = rendered(drawn, "svg", "figure").partition(b"<defs>")
    return head + DARK + tag + rest


@styled
def maps(curves: Mapping[str, Sequence[float]], grid: tuple[int, int], title: str, divided: bool) -> Figure:
    """Mean attention over the picture, before and after each step, as a multiple of what a token would get if all got
    the same. One colour scale for all, which grows with its power 0.4, so that small values are told apart."""
    shown = {
        "with padding": "as the model gives it",
        "raw": "without padding",
        "exponential": "divided by the exponential" if divided else "no trend here: not divided",
    }
    there = {
        label: np.array(curves[name]).reshape(-1, *grid).mean(0) for name, label in shown.items() if name in curves
    }
    drawn, (axes,) = figure(2.4 * len(there) + 0.6, 2.7, 1, len(there))
    high = max(float(np.quantile(picture, 0.99)) for picture in there.values())
    for axis, (label, picture) in zip(axes, there.items(), strict=True):
        image = axis.imshow(picture, cmap="cividis", norm=PowerNorm(0.4, vmin=0, vmax=high, clip=True))
        axis.set(title=label, xticks=[], yticks=[])
    ticks = [0, *(tick for tick in (0.1, 0.3, 1, 3, 10, 30, 100) if tick <= high)]
    bar = drawn.colorbar(image, ax=list(axes), shrink=0.8, ticks=ticks, format="%.2g")
    bar.set_label("times an even share\n(colours: its power 0.4)", fontsize=8)
    drawn.suptitle(title, x=0.02, ha="left", fontsize=10)
    return drawn


@styled
def trends(curves: Mapping[str, Sequence[float]], title: str, divided: bool) -> Figure:
    """Mean attention by position in the three settings; `found`: whether there is a trend to divide by."""
    last = "divided by the fitted exponential" if divided else "no trend here: not divided"
    labels = {"raw": "raw", "average": "divided by the average", "exponential": last}
    drawn, (axes,) = figure(7.5, 2.6, 1, 3, sharey=True)
    for axis, (name, label) in zip(axes, labels.items(), strict=True):
        values = np.array(curves[name])
        good = values > 0  # nothing was seen at the others, such as corners that are padding in every picture
        axis.plot(np.where(good, values, np.nan), color=colour("none"), linewidth=0.8)
        slope, level = np.polyfit(np.flatnonzero(good), np.log(values[good]), 1)
        line = np.exp(level + slope * np.arange(len(values)))
        axis.plot(line, color=colour("both"), linewidth=1.6, label=f"rise {slope * (len(values) - 1):+.2f}")
        axis.set(title=label, xlabel="position")
        axis.legend(loc="best")
    axes[0].set(ylabel="attention / mean", yscale="log")
    drawn.suptitle(title, x=0.02, ha="left", fontsize=10)
    return drawn


@styled
def layers(reports: Sequence[Mapping[str, Any]], floor: float) -> Figure:
    """Bias layer by layer in every arm, with the intervals."""
    drawn, (axes,) = figure(7.5, 3.1, 1, 2)
    numbers = [report["layer"] for report in reports]
    series = {arm: [report["arms"][arm] for report in reports] for arm in ("none", "trend", "padding", "both")}
    series["no RoPE"] = [report["no_rope"] for report in reports]
    series["chance"] = [report["chance"] for report in reports]
    for axis, measure, label in zip(axes, ("rise", "correlation"), ("rise", "rank correlation"), strict=True):
        for number, (arm, entries) in enumerate(series.items()):
            value, low, high = np.array([entry[measure] for entry in entries]).T
            style = ":" if arm == "chance" else ".-"
            axis.plot(numbers, value, style, color=colour(arm, number), label=arm, linewidth=1.2)
            axis.fill_between(numbers, low, high, color=colour(arm, number), alpha=0.15, linewidth=0)
        axis.axhline(0, color="black", linewidth=0.5)
        axis.set_xlabel("layer")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set_title(f"{label} of attention with position", fontsize=10)
    bare = [report["layer"] for report in reports if not report["trend"]["found"]]
    axes[0].plot(bare, [0.03] * len(bare), "x", color=colour("trend"), markersize=4, clip_on=False,
                 transform=axes[0].get_xaxis_transform(), label="no trend here: not divided")  # fmt: skip
    axes[1].axhspan(-floor, floor, color="black", alpha=0.06, linewidth=0)
    drawn.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    return drawn


@styled
def activations(measured: Mapping[str, Any]) -> Figure:
    """Padding tokens beside the others, a column for each filling of the border. Above: the sink's dimensions by layer,
    and the first token, which is one; below: every dimension, where the first token's are largest."""
    drawn, axes = figure(1.9 * len(measured) + 0.8, 4.4, 2, len(measured), sharey="row")
    shades = {"padding": colour("padding"), "valid": colour("both")}
    for column, (name, states) in enumerate(measured.items()):
        above, below, layers = axes[0, column], axes[1, column], np.arange(len(states.first))
        above.plot(layers, states.first, ":", color="black", linewidth=1.1, label="first token")
        deepest = int(states.first.argmax())
        for kind, shade in shades.items():
            value, low, high = np.array([interval(values) for values in states.at_sink[kind].T]).T
            above.plot(layers, value, ".-", color=shade, linewidth=1.3, label=kind)
            above.fill_between(layers, low, high, color=shade, alpha=0.2, linewidth=0)
            below.plot(states.profile[kind][deepest], color=shade, linewidth=0.7)
        above.set(title=name, xlabel="layer")
        above.xaxis.get_major_locator().set_params(integer=True)
        below.set_xlabel(f"dimension, layer {deepest}")
    axes[0, 0].set_ylabel("at the sink's dimensions")
    axes[1, 0].set_ylabel("mean activation")
    drawn.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    return drawn


@styled
def fit_errors(reports: Sequence[Mapping[str, Any]]) -> Figure:
    """The standard error of a fitted rise against the number of pictures it is fitted to, a line for each layer."""
    drawn, axis = figure(5.4, 3.4)
    shades = matplotlib.colormaps["cividis"](np.linspace(0, 0.9, len(reports)))
    for shade, report in zip(shades, reports, strict=True):
        sizes = [int(size) for size in report["fit_error"]]
        axis.plot(sizes, list(report["fit_error"].values()), ".-", color=shade, linewidth=1.1, label=report["layer"])
    axis.axhline(0.1, color="black", linestyle=":", linewidth=1)
    axis.text(sizes[0], 0.1, " a tenth of the last weight", va="bottom", fontsize=8)
    axis.set_xscale("log", base=2)
    axis.set_xticks(sizes, [str(size) for size in sizes])
    axis.set(yscale="log", xlabel="pictures that the trend is fitted to", ylabel="standard error of the rise")
    drawn.legend(loc="outside right upper", title="layer", fontsize=8)
    return drawn


@styled
def heads(reports: Sequence[Mapping[str, Any]]) -> Figure:
    """The rise of every head of every layer, with positions and before they are rotated in."""
    shown = {"heads": "with RoPE", "heads_no_rope": "before RoPE"}
    rises = {name: np.array([report[name] for report in reports])[..., 0] for name in shown}
    layers, count = rises["heads"].shape
    width, height = min(9.0, 0.28 * count + 1.2) * 2 + 0.6, min(6.0, 0.2 * layers + 1.2)
    drawn, (axes,) = figure(width, height, 1, 2, sharey=True)
    high = max(float(np.abs(picture).max()) for picture in rises.values())
    for axis, (name, label) in zip(axes, shown.items(), strict=True):
        image = axis.imshow(rises[name], cmap="PuOr_r", vmin=-high, vmax=high, aspect="auto")
        axis.set(title=label, xlabel="head")
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[0].set_yticks(range(layers), [str(report["layer"]) for report in reports])
    axes[0].set_ylabel("layer")
    drawn.colorbar(image, ax=list(axes), label="rise")
    return drawn


@styled
def frequency(rows: Iterable[Mapping[str, Any]], side: int) -> Figure:
    """How often each place of the grid is kept at the last cut: arms by aspect ratio, of each orientation the commonest
    one, whose edge is dashed. Arms that keep the same everywhere share a column."""
    shapes: dict[str, dict[float, dict[str, list[tuple[int, ...]]]]] = {"portrait": {}, "square": {}, "landscape": {}}
    every: dict[str, list[tuple[int, ...]]] = {}
    for row in rows:
        (width, height), arm = row["metadata"]["size"], row["metadata"]["arm"]
        shape = orientation(width, height)
        kept = tuple(place for place in decode(row["metadata"]["kept"][-1]) if place < side * side)
        shapes[shape].setdefault(round(width / height, 2), {}).setdefault(arm, []).append(kept)
        every.setdefault(arm, []).append(kept)
    alike: dict[Any, list[str]] = {}
    for arm in (arm for arm in ARM_COLOURS if arm in every):
        alike.setdefault(tuple(every[arm]), []).append(arm)
    lines = {}
    for shape, ratios in shapes.items():
        if ratios:
            ratio = max(ratios, key=lambda key: max(map(len, ratios[key].values())))
            lines[f"{shape} {ratio:.2g} : 1" if ratio != 1 else shape] = ratio, ratios[ratio]
    shares = {}
    for name, (_, by_arm) in lines.items():
        for arms in alike.values():
            mine = by_arm.get(arms[0], [])
            counts = np.bincount([place for kept in mine for place in kept], minlength=side * side)
            shares[name, arms[0]] = (counts / max(1, len(mine))).reshape(side, side), len(mine)
    drawn, axes = figure(2.0 * len(alike) + 1.4, 1.8 * len(lines) + 0.2, len(lines), len(alike))
    high = max(float(share.max()) for share, _ in shares.values())
    for line, (name, (ratio, _)) in zip(axes, lines.items(), strict=True):
        for axis, arms in zip(line, alike.values(), strict=True):
            share, count = shares[name, arms[0]]
            image = axis.imshow(share, cmap="cividis", vmin=0, vmax=high)
            across, down = side * min(1.0, ratio), side * min(1.0, 1 / ratio)
            if ratio != 1:
                corner = (side - across) / 2 - 0.5, (side - down) / 2 - 0.5
                axis.add_patch(Rectangle(corner, across, down, fill=False, edgecolor="white", linestyle="--"))
            axis.set(xticks=[], yticks=[])
            if axis is line[0]:
                axis.set_ylabel(f"{name}\nn = {count}")
            if axis in axes[0]:
                axis.set_title(", ".join(arms))
    drawn.colorbar(image, ax=axes, shrink=0.6, label="how often kept")
    return drawn


SMALLEST, LARGEST = 336, 1008  # pixels along the longer side of a picture that is drawn


def overlay(picture: Any, kept: Sequence[int] | None, canvas: Canvas) -> Any:
    """A picture on the canvas of its tokens, with everything that was not kept dimmed. Returns a PIL image."""
    from PIL import Image, ImageDraw

    zoom = min(max(1.0, SMALLEST / max(canvas.size)), LARGEST / max(canvas.size))
    width, height = canvas.size
    size = round(width * zoom), round(height * zoom)
    whole = Image.new("RGB", size, (122, 116, 104))
    there = [round(edge * scale * zoom) for edge, scale in zip(picture.size, canvas.scale, strict=True)]
    left, top = canvas.offset
    corner = round(left * zoom), round(top * zoom)
    whole.paste(picture.resize(there, Image.Resampling.NEAREST if zoom >= 1 else Image.Resampling.BOX), corner)
    if kept is None:
        return whole
    mask = Image.new("L", size, 0)
    pen = ImageDraw.Draw(mask)
    for place in kept:
        x1, y1, x2, y2 = np.round(canvas.cells[place] * zoom).astype(int).tolist()
        if x1 < x2 and y1 < y2:
            pen.rectangle((x1, y1, x2 - 1, y2 - 1), fill=255)
    dimmed = Image.blend(whole, Image.new("RGB", size), 0.78)  # as the report's cards
    return Image.composite(whole, dimmed, mask)


@styled
def overlays(panels: Mapping[str, Mapping[str, tuple[Any, str]]], title: str) -> Figure:
    """Runs by arms: the picture with the kept tokens, and the answer below."""
    arms = list(dict.fromkeys(arm for row in panels.values() for arm in row))
    tallest = max(shown.height / shown.width for row in panels.values() for shown, _ in row.values())
    drawn, axes = figure(1.9 * len(arms) + 0.4, (1.9 * tallest + 0.4) * len(panels) + 0.4, len(panels), len(arms))
    for line, (name, row) in zip(axes, panels.items(), strict=True):
        for number, (axis, arm) in enumerate(zip(line, arms, strict=True)):
            if arm not in row:  # not every method has every arm
                axis.set_axis_off()
                continue
            axis.imshow(row[arm][0])
            axis.set(title=arm, xticks=[], yticks=[], xlabel=textwrap.fill(plain(row[arm][1], 72), 26))
            if number == 0:
                axis.set_ylabel(name)
    drawn.suptitle(plain(title, 90), fontsize=9)
    return drawn


def plain(text: str, longest: int) -> str:
    """A model's words as matplotlib shows them: one line, no formulas."""
    line = " ".join(text.split()).replace("$", r"\$")
    return line if len(line) <= longest else line[: longest - 1] + "…"


@styled
def fits(curves: Mapping[str, Sequence[float]], trends: Mapping[str, Sequence[float]]) -> Figure:
    """Measured mean scores by position (dots) and trends (lines), each relative to its own mean."""
    drawn, axis = figure(6.2, 3.2)
    for number, (name, values) in enumerate(curves.items()):
        curve = np.asarray(values, dtype=float)
        shade = MORE_COLOURS[number % len(MORE_COLOURS)]
        axis.plot(curve / np.nanmean(curve), ".", markersize=2, color=shade, alpha=0.6, label=name)
    for number, (name, values) in enumerate(trends.items()):
        line = np.asarray(values, dtype=float)
        same = number < len(curves)  # a fit has the colour of what it was fitted to
        shade = MORE_COLOURS[number % len(MORE_COLOURS)] if same else "#000000"
        style = "-" if same else (":" if number % 2 else "--")
        axis.plot(line / line.mean(), style, color=shade, linewidth=1.4, label=name)
    axis.set(xlabel="original position", ylabel="relative to its mean")
    axis.legend(fontsize=7)
    return drawn
