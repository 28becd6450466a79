"""What patched code calls: `rescore` and `kept`, which do nothing at all unless a `using` is open around them."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor

from debias import names
from debias.core import Debias
from debias.span import Span

_ACTIVE: ContextVar[Optional[Context]] = ContextVar("debias", default=None)


class Context:
    """One generation: the debias, the span of each sample, and which tokens each sample still has after each cut.

    calls    how often each method asked for a score
    records  with record=True, an entry for each score: method, stage, sample, role, and the score before and after
    """

    def __init__(
        self,
        debias: Union[Debias, str],
        spans: Sequence[Any] = (),
        benchmark: Optional[str] = None,
        record: bool = False,
    ) -> None:
        self.debias = names.arm(debias) if isinstance(debias, str) else debias
        self.spans = list(spans)
        self.benchmark = benchmark
        self.calls: Dict[str, int] = {}
        self.records: Optional[List[Dict[str, Any]]] = [] if record else None
        self._kept: Dict[int, Dict[int, Tuple[Tensor, Optional[int]]]] = {}
        self._width: Dict[Tuple[int, int], int] = {}
        self._shift: Dict[int, int] = {}

    def setting(self, method: str) -> Debias:
        """The debias for a method: the given value, or the released setting if only an arm was named."""
        if isinstance(self.debias, Debias):
            return self.debias
        return Debias.paper(method, self.benchmark, self.debias)

    def span(self, sample: int) -> Span:
        """The span of a sample."""
        try:
            span = self.spans[sample]
        except IndexError:
            raise ValueError(f"sample {sample} has no span; using(...) was given {len(self.spans)}") from None
        if isinstance(span, Span):
            return span
        if len(span) != 1:
            raise ValueError(f"sample {sample} has {len(span)} images; patched code prunes one image per sample")
        only: Span = span[0]
        return only

    def rescore(
        self, score: Tensor, method: str, stage: int, image_start: Optional[int], sample: int, role: str
    ) -> Tensor:
        """What `rescore` does in this context."""
        method = names.method(method)
        self.calls[method] = self.calls.get(method, 0) + 1
        debias = self.setting(method)
        after = score
        self._width[sample, stage] = score.shape[-1]
        if debias.reading is not None:
            raise ValueError(f"{debias.reading!r} is for our own methods; patched code makes its attention itself")
        if self.spans:
            span = self.span(sample)
            # As released, mask and weights begin wherever the calling code believes the image to start.
            begins = span.start if image_start is None or debias.release is not None else image_start
            self._shift[sample] = begins - span.start
            if debias.acts(stage, role):  # else the tokens' places need not be known
                after = debias(score, span.at(self.before(sample, stage, score.shape[-1], score.device)), stage, role)
        elif debias.acts(stage, role):
            raise ValueError(f"{method} asks for a debiased score, but using(...) was given no spans")
        if self.records is not None:
            entry = {"method": method, "stage": stage, "sample": sample, "role": role}
            self.records.append({**entry, "before": score.detach().clone(), "after": after.detach().clone()})
        return after

    def kept(self, what: Any, stage: int, sample: int) -> None:
        """Takes down which tokens of one sample a cut kept."""
        if not isinstance(what, Tensor):
            what = torch.stack([torch.as_tensor(entry) for entry in what])
        flat = what.detach().reshape(-1)
        if len(flat) != what.shape[-1]:
            raise ValueError(f"kept(...) takes the tokens of one sample at a time; got shape {tuple(what.shape)}")
        self._kept.setdefault(sample, {})[stage] = (flat, len(flat) if flat.dtype == torch.bool else None)

    def before(self, sample: int, stage: int, count: int, device: Optional[torch.device] = None) -> Optional[Tensor]:
        """Original raster index of each of the `count` tokens that a cut chooses from; None: all, in order."""
        earlier = [number for number in self._kept.get(sample, {}) if number < stage]
        if earlier:
            index: Optional[Tensor] = self.after(sample, max(earlier))
        else:
            index = self._first(sample, count, device or torch.device("cpu"))
        if index is None:
            return None
        merged = count - len(index)
        if merged < 0:
            raise ValueError(
                f"stage {stage} scores {count} tokens but {len(index)} were kept before it; "
                f"call debias.kept(...) once per cut, with the tokens that stay"
            )
        # Tokens merged out of others stand behind the kept ones and belong to no single patch.
        return torch.cat([index, index.new_full((merged,), -1)]) if merged else index

    def after(self, sample: int, stage: int) -> Tensor:
        """Original raster index of each token that a cut kept, in the order they go on."""
        flat, count = self._kept[sample][stage]
        count = self._width.get((sample, stage), self.span(sample).total) if count is None else count
        index = self.before(sample, stage, count)
        return (torch.arange(count, device=flat.device) if index is None else index.to(flat.device))[flat]

    def merge_weights(self, weights: Tensor, group: Tensor, method: str, stage: int, sample: int) -> Tensor:
        """What `merge_weights` does in this context."""
        debias = self.setting(names.method(method))
        if debias.padding is None or not debias.acts(stage):
            return weights
        span = self.span(sample)
        count = self._width.get((sample, stage), span.total)
        return debias.merge_weights(weights, group, span.at(self.before(sample, stage, count)), stage)

    def _first(self, sample: int, count: int, device: torch.device) -> Optional[Tensor]:
        # The calling code may place the image a token too late or too early: slots that miss the image are not patches.
        shift, total = self._shift.get(sample, 0), self.span(sample).total
        if not shift:
            return None
        return shifted(shift, count, total, device)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def shifted(shift: int, count: int, total: int, device: torch.device) -> Tensor:
    """Raster index of `count` score slots that begin `shift` tokens into the image; -1 for slots that miss it."""
    index = torch.arange(count, device=device) + shift
    return torch.where((index < 0) | (index >= total), torch.full_like(index, -1), index)


def rescore(
    score: Tensor,
    *,
    method: str,
    stage: int = 0,
    image_start: Optional[int] = None,
    sample: int = 0,
    role: str = "select",
) -> Tensor:
    """The score debiased along its last axis ([N], [1, N], [B, N, N] ...); the score itself when no `using` is open.

    method       whose score it is, by name
    stage        number of the cut, from 0; below 0 in the vision tower
    sample       which sample of the batch, as in the spans that `using` was given
    image_start  where the calling code believes the image to start; slots that fall outside the image are left alone
    role         "select", "recycle", "vision" or "weigh": what the score is for
    """
    context = _ACTIVE.get()
    return score if context is None else context.rescore(score, method, stage, image_start, sample, role)


def kept(what: Any, *, method: str, stage: int = 0, sample: int = 0) -> Any:
    """Tells later cuts which tokens stayed: an index into the tokens this cut saw, or a mask over them. Returns it."""
    context = _ACTIVE.get()
    if context is not None:
        names.method(method)
        context.kept(what, stage, sample)
    return what


def merge_weights(weights: Tensor, group: Tensor, *, method: str, stage: int = 0, sample: int = 0) -> Tensor:
    """Weights [G] for averaging the tokens `group` [G] into one, with no weight on padding; call it after `rescore`."""
    context = _ACTIVE.get()
    return weights if context is None else context.merge_weights(weights, group, method, stage, sample)


@contextmanager
def using(
    debias: Union[Debias, str],
    spans: Sequence[Any] = (),
    benchmark: Optional[str] = None,
    record: bool = False,
) -> Iterator[Context]:
    """Within it, `rescore` debiases: with a Debias, or with a method's released setting for an arm named by a word.

    debias     a Debias, or the name of an arm
    spans      the Span of each sample
    benchmark  whose released trend an arm means; None: the mean of the method's rates
    record     whether to take down every score, before and after

    Holds for this thread and for the asyncio tasks started in it; a thread that runs `generate` opens its own.
    """
    context = Context(debias, spans, benchmark, record)
    token = _ACTIVE.set(context)
    try:
        yield context
    finally:
        _ACTIVE.reset(token)
