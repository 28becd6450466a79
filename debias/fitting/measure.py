"""The mean attention of each position over many samples: the curve that a trend is fitted to."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Dict, Optional, Union

import torch
from torch import Tensor

from debias.trend import Trend


class Measure:
    """Running mean and variance of a score at every position. Parts measured by several processes merge exactly.

    What was measured travels along and is compared wherever two measures, or a measure and its use, meet.
    """

    def __init__(self, length: int, *, model: str, layer: int, layout: str, prompt: str = "") -> None:
        if length < 1:
            raise ValueError(f"a measure needs at least one position; got {length}")
        self.about: Dict[str, Any] = {
            "length": int(length),
            "model": str(model),
            "layer": int(layer),
            "layout": str(layout),
            "prompt": str(prompt),
        }
        self.samples = 0
        self.count = torch.zeros(length, dtype=torch.float64)
        self.mean = torch.zeros(length, dtype=torch.float64)
        self._spread = torch.zeros(length, dtype=torch.float64)  # sum of squared distances from the mean

    @property
    def variance(self) -> Tensor:
        """[length] variance of one sample at each position; NaN with fewer than two samples there."""
        return self._spread / (self.count - 1).clamp(min=0)  # 0 / 0 is NaN

    def add(self, score: Tensor, valid: Optional[Tensor] = None) -> None:
        """Take in one score [N] or many [..., N]; positions where `valid` is False are left out of that score."""
        length = self.about["length"]
        if score.shape[-1] != length:
            raise ValueError(f"this measure has {length} positions and the score {score.shape[-1]}")
        rows = score.detach().reshape(-1, length).to("cpu", torch.float64)
        seen = torch.ones_like(rows, dtype=torch.bool)
        if valid is not None:
            seen = valid.to("cpu", torch.bool).expand(score.shape).reshape(-1, length)
        bad = seen & ~torch.isfinite(rows)
        if bad.any():
            row, position = bad.nonzero()[0].tolist()
            raise ValueError(f"score {row} holds {float(rows[row, position])} at position {position}")
        rows = rows.where(seen, torch.zeros_like(rows))
        count = seen.sum(0).double()
        mean = rows.sum(0) / count.clamp(min=1)
        spread = ((rows - mean).where(seen, torch.zeros_like(rows)) ** 2).sum(0)
        self._take(count, mean, spread, len(rows))

    def merge(self, other: Measure) -> None:
        """Take in everything another measure of the same thing has seen."""
        other.check(**self.about)
        self._take(other.count, other.mean, other._spread, other.samples)

    def _take(self, count: Tensor, mean: Tensor, spread: Tensor, samples: int) -> None:
        # Two groups of numbers as one (Chan, Golub and LeVeque): no difference of large sums is ever taken.
        total = self.count + count
        share = count / total.clamp(min=1)
        step = mean - self.mean
        self.mean = self.mean + step * share
        self._spread = self._spread + spread + step**2 * self.count * share
        self.count = total
        self.samples += samples

    def check(self, **expected: Any) -> None:
        """Refuse to be used for anything else: every keyword must agree with what was measured."""
        for name, value in expected.items():
            if self.about.get(name) != value:
                raise ValueError(
                    f"this measure was made with {name} {self.about.get(name)!r} and cannot serve {name} {value!r}"
                )

    def fit(self, kind: str = "exponential", ignore: Optional[Tensor] = None, **options: Any) -> Trend:
        """The trend of the mean curve; positions that no sample has shown are ignored."""
        unseen = self.count == 0
        trend = Trend.fit(self.mean, kind, unseen if ignore is None else unseen | ignore, **options)
        return trend

    def save(self, path: Union[str, Path]) -> None:
        """Write a safetensors file; a reader never meets half a file."""
        from safetensors.torch import save_file

        path = Path(path)
        part = path.with_name(path.name + f".{os.getpid()}.part")
        about = json.dumps({**self.about, "samples": self.samples})
        save_file({"count": self.count, "mean": self.mean, "spread": self._spread}, str(part), {"measure": about})
        os.replace(part, path)

    @classmethod
    def load(cls, path: Union[str, Path], **expected: Any) -> Measure:
        """Read a file that `save` wrote; with keywords (model, layer, layout, prompt, length) only if they agree."""
        from safetensors import safe_open

        try:
            with safe_open(str(path), "pt") as file:
                about = json.loads((file.metadata() or {})["measure"])
                tensors = {name: file.get_tensor(name) for name in ("count", "mean", "spread")}
            samples = about.pop("samples")
            measure = cls(**about)
            measure.check(**expected)
        except FileNotFoundError:
            raise
        except Exception as error:
            raise ValueError(f"{path}: not usable as a measure: {error}") from error
        if any(tensor.shape != measure.mean.shape for tensor in tensors.values()):
            raise ValueError(f"{path}: its tensors do not have the {about['length']} positions that it names")
        measure.samples, measure.count, measure.mean = int(samples), tensors["count"], tensors["mean"]
        measure._spread = tensors["spread"]
        return measure
