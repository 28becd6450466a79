"""What a pruning method is: a frozen value that names its cuts, its score, its selection and its merge.

A method is written for ONE image (or clip) of ONE sequence; `pruners.engine.hooks` loops over rows and images, debiases the
score, gathers the hidden states and keeps positions, masks and caches right. So a method never sees a batch dimension.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor

from debias import Debias
from debias.names import nearest

if TYPE_CHECKING:
    from pruners.engine.prefix import Prefix
    from pruners.engine.trace import Trace
    from pruners.models.base import Adapter
    from pruners.view import View, VisionView

Budget = int | float
REFERENCE_TOKENS = 576  # visual tokens of LLaVA-1.5, which published budgets are counted in
Rows = Literal["last", "text", "visual", "all"]
P = TypeVar("P", bound="Pruner")


@dataclass(frozen=True)
class Cut:
    """Tokens leave before decoder layer `layer` (0: before the language model).

    keep: an int keeps that many tokens of each image, a float that share of its original tokens (1: one, 1.0: all).
    source: whose attention the score reads, that of the layer before or that of this layer itself.
    rows: the query rows; "last" is the prompt's last token, "text" all text after the image, "visual" the image itself.
    also: earlier layers whose attention the score reads too (see View.attend).
    """

    layer: int
    keep: Budget
    source: Literal["previous", "same"] = "previous"
    rows: Rows = "last"
    also: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_budget(self.keep)

    @property
    def looks(self) -> tuple[int, ...]:
        """The layers whose attention is recorded on the way to this cut."""
        before = (self.layer - 1,) if self.source == "previous" and self.layer > 0 else ()
        return tuple(dict.fromkeys((*self.also, *before)))


@dataclass(frozen=True)
class Merged:
    """The tokens of one image that go on after a cut, when they are not simply the kept ones.

    hidden [m, D]: in the order they go on.
    place [m]: the token (0..V-1) whose position and raster index each one takes; a recycled one takes its centre's.
    own [m]: True where it is that token itself, False for a new one.
    fresh: indices of the rows of `hidden` that differ from the input (None: all). In the vision tower only those pass
    the MLP again.
    """

    hidden: Tensor
    place: Tensor
    own: Tensor
    fresh: Tensor | None = None


def check_budget(keep: Budget) -> None:
    number = isinstance(keep, (int, float)) and not isinstance(keep, bool)
    if not number or keep < 0 or (isinstance(keep, float) and keep > 1):
        raise ValueError(f"keep={keep!r}: give a count (an int >= 0) or a share of an image's tokens (a float <= 1.0)")


def check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name}={value!r}: give a share between 0 and 1")


def check_word(what: str, word: str, known: Sequence[str]) -> None:
    if word not in known:
        raise ValueError(f"no {what} is called {word!r}; {there_are(known, word)}")


def there_are(known: Sequence[str], word: str) -> str:
    """The rest of a message about a `word` that is not `known`."""
    return f"there are {', '.join(known)}{nearest(word, known)}"


def is_whole(keep: Budget) -> bool:
    """Whether a budget is the share of everything; the count 1 is not."""
    return isinstance(keep, float) and keep == 1.0


def tokens_kept(keep: Budget, tokens: int) -> int:
    """How many of an image's `tokens` a budget allows; shares are truncated, with room for float error."""
    return min(tokens, keep if isinstance(keep, int) else int(tokens * keep + 1e-6))


def top(score: Tensor, count: int) -> Tensor:
    """The `count` highest scores as sorted indices; ties go to the earlier token."""
    return score.sort(descending=True, stable=True).indices[:count].sort().values


def others(total: int, kept: Tensor) -> Tensor:
    """What of 0..total-1 is not in `kept`, ascending. How many there are is known without asking the device."""
    free = torch.ones(total, dtype=torch.uint8, device=kept.device).index_fill_(0, kept, 0)
    return free.argsort(descending=True, stable=True)[: total - len(kept)]


