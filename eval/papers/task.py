"""What `reproduce` works on: an artefact of the papers on one model and its data, and the runs that this means."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from eval.answering.checkpoints import config_of, folder_of, layout
from eval.cli import Parser
from eval.commands import run
from eval.papers.artefacts import REFCOCO, Artefact, Planned
from pruners.prior import BESIDE, lying_in


@dataclass(frozen=True)
class Task:
    """An artefact on a model and data."""

    artefact: Artefact
    model: str | None
    data: str | None
    out: Path
    limit: int | None
    more: tuple[str, ...]  # flags of `run`
    benchmarks: tuple[str, ...]  # those that the data holds

    @property
    def media(self) -> str:
        from eval import benchmarks

        return benchmarks.get(self.artefact.benchmarks[0]).media

    @property
    def checkpoint(self) -> str:
        from eval.embedded import EMBEDDED

        return self.model or str(EMBEDDED[self.media])

    @property
    def here(self) -> Path:
        """What the artefact itself writes; its runs may be another one's."""
        return self.out / self.artefact.name

    def folder(self, planned: Planned) -> Path:
        return self.out / self.artefact.folder / planned.label

    def args(self, planned: Planned) -> argparse.Namespace:
        """The run, as its command line would say it."""
        parser = Parser(prog="python -m eval run")
        run.command(parser)
        args, fields = parser.parse_known_args(self.words(planned))
        args.fields = fields
        return args

    def words(self, planned: Planned) -> list[str]:
        """The flags of the run."""
        words = [*self.more, "--method", planned.method, "--arms", ",".join(planned.arms)]  # what is declared wins
        words += ["--benchmarks", ",".join(self.benchmarks), "--out", str(self.folder(planned))]
        named = {"model": self.model, "data": self.data, "limit": self.limit}
        named |= {"trend": planned.trend, "stages": planned.stages}
        words += ["--as-released"] if planned.as_released else []
        words += [word for name, value in named.items() if value is not None for word in (f"--{name}", str(value))]
        if layout(self.checkpoint).kind == "internvl":
            words += [w for name in REFCOCO if name in self.benchmarks for w in ("--option", f"{name}.style=internvl")]
        return [*words, *self.fields(planned)]

    def fields(self, planned: Planned) -> list[str]:
        """The method's flags. Budgets and depths that belong to another model are carried over in proportion."""
        from pruners.schedule import at_depth

        words = []
        if planned.keep is not None:
            tokens = layout(self.checkpoint).tokens
            tokens = tokens * 8 if tokens and self.media == "video" else tokens
            share = isinstance(planned.keep, float) or tokens == planned.of
            words += ["--keep", repr(planned.keep if share else planned.keep / planned.of)]
        if planned.depth is not None:
            config = config_of(self.checkpoint)
            layers = (config.get("text_config") or config)["num_hidden_layers"]
            words += ["--layer", str(at_depth(planned.depth, layers))]
        for name, value in planned.fields.items():
            flag = name.replace("_", "-")
            if isinstance(value, bool):
                head, _, last = flag.rpartition(".")
                words.append(f"--{head + '.' if head else ''}{'' if value else 'no-'}{last}")
            else:
                words += [f"--{flag}", str(value)]
        if planned.method == "d2pruner" and lying_in(folder_of(self.checkpoint)) is None:
            words += ["--prior", str(self.out / self.artefact.folder / BESIDE[0])]
        return words
