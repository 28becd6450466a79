"""The average attention of a model over pictures: what D2Pruner divides by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from debias import Span
from pruners.loading.folder import BESIDE, tensors
from pruners.methods.fastv import FastV
from pruners.models import Adapter, Request

if TYPE_CHECKING:
    from PIL.Image import Image

PROMPT = "Please describe the provided image."
CLIP_PROMPT = "Please describe the provided video."
MEASURE = "python -m eval fit --method d2pruner --kind prior"


@dataclass(frozen=True)
class Prior:
    """Mean attention on each visual token at `layer`, by original raster index.

    `tiles`: the mean is over the tiles of each picture as well, and is repeated for as many as a picture has.
    """

    values: tuple[float, ...] = field(repr=False)
    layer: int
    model: str
    prompt: str = PROMPT
    images: int = 0
    tiles: bool = False
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha256(torch.tensor(self.values).numpy().tobytes()).hexdigest()[:12]
        object.__setattr__(self, "digest", digest)

    def reads(self, layer: int) -> None:
        """Raise a ValueError unless the attention of `layer` was measured."""
        if layer != self.layer:
            raise ValueError(
                f"the prior was measured on the attention of layer {self.layer} (counted from 0) and the score reads "
                f"layer {layer}; measure one for it with `{MEASURE} --layer {layer + 1}`"
            )

    def at(self, span: Span, layer: int, device: torch.device) -> Tensor:
        """The value of each token of `span` that is still there, to divide the attention of `layer` by."""
        self.reads(layer)
        table = _table(self, device)
        if self.tiles and span.total % len(table) == 0:
            table = table.repeat(span.total // len(table))
        if len(table) != span.total:
            raise ValueError(
                f"the prior has {len(table)} values and the image has {span.total} visual tokens; "
                f"measure one for this layout with `{MEASURE}`"
            )
        return table[span.raster(device)]

    def save(self, path: Path | str) -> None:
        """Write it as JSON, to the last bit."""
        facts = {name: getattr(self, name) for name in ("layer", "model", "prompt", "images", "tiles")}
        # Nine digits tell every float32 from its neighbours.
        values = [float(f"{value:.9g}") for value in torch.tensor(self.values).tolist()]
        named(path).write_text(json.dumps({**facts, "values": values}) + "\n", encoding="utf-8")

    @classmethod
    def beside(cls, model: Any) -> Prior:
        """The prior that lies in the folder of a model's checkpoint."""
        folder = str(getattr(model.config, "_name_or_path", ""))
        path = lying_in(folder) if folder else None
        if path is None:
            raise ValueError(
                f"no prior was given and {Path(folder, BESIDE[0])} does not exist; measure one with "
                f"`{MEASURE} --model {folder or 'MODEL'} --data FOLDER_OF_PICTURES`"
            )
        return _read(path, path.stat().st_mtime_ns)

    @classmethod
    def load(cls, path: Path | str) -> Prior:
        """Read what `save` wrote, or an older version of it."""
        path = Path(path)
        if not path.is_file():
            raise ValueError(f"{path}: no such file; measure a prior with `{MEASURE}`")
        try:
            record = _older(path) if path.suffix == ".safetensors" else json.loads(path.read_text(encoding="utf-8"))
            values = tuple(torch.tensor(record["values"], dtype=torch.float32).tolist())
            if not values:
                raise ValueError("no values")
            return cls(
                values,
                layer=int(record["layer"]),
                model=str(record.get("model", "")),
                prompt=str(record.get("prompt", PROMPT)),
                images=int(record.get("images", 0)),
                tiles=record.get("tiles") in (True, "True"),
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"{path}: not a prior ({error}); expected JSON with a layer and a list of values, as `save` writes it"
            ) from None

    @classmethod
    def measure(
        cls,
        adapter: Adapter,
        images: Iterable[Image | Sequence[Image]],
        layer: int = 2,
        prompt: str = PROMPT,
        tile: int | None = None,
    ) -> Prior:
        """Average the attention that a cut before `layer` sees; a list of frames is a clip.

        Where a family puts words between the frames of a clip, the average is that of a frame.

        tile: tokens of a tile, to average over tiles.
        """
        probe = FastV(layer=layer)  # its score is the attention itself, of all tokens
        total, count = torch.zeros(()), 0
        for image in images:
            clip = isinstance(image, (list, tuple))
            shown: dict[str, Any] = {"video": image} if clip else {"images": [image]}
            encoded = adapter.encode([Request(prompt, **shown)])
            with probe(adapter.model) as trace, torch.inference_mode():
                adapter.model(**encoded.inputs)
            parts = []
            for recorded in trace.scores[0]:  # of the picture, or of each frame of a clip with words between them
                assert recorded is not None
                raw, _ = recorded
                parts.append(raw.double().cpu())
            seen = torch.stack(parts).mean(0)
            seen = seen if tile is None else seen.view(-1, tile).mean(0)
            if count and seen.shape != total.shape:
                raise ValueError(
                    f"image {count + 1} has {len(seen)} visual tokens and the ones before it have {len(total)}; "
                    "give the tokens of one tile to average over tiles"
                )
            total, count = total + seen, count + 1
        if not count:
            raise ValueError("no image to measure the prior on")
        name = str(adapter.model.config._name_or_path or type(adapter.model).__name__)
        values = tuple((total / count).float().tolist())
        return cls(values, layer - 1, Path(name).name, prompt, count, tile is not None)


def lying_in(folder: Path | str) -> Path | None:
    """The prior in a checkpoint's folder, if any."""
    return next((path for name in BESIDE if (path := Path(folder, name)).is_file()), None)


def named(path: Path | str) -> Path:
    """The path, unless other programs would read the file as weights of the model that it lies beside."""
    if Path(path).suffix == ".safetensors":
        raise ValueError(f"{path}: a prior does not hold weights, as a .safetensors file would; name it {BESIDE[0]}")
    return Path(path)


def _older(path: Path) -> dict[str, Any]:
    """What older versions wrote: one tensor, with its facts as text."""
    from safetensors import SafetensorError, safe_open

    tensors(path)  # in order, or refused by name
    try:
        with safe_open(str(path), framework="pt") as file:
            return {**(file.metadata() or {}), "values": file.get_tensor("prior").float().tolist()}
    except SafetensorError as error:
        raise ValueError(error) from None


@lru_cache(maxsize=8)
def _read(path: Path, changed: int) -> Prior:
    return Prior.load(path)


@lru_cache(maxsize=32)
def _table(prior: Prior, device: torch.device) -> Tensor:
    return torch.tensor(prior.values, device=device)
