"""Questions as the report shows them: the picture or clip as the model gets it, what each arm kept, and its answer."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from eval.answering.store import decode
from eval.core.settings import UNPRUNED
from eval.reading.images import open_image
from eval.reading.sample import Sample
from eval.reading.video import FRAMES, read_frames
from eval.scoring.box import Box, find_box, from_pixels, to_pixels
from eval.scoring.results import Scored, questions
from eval.showing.cells import square
from eval.showing.drawings import orientation

THUMBNAIL = 288  # pixels of the square canvas that patches are drawn on
COLUMNS = 4  # of the frames of a clip
GREY = (122, 116, 104)


def differing(scored: Scored) -> list[str]:
    """The questions that arms of the method score differently; the unpruned model is not an arm of it."""
    items = [result.score.items for arm, result in scored.arms.items() if arm != UNPRUNED or len(scored.arms) == 1]
    return [sample.key for sample in scored.samples if len({by_key.get(sample.key) for by_key in items}) > 1]


def cards(scored: Scored, info: Mapping[str, Any], count: int, data: str | None) -> list[dict[str, Any]]:
    """`count` questions, those that the arms score differently first, and the `count` that come first in the file."""
    facts = info["benchmarks"][scored.benchmark.name]
    arms = sorted(scored.arms, key=lambda arm: arm != UNPRUNED)
    rows = {arm: {row["metadata"]["key"]: row for row in scored.arms[arm].rows} for arm in arms}
    items = {arm: scored.arms[arm].score.items for arm in arms}
    odd, base = set(differing(scored)), "none" if "none" in items else next(iter(items), "")
    whole = [sample for sample in scored.samples if all(sample.key in rows[arm] for arm in arms)]
    first = {sample.key for sample in sorted(whole, key=lambda sample: sample.key not in odd)[:count]}
    plain = {sample.key for sample in whole[:count]}
    limit, options = info["settings"].get("limit"), facts.get("options")
    media = {sample.key: sample for sample in questions(scored.benchmark, data or facts["data"], limit, options)}
    side = square(facts.get("tokens"))
    made = []
    for sample in sorted(whole, key=lambda sample: sample.key not in odd):
        if sample.key not in first | plain:
            continue
        answers = {arm: rows[arm][sample.key] for arm in arms}
        clip = sample.video is not None
        made.append({
            "benchmark": scored.benchmark.name,
            "key": sample.key,
            "question": sample.text,
            "truth": truth(sample),
            "picture": sheet(media[sample.key]) if clip else thumbnail(media[sample.key]),
            "view": (THUMBNAIL, THUMBNAIL * FRAMES // COLUMNS // COLUMNS if clip else THUMBNAIL),
            "zoom": THUMBNAIL / (side * (COLUMNS if clip else 1)) if side else 1,
            "expected": drawn(sample.target, sample),
            "flip": sample.key in odd,
            "first": sample.key in first,
            "plain": sample.key in plain,
            "shape": shape(answers),
            "arms": [
                {
                    "arm": arm,
                    "answer": row["text"],
                    "error": row["metadata"].get("error", ""),
                    "score": items[arm].get(sample.key),
                    "turn": "" if arm == UNPRUNED else turn(items[base].get(sample.key), items[arm].get(sample.key)),
                    "box": drawn(answered(row["text"], sample), sample),
                    "dark": dark((row["metadata"].get("kept") or [None])[0], side, FRAMES if clip else 1),
                }
                for arm, row in answers.items()
            ],
        })  # fmt: skip
    return made


def dark(kept: str | None, side: int, frames: int = 1) -> str:
    """The path, in units of tokens, over what was dropped of a square of side x side tokens; "" when nothing was.

    Of a clip: of all its frames, side by side, each of which has a token for the whole of it before its patches.
    """
    if kept is None or not side:
        return ""
    lead = 0 if frames == 1 else 1
    gone = np.ones(frames * (side * side + lead), bool)
    gone[[place for place in decode(kept) if place < len(gone)]] = False
    runs = []
    for frame, tokens in enumerate(gone.reshape(frames, -1)[:, lead:]):
        left, top = frame % COLUMNS * side, frame // COLUMNS * side
        for y, line in enumerate(tokens.reshape(side, side)):
            edges = np.flatnonzero(np.diff(np.concatenate([[0], line, [0]]).astype(int)))
            runs += [
                f"M{left + start} {top + y}h{end - start}v1H{left + start}z" for start, end in edges.reshape(-1, 2)
            ]
    return "".join(runs)


def shape(answers: Mapping[str, Any]) -> str:
    """The picture's aspect ratio in a word; "" without a picture."""
    sizes = [row["metadata"]["size"] for row in answers.values() if "size" in row["metadata"]]
    return orientation(*sizes[0]) if sizes else ""


