"""What `reproduce` works on: an artefact of the papers on one model and its data, and the runs that this means."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from eval import benchmarks
from eval.answering.checkpoints import config_of, folder_of, layout
from eval.answering.resolved import Resolved
from eval.answering.store import Folder
from eval.core.embedded import EMBEDDED, named
from eval.core.files import write_json
from eval.core.settings import Settings
from eval.papers.artefacts import REFCOCO, Artefact, Planned
from eval.scoring.results import Scored, results
from pruners import catalogue, make
from pruners.loading.folder import BESIDE
from pruners.models import Adapter
from pruners.parts.budget import tokens_kept
from pruners.parts.schedule import at_depth, depths
from pruners.prior import lying_in

LAYERS = 32  # of LLaVA-1.5-7B, which published layers are counted in


def moved(planned: Planned, method: str, layers: int = LAYERS) -> dict[str, Any]:
    """The field of a method that puts its cut at a run's depth, in a decoder of so many layers.

    The cuts of a method with several move by as many layers as FastV's would, or, where it stands in for another
    method, as far as puts the first one there. No field where they are there already.
    """
    assert planned.depth is not None
    if "layers" not in {field.name for field in catalogue.fields(method)}:
        return {"layer": at_depth(planned.depth, layers)}
    own = [cut.layer for cut in make(method).cuts(LAYERS)]
    stands_in = planned.like is not None and method != planned.like
    shift = planned.depth - (own[0] if stands_in else make("fastv").cuts(LAYERS)[0].layer)
    return {"layers": depths([at + shift for at in own], layers)} if shift else {}


def as_costly(planned: Planned) -> int:
    """The budget at which a method leaves as many tokens a layer, in the mean, as the method that it stands in for."""
    assert planned.like is not None
    assert planned.keep is not None
    own = make(planned.like, keep=int(planned.keep), **moved(planned, planned.like))
    wanted, where = own.mean_count(LAYERS, planned.of), moved(planned, planned.method)

    def off(keep: int) -> float:
        return abs(make(planned.method, keep=keep, **where).mean_count(LAYERS, planned.of) - wanted)

    return min(range(planned.of + 1), key=off)


@dataclass(frozen=True)
class Task:
    """An artefact on a model and data."""

    artefact: Artefact
    out: Path
    base: Settings  # what every run of it has in common: model, data, limit, and how to answer
    benchmarks: tuple[str, ...]  # those that the data holds
    fields: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # by method: what is asked for besides
    trends: Mapping[str, str] = field(default_factory=dict)  # by run: the file that holds the trend of its layer

    @property
    def media(self) -> str:
        """Whether it asks about pictures (image) or clips (video)."""
        return benchmarks.get(self.artefact.benchmarks[0]).media

    @cached_property
    def checkpoint(self) -> str:
        """The model's folder or hub id; kept, because a folder that we put together is checked by its hash."""
        return named(self.base.model or str(EMBEDDED[self.media]))

    @property
    def here(self) -> Path:
        """What the artefact itself writes; its runs may belong to another artefact."""
        return self.out / self.artefact.name

    def folder(self, planned: Planned) -> Path:
        """The run folder of one of its runs."""
        return self.out / self.artefact.folder / planned.label

    def answers(self, planned: Planned) -> tuple[int, int | None]:
        """How many answers of a run are there, and of how many; None where it was not begun."""
        folder = Folder(self.folder(planned))
        info = folder.info()["benchmarks"] if (folder.path / "run.json").exists() else {}
        there = sum(len(folder.rows(name, arm)) for name in info for arm in planned.arms)
        return there, sum(facts["n"] for facts in info.values()) * len(planned.arms) or None

    def unfinished(self) -> dict[str, str]:
        """The runs that were begun and not answered to the end: how many answers there are, by label."""
        counts = {run.label: self.answers(run) for run in self.artefact.runs}
        return {label: f"{there} of {of}" for label, (there, of) in counts.items() if of is not None and there < of}

    def finished(self) -> list[tuple[Planned, Folder, list[Scored]]]:
        """The runs that are answered to the end, with their scores: what is not answered yet is not a wrong answer."""
        scored = []
        for planned in self.artefact.runs:
            there, of = self.answers(planned)
            if of is not None and there >= of:
                folder = Folder(self.folder(planned))
                scored.append((planned, folder, results(folder, self.base.data)))
        return scored

    @property
    def layers(self) -> int:
        """Of the model's decoder."""
        config = config_of(self.checkpoint)
        layers: int = (config.get("text_config") or config)["num_hidden_layers"]
        return layers

    def place(self, planned: Planned) -> str:
        """What a run at a depth keeps and where it cuts on this model, in words."""
        settings, tokens = self.settings(planned), layout(self.checkpoint).tokens
        assert settings.keep is not None
        first = make(planned.method, keep=settings.keep, **settings.fields).cuts(self.layers)[0].layer
        kept = f"{tokens_kept(settings.keep, tokens)} of {tokens}" if tokens else f"{settings.keep:.0%} of the"
        told = f"{catalogue.title(planned.method)}, {kept} tokens, cut before layer {first} of {self.layers}"
        if (tokens, self.layers) == (planned.of, LAYERS):
            return told
        return f"{told} ({planned.keep} and {planned.depth} for {planned.of} and {LAYERS})"

    def resolved(self, planned: Planned, **changes: Any) -> closing[Resolved]:
        """The run, ready to answer; for a `with`, at whose end the model is let go. changes: of its settings."""
        return closing(Resolved(replace(self.settings(planned), **changes), [], {self.media: self.checkpoint}))

    def write(self, name: str, value: Any) -> None:
        """A JSON file of the artefact's own."""
        write_json(self.here / name, value)

    def settings(self, planned: Planned) -> Settings:
        """The run. Budgets and depths that belong to another model are carried over in proportion."""
        tokens = layout(self.checkpoint).tokens
        tokens = tokens * 8 if tokens and self.media == "video" else tokens
        keep = planned.keep
        if planned.like is not None:
            keep = as_costly(planned)
        if keep is not None and not isinstance(keep, float) and tokens != planned.of:
            keep = keep / planned.of
        fields = dict(planned.fields)
        if planned.depth is not None:
            fields |= moved(planned, planned.method, self.layers)
        if planned.method == "d2pruner" and self.prior is not None:
            fields["prior"] = str(self.prior)
        options = dict(self.base.options)
        style = layout(self.checkpoint).family.grounding
        if style != Adapter.grounding:
            options |= {name: {"style": style} for name in REFCOCO if name in self.benchmarks}
        declared: dict[str, Any] = {
            "trend": planned.trend,
            "padding": planned.padding,
            "stages": planned.stages,
            "fill": planned.fill,
        }
        if planned.label in self.trends:  # arms of one cut at a deep layer share most of their work
            declared |= {"trend": self.trends[planned.label], "share_prefix": True}
        declared["as_released"] = planned.as_released or None
        return replace(
            self.base,
            method=planned.method,
            keep=keep,
            fields={**self.fields.get(planned.method, {}), **fields},
            arms=planned.arms,
            benchmarks=self.benchmarks,
            options=options,
            out=self.folder(planned),
            **{name: value for name, value in declared.items() if value is not None},
        )

    @property
    def prior(self) -> Path | None:
        """Where the average attention that D2Pruner divides by is measured into; None: the checkpoint brings one."""
        if lying_in(folder_of(self.checkpoint)) is not None:
            return None
        return self.out / self.artefact.folder / BESIDE[0]
