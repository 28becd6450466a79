"""A pruned model as other people's harnesses want it: made from a few settings, asked a list of requests.

eval/harnesses/lmms.py and eval/harnesses/vlmevalkit.py show it to lmms-eval and to VLMEvalKit.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from debias import Span, names
from debias.names import one_of
from eval.answering.able import refusal
from eval.answering.backends import generate, greedy
from eval.answering.checkpoints import layout
from eval.answering.plan import this_process
from eval.answering.resolved import Resolved
from eval.core.embedded import EMBEDDED, named
from eval.core.fields import parse_fields
from eval.core.settings import HARNESS, UNPRUNED, Settings
from eval.reading.images import open_image
from eval.reading.sample import Sample
from eval.reading.video import Clips
from pruners import catalogue
from pruners import names as methods
from pruners.models import Request
from pruners.models.request import asked

log = logging.getLogger("debias")


@dataclasses.dataclass(frozen=True)
class Answer:
    """The text, and what was left of the pictures that it is about."""

    text: str
    kept: list[dict[str, Any]]  # of each picture of the request: the tokens that stayed, and how many that were


class Pruned:
    """A model with a method in one arm.

    settings: what answers; of its arms the last, or all the debiasing that means something to the method.
    benchmark: whose published trend to divide by; None: the mean of the method's rates.
    """

    def __init__(self, settings: Settings, benchmark: str | None = None, like: Pruned | None = None) -> None:
        model = named(settings.model or str(EMBEDDED["image"]))
        self.media = layout(model).family.trend_media
        self.chosen = Resolved(settings, [], {self.media: model})
        self.arm = self.chosen.arms[-1]
        if self.arm != UNPRUNED and (reason := refusal(settings.method, self.chosen.pruner, "native", model, "image")):
            raise ValueError(f"{settings.method} cannot run on {model}: {reason}")
        if like is not None:
            self.chosen.share(like.chosen)
        self.adapter = self.chosen.adapter(self.media)
        self.model = self.adapter.model
        self.clips: Clips = Clips() if like is None else like.clips
        self.benchmark = benchmark and names.benchmark(benchmark)
        self.debias = None if self.arm == UNPRUNED else self.chosen.debias_for(self.benchmark, self.media, self.arm)
        level = logging.INFO if like is None else logging.DEBUG
        log.log(level, "%s on %s, arm %s: %s", self.chosen.pruner, model, self.arm, self.debias)

    def beside(self, **changes: Any) -> Pruned:
        """The same loaded model under other settings of the method: method, keep, fields, arms."""
        return Pruned(dataclasses.replace(self.chosen.settings, **changes), self.benchmark, like=self)

    @classmethod
    def from_text(
        cls,
        pretrained: str | Path | None = None,
        method: str = "fastv",
        arm: str | None = None,
        benchmark: str | None = None,
        **given: Any,
    ) -> Pruned:
        """The model that a harness's own arguments name.

        pretrained: a checkpoint folder or hub id; None: the embedded model. given: HARNESS, and the method's
        fields as a command line has them, such as keep=64 or layers="2-10-20".
        """
        method = one_of("method", method, methods())
        fields = [field.name for field in catalogue.fields(method)]
        words: list[str] = []
        values: dict[str, Any] = {}
        for name, value in given.items():
            one_of(f"setting of {method}", name.split(".")[0].removeprefix("no_"), (*HARNESS, *fields))
            if name in HARNESS:
                values |= {} if value is None else {name: str(value)}
            else:
                words += [] if value is None else as_flag(name, value)
        own = parse_fields(method, words)
        arms = [] if arm is None else [arm]
        model = None if pretrained is None else str(pretrained)
        return cls(
            Settings(method=method, keep=own.pop("keep", None), fields=own, arms=arms, model=model, **values), benchmark
        )

    def request(self, parts: Sequence[tuple[str, Any]]) -> Request:
        """A question from its parts in order: ("text", words), ("image", picture or path), ("video", path or frames).

        Where media stand is said at `asked`.
        """
        kinds = [kind for kind, _ in parts]
        for kind in kinds:
            one_of("part of a question", kind, ("text", "image", "video"))
        if kinds.count("video") > 1:
            raise ValueError(f"a question with {kinds.count('video')} clips; expected one at most")
        read: dict[str, Any] = {"text": str, "image": picture_of, "video": self.frames}
        return asked([(kind, read[kind](value)) for kind, value in parts])

    def frames(self, clip: Any) -> list[Image.Image]:
        """The frames of a clip, which is a file or a list of pictures."""
        if isinstance(clip, str | Path):
            return self.clips(Path(clip))
        return [picture_of(frame) for frame in clip]

    def spans(self, request: Request) -> list[Span]:
        """Where the visual tokens of a question stand in its prompt."""
        encoded = self.adapter.encode([request], device="cpu")
        (row,) = self.adapter.spans(encoded.inputs, encoded.sizes)
        return list(row)

    def __call__(self, requests: Sequence[Request], max_new_tokens: int = 1024, **decoding: Any) -> list[Answer]:
        """The answers in order. decoding: num_beams, or temperature (above 0), top_p and top_k to sample."""
        config = greedy(self.model, max_new_tokens)
        for name, value in decoding.items():
            setattr(config, name, value)
        config.do_sample = bool(decoding.get("temperature"))
        try:
            return self._generate(requests, config)
        except torch.OutOfMemoryError:
            if len(requests) == 1:
                raise
        torch.cuda.empty_cache()  # outside the handler, which would keep the failed call's tensors alive
        half = len(requests) // 2
        log.info("out of memory with %d questions at once; going on with %d", len(requests), half)
        return [
            answer for part in (requests[:half], requests[half:]) for answer in self(part, max_new_tokens, **decoding)
        ]

    def _generate(self, requests: Sequence[Request], config: Any) -> list[Answer]:
        new, bad, kept = self.generate(requests, config)
        if any(bad):
            raise ValueError("the model's logits hold NaN, which is not an answer. Try another dtype")
        return [Answer(text, stayed) for text, stayed in zip(self.adapter.decode(new), kept, strict=True)]

    def generate(
        self, requests: Sequence[Request], config: Any, stopping: Sequence[Any] = ()
    ) -> tuple[torch.Tensor, list[bool], list[list[dict[str, Any]]]]:
        """New ids of each request; whether its logits held NaN; what was kept of each of its pictures.

        stopping: further criteria, as `generate` of transformers takes them.
        """
        encoded = self.adapter.encode(requests)
        pruned = None if self.debias is None else self.chosen.pruner(self.model, self.debias, sizes=encoded.sizes)
        done = generate(self.adapter, encoded, config, pruned, stopping)
        kept = [[done.noted([image]) for image in done.pictures(row)] for row in range(len(requests))]
        return done.new, done.bad, kept

    def close(self) -> None:
        """Let go of the model."""
        self.chosen.close()
        self.model = self.adapter = None


class Rows:
    """A file that gets a line for each answer, with the tokens that stayed; harnesses keep no place for them."""

    def __init__(self, path: str | Path) -> None:
        place = this_process()
        self.path = Path(path)
        if place.size > 1:
            self.path = self.path.with_suffix(f".{place.rank}{self.path.suffix}")
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, answer: Answer, **facts: Any) -> None:
        """Write an answer; `facts` say to what."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({**facts, "text": answer.text, "pictures": answer.kept}, ensure_ascii=False) + "\n")


