"""Is padding an attention sink? Its hidden states beside those of the other visual tokens, for each filling."""

from __future__ import annotations

from typing import Any

from eval.bias import strength as bias
from eval.bias.activations import KINDS, Activations, activations
from eval.bias.diagnosis import bracket
from eval.core.tables import Cell, Table
from eval.papers import artefacts
from eval.papers.artefacts import Planned
from eval.papers.strengths import each, pictures
from eval.papers.task import Task
from eval.reading.media import request
from eval.showing import drawings


def sinks(task: Task) -> list[Table]:
    """A table of layers for every filling of the border, and one figure of all."""
    possible, left = each(task, seen)
    by_label = {planned.label: sink for planned, sink in possible}
    drawings.save(drawings.activations(by_label), task.here / "figures" / "activations")
    made = []
    for label, sink in by_label.items():
        rows: list[list[Cell]] = []
        for layer, first in enumerate(sink.first):
            padding, valid = (sink.at_sink[kind][:, layer] for kind in KINDS)
            measured = (bias.mean(values) for values in (padding, valid, padding - valid))
            largest = [int(sink.profile[kind][layer].argmax()) for kind in KINDS]
            rows.append([layer, f"{first:.2f}", *map(bracket, measured), *largest])
        head = ["layer", "first token", *KINDS, "padding - valid", "largest: padding", "largest: valid"]
        notes = [
            *left,
            *artefacts.sources(task.artefact),
            f"{len(sink.at_sink['padding'])} pictures with padding. Of what enters a layer: the larger of dimensions "
            f"{' and '.join(map(str, sink.dimensions))}, over the root mean square of the hidden state; these are the "
            "largest of the sequence's first token. In brackets 95 % over pictures. largest: the dimension with the "
            "largest mean.",
        ]
        made.append(Table(f"{task.artefact.title} Border: {label}", head, rows, notes))
    return made


def seen(task: Task, planned: Planned) -> Activations:
    """Hidden states on the padded pictures of one run, by layer."""
    with task.resolved(planned) as chosen:
        shown: Any = (request(sample, talk) for talk, sample in pictures(task, chosen))
        asked = [ask for ask in shown if len({*ask.images[0].size}) > 1]
        return activations(chosen.adapter(task.media), asked[: task.base.limit or 64])
