"""Measures the biases of a model's attention, layer by layer, before any benchmark is at hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from debias import Debias, Padding, Trend
from debias.fitting import lines
from debias.fitting.settle import Settled, resampled, settle
from debias.names import ARMS
from eval.answering import early
from eval.answering.checkpoints import digest_of
from eval.bias import strength as bias
from eval.bias.probe import Watched, watch
from eval.bias.settings import FEWEST, DiagnosisSettings
from eval.bias.strength import Measured
from eval.core.embedded import EMBEDDED, named, world_of
from eval.core.tables import say
from eval.reading.images import of_folder
from pruners.cut import top
from pruners.models import adapter
from pruners.models.request import Request
from tiny.drawn import world

Array = np.ndarray[Any, np.dtype[Any]]
HEAD_DRAWS = 200  # there are many heads
FIT_SIZES = (8, 16, 32, 64, 128, 256, 512, 1024)
REFITS = 40  # of a trend, for what its error does to a correlation
BLANK = Image.new("RGB", (64, 64))  # stands where words are drawn; a square, so that nothing is padding


def diagnose(asked: DiagnosisSettings) -> dict[str, Any]:
    """The biases of a model's attention, layer by layer, as plain numbers."""
    device = asked.device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = named(asked.model or str(EMBEDDED["video" if asked.video else "image"]))
    family = adapter(model).load(model, device=device)
    shown, source = looked_at(asked, model)
    prompts = asked.requests()
    say(f"diagnose: {len(shown)} {kind(asked)}, {len(prompts)} prompts, {model} on {device}")

    def look(prompt: str, rotary: bool = True) -> Watched:
        requests = [Request(prompt, [], media) if asked.video else Request(prompt, [media]) for media in shown]
        return watch(family, requests, rotary, asked.batch_size, asked.seed if asked.text_only else None)

    main = look(prompts[0])
    if len(main.spans) < FEWEST:
        raise ValueError(
            f"{len(main.spans)} {kind(asked)} are too few: a half fits the trend, the other half is measured. "
            f"Give at least {FEWEST}"
        )
    plain, others = look(prompts[0], rotary=False), [look(prompt).heads_mean for prompt in prompts[1:]]
    depth = main.attention.shape[1]
    layers = range(depth) if asked.layers is None else early.layers_named(asked.layers, depth)
    return {
        "model": f"{Path(model).name} {digest_of(model)}",
        "pictures": len(main.spans),
        "left_out": len(shown) - len(main.spans),
        "source": source,
        "prompt": prompts[0],
        "tokens": main.attention.shape[-1],
        "grid": list(main.spans[0].grid),
        "frames": main.spans[0].frames,
        "noise_floor": bias.noise_floor(main.attention.shape[-1]),
        "kept": budget(asked.keep, main.attention.shape[-1]),
        "layers": [layer_report(main, plain, others, layer, asked) for layer in layers],
    }


def looked_at(asked: DiagnosisSettings, model: str) -> tuple[Sequence[Any], str]:
    """The pictures or clips, and where they come from."""
    if asked.text_only:
        return [BLANK] * asked.limit, "with words drawn at random in the places of visual tokens"
    if asked.images is not None:
        return list(of_folder(asked.images, asked.limit, asked.video)), f"{kind(asked)} of --images"
    own = world_of(model)
    return drawn(asked.limit, asked.seed, asked.video, own.scene), f"drawn {kind(asked)} of the {own.name}"


def kind(asked: DiagnosisSettings) -> str:
    """What is counted: pictures, clips, or rows of words without a picture."""
    if asked.text_only:
        return "rows"
    return "clips" if asked.video else "pictures"


def layer_report(
    main: Watched, plain: Watched, others: Sequence[Array], layer: int, asked: DiagnosisSettings
) -> dict[str, Any]:
    """Every number of one layer. plain: scores before the rotary embedding; others: of the other prompts."""
    scores = main.heads_mean[:, layer]
    together = np.stack([scores, *(seen[:, layer] for seen in others)], axis=1)
    mixed = np.stack([shuffled(main, together[:, n], asked.seed + n) for n in range(together.shape[1])], axis=1)
    report: dict[str, Any] = {"layer": layer, "arms": arms(main, scores, asked)}
    report["no_rope"] = arms(plain, plain.heads_mean[:, layer], asked, ("none",))["none"]
    report["chance"] = arms(main, mixed[:, 0], asked, ("none",))["none"]
    report["prompt_stability"] = bias.mean(bias.prompt_stability(together), asked.seed)
    report["prompt_stability_chance"] = bias.mean(bias.prompt_stability(mixed), asked.seed)
    settled = first_half(main, scores)
    report["trend"] = {"rise": settled.rise, "r2": settled.fitted.r2, "found": settled.agreed}
    report["fit_error"] = fit_errors(without_padding(main, scores), special(main), asked.seed)
    report["curves"] = curves(main, scores, settled)
    profile = bias.row_profile(patches(main, without_padding(main, scores)), main.spans[0].grid)
    report["row_profile"] = [None if math.isnan(row) else row for row in profile.tolist()]
    if asked.heads:
        report["heads"], report["heads_no_rope"] = (heads(seen, layer, asked.seed) for seen in (main, plain))
    return report


