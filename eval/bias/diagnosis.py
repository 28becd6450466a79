"""A diagnosis as tables: every number with its 95 % interval, and beside it what chance alone gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from debias.fitting.settle import LEAST_R2, NONE
from eval.bias.strength import Measured
from eval.core.tables import Cell, Table

COLUMNS = {
    "rise": "rise",
    "r2": "R^2",
    "correlation": "correlation",
    "absolute_correlation": "|correlation|",
    "entropy": "entropy",
    "kept_rise": "kept: rise",
    "kept_in_padding": "kept: padding",
    "kept_in_lowest_third": "kept: lowest third",
    "kept_in_last_frames": "kept: last frames",
}


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The strengths of the biases, and what prompts and heads do to them."""
    return [strengths(result), stability(result)]


def strengths(result: Mapping[str, Any]) -> Table:
    """Layers by arms, before the rotary embedding, and of shuffled scores."""
    rows: list[list[Cell]] = []
    columns = {key: name for key, name in COLUMNS.items() if key in result["layers"][0]["arms"]["none"]}
    for layer in result["layers"]:
        for name, measured in {**layer["arms"], "no RoPE": layer["no_rope"], "chance": layer["chance"]}.items():
            shown = [bracket(measured[key]) for key in columns]
            rows.append([layer["layer"] if name == "none" else None, name, *shown])
    notes = [
        f"{result['pictures']} {result['source']}; {result['tokens']} visual tokens; {result['kept']} kept",
        "chance: the scores of every picture, shuffled over its tokens; a difference from it is not an accident. "
        f"In theory |correlation| comes to {result['noise_floor']:.3f}, entropy to at most "
        f"{np.log(result['tokens']):.2f}.",
    ]
    if result["left_out"]:
        notes.append(f"{result['left_out']} were left out: a trend belongs to one layout, and theirs is another")
    without = [str(layer["layer"]) for layer in result["layers"] if not layer["trend"]["found"]]
    if without:
        notes.append(
            f"{NONE}, so nothing was divided, in layer {', '.join(without)}: on the half that is fitted the interval "
            f"of the rise holds 0, or R^2 is below {LEAST_R2}"
        )
    return Table(f"Attention of {result['model']}", ["layer", "arm", *columns.values()], rows, notes)


def stability(result: Mapping[str, Any]) -> Table:
    """Layers: how little the prompt matters, and how the heads differ."""
    head = ["layer", "prompt stability", "by chance"]
    with_heads = "heads" in result["layers"][0]
    if with_heads:
        head += ["heads: rise", "rising, falling", "before RoPE", "rising, falling"]
    rows: list[list[Cell]] = []
    for layer in result["layers"]:
        row = [layer["layer"], *(bracket(layer[name], 3) for name in ("prompt_stability", "prompt_stability_chance"))]
        if with_heads:
            row += [text for name in ("heads", "heads_no_rope") for text in spread(layer[name])]
        rows.append(row)
    notes = ["prompt stability: mean cosine of the attention on a picture between two prompts"]
    if with_heads:
        notes.append("heads: least, middle and largest; rising, falling: heads whose interval leaves out 0")
    return Table("Prompts and heads" if with_heads else "Prompts", head, rows, notes)


def spread(heads: Sequence[Measured]) -> tuple[str, str]:
    """Of rises: least, middle and largest; and how many rise and fall for certain."""
    values, low, high = np.array(heads).T
    shown = " ".join(f"{value:+.2f}" for value in (values.min(), np.median(values), values.max()))
    return shown, f"{(low > 0).sum()}, {(high < 0).sum()} of {len(heads)}"


def bracket(measured: Measured, digits: int = 2) -> str:
    """A number and its 95 % interval in words: 0.52 [0.48, 0.57]."""
    value, low, high = (f"{round(number, digits) + 0:.{digits}f}" for number in measured)  # no minus before a zero
    return f"{value} [{low}, {high}]"
