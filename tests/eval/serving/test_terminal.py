"""Pictures in a terminal: decoders of our own read back what is written, and a terminal is asked what it knows."""

from __future__ import annotations

import base64
import io
import os
import re
import threading

import numpy as np
import pytest
from PIL import Image

from eval.showing import terminal

RNG = np.random.default_rng(0)


def flat(width: int, height: int, colours: int = 5) -> Image.Image:
    """A picture of a few colours in large patches and single pixels."""
    palette = RNG.integers(0, 256, (colours, 3), dtype=np.uint8)
    chosen = RNG.integers(0, colours, (height, width))
    chosen[:, : width // 2] = chosen[:, :1]  # long stretches of one colour
    return Image.fromarray(palette[chosen])


def unsixel(text: str) -> np.ndarray:
    """The pixels of a sixel picture, as a terminal would draw them."""
    head, body = re.fullmatch(r'\x1bP0;1q"1;1;(\d+;\d+)(.*)\x1b\\', text, re.S).groups()
    width, height = map(int, head.split(";"))
    drawn = np.full((height + 6, width, 3), -1)
    colours, colour, x, y, count = {}, None, 0, 0, 1
    for word in re.findall(r"#\d+(?:;2;\d+;\d+;\d+)?|!\d+|[?-~]|\$|-", body):
        if word[0] == "#":
            number, *rgb = (int(part) for part in word[1:].split(";"))
            if rgb:
                colours[number] = rgb[1:]
            else:
                colour = colours[number]
        elif word[0] == "!":
            count = int(word[1:])
        elif word == "$":
            x = 0
        elif word == "-":
            x, y = 0, y + 6
        else:
            for bit in range(6):
                if ord(word) - 63 >> bit & 1:
                    drawn[y + bit, x : x + count] = colour
            x, count = x + count, 1
    assert (drawn[height:] == -1).all()
    return drawn[:height]


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (40, 13), (33, 24)])
def test_sixels_hold_every_pixel(size):
    picture = flat(*size)
    assert np.abs(unsixel(terminal.sixel(picture)) - np.asarray(picture) / 2.55).max() <= 0.51


def test_kitty_gets_the_picture_in_pieces():
    picture = Image.fromarray(RNG.integers(0, 256, (60, 90, 3), dtype=np.uint8))
    parts = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", terminal.kitty(picture))
    assert len(parts) > 2
    assert [head.split(",")[-1] for head, _ in parts] == ["m=1"] * (len(parts) - 1) + ["m=0"]
    assert parts[0][0] == "a=T,f=100,m=1"
    assert max(len(data) for _, data in parts) <= 4096
    sent = Image.open(io.BytesIO(base64.b64decode("".join(data for _, data in parts))))
    assert (np.asarray(sent) == np.asarray(picture)).all()
    assert terminal.kitty(Image.new("RGB", (2, 2))).startswith("\x1b_Ga=T,f=100,m=0;")


def test_blocks_hold_two_pixels_each():
    picture = Image.fromarray(RNG.integers(0, 256, (8, 6, 3), dtype=np.uint8))
    lines = terminal.blocks(picture, 6)
    read = [[[int(value) for value in found] for found in re.findall(r"[34]8;2;(\d+);(\d+);(\d+)", line)]
            for line in lines]  # fmt: skip
    seen = np.array(read).reshape(4, 6, 2, 3).transpose(0, 2, 1, 3).reshape(8, 6, 3)
    assert (seen == np.asarray(picture)).all()
    few = "".join(terminal.blocks(Image.new("RGB", (2, 2), (255, 0, 95)), 2, many=False))
    assert set(re.findall(r"8;5;(\d+)", few)) == {str(16 + 36 * 5 + 1)}


@pytest.mark.parametrize(
    ("said", "known"),
    [
        (b"\x1b_Gi=31;OK\x1b\\\x1b[?62;4c", "kitty"),
        (b"\x1b_Gi=31;ENOTSUPPORTED:\x1b\\\x1b[?62;22c", "blocks"),
        (b"\x1b[?62;4;22c", "sixel"),
        (b"\x1b[?64;44;14c", "blocks"),
        (b"", "blocks"),
    ],
)
def test_a_terminal_is_asked_and_its_answer_understood(said, known):
    """A terminal of the test's own, in a process whose only terminal it is."""
    assert terminal.understood(said) == known
    ours, theirs = os.openpty()
    child = os.fork()
    if not child:  # a new session, which the terminal then belongs to
        os.close(ours)
        os.setsid()
        os.close(os.open(os.ttyname(theirs), os.O_RDWR))
        os._exit(terminal.KINDS.index(terminal.asked(2.0 if said else 0.1)))
    question = b""
    answering = threading.Timer(10, lambda: os.kill(child, 9))
    answering.start()
    while len(question) < len(terminal.QUESTION):
        question += os.read(ours, 100)
    os.write(ours, said)
    _, status = os.waitpid(child, 0)
    answering.cancel()
    os.close(ours)
    os.close(theirs)
    assert question == terminal.QUESTION
    assert terminal.KINDS[os.waitstatus_to_exitcode(status)] == known


def test_nothing_is_drawn_where_there_is_no_terminal(monkeypatch):
    assert terminal.kind("auto", {"TERM": "xterm"}) == "none"  # pytest holds standard error
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr(terminal, "asked", lambda: "sixel")
    assert terminal.kind("auto", {"TERM": "xterm"}) == "sixel"
    assert terminal.kind("auto", {"TERM": "xterm", "NO_COLOR": ""}) == "none"
    assert terminal.kind("auto", {"TERM": "dumb"}) == "none"
    assert terminal.kind("kitty", {}) == "kitty"
    with pytest.raises(ValueError, match="kitty, sixel"):
        terminal.kind("iterm")


def test_a_gallery_fits_the_terminal():
    pictures = {name: flat(30, 30) for name in ("unpruned", "none", "both")}
    for width, across in ((20, 1), (60, 2), (80, 3), (300, 3)):
        lines = terminal.gallery(pictures, "blocks", width)
        heads = [line.split() for line in lines if "▀" not in line]
        assert [len(head) for head in heads] == [across] * (3 // across) + ([3 % across] if 3 % across else [])
        assert all(line.count("▀") <= max(width, terminal.PANEL) for line in lines)
    assert len(terminal.gallery(pictures, "sixel", 80)) == 2
