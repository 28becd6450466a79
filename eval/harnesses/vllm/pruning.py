"""A request as something that can run: its method, its debias, and the model family that knows where pictures stand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor

from debias import Debias
from eval.answering import early, trends
from eval.answering.able import cuts
from eval.answering.resolved import pruner_of
from eval.core.settings import Settings
from eval.harnesses.vllm.settings import Asked
from pruners import Pruner
from pruners.engine.choose import choose
from pruners.engine.sequence import Choice, Segment, first_segment
from pruners.loading.folder import local
from pruners.models import Adapter, family, picture_tokens
from pruners.models.images import settings as pictures
from pruners.models.request import Size
from pruners.parts.patches import Patches
from pruners.view import Look, View

# What travels with a picture through the engine, besides what the model gets.
SOURCE, TOKENS, KEY, PROMPT = OURS = ("debias_source", "debias_tokens", "debias_key", "debias_prompt")


class Pruning:
    """One request on one checkpoint.

    model: a folder or hub id. adapter: its family's, which needs no model but its configuration.
    """

    note: ClassVar[Callable[[Mapping[str, Any], Choice], None] | None] = (
        None  # told what came with a picture, and stays
    )

    def __init__(self, asked: Asked, model: str, adapter: Adapter) -> None:
        config, kind = adapter.model.config, type(adapter)
        self.asked, self.depth = asked, int(config.get_text_config().num_hidden_layers)
        self.pruner: Pruner | None = None
        self.debias = Debias()
        self.layers = 0  # how many of the decoder's are run ahead of the engine
        self.reads_tower = False
        self.reads_prompt = False  # whether the text decides what is left of the picture
        self.renumbers = False  # whether what is left is numbered without gaps
        if asked.method is not None:
            tokens = picture_tokens(config.to_dict())
            self.pruner = pruner_of(Settings(method=asked.method, keep=asked.keep, fields=dict(asked.fields)), [tokens])
            early.check_keep(self.pruner.keep, Path(model).name, tokens)
            cuts(self.pruner, self.depth)
            refuse(asked, self.pruner, kind, self.depth)
            self.pruner.check(adapter)
            self.layers = asked.scout or 0
            self.reads_prompt = self.pruner.reads in ("decoder", "tokens")
            self.reads_tower = self.pruner.reads_tower()
            self.renumbers = self.pruner.positions == "compact" and kind.renumbers
            self.debias = debias_of(asked, self.pruner, model, tokens)

    def count(self, tokens: int) -> int:
        """How many tokens go on of a picture of so many."""
        count = tokens if self.pruner is None else min(tokens, self.pruner.counts(self.depth, tokens)[0])
        if not count:
            raise ValueError(f"{self.asked.key} leaves nothing of a picture of {tokens} tokens")
        return count

    def segment(self, adapter: Adapter, ids: Tensor, media: Mapping[str, Tensor], size: Size) -> Segment:
        """A prompt [n] with one picture, whole, as the mechanism sees it; everything lies where `ids` do."""
        inputs = {"input_ids": ids.cpu()[None], **media}
        sizes = [size] if self.debias.padding is not None or not adapter.pads else None
        spans = adapter.spans(inputs, sizes)
        return first_segment(spans, adapter.slots(inputs, spans), None, ids[None], 1, self.debias)

    def view(
        self,
        adapter: Adapter,
        segment: Segment,
        states: Tensor | None = None,
        looks: Mapping[int, Look] | None = None,
        patches: Patches | None = None,
        stage: int = 0,
    ) -> View:
        """The picture at the first cut. states: [n, D] of the whole prompt as they enter its layer."""
        assert self.pruner is not None
        tokens, cut = segment.images[0][0], self.pruner.cuts(self.depth)[0]
        return View(
            cut=cut,
            stage=stage,
            layers=self.depth,
            count=self.count(len(tokens)) if stage >= 0 else len(tokens),
            tokens=tokens,
            adapter=adapter,
            debiaser=self.debias,
            sequence=states,
            text_slots=segment.text[0],
            looks=looks or {},
            patches=patches,
            turn=stage - int(cut.source == "tower"),
        )

    def choose(self, view: View) -> Choice:
        """What goes on of the picture."""
        assert self.pruner is not None
        return choose(self.pruner, view, None)


class Prunings:
    """Those of one checkpoint, each made once. config: the checkpoint's, of transformers."""

    def __init__(self, model: str, config: Any) -> None:
        self.model, self.config = model, config
        kind = family(str(config.model_type))
        layers = range(int(config.get_text_config().num_hidden_layers))
        outline = SimpleNamespace(config=config, model=SimpleNamespace(language_model=SimpleNamespace(layers=layers)))
        self.adapter = kind(outline, pictures(str(local(model))))
        self._made: dict[str, Pruning] = {}

    def __call__(self, asked: Asked) -> Pruning:
        if asked.key not in self._made:
            self._made[asked.key] = Pruning(asked, self.model, self.adapter)
        return self._made[asked.key]