def picture_of(source: Any) -> Image.Image:
    """A picture in memory, or a file that is read within the bounds that all of ours are."""
    if isinstance(source, Image.Image):
        return source.convert("RGB")
    if isinstance(source, str | Path):
        return open_image(Sample(str(source), "", Path(source)))
    raise ValueError(f"expected a picture or its path, found {type(source).__name__}")


def as_flag(name: str, value: Any) -> list[str]:
    """keep=64 as it is written on a command line; numbers joined by "-" are several values of the same field."""
    flag = f"--{name.replace('_', '-')}"
    if isinstance(value, bool) and name not in HARNESS:
        return [flag if value else f"--no-{flag[2:]}"]
    if isinstance(value, str) and re.fullmatch(r"[\d.]+(-[\d.]+)+", value):
        return [flag, *value.split("-")]
    if isinstance(value, list | tuple):
        return [flag, *map(str, value)]
    return [flag, str(value)]


def decoding(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """What a harness asks of generation, as `Pruned` takes it: sampling only above temperature 0."""
    options = {"max_new_tokens": int(wanted.get("max_new_tokens") or 1024)}
    if (wanted.get("num_beams") or 1) > 1:
        options["num_beams"] = int(wanted["num_beams"])
    if (wanted.get("temperature") or 0) > 0:
        options |= {name: wanted[name] for name in ("temperature", "top_p", "top_k") if wanted.get(name) is not None}
    return options