def heads(seen: Watched, layer: int, seed: int) -> list[Measured]:
    """The rise of every head, padding left out."""
    by_head = seen.attention[:, layer].swapaxes(0, 1)
    return [rise(without_padding(seen, head), special(seen), seed, HEAD_DRAWS)[0] for head in by_head]


def fit_errors(values: Array, ignore: torch.Tensor | None, seed: int) -> dict[int, float]:
    """Number of pictures -> the standard error of the rise of an exponential fitted to so many of them."""
    errors = {}
    for size in (size for size in FIT_SIZES if size <= len(values)):
        curves = resampled(torch.as_tensor(values), None, HEAD_DRAWS, seed, size)[1:]
        log, share = lines.prepare(curves, ignore)
        slopes = lines.regress(log, share, Trend.exponential(0.0).regressor(values.shape[1]).to(log))[0]
        errors[size] = float(slopes.std()) * (values.shape[1] - 1)
    return errors


def correlation(values: Array, seed: int, unsure: Settled | None) -> Measured:
    """Mean rank correlation with position. An unsure trend: what other fits, as likely, would have made of it."""
    place = np.arange(values.shape[1])
    measured = bias.mean(bias.spearman(values, place), seed)
    if unsure is None:
        return measured
    return widened(measured, [np.nanmean(bias.spearman(other, place)) for other in refitted(values, unsure)])


def widened(measured: Measured, others: Sequence[Any]) -> Measured:
    """A number with an interval that also carries how unsure its trend is. others: the same number by other fits."""
    value, low, high = measured
    spread = np.hypot((high - low) / 2, 1.96 * np.std(others))  # the two halves know nothing of each other
    return value, float(value - spread), float(value + spread)