def refuse(asked: Asked, pruner: Pruner, kind: type[Adapter], depth: int) -> None:
    """Raise a ValueError for what cannot be done before the engine's first layer."""
    name, first = asked.method, pruner.cuts(depth)[0].layer
    if pruner.prunes_tower():
        raise ValueError(f"{name} takes tokens out inside the vision tower, which the engine runs whole; not served")
    if not pruner.serves(kind):
        raise ValueError(f"{name} cannot run on this model: the patches of its vision tower are not its tokens")
    if pruner.of_clips:
        raise ValueError(f"{name} compares the frames of clips, and pictures are pruned in the engine; not served")
    if pruner.watches_tower() and pruner.reads != "vision":
        raise ValueError(f"{name} reads the vision tower and the decoder, and the engine lets us do one; not served")
    if pruner.glances(depth):
        raise ValueError(f"{name} reads several layers of the vision tower, and one is at hand here; not served")
    if first == 0:
        if asked.scout is not None:
            raise ValueError(f"{name} cuts before the decoder and needs no scout; leave 'scout' out")
        return
    if pruner.merges():
        raise ValueError(f"{name} makes new tokens inside the decoder, and the engine takes whole pictures; not served")
    if pruner.mode != "gather":
        raise ValueError(
            f"{name} with mode={pruner.mode!r} ranks anew at every step, which the engine does not; not served"
        )
    wanted = 0 if pruner.reads == "nothing" else first
    if asked.scout != wanted:
        what = "looks at nothing" if pruner.reads == "nothing" else f"cuts before layer {first} of the decoder"
        raise ValueError(
            f"{name} {what}. In the engine its tokens leave before layer 0, chosen by a scout of {wanted} layers; "
            f'that is another method, so ask for it: "scout": {wanted}'
        )


def debias_of(asked: Asked, pruner: Pruner, model: str, tokens: int | None) -> Debias:
    """The debias of the arm, as `run` has it; a trend must be there, nothing is fitted while a server runs."""
    assert asked.method is not None
    base = Debias.paper(asked.method, None, "padding").with_arm(asked.arm)
    if asked.arm not in ("trend", "both") or not trends.trended(pruner):
        return base
    early.check_trend(asked.trend)
    own = local(model) / "trends.toml"
    trend = trends.Known(asked.method, None, "image", tokens, own if own.is_file() else None).choose(asked.trend)
    if isinstance(trend, str):
        raise ValueError(
            f"no trend of {asked.method} is known for this model. Fit one: `debias fit --method {asked.method} --model "
            f'{model} --out trends.toml`, and name the file: "trend": "trends.toml"'
        )
    return replace(base, trend=trend, reading=trends.READINGS.get(asked.trend))


def survivors(choice: Choice, tokens: Tensor) -> Tensor:
    """[m, D] what goes on of a picture's [N, D] tokens."""
    return tokens.index_select(0, choice.kept) if choice.merged is None else choice.merged.hidden


def written(text: str) -> Tensor:
    """A text as a tensor, because tensors are what travels with a picture."""
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def text_of(tensor: Tensor) -> str:
    """The text again."""
    return bytes(tensor.tolist()).decode()
