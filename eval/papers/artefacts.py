"""What can be reproduced (assets/artefacts.toml), and what was published about it (assets/published.toml)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from debias.names import one_of
from eval.core.embedded import shipped
from eval.core.files import toml
from eval.core.settings import several
from pruners.parts.budget import REFERENCE_TOKENS

ARMS = ("none", "both")
TWIN = "-as-released"
REFCOCO = ("refcoco", "refcoco+", "refcocog")


@dataclass(frozen=True)
class Planned:
    """One run of an artefact: a method with its budget and fields, in some arms."""

    label: str
    method: str
    arms: tuple[str, ...]
    called: str  # what published rows call it
    keep: float | None = None
    of: int = REFERENCE_TOKENS  # visual tokens of the model that the budget belongs to
    depth: int | None = None  # the cut, as a layer of 32
    trend: str | None = None
    padding: str | None = None
    stages: str | None = None
    fill: str | None = None  # what the border of pictures shows
    as_released: bool = False
    fields: Mapping[str, Any] = field(default_factory=dict)
    way: str = ""  # of a product: what is done to the score; "" where nothing is
    like: str | None = None  # as many tokens a layer as this method leaves, from the same first cut on
    tokens: int | None = None  # only for models that see a picture as so many tokens

    @property
    def facts(self) -> dict[str, tuple[Any, ...]]:
        """What a published row may say about its run, to be told from others of its method; in every spelling."""
        budget = (self.keep, self.keep / self.of) if self.keep is not None else (None,)
        layer = self.fields.get("layer", self.depth)
        return {"budget": budget, "layer": (layer,), "shallow": (self.fields.get("scores.shallow"),)}


@dataclass(frozen=True)
class Product:
    """Runs that are a product: methods x budgets x layers, each untouched and in every way."""

    methods: tuple[str, ...]
    budgets: tuple[int, ...]
    layers: tuple[int, ...]  # of FastV's cut, of 32; the cuts of the other methods move by as many
    # name, arm, and what of the run differs. only: the methods that have it. from_layer: the first layer that has it.
    # matched: another method with several cuts: the first moves to the layer, and as many tokens a layer are left.
    ways: tuple[Mapping[str, Any], ...]

    def runs(self) -> tuple[Planned, ...]:
        """The runs in the order of the tables: a block for each method, budget and layer, its untouched run first."""
        return tuple(
            self._run(method, keep, depth, way)
            for depth in self.layers
            for keep in self.budgets
            for method in self.methods
            for way in ({"name": "", "arm": "none"}, *self.ways)
            if method in way.get("only", (method,)) and depth >= way.get("from_layer", 0)
        )

    def _run(self, method: str, keep: int, depth: int, way: Mapping[str, Any]) -> Planned:
        rest = {name: value for name, value in way.items() if name not in ("name", "arm", "only", "from_layer")}
        own: dict[str, Any] = {
            name: rest.pop(name) for name in ("trend", "padding", "stages", "tokens") if name in rest
        }
        own["like"] = method if rest.pop("matched", False) else None
        label = f"{method}-{keep}-L{depth}-{way['name'] or 'raw'}"
        kind = rest.pop("method", method)
        return Planned(label, kind, (way["arm"],), label, keep, depth=depth, fields=rest, way=way["name"], **own)

    def narrowed(self, words: Sequence[str]) -> Product:
        """The product with other values on some axes: "budgets=64,128", "layers=2,8", "ways=fitted,online"."""
        ways = {way["name"]: way for way in self.ways}
        known: dict[str, Sequence[str]] = {"methods": self.methods, "budgets": (), "layers": (), "ways": list(ways)}
        chosen: dict[str, Any] = {}
        for word in words:
            axis, _, text = word.partition("=")
            values = several(text)
            if not values:
                raise ValueError(f"--axis {word}: expected AXIS=VALUES, such as budgets=64,128")
            if known[one_of("axis", axis, list(known))]:
                chosen[axis] = tuple(one_of(f"{axis[:-1]} of this artefact", name, known[axis]) for name in values)
            elif all(value.isdecimal() and int(value) for value in values):
                chosen[axis] = tuple(map(int, values))
            else:
                raise ValueError(f"--axis {word}: expected whole numbers of at least 1")
        if "ways" in chosen:
            chosen["ways"] = tuple(map(ways.__getitem__, chosen["ways"]))
        return replace(self, **chosen)


@dataclass(frozen=True)
class Artefact:
    """One table of a paper: what is run, what is measured, and where its numbers were published."""

    name: str
    title: str
    model: str
    benchmarks: tuple[str, ...]
    published: tuple[str, ...]
    runs: tuple[Planned, ...]
    folder: str  # of the runs, below --out
    measure: str = "scores"
    columns: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()  # published tables of methods that it does not run
    product: Product | None = None  # what the runs are the product of

    def narrowed(self, words: Sequence[str]) -> Artefact:
        """The same with other values on some of the axes that its runs are the product of."""
        if not words:
            return self
        if self.product is None:
            raise ValueError(
                f"--axis: the runs of {self.name} are listed one by one (see --runs); those of ways have axes"
            )
        product = self.product.narrowed(words)
        return replace(self, product=product, runs=product.runs())

    def shows(self, planned: Planned) -> bool:
        """Whether published numbers stand beside a run: where it is done both ways, beside the one as released."""
        return planned.as_released or all(run.label != f"{planned.label}{TWIN}" for run in self.runs)

    def only(self, wanted: str) -> Artefact:
        """The same with the runs whose labels match one of several patterns, with commas between them."""
        patterns = [word.strip() for word in wanted.split(",")]
        runs = tuple(run for run in self.runs if any(fnmatchcase(run.label, pattern) for pattern in patterns))
        if not runs:
            labels = ", ".join(run.label for run in self.runs)
            raise ValueError(f"--runs {wanted}: {self.name} has no such run; it has {labels}")
        return replace(self, runs=runs)


@dataclass(frozen=True)
class PublishedRow:
    """One row of a published table."""

    table: str
    label: str
    arm: str
    facts: Mapping[str, Any]
    values: Mapping[str, float]
    gain: bool = False  # whether the values are differences of arm both and arm none

    def of(self, planned: Planned, arm: str) -> bool:
        """Whether it is about this arm of this run: nothing it says differs from what the run says."""
        if self.label != ("unpruned" if arm == "unpruned" else planned.called):
            return False
        mine = planned.facts
        same = all(value in mine[name] for name, value in self.facts.items() if mine[name] != (None,))
        return same and self.arm == ("none" if arm == "unpruned" else arm)


def artefacts() -> dict[str, Artefact]:
    """Everything that can be reproduced, by name, in the order of the file."""
    by_name: dict[str, Artefact] = {}
    for name, entry in _read("artefacts.toml").items():
        source = entry.get("from", name)
        arms = tuple(entry.get("arms", ARMS))
        runs = tuple(_planned(run, arms) for line in entry.get("runs", ()) for run in _each(line))
        if source != name:
            runs = tuple(run for run in by_name[source].runs if run.arms != ("unpruned",))
        product = None
        if "product" in entry:
            product = Product(**{axis: tuple(values) for axis, values in entry["product"].items()})
            runs = product.runs()
        plain: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value
                 for key, value in entry.items() if key not in ("from", "arms", "runs", "product")}  # fmt: skip
        by_name[name] = Artefact(name=name, runs=runs, folder=source, product=product, **plain)
    return by_name


def artefact(name: str) -> Artefact:
    """The artefact of a name; a ValueError names those that there are."""
    known = artefacts()
    return known[one_of("artefact", name, list(known))]


def _each(entry: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A line of several budgets or depths is as many runs; of both, one of every pair."""
    lines = [entry]
    for name, mark in (("depth", "L"), ("keep", "")):
        if isinstance(entry.get(name), list):
            lines = [
                {"as": entry["label"], **line, name: value, "label": f"{line['label']}-{mark}{value}"}
                for line in lines
                for value in entry[name]
            ]
    return lines


