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
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eval.commands.flags import loading, positive, settings
from eval.showing.terminal import KINDS
from pruners.catalogue import names as known


def command(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], dict[str, Any]]:
    add = parser.add_argument
    add("picture", type=Path, help="a picture, or a clip (.mp4, .avi, .mov, .mkv, .webm)")
    add("question", help="what to ask about it")
    add("--method", default="fastv", help=f"one of {', '.join(known())} (default: %(default)s)")
    add("--arms", help="of unpruned, none, trend, padding, both; default: unpruned, and those that the method has")
    add("--model", help="a checkpoint folder or hub id (default: an embedded model)")
    add("--out", type=Path, metavar="FILE.png", help="where the figure goes (default: PICTURE-METHOD.png, here)")
    add("--terminal", default="auto", choices=KINDS, help="how the terminal shows it (default: as well as it can)")
    add("--max-new-tokens", type=positive, default=64, help="longest answer (default %(default)s)")
    loading(parser)
    return work


def work(args: argparse.Namespace) -> dict[str, Any]:
    from eval.serving.one import show

    out = args.out or Path(f"{args.picture.stem}-{args.method}.png")
    return show(args.picture, args.question, settings(args, args.method), out, args.terminal)
