"""Draws the learning curves of a training run: the loss of every stage, and how well each skill is known when.

python -m tiny.curves RUN docs/tiny.svg
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

from tiny.lessons import CLIP_SKILLS, SKILLS

STAGES = ("words", "tune", "video_words", "video")  # the language models; tower and bridges have a loss alone
WIDTH = 10.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("figure", type=Path)
    flags = parser.parse_args()
    matplotlib.rcParams["svg.hashsalt"] = "tiny"
    curves = {stage: lines(flags.run / f"{stage}.jsonl") for stage in STAGES}
    found = {stage: lines for stage, lines in curves.items() if lines}
    if not found:
        raise SystemExit(f"{flags.run} holds no learning curves: expected words.jsonl or others of {', '.join(STAGES)}")
    rows = [len(CLIP_SKILLS if stage.startswith("video") else SKILLS) for stage in found]
    figure, axes = pyplot.subplots(
        len(found),
        1,
        figsize=(WIDTH, 0.17 * sum(rows) + 0.7 * len(found)),
        height_ratios=rows,
        squeeze=False,
        constrained_layout=True,
    )
    for axis, (stage, told) in zip(axes[:, 0], found.items(), strict=True):
        skills = list(CLIP_SKILLS if stage.startswith("video") else SKILLS)
        known = [[line.get(skill, float("nan")) for line in told] for skill in skills]
        steps = [0, *(line["step"] for line in told)]
        shown = axis.pcolormesh(steps, range(len(skills) + 1), known, cmap="cividis", vmin=0, vmax=100, rasterized=True)
        axis.set(yticks=[k + 0.5 for k in range(len(skills))], yticklabels=skills, ylim=(len(skills), 0))
        axis.tick_params(labelsize=7)
        axis.set_title(
            f"{stage}: {told[-1]['step']} steps, {told[-1]['seconds'] / 60:.0f} minutes", fontsize=9, loc="left"
        )
    axes[-1, 0].set_xlabel("step", fontsize=8)
    figure.colorbar(shown, ax=axes, label="% right in training, last answers of the skill", aspect=60)
    figure.savefig(flags.figure, metadata={"Date": None})


def lines(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


if __name__ == "__main__":
    main()
