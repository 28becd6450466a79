"""What a run showed, in words: no claim without an interval, and beside "no difference" what so few questions can see.

What counts as a difference is decided in eval/comparing/contrast.py, for words and marks alike.
"""

from __future__ import annotations

from collections.abc import Sequence

from eval.comparing.contrast import Contrast
from eval.settings import UNPRUNED
from eval.tables import Cell, Table, between, tenths

MARK = "*"
RULE = (
    f"{MARK}: differs, p < 0.05 after Holm's correction over the benchmarks. Where test and interval disagree, the "
    "test decides: an interval over few pictures is approximate, and it knows nothing of the other benchmarks."
)


def main_arm(arms: Sequence[str]) -> str | None:
    """The compared arm that a verdict is about: the method's full debiasing, or else the last arm."""
    others = [arm for arm in arms if arm != UNPRUNED] or list(arms)
    return next((arm for arm in ("both", "padding") if arm in others), others[-1] if others else None)


def verdict(found: Sequence[Contrast], arm: str, where: str | None = None) -> str:
    """One sentence about an arm over all benchmarks, and one about how many of them differ by themselves.

    where: what to say instead of the names of the benchmarks.
    """
    mine = [one for one in found if one.b == arm]
    whole, single = mine[-1], [one for one in mine if one.benchmark != "average"]
    where = where or (f"over {len(single)} benchmarks" if len(single) > 1 else f"on {whole.benchmark}")
    asked = f"{where} ({whole.n:,} questions)"
    shown = between(whole.delta, whole.low, whole.high)
    if whole.differs:
        size = between(abs(whole.delta), *_size(whole), signed=False)
        text = f"{arm} {'beats' if whole.delta > 0 else 'loses to'} {whole.a} by {size} points {asked}"
        text += carried(found, whole) if arm == "both" else ""
    elif not whole.up and not whole.down:
        text = f"{arm} and {whole.a} score the same on every question {where}; n = {whole.n:,}"
    else:
        said = f"{shown} points, p = {whole.p_holm or 1:.2f}{sees(whole)}"
        text = f"{arm} and {whole.a} cannot be told apart {asked}: {said}"
    return f"{text}. {counted(single)}".strip() if len(single) > 1 else f"{text}."


def against(one: Contrast, what: str) -> str:
    """One comparison against something in one sentence, with its number of questions and its interval."""
    size = between(one.delta, one.low, one.high)
    asked = f"(n = {one.n:,})"
    if one.differs:
        return f"{'better' if one.delta > 0 else 'worse'} than {what} by {size} {asked}."
    if not one.up and not one.down:
        return f"scores as {what} does on every question {asked}."
    return f"not distinguishable from {what}: {size} {asked}{sees(one)}."


def _size(one: Contrast) -> tuple[float | None, float | None]:
    """The interval of a difference that is told without its sign."""
    if one.low is None or one.high is None:
        return None, None
    return (one.low, one.high) if one.delta > 0 else (-one.high, -one.low)


def sees(one: Contrast) -> str:
    """The smallest true difference that would have been noticed."""
    if one.least is None:
        return ""
    return f"; with so many questions a true difference of {one.least:.1f} is noticed four times in five (80 % power)"


def carried(found: Sequence[Contrast], whole: Contrast) -> str:
    """Which of the two steps does it, when each was also run alone against the same arm."""
    alone = {one.b: one for one in found if one.benchmark == whole.benchmark and one.a == whole.a}
    if not {"trend", "padding"} <= alone.keys():
        return ""
    steps = {name: alone[name] for name in ("padding", "trend")}
    helps = [name for name, one in steps.items() if one.differs and one.delta > 0]
    said = {2: "each step helps alone", 0: "neither step can be told from nothing alone"}
    first = said.get(len(helps)) or f"the {helps[0]} step carries it"
    shown = [f"{name} alone {between(one.delta, one.low, one.high)}" for name, one in steps.items()]
    return f"; {first} ({', '.join(shown)})"


def counted(single: Sequence[Contrast]) -> str:
    """How many benchmarks differ by themselves."""
    signs = {"better": 1, "worse": -1}
    names = {word: [one.benchmark for one in single if one.differs and sign * one.delta > 0]
             for word, sign in signs.items()}  # fmt: skip
    parts = [f"{', '.join(found)} {word}" for word, found in names.items() if found]
    total = sum(map(len, names.values()))
    verb = "differ by themselves" if total > 1 else "differs by itself"
    return f"{total or 'None'} of {len(single)} {verb}{': ' if parts else ''}{'; '.join(parts)}."


def summary(found: Sequence[Contrast], arm: str) -> Table:
    """One row a benchmark: the unpruned model where it was asked, both arms, their difference, and the mark."""
    mine = [one for one in found if one.b == arm]
    whole = {one.benchmark: one.value_b for one in found if one.b == UNPRUNED} if arm != UNPRUNED else {}
    rows: list[list[Cell]] = []
    for one in mine:
        values = [*([whole.get(one.benchmark)] if whole else []), one.value_a, one.value_b]
        shown = [None if value is None else f"{tenths(value):.1f}" for value in values]
        least = None if one.differs or one.least is None else f"{tenths(one.least):.1f}"
        rows.append([one.benchmark, *shown, between(one.delta, one.low, one.high), MARK if one.differs else "", least])
    a = mine[0].a
    head = ["benchmark", *([UNPRUNED] if whole else []), a, arm, f"{arm} − {a}, 95 %", "", "could see"]
    strong = [place for place, one in enumerate(mine) if one.differs]
    return Table("", head, rows, (), strong)


def notes(found: Sequence[Contrast], arms: Sequence[str]) -> list[str]:
    """What marks and columns mean, and the benchmarks whose interval says otherwise."""
    odd = dict.fromkeys(
        one.benchmark
        for one in found
        if one.b in arms and not one.differs and one.low is not None and one.high is not None
        if one.low > 0 or one.high < 0
    )
    rule = f"{RULE} could see: the smallest true difference that so many questions show four times in five."
    return [rule, *([f"Here the interval leaves out 0 and the test does not: {', '.join(odd)}."] if odd else [])]
