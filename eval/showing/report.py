"""One self-contained HTML page of a run: tables, figures, and questions with the tokens that each arm kept."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.answering.store import Folder, writing
from eval.core.tables import text, visible
from eval.scoring import compare
from eval.scoring.contrast import Contrast
from eval.scoring.results import Scored
from eval.scoring.verdict import main_arm
from eval.showing import charts, drawings, figures
from eval.showing.cards import cards, differing

TEMPLATE = Path(__file__).with_name("report.html.jinja")


def write(
    folder: Folder, scored: Sequence[Scored], seen: compare.Outcome, out: Path, count: int, data: str | None = None
) -> int:
    """Write the page; returns how many questions it shows."""
    from jinja2 import Environment, StrictUndefined

    info = folder.info()
    shown = [card for entry in scored for card in cards(entry, info, count, data)] if count else []
    sources = dict.fromkeys((card["picture"], card["view"]) for card in shown if card["picture"])
    held = {source: (number, view) for number, (source, view) in enumerate(sources, 1)}  # each once
    page = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=shown_as_text
    )
    html = page.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=title(info),
        run=info["run"],
        facts={name: plain(value) for name, value in info["settings"].items()},
        said=seen.verdict,
        brief=seen.brief,
        full=seen.full,
        text=text,
        figures=pictures(scored, info, seen.contrasts) if count else [],
        cards=shown,
        pictures=held,
        shares=shares(scored, shown),
        most=MOST,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    with writing(out):
        out.write_text(html, encoding="utf-8")
    return len(shown)


def shown_as_text(value: Any) -> Any:
    """What the page shows of a value: no control characters, which HTML may not hold, and no turned text."""
    return visible(value) if type(value) is str else value


CAPTIONS = {
    "differences": "Differences with their 95 % intervals (MME / 20); filled: differs, by the rule above.",
    "scores": "Score of every arm (MME / 20).",
    "selection-frequency": "How often each place of the padded square is kept at the last cut, by aspect ratio.",
}
MOST = 12  # cards shown at first


def title(info: Mapping[str, Any]) -> str:
    """What was run on what, in words."""
    models = [str(model).split()[0] for model in info["settings"].get("models", {}).values()]
    return figures.method_of(info) + (f" on {', '.join(models)}" if models else "")


def plain(value: Any) -> str:
    """A setting as text, no number of it with sixteen digits."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {plain(item)}" for name, item in value.items())
    return re.sub(r"\d+\.\d{4,}", lambda number: f"{float(number[0]):.3g}", str(value))


def shares(scored: Sequence[Scored], shown: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How many questions the arms score differently: of all, of those on the page, and by benchmark."""
    by_name = {entry.benchmark.name: (len(differing(entry)), len(entry.samples)) for entry in scored}
    first = [card for card in shown if card["first"]]
    return {
        "differ": sum(differ for differ, _ in by_name.values()),
        "of": sum(count for _, count in by_name.values()),
        "shown": len(first),
        "shown_differ": sum(card["flip"] for card in first),
        "labels": {name: f"{name} ({differ} of {count} differ)" for name, (differ, count) in by_name.items()},
    }


def pictures(scored: Sequence[Scored], info: Mapping[str, Any], contrasts: Sequence[Contrast]) -> list[dict[str, str]]:
    """The run's figures as data URIs."""
    arm = main_arm(list(dict.fromkeys(contrast.b for contrast in contrasts)))
    made = {"differences": charts.forest([contrast for contrast in contrasts if contrast.b == arm])} if arm else {}
    made |= figures.run_figures(scored, info)
    return [
        {"source": f"data:image/svg+xml;base64,{base64.b64encode(drawings.vector(figure)).decode()}",
         "caption": CAPTIONS[name], "name": name}
        for name, figure in made.items()
    ]  # fmt: skip