def turn(before: float | None, after: float | None) -> str:
    """What an arm made of an answer, compared with the first arm."""
    if before is None or after is None or before == after:
        return ""
    return "gained" if after > before else "lost"


def truth(sample: Sample) -> str:
    """The expected answer as an answer would say it."""
    target = sample.target
    if target is None:
        return ""
    if "frame" in sample.meta:
        return "[" + ", ".join(f"{edge:.2f}" for edge in from_pixels(target, *_frame(sample))) + "]"
    return " / ".join(map(str, target)) if isinstance(target, (list, tuple)) else str(target)


def answered(text: str, sample: Sample) -> Box | None:
    """The box of an answer in pixels of the picture, where a box was asked for."""
    box = find_box(text) if "frame" in sample.meta else None
    return None if box is None else to_pixels(box, *_frame(sample))


def drawn(box: Sequence[float] | None, sample: Sample) -> dict[str, float] | None:
    """A box of the picture as a rectangle of the thumbnail; None where there is none."""
    if box is None or "frame" not in sample.meta:
        return None
    width, height = sample.meta["size"]
    scale = THUMBNAIL / max(width, height)
    left, top = (THUMBNAIL - width * scale) / 2, (THUMBNAIL - height * scale) / 2
    x1, y1, x2, y2 = box
    places = {"x": left + x1 * scale, "y": top + y1 * scale, "width": (x2 - x1) * scale, "height": (y2 - y1) * scale}
    return {name: round(value, 1) for name, value in places.items()}


def _frame(sample: Sample) -> tuple[tuple[int, int], str]:
    return sample.meta["size"], sample.meta["frame"]


def thumbnail(sample: Sample) -> str:
    """The picture as the model gets it, padded to a square, as a data URI; "" where there is none."""
    if sample.image is None:
        return ""
    try:
        image = open_image(sample)
    except ValueError:
        return ""
    shrink = THUMBNAIL / max(image.size)
    image = image.resize((max(1, round(image.width * shrink)), max(1, round(image.height * shrink))))
    canvas = Image.new("RGB", (THUMBNAIL, THUMBNAIL), GREY)
    canvas.paste(image, ((THUMBNAIL - image.width) // 2, (THUMBNAIL - image.height) // 2))
    return packed(canvas)


def sheet(sample: Sample) -> str:
    """The frames of a clip as the model gets them, the middle square of each, side by side; "" where it is broken."""
    assert sample.video is not None
    try:
        frames = read_frames(sample.video)
    except ValueError:
        return ""
    cell = THUMBNAIL // COLUMNS
    canvas = Image.new("RGB", (THUMBNAIL, cell * math.ceil(len(frames) / COLUMNS)), GREY)
    for number, frame in enumerate(frames):
        edge = min(frame.size)
        left, top = (frame.width - edge) // 2, (frame.height - edge) // 2
        square = frame.crop((left, top, left + edge, top + edge)).resize((cell, cell))
        canvas.paste(square, (number % COLUMNS * cell, number // COLUMNS * cell))
    return packed(canvas)


def packed(image: Image.Image) -> str:
    """A picture as a data URI."""
    out = io.BytesIO()
    image.save(out, "WEBP", quality=70)
    return "data:image/webp;base64," + base64.b64encode(out.getvalue()).decode()
