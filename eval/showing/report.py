"""One self-contained HTML page of a run: tables, figures, and questions with the tokens that each arm kept."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.answering.store import Folder, decode, writing
from eval.comparing import compare
from eval.comparing.results import Scored, questions
from eval.reading.images import open_image
from eval.sample import Sample
from eval.showing import drawings, figures
from eval.tables import Table, text, visible

TEMPLATE = Path(__file__).with_name("report.html.jinja")
THUMBNAIL = 288  # pixels of the square canvas that patches are drawn on


def write(
    folder: Folder, scored: Sequence[Scored], seen: compare.Look, out: Path, count: int, data: str | None = None
) -> int:
    """Write the page; returns how many questions it shows."""
    from jinja2 import Environment, StrictUndefined

    info = folder.info()
    shown = [card for one in scored for card in cards(one, info, count, data)]
    page = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=shown_as_text
    )
    html = page.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=info["settings"]["method"],
        info=info,
        said=seen.said,
        brief=[flat(table) for table in seen.brief],
        full=[flat(table) for table in seen.full],
        figures=pictures(scored, info) if count else [],
        cards=shown,
        size=THUMBNAIL,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    with writing(out):
        out.write_text(html, encoding="utf-8")
    return len(shown)


def shown_as_text(value: Any) -> Any:
    """What the page shows of a value: no control characters, which HTML may not hold, and no turned text."""
    return visible(value) if type(value) is str else value


def flat(table: Table) -> dict[str, Any]:
    """A table as the template takes it: text, and of every column and row how it is set."""
    return {
        "title": table.title,
        "head": table.head,
        "kinds": ["number" if table.numeric(column) else "" for column in range(len(table.head))],
        "rows": [([text(cell) for cell in row], place in table.strong) for place, row in enumerate(table.rows)],
        "notes": table.notes,
    }


CAPTIONS = {
    "scores": "Score of every arm (MME / 20).",
    "selection-frequency": "How often each place of the padded square is kept at the last cut, by aspect ratio.",
}


def pictures(scored: Sequence[Scored], info: Mapping[str, Any]) -> list[dict[str, str]]:
    """The run's figures as data URIs."""
    return [
        {"source": f"data:image/svg+xml;base64,{base64.b64encode(drawings.vector(figure)).decode()}",
         "caption": CAPTIONS[name]}
        for name, figure in figures.run_figures(scored, info).items()
    ]  # fmt: skip


def cards(one: Scored, info: Mapping[str, Any], count: int, data: str | None) -> list[dict[str, Any]]:
    """Some questions with every arm's answer; those that the arms answer differently come first."""
    facts = info["benchmarks"][one.benchmark.name]
    rows = {arm: {row["metadata"]["key"]: row for row in result.rows} for arm, result in one.arms.items()}
    items = {arm: result.score.items for arm, result in one.arms.items()}

    def unlike(sample: Sample) -> bool:
        return len({items[arm].get(sample.key) for arm in items}) == 1  # False sorts first

    first = "none" if "none" in items else next(iter(items), "")
    chosen = sorted((s for s in one.samples if all(s.key in rows[arm] for arm in rows)), key=unlike)[:count]
    limit, options = info["settings"].get("limit"), facts.get("options")
    pictures = {sample.key: sample for sample in questions(one.benchmark, data or facts["data"], limit, options)}
    side = math.isqrt(facts.get("tokens") or 0)
    square = side if side * side == facts.get("tokens") and one.benchmark.media == "image" else 0
    return [
        {
            "benchmark": one.benchmark.name,
            "key": sample.key,
            "question": sample.text,
            "truth": "" if sample.target is None else _plain(sample.target),
            "picture": thumbnail(pictures[sample.key]),
            "zoom": THUMBNAIL / square if square else 1,
            "flip": not unlike(sample),
            "shape": shape(rows, sample.key),
            "arms": [
                {
                    "arm": arm,
                    "answer": rows[arm][sample.key]["text"],
                    "error": rows[arm][sample.key]["metadata"].get("error", ""),
                    "score": items[arm].get(sample.key),
                    "turn": turn(items[first].get(sample.key), items[arm].get(sample.key)),
                    "dark": dark((rows[arm][sample.key]["metadata"].get("kept") or [None])[0], square),
                }
                for arm in rows
            ],
        }
        for sample in chosen
    ]


def dark(kept: str | None, side: int) -> str:
    """The path, in units of tokens, over what was dropped of a square of side x side tokens; "" when nothing was."""
    if kept is None or not side:
        return ""
    gone = np.ones(side * side, bool)
    gone[[place for place in decode(kept) if place < len(gone)]] = False
    runs = []
    for y, line in enumerate(gone.reshape(side, side)):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], line, [0]]).astype(int)))
        runs += [f"M{start} {y}h{end - start}v1H{start}z" for start, end in edges.reshape(-1, 2)]
    return "".join(runs)


def shape(rows: Mapping[str, Mapping[str, Any]], key: str) -> str:
    """The picture's aspect ratio in a word; "" without a picture."""
    width, height = next(
        (row[key]["metadata"]["size"] for row in rows.values() if "size" in row[key]["metadata"]), (0, 0)
    )
    if not width:
        return ""
    return "square" if width == height else "portrait" if width < height else "landscape"


def turn(before: float | None, after: float | None) -> str:
    """What an arm made of an answer, compared with the first arm."""
    if before is None or after is None or before == after:
        return ""
    return "gained" if after > before else "lost"


def _plain(target: Any) -> str:
    return (
        target
        if isinstance(target, str)
        else " / ".join(map(str, target))
        if isinstance(target, (list, tuple))
        else str(target)
    )


def thumbnail(sample: Sample) -> str:
    """The picture as the model gets it, padded to a square, as a data URI; "" where there is none."""
    from PIL import Image

    if sample.image is None:
        return ""
    try:
        image = open_image(sample)
    except ValueError:
        return ""
    shrink = THUMBNAIL / max(image.size)
    image = image.resize((max(1, round(image.width * shrink)), max(1, round(image.height * shrink))))
    canvas = Image.new("RGB", (THUMBNAIL, THUMBNAIL), (122, 116, 104))
    canvas.paste(image, ((THUMBNAIL - image.width) // 2, (THUMBNAIL - image.height) // 2))
    packed = io.BytesIO()
    canvas.save(packed, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(packed.getvalue()).decode()