def refitted(values: Array, unsure: Settled) -> Iterator[Array]:
    """Values that were divided by a trend, as fits to resampled pictures would have divided them."""
    rates = unsure.rates[:: max(1, len(unsure.rates) // REFITS)].numpy()  # the first is the fit itself
    for rate in rates:
        yield values * np.exp((rates[0] - rate) * np.arange(values.shape[1]))


def rise(
    values: Array, ignore: torch.Tensor | None, seed: int, draws: int = bias.DRAWS, unsure: Settled | None = None
) -> tuple[Measured, Measured]:
    """Of the exponential that fits the mean curve of the pictures, the log of last over first; and its R^2."""
    samples, tokens = values.shape
    weight = bias.resamples(samples, seed, draws)
    seen = weight @ ~np.isnan(values)
    curves = np.where(seen > 0, weight @ np.nan_to_num(values) / np.maximum(seen, 1e-12), np.nan)
    log, share = lines.prepare(torch.as_tensor(curves), ignore)
    slope, _, rest = lines.regress(log, share, Trend.exponential(0.0).regressor(tokens).to(log))
    rates, r2 = slope.numpy(), lines.explained(log, share, rest).numpy()
    if unsure is not None:  # dividing by another rate takes just that much more from the slope
        rates = rates - (unsure.rates - unsure.rates[0]).numpy()
    return bias.interval(rates * (tokens - 1)), bias.interval(r2)


def first_half(seen: Watched, scores: Array) -> Settled:
    """The trend that the arms divide by: fitted to the first half of the pictures, if they agree on any."""
    half = len(scores) // 2
    return settle(torch.as_tensor(without_padding(seen, scores)[:half]), special(seen), draws=bias.DRAWS)


def curves(seen: Watched, scores: Array, settled: Settled) -> dict[str, list[float]]:
    """Mean attention by position in the three settings: as it is, divided by the average, divided by the exponential.

    Both divisors come from the first half of the pictures. Each curve is relative to its own mean.
    """
    half = len(scores) // 2
    first, second = (bias.mean_seen(part) for part in np.split(without_padding(seen, scores), [half]))
    filled = np.where(np.isnan(first), np.nanmean(first), first)
    weights = {
        "raw": np.ones(len(filled)),
        "average": Trend.average(torch.as_tensor(filled)).curve(len(filled)).numpy(),
        "exponential": settled.trend.curve(len(filled)).numpy(),
    }
    by_name = {name: patches(seen, second * weight) for name, weight in weights.items()}
    by_name["with padding"] = patches(seen, np.asarray(scores[half:].mean(0)))
    return {name: (np.nan_to_num(curve) / np.nanmean(curve)).tolist() for name, curve in by_name.items()}


def arms(
    seen: Watched, scores: Array, asked: DiagnosisSettings, names: Sequence[str] = ARMS
) -> dict[str, dict[str, Measured]]:
    """Every measure in every arm, on the second half of the pictures; the trend comes from the first.

    Where a trend divides, the intervals of rise and rank correlation carry how unsure its fit is, beside how unsure the
    measurement is.
    """
    half = len(scores) // 2
    settled = first_half(seen, scores)
    full, spans, out = Debias(settled.trend, Padding()), seen.spans[half:], {}
    keep = budget(asked.keep, scores.shape[1])
    padding = [None if span.size is None else ~Padding().valid(span).numpy() for span in spans]
    for name in names:
        debias = full.with_arm(name)
        after = [debias(torch.as_tensor(row), span) for row, span in zip(scores[half:], spans, strict=True)]
        kept = [top(row, keep).numpy() for row in after]
        # A silenced token takes no part in any measure of the score; arms that do not silence show it as it is.
        ranked = np.stack([row.numpy() for row in after])
        if debias.padding is not None:
            ranked = without_padding(seen, ranked, half)
        values = ranked if (marked := special(seen)) is None else np.where(marked.numpy(), np.nan, ranked)
        shares = bias.kept_shares(kept, *bias.places(seen.spans[0]), padding)
        unsure = settled if settled.agreed and debias.trend is not None else None
        out[name] = measures(values, special(seen), seen.spans[0].grid, asked.seed, unsure)
        out[name]["kept_rise"] = kept_rise(ranked, ~np.isnan(values), keep, asked.seed, unsure)
        out[name] |= {f"kept_in_{where}": bias.mean(share, asked.seed) for where, share in shares.items()}
    return out


def kept_rise(ranked: Array, there: Array, keep: int, seed: int, unsure: Settled | None) -> Measured:
    """The tilt of how often each position is kept. Of an unsure trend: what other fits, as likely, would have kept."""
    measured = bias.kept_rise(bias.kept_highest(ranked, keep), there, seed)
    if unsure is None:
        return measured
    kept = (bias.kept_highest(other, keep) & there for other in refitted(ranked, unsure))
    return widened(measured, [bias.tilt(chosen.sum(0), there.sum(0)) for chosen in kept])


def measures(
    values: Array, ignore: torch.Tensor | None, grid: tuple[int, int], seed: int, unsure: Settled | None = None
) -> dict[str, Measured]:
    """`unsure`: the fit of the trend that these values were divided by."""
    rises, r2 = rise(values, ignore, seed, unsure=unsure)
    patch = values if ignore is None else values[:, ~ignore.numpy()]
    absolute = [bias.absolute_correlation(row[None], grid) for row in patch]
    return {
        "rise": rises,
        "r2": r2,
        "correlation": correlation(values, seed, unsure),
        "absolute_correlation": bias.mean(np.array(absolute), seed),
        "entropy": bias.mean(bias.entropy(values), seed),
    }


def without_padding(seen: Watched, values: Array, first: int = 0) -> Array:
    """The same numbers with nan where a token shows padding."""
    valid = np.stack([Padding().valid(span).numpy() for span in seen.spans[first:]])
    return np.where(valid, values, np.nan)


def shuffled(seen: Watched, values: Array, seed: int) -> Array:
    """Each picture's scores at other places of it, drawn anew; tokens that are no patch stay where they are."""
    marked = special(seen)
    return bias.shuffled(values, None if marked is None else marked.numpy(), seed)


def special(seen: Watched) -> torch.Tensor | None:
    """Which tokens of the common layout are no patch; None: all are one."""
    return seen.spans[0].special


def patches(seen: Watched, values: Array) -> Array:
    """Without tokens that are not a patch (frame CLS, newlines)."""
    marked = special(seen)
    return values if marked is None else values[..., ~marked.numpy()]


def budget(keep: float, tokens: int) -> int:
    """How many of so many tokens a count, or a share below 1, means."""
    return min(tokens, round(keep * tokens) if keep < 1 else round(keep))


def drawn(count: int, seed: int, video: bool = False, scene: Callable[[int], Any] = world.scene) -> list[Any]:
    """Scenes of every aspect ratio; or clips of the tiny world, as lists of frames."""
    seeds = [2 * 10**9 + 10**6 * seed + number for number in range(count)]
    return [world.draw_clip(world.clip(place)) if video else world.draw(scene(place)) for place in seeds]
