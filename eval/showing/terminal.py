"""Pictures in a terminal: by kitty's protocol or as sixels where the terminal says that it knows them, else as blocks.

The terminal is asked; one that does not answer within a moment is taken to know neither.
"""

from __future__ import annotations

import base64
import io
import os
import re
import select
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from PIL import Image

KINDS = ("auto", "kitty", "sixel", "blocks", "none")
# May a picture of one pixel be shown (kitty)? And what else can the terminal do? Every terminal answers the second.
QUESTION = b"\x1b_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\\x1b[c"
ANSWERED = re.compile(rb"\x1b\[\?([\d;]*)c")
PATIENCE = 0.5  # seconds for a terminal to answer
CHUNK = 4096  # characters of kitty's protocol at once
PANEL = 26  # columns of a picture in blocks
COLOURS = 255  # of a sixel picture
BAND = 6  # rows of pixels in one line of sixels


def kind(wanted: str = "auto", environment: Mapping[str, str] | None = None) -> str:
    """How pictures are shown: as wanted; left to "auto", what the terminal on standard error knows ("none": no
    terminal, or one without colours)."""
    if wanted not in KINDS:
        raise ValueError(f"--terminal {wanted}: expected one of {', '.join(KINDS)}")
    if wanted != "auto":
        return wanted
    said = os.environ if environment is None else environment
    if not sys.stderr.isatty() or said.get("TERM", "dumb") == "dumb" or "NO_COLOR" in said:
        return "none"
    return asked()


def asked(patience: float = PATIENCE, path: str = "/dev/tty") -> str:
    """What the terminal says it knows: kitty, sixel, or (knowing neither, or in silence) blocks."""
    try:
        import termios
        import tty
    except ImportError:  # not a Unix
        return "blocks"
    with suppress(OSError, termios.error), open(path, "r+b", buffering=0) as device:
        if os.tcgetpgrp(device.fileno()) != os.getpgrp():  # in the background, where asking would stop this process
            return "blocks"
        before = termios.tcgetattr(device)
        try:
            tty.setcbreak(device.fileno(), termios.TCSANOW)
            device.write(QUESTION)
            return understood(_answer(device, patience))
        finally:
            termios.tcsetattr(device, termios.TCSANOW, before)
    return "blocks"


def _answer(device: Any, patience: float) -> bytes:
    """What comes back, up to the answer to the second question."""
    said, end = b"", time.monotonic() + patience
    while not ANSWERED.search(said) and len(said) < CHUNK:
        left = end - time.monotonic()
        if left <= 0 or not select.select([device], [], [], left)[0]:
            break
        said += device.read(256) or b""
    return said


def understood(said: bytes) -> str:
    """What a terminal's answer means. Attribute 4 is sixel graphics."""
    if b"\x1b_Gi=31;OK" in said:
        return "kitty"
    match = ANSWERED.search(said)
    return "sixel" if match and b"4" in match[1].split(b";") else "blocks"


def put(lines: str) -> None:
    """Onto the terminal, on standard error. `lines` is made of numbers alone: nothing in it comes from a file or a
    model but the colours of pixels."""
    print(lines, file=sys.stderr, flush=True)


def kitty(picture: Image.Image) -> str:
    """The picture as kitty's graphics protocol sends it: a PNG in pieces."""
    out = io.BytesIO()
    picture.save(out, "PNG")
    data = base64.b64encode(out.getvalue()).decode()
    parts = [data[at : at + CHUNK] for at in range(0, len(data), CHUNK)]
    heads = ["a=T,f=100,m=1", *["m=1"] * (len(parts) - 1)]
    heads[-1] = heads[-1].replace("m=1", "m=0")
    return "".join(f"\x1b_G{head};{part}\x1b\\" for head, part in zip(heads, parts, strict=True))


def sixel(picture: Image.Image) -> str:
    """The picture in sixels: bands of six rows, each colour of a band in its turn, repeated columns counted."""
    few = picture.convert("RGB").quantize(COLOURS)
    pixels = np.asarray(few)
    palette = np.asarray(few.getpalette() or [0, 0, 0]).reshape(-1, 3)
    out = [f'\x1bP0;1q"1;1;{few.width};{few.height}']
    for number in np.unique(pixels):
        red, green, blue = np.round(palette[number] * 100 / 255).astype(int)
        out.append(f"#{number};2;{red};{green};{blue}")
    for top in range(0, few.height, BAND):
        band = pixels[top : top + BAND]
        weights = 1 << np.arange(len(band))
        rows = [f"#{number}" + _counted((band == number).T @ weights + 63) for number in np.unique(band)]
        out.append("$".join(rows) + "-")
    return "".join(out) + "\x1b\\"


def _counted(values: Any) -> str:
    """Characters by their codes, with stretches of one character as !COUNT."""
    starts = np.flatnonzero(np.diff(values, prepend=values[0] - 1))
    lengths = np.diff(starts, append=len(values))
    return "".join(
        chr(values[start]) * length if length < 4 else f"!{length}{chr(values[start])}"
        for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)
    )


def blocks(picture: Image.Image, columns: int, many: bool = True) -> list[str]:
    """The picture in lines of half blocks, two pixels in each. many: of 16 million colours, else of 256."""
    from rich.color import Color, ColorSystem
    from rich.style import Style

    rows = max(1, round(picture.height * columns / picture.width / 2))
    pixels = np.asarray(picture.convert("RGB").resize((columns, 2 * rows), Image.Resampling.BOX))
    known = ColorSystem.TRUECOLOR if many else ColorSystem.EIGHT_BIT
    lines = []
    for pair in zip(pixels[::2].tolist(), pixels[1::2].tolist(), strict=True):
        styles = (Style(color=Color.from_rgb(*a), bgcolor=Color.from_rgb(*b)) for a, b in zip(*pair, strict=True))
        lines.append("".join(style.render("▀", color_system=known) for style in styles))
    return lines


def beside(pictures: Iterable[Image.Image], gap: int = 8) -> Image.Image:
    """Pictures in a row, on white."""
    shown = list(pictures)
    row = Image.new(
        "RGB", (sum(picture.width + gap for picture in shown) - gap, max(picture.height for picture in shown)), "white"
    )
    left = 0
    for picture in shown:
        row.paste(picture, (left, 0))
        left += picture.width + gap
    return row


def gallery(pictures: Mapping[str, Image.Image], how: str, width: int, many: bool = True) -> list[str]:
    """Pictures with a name above each, row by row in `width` columns of text, ready for `put`.

    Names are words of this program. how: kitty, sixel or blocks.
    """
    lines, names = [], list(pictures)
    across = max(1, (width + 1) // (PANEL + 1))
    for first in range(0, len(names), across):
        row = names[first : first + across]
        lines.append(" ".join(f"{name:<{PANEL}}" for name in row).rstrip())
        if how == "blocks":
            parts = [blocks(pictures[name], PANEL, many) for name in row]
            lines += [" ".join(line) for line in zip(*parts, strict=True)]
        else:
            edge = PANEL * 10 - 8  # a column of text is about ten pixels wide
            small = [
                pictures[name].resize((edge, max(1, round(edge * pictures[name].height / pictures[name].width))))
                for name in row
            ]
            lines.append({"kitty": kitty, "sixel": sixel}[how](beside(small)))
    return lines
