"""A figure of scores by the layer that is read, above how steeply the attention of every layer rises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from eval.showing.drawings import colour, figure, styled

DASHES = {"unpruned": "-", "random": "--", "grid": ":"}


@styled
def panels(
    lines: Mapping[str, Mapping[str, Mapping[int, float]]],
    flat: Mapping[str, float],
    rises: Sequence[Mapping[str, Any]],
) -> Figure:
    """lines: method -> arm -> layer of the cut -> score. flat: scores that no layer decides. rises: of each layer."""
    drawn, axes = figure(3.3 * len(lines) + 0.6, 4.6, 2, len(lines), sharex=True, height_ratios=(2, 1))
    for column, (method, arms) in enumerate(lines.items()):
        above, below = axes[:, column]
        if column:
            above.sharey(axes[0, 0])
            below.sharey(axes[1, 0])
        for name, value in flat.items():
            above.axhline(value, color="#777777", linewidth=0.9, linestyle=DASHES.get(name, "-."), label=name)
        for number, (arm, points) in enumerate(arms.items()):
            place = sorted(points)
            above.plot(place, [points[record] for record in place], "o-", color=colour(arm, number), markersize=3.5,
                       linewidth=1.4, label=arm)  # fmt: skip
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
    drawn.legend(
        handles, labels, ncols=min(3 if len(lines) == 1 else 7, len(labels)), loc="outside lower center", fontsize=8
    )
    return drawn