@dataclass(frozen=True)
class Pruner:
    """Base of all methods. Use: `with pruner(model, debias, sizes=...) as trace: model.generate(...)`."""

    keep: Budget = 128

    positions: ClassVar[str] = "original"  # or "compact": what stays is renumbered 0..n-1, and so is what is generated
    mode: ClassVar[str] = "gather"  # or "mask": columns are hidden, and ranked anew at every decoding step
    shrink_cache: ClassVar[bool] = False  # the cached keys and values of the layers below the cut are cut too
    vision: ClassVar[bool] = False  # the score reads View.vision (attention, features, keys of the vision tower)
    tiles: ClassVar[bool] = False  # and it knows what to do with a picture of several views (View.vision.view)
    role: ClassVar[str] = "select"  # what the debias is told the score is for; "vision": the vision tower's attention

    def __post_init__(self) -> None:
        check_budget(self.keep)
        check_word("mode", self.mode, ("gather", "mask"))

    # -- what a method says ----------------------------------------------------------------------------------------
    def cuts(self, layers: int) -> list[Cut]:
        """Where tokens leave in a decoder of `layers` layers, in ascending order."""
        raise TypeError(f"{type(self).__name__} does not say where it cuts; define cuts(layers)")

    def check(self, adapter: Adapter) -> None:
        """Raise a ValueError for what the method lacks on this model; called before anything runs."""

    def start(self, view: View) -> Any:
        """Called before layer 0, where view.hidden and view.text are the input embeddings; view.memo at every cut."""
        return None

    def score(self, view: View) -> Tensor:
        """One number per visual token [V], higher is kept; the mechanism debiases it afterwards."""
        raise TypeError(f"{type(self).__name__} does not score tokens; define score(view)")

    def select(self, score: Tensor, view: View) -> Tensor:
        """Sorted local indices of the tokens that stay, `view.count` of them."""
        return view.top(score, view.count)

    def merge(self, view: View, kept: Tensor) -> Merged | None:
        """Tokens that change or are added at this cut; None when the kept ones go on as they are."""
        return None

    def vision_layers(self, layers: int) -> Sequence[int]:
        """At which of a vision tower's first `layers` layers tokens leave (after attention, before the MLP)."""
        return ()

    def vision_merge(self, view: VisionView) -> Merged:
        """The tokens of one image that go on after such a layer; the same number for every image."""
        raise TypeError(f"{type(self).__name__} names vision layers; define vision_merge(view) too")

    # -- budgets -----------------------------------------------------------------------------------------------------
    def counts(self, layers: int, tokens: int) -> list[int]:
        """Tokens that stay after each cut, for an image of `tokens` tokens."""
        return [tokens_kept(cut.keep, tokens) for cut in self.cuts(layers)]

    def mean_count(self, layers: int, tokens: int) -> float:
        """Mean number of this image's tokens that enter a layer."""
        edges = [0, *(cut.layer for cut in self.cuts(layers)), layers]
        held = [tokens, *self.counts(layers, tokens)]
        return sum(n * (edges[i + 1] - edges[i]) for i, n in enumerate(held)) / layers

    def own_count(self, layers: int, tokens: int) -> float:
        """What the method's authors call its budget; by default the tokens after the last cut."""
        return float(self.counts(layers, tokens)[-1])

    @classmethod
    def matched(cls: type[P], mean: float, tokens: int = REFERENCE_TOKENS, layers: int = 32, **fields: Any) -> P:
        """The method with the `keep` whose mean tokens per layer comes closest to `mean`; makes budgets comparable."""
        candidates = []
        for keep in range(tokens + 1):
            try:
                candidates.append((abs(cls(keep=keep, **fields).mean_count(layers, tokens) - mean), keep))
            except ValueError:  # a schedule that cannot be that small
                continue
        if not candidates:
            raise ValueError(f"{cls.__name__} has no budget for {tokens} tokens in {layers} layers")
        return cls(keep=min(candidates)[1], **fields)

    # -- use ---------------------------------------------------------------------------------------------------------
    def __call__(
        self,
        model: Any,
        debias: Debias | None = None,
        sizes: Sequence[tuple[int, int] | None] | None = None,
        prefix: Prefix | None = None,
    ) -> AbstractContextManager[Trace]:
        """Prune `model` inside the block.

        Leave generate's use_cache on: without a cache every new token is a prompt of its own and ranks anew, which a
        warning says.

        sizes: (width, height) before padding of every image of the batch, in prompt order; read only when `debias`
        silences padding.
        prefix: shared by blocks that ask the same batch in several arms; the layers before the first cut run once.
        """
        from pruners.engine.hooks import prune  # hooks needs Pruner

        return prune(self, model, debias if debias is not None else Debias(), sizes, prefix)


def check_score(pruner: Pruner, score: Tensor, tokens: int) -> None:
    if score.shape != (tokens,):
        raise ValueError(
            f"{type(pruner).__name__}.score returned shape {tuple(score.shape)}; "
            f"expected ({tokens},), one number per visual token"
        )


def names() -> list[str]:
    """Every method there is: the modules of this package that define one."""
    import pruners

    modules = (module.name for module in pkgutil.iter_modules(pruners.__path__) if not module.ispkg)
    return sorted(name for name in modules if _method(name) is not None)


def find(name: str) -> type[Pruner]:
    """The class of a method: the one that pruners/<name>.py defines."""
    found = _method(name) if name.isidentifier() else None
    if found is None:
        raise ValueError(f"no pruning method is called {name!r}; {there_are(names(), name)}")
    return found


def make(name: str, **values: Any) -> Pruner:
    """A method by name: make("fastv", keep=128, layer=2)."""
    method = find(name)
    known = [field.name for field in fields(method)]
    for field in values:
        check_word(f"field of {name}", field, known)
    return method(**values)


def _method(name: str) -> type[Pruner] | None:
    try:
        module = importlib.import_module(f"pruners.{name}")
    except ModuleNotFoundError as error:
        if error.name == f"pruners.{name}":
            return None
        raise
    for value in vars(module).values():
        if inspect.isclass(value) and issubclass(value, Pruner) and value.__module__ == module.__name__ != __name__:
            return value
    return None