def _planned(entry: Mapping[str, Any], arms: tuple[str, ...]) -> Planned:
    rest = dict(entry)
    own = {
        name: rest.pop(name)
        for name in ("label", "method", "keep", "of", "depth", "trend", "stages", "fill")
        if name in rest
    }
    called = rest.pop("as", own["label"])
    return Planned(**own, called=called, arms=tuple(rest.pop("arms", arms)), fields=rest)


def tables() -> dict[str, dict[str, Any]]:
    """The published tables by id."""
    return {table["id"]: table for table in _read("published.toml")["table"]}


def published(ids: tuple[str, ...]) -> list[PublishedRow]:
    """The rows of some published tables. An empty cell is no value."""
    known, rows = tables(), []
    for name in ids:
        table = known[one_of("published table", name, list(known))]
        for row in table["rows"]:
            cells = zip(table["columns"], row["values"], strict=True)
            values = {column: float(value) for column, value in cells if value != ""}
            if "mean" in row:
                values[table["mean"]] = float(row["mean"])
            said = {key: row[key] for key in ("budget", "layer", "shallow") if key in row}
            gain = table.get("kind") == "gain"
            rows.append(PublishedRow(name, row["name"], row.get("arm", "none"), said, values, gain))
    return rows


def published_rows(
    known: Sequence[PublishedRow], planned: Planned, arm: str, cells: Callable[[PublishedRow], Iterable[Any]]
) -> list[list[Any]]:
    """Those of the `known` rows that are about this arm of this run, as rows of a table; cells: their numbers there."""
    return [[planned.label, arm, f"published: {row.table}", *cells(row)] for row in known if row.of(planned, arm)]


def beside(artefact: Artefact) -> list[PublishedRow]:
    """Published rows at the artefact's budgets, of methods that it does not run."""
    budgets = {run.keep for run in artefact.runs}
    return [row for row in published(artefact.beside) if row.facts.get("budget") in budgets]


def sources(artefact: Artefact) -> list[str]:
    """Where the published numbers come from, a line per table."""
    known, notes = tables(), []
    for name in (*artefact.published, *artefact.beside):
        table = known[name]
        notes.append(f"{name} ({table['how']}): {table['source']}. {table['protocol']}.")
        if "amiss" in table:
            notes.append(f"{name} does not add up: {table['amiss']}.")
        if table.get("conflicts") in (*artefact.published, *artefact.beside):
            notes.append(f"{name} contradicts {table['conflicts']}; both are shown as they are.")
    if not artefact.published:
        notes.append("No published numbers of this table are known.")
    return notes


@dataclass(frozen=True)
class PaperItem:
    """A table or figure of the debiasing paper: what it shows, and the artefact that has its counterpart here, or why
    there is none."""

    item: str
    shows: str
    artefact: str | None
    note: str


def paper() -> list[PaperItem]:
    """The map of the debiasing paper (assets/paper.toml)."""
    return [
        PaperItem(row["item"], row["shows"], row.get("artefact"), row.get("note", ""))
        for row in _read("paper.toml")["shown"]
    ]


def _read(name: str) -> dict[str, Any]:
    return toml(shipped(name).read_text(encoding="utf-8"))
