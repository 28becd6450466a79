"""The verdict on a run: no claim without an interval, no "no difference" without the smallest that would have shown.

What counts as a difference is decided in eval/scoring/contrast.py, for words and marks alike.
"""

from __future__ import annotations

from collections.abc import Sequence

from eval.core.settings import UNPRUNED
from eval.core.tables import Cell, Table, between, tenths
from eval.scoring.contrast import Contrast

MARK = "*"
RULE = (
    f"{MARK}: differs, p < 0.05 after Holm's correction over the benchmarks. Where test and interval disagree, the "
    "test decides: an interval over few pictures is approximate, and it knows nothing of the other benchmarks."
)


def main_arm(arms: Sequence[str]) -> str | None:
    """The compared arm that a verdict is about: the method's full debiasing, or else the last arm."""
    others = [arm for arm in arms if arm != UNPRUNED] or list(arms)
    return next((arm for arm in ("both", "padding") if arm in others), others[-1] if others else None)


def verdict(contrasts: Sequence[Contrast], arm: str, where: str | None = None) -> str:
    """One sentence about an arm over all benchmarks, and one about how many of them differ by themselves.

    where: what to say instead of the names of the benchmarks.
    """
    mine = [contrast for contrast in contrasts if contrast.b == arm]
    whole, single = mine[-1], [contrast for contrast in mine if contrast.benchmark != "average"]
    where = where or (f"over {len(single)} benchmarks" if len(single) > 1 else f"on {whole.benchmark}")
    asked = f"{where} ({whole.n:,} questions)"
    shown = between(whole.delta, whole.low, whole.high)
    if whole.differs:
        size = between(abs(whole.delta), *_size(whole), signed=False)
        text = f"{arm} {'beats' if whole.delta > 0 else 'loses to'} {whole.a} by {size} points {asked}"
        text += carried(contrasts, whole) if arm == "both" else ""
    elif not whole.up and not whole.down:
        text = f"{arm} and {whole.a} score the same on every question {where}; n = {whole.n:,}"
    else:
        said = f"{shown} points, p = {whole.p_holm or 1:.2f}{sees(whole)}"
        text = f"{arm} and {whole.a} cannot be told apart {asked}: {said}"
    return f"{text}. {counted(single)}".strip() if len(single) > 1 else f"{text}."


def against(contrast: Contrast, what: str) -> str:
    """One comparison against something in one sentence, with its number of questions and its interval."""
    size = between(contrast.delta, contrast.low, contrast.high)
    asked = f"(n = {contrast.n:,})"
    if contrast.differs:
        return f"{'better' if contrast.delta > 0 else 'worse'} than {what} by {size} {asked}."
    if not contrast.up and not contrast.down:
        return f"scores as {what} does on every question {asked}."
    return f"not distinguishable from {what}: {size} {asked}{sees(contrast)}."


def _size(contrast: Contrast) -> tuple[float | None, float | None]:
    """The interval of a difference that is told without its sign."""
    if contrast.low is None or contrast.high is None:
        return None, None
    return (contrast.low, contrast.high) if contrast.delta > 0 else (-contrast.high, -contrast.low)


def sees(contrast: Contrast) -> str:
    """The smallest true difference that would have been noticed."""
    if contrast.least is None:
        return ""
    return (
        f"; with so many questions a true difference of {contrast.least:.1f} is noticed four times in five (80 % power)"
    )


def carried(contrasts: Sequence[Contrast], whole: Contrast) -> str:
    """Which of the two steps makes the difference, when each was also run alone against the same arm."""
    alone = {row.b: row for row in contrasts if row.benchmark == whole.benchmark and row.a == whole.a}
    if not {"trend", "padding"} <= alone.keys():
        return ""
    steps = {name: alone[name] for name in ("padding", "trend")}
    helps = [name for name, row in steps.items() if row.differs and row.delta > 0]
    said = {2: "each step helps alone", 0: "neither step can be told from nothing alone"}
    first = said.get(len(helps)) or f"the {helps[0]} step carries it"
    shown = [f"{name} alone {between(row.delta, row.low, row.high)}" for name, row in steps.items()]
    return f"; {first} ({', '.join(shown)})"


def counted(single: Sequence[Contrast]) -> str:
    """How many benchmarks differ by themselves."""
    signs = {"better": 1, "worse": -1}
    names = {word: [row.benchmark for row in single if row.differs and sign * row.delta > 0]
             for word, sign in signs.items()}  # fmt: skip
    parts = [f"{', '.join(group)} {word}" for word, group in names.items() if group]
    total = sum(map(len, names.values()))
    verb = "differ by themselves" if total > 1 else "differs by itself"
    return f"{total or 'None'} of {len(single)} {verb}{': ' if parts else ''}{'; '.join(parts)}."


def summary(contrasts: Sequence[Contrast], arm: str) -> Table:
    """One row a benchmark: the unpruned model where it was asked, both arms, their difference, and the mark."""
    mine = [row for row in contrasts if row.b == arm]
    whole = {row.benchmark: row.value_b for row in contrasts if row.b == UNPRUNED} if arm != UNPRUNED else {}
    rows: list[list[Cell]] = []
    for row in mine:
        values = [*([whole.get(row.benchmark)] if whole else []), row.value_a, row.value_b]
        shown = [None if value is None else f"{tenths(value):.1f}" for value in values]
        least = None if row.differs or row.least is None else f"{tenths(row.least):.1f}"
        rows.append([row.benchmark, *shown, between(row.delta, row.low, row.high), MARK if row.differs else "", least])
    a = mine[0].a
    head = ["benchmark", *([UNPRUNED] if whole else []), a, arm, f"{arm} − {a}, 95 %", "", "could see"]
    strong = [place for place, row in enumerate(mine) if row.differs]
    return Table("", head, rows, (), strong)


def notes(contrasts: Sequence[Contrast], arms: Sequence[str]) -> list[str]:
    """What marks and columns mean, and the benchmarks whose interval says otherwise."""
    odd = dict.fromkeys(
        row.benchmark
        for row in contrasts
        if row.b in arms and not row.differs and row.low is not None and row.high is not None
        if row.low > 0 or row.high < 0
    )
    rule = f"{RULE} could see: the smallest true difference that so many questions show four times in five."
    return [rule, *([f"Here the interval leaves out 0 and the test does not: {', '.join(odd)}."] if odd else [])]
