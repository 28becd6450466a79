"""Ask one question about one picture or clip, and see the answer and the kept tokens in every arm.

examples:
  python -m eval show photo.jpg "What is on the table?" --method fastv --keep 0.2
  python -m eval show clip.mp4 "What does the man do?" --method pyramiddrop
  python -m eval show photo.jpg "How many dogs are there?" --model llava-hf/llava-1.5-7b-hf --keep 64 --arms none,both

Everything that did not stay behind the last cut is dimmed, in one PNG file and in the terminal: by kitty's protocol or
as sixels where the terminal says that it knows them, else in half blocks.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from eval.benchmarks.video import CLIPS
from eval.commands import flags
from eval.core.embedded import EMBEDDED
from eval.core.files import writable
from eval.reading.images import open_image
from eval.reading.sample import Sample
from eval.showing.terminal import KINDS


def arguments(parser: argparse.ArgumentParser) -> None:
    """The picture and the question, the method and model, and where the figure goes."""
    add = parser.add_argument
    add("picture", type=Path, help="a picture, or a clip (.mp4, .avi, .mov, .mkv, .webm)")
    add("question", help="what to ask about it")
    flags.add(parser, "method", "arms", "model")
    add("--out", type=Path, metavar="FILE.png", help="where the figure goes (default: PICTURE-METHOD.png, here)")
    add("--terminal", default="auto", choices=KINDS, help="how the terminal shows it (default: as well as it can)")
    flags.add(parser, "max_new_tokens", default=64, help="longest answer")
    flags.loading(parser)


def work(args: argparse.Namespace) -> dict[str, Any]:
    """Draws and shows the figure; returns the answers and what every arm kept."""
    out = args.out or Path(f"{args.picture.stem}-{args.method}.png")
    if out.suffix != ".png":
        raise ValueError(f"--out {out}: expected a name that ends in .png")
    if not writable(out).parent.is_dir():
        raise ValueError(f"--out {out}: the folder {out.parent} is not there")
    if not args.picture.is_file():
        raise ValueError(f"{args.picture}: no such picture or clip")
    clip = args.picture.suffix.lower() in CLIPS
    if not clip:
        open_image(Sample(args.question, args.question, args.picture))
    asked = flags.settings(args, args.method, model=args.model or str(EMBEDDED["video" if clip else "image"]))
    from eval.serving.one import show

    return show(args.picture, args.question, asked, out, args.terminal)
