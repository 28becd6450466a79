"""Draws the learning curves of a training run.

python -m tiny.curves RUN docs/tiny.svg
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

STAGES = ("words", "bridge", "tune", "video_bridge", "video")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("figure", type=Path)
    flags = parser.parse_args()
    matplotlib.rcParams["svg.hashsalt"] = "tiny"
    found = [stage for stage in STAGES if (flags.run / f"{stage}.jsonl").exists()]
    if not found:
        raise SystemExit(f"{flags.run} holds no learning curves: expected words.jsonl or others of {', '.join(STAGES)}")
    figure, axes = pyplot.subplots(1, len(found), figsize=(2.6 * len(found), 2.2), constrained_layout=True)
    for axis, stage in zip([axes] if len(found) == 1 else axes, found, strict=True):
        lines = [json.loads(line) for line in (flags.run / f"{stage}.jsonl").read_text().splitlines()]
        axis.plot([line["seconds"] / 60 for line in lines], [line["loss"] for line in lines])
        axis.set(title=stage, xlabel="minutes", ylabel="loss" if stage == found[0] else "", ylim=(0, None))
    figure.savefig(flags.figure, metadata={"Date": None})


if __name__ == "__main__":
    main()
