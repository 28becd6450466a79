"""One self-contained HTML page of a run: tables, figures, and questions with the tokens that each arm kept.

examples:
  python -m eval report runs/fastv                    writes runs/fastv/report.html
  python -m eval report runs/fastv --samples 50 --out page.html
"""

from __future__ import annotations

import argparse
import base64
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.answering.store import Folder, writing
from eval.cards import cards, differing
from eval.commands.flags import positive
from eval.comparing import compare
from eval.comparing.contrast import DRAWS, Contrast
from eval.comparing.results import Scored, results
from eval.scoring import judge as judging
from eval.tables import Table, say, text
from eval.verdict import main_arm

TEMPLATE = Path(__file__).with_name("report.html.jinja")


def command(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], dict[str, Any]]:
    parser.add_argument("run", metavar="RUN", help="a run folder")
    parser.add_argument("--out", help="the page to write (default: report.html in the run folder)")
    parser.add_argument(
        "--samples", type=int, default=12, help="questions shown of each benchmark (default %(default)s)"
    )
    parser.add_argument("--data", help="where the data is, when it moved since the run")
    parser.add_argument("--draws", type=positive, default=DRAWS, help="bootstrap draws (default %(default)s)")
    judging.arguments(parser)
    return work


def work(args: argparse.Namespace) -> dict[str, Any]:
    folder = Folder(args.run)
    scored = results(folder, args.data, judge=judging.from_arguments(args))
    if not scored:
        raise ValueError(f"{folder.path} holds no scored rows to report; run its benchmarks first")
    seen = compare.look("Scores", scored, args.draws)
    out = Path(args.out) if args.out else folder.path / "report.html"
    written = write(folder, scored, seen, out, args.samples, args.data)
    say(f"wrote {out}")
    return {"report": str(out), "samples": written}


def write(
    folder: Folder, scored: Sequence[Scored], seen: compare.Look, out: Path, count: int, data: str | None = None
) -> int:
    """Write the page; returns how many questions it shows."""
    from jinja2 import Environment, StrictUndefined

    info = folder.info()
    shown = [card for one in scored for card in cards(one, info, count, data)] if count else []
    sources = dict.fromkeys((card["picture"], card["view"]) for card in shown if card["picture"])
    held = {source: (number, view) for number, (source, view) in enumerate(sources, 1)}  # each once
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    html = page.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=title(info),
        run=info["run"],
        facts={name: plain(value) for name, value in info["settings"].items()},
        said=seen.said,
        brief=[flat(table) for table in seen.brief],
        full=[flat(table) for table in seen.full],
        figures=pictures(scored, info, seen.found) if count else [],
        cards=shown,
        pictures=held,
        shares=shares(scored, shown),
        most=MOST,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    with writing(out):
        out.write_text(html, encoding="utf-8")
    return len(shown)


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
    "differences": "Differences with their 95 % intervals (MME / 20); filled: differs, by the rule above.",
    "scores": "Score of every arm (MME / 20).",
    "selection-frequency": "How often each place of the padded square is kept at the last cut, by aspect ratio.",
}
MOST = 12  # cards shown at first


def title(info: Mapping[str, Any]) -> str:
    """What was run on what, in words."""
    models = [str(model).split()[0] for model in info["settings"].get("models", {}).values()]
    return re.split(r"\(", info["settings"]["method"])[0] + (f" on {', '.join(models)}" if models else "")


def plain(value: Any) -> str:
    """A setting as text, no number of it with sixteen digits."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {plain(one)}" for name, one in value.items())
    return re.sub(r"\d+\.\d{4,}", lambda number: f"{float(number[0]):.3g}", str(value))


def shares(scored: Sequence[Scored], shown: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How many questions the arms score differently: of all, of those on the page, and by benchmark."""
    by_name = {one.benchmark.name: (len(differing(one)), len(one.samples)) for one in scored}
    first = [card for card in shown if card["first"]]
    return {
        "differ": sum(differ for differ, _ in by_name.values()),
        "of": sum(count for _, count in by_name.values()),
        "shown": len(first),
        "shown_differ": sum(card["flip"] for card in first),
        "labels": {name: f"{name} ({differ} of {count} differ)" for name, (differ, count) in by_name.items()},
    }


def pictures(scored: Sequence[Scored], info: Mapping[str, Any], found: Sequence[Contrast]) -> list[dict[str, str]]:
    """The run's figures as data URIs."""
    from eval.showing import charts, drawings, figures

    arm = main_arm(list(dict.fromkeys(one.b for one in found)))
    made = {"differences": charts.forest([one for one in found if one.b == arm])} if arm else {}
    made |= figures.run_figures(scored, info)
    return [
        {"source": f"data:image/svg+xml;base64,{base64.b64encode(drawings.vector(figure)).decode()}",
         "caption": CAPTIONS[name], "name": name}
        for name, figure in made.items()
    ]  # fmt: skip
