"""Draws the learning curves of a training run: the loss of every stage, and how well each skill is known when.

python -m tiny.curves RUN docs/tiny.svg       # or docs/smol.svg
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

from tiny.training.lessons import CLIP_SKILLS, SKILLS

STAGES = ("words", "tune", "video_words", "video")  # the language models; tower and bridges have a loss alone
KNOWN = (*SKILLS, *CLIP_SKILLS)
WIDTH = 10.0


def main() -> None:
    """Reads the curves of a run and writes the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("figure", type=Path)
    flags = parser.parse_args()
    matplotlib.rcParams["svg.hashsalt"] = "tiny"
    curves = {stage: lines(flags.run / f"{stage}.jsonl") for stage in STAGES}
    stages = {stage: lines for stage, lines in curves.items() if lines}
    if not stages:
        raise SystemExit(f"{flags.run} holds no learning curves: expected words.jsonl or others of {', '.join(STAGES)}")
    skills = {stage: [name for name in KNOWN if any(name in line for line in told)] for stage, told in stages.items()}
    rows = [len(names) for names in skills.values()]
    figure, axes = pyplot.subplots(
        len(stages),
        1,
        figsize=(WIDTH, 0.17 * sum(rows) + 0.7 * len(stages)),
        height_ratios=rows,
        squeeze=False,
        constrained_layout=True,
    )
    for axis, (stage, told) in zip(axes[:, 0], stages.items(), strict=True):
        names = skills[stage]
        known = [[line.get(name, float("nan")) for line in told] for name in names]
        steps = [0, *(line["step"] for line in told)]
        shown = axis.pcolormesh(steps, range(len(names) + 1), known, cmap="cividis", vmin=0, vmax=100, rasterized=True)
        axis.set(yticks=[k + 0.5 for k in range(len(names))], yticklabels=names, ylim=(len(names), 0))
        axis.tick_params(labelsize=7)
        axis.set_title(
            f"{stage}: {told[-1]['step']} steps, {told[-1]['seconds'] / 60:.0f} minutes", fontsize=9, loc="left"
        )
    axes[-1, 0].set_xlabel("step", fontsize=8)
    figure.colorbar(shown, ax=axes, label="% right in training, last answers of the skill", aspect=60)
    figure.savefig(flags.figure, metadata={"Date": None})


def lines(path: Path) -> list[dict[str, float]]:
    """What a stage told; of steps that were made again after an interruption, the last time alone."""
    told: list[dict[str, float]] = []
    for text in path.read_text().splitlines() if path.exists() else []:
        line = json.loads(text)
        while told and told[-1]["step"] >= line["step"]:
            told.pop()
        told.append(line)
    return told


if __name__ == "__main__":
    main()
