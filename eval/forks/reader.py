"""What a fork is given to read: prompts, ids, pictures, clips, made on this side from a checkpoint without weights."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from eval.forks import layout
from eval.reading.media import request
from eval.reading.sample import Sample
from eval.reading.video import FRAMES, Clips
from pruners.models import adapter, family
from pruners.models.request import IMAGE, VIDEO

PLACE = -200  # what stands for a picture or a frame in the original's token ids


class BrokenPicture(ValueError):
    """A picture or clip that cannot be read."""


class Reader:
    """A checkpoint's shape, and its questions as the worker takes them."""

    def __init__(self, folder: Path) -> None:
        config = layout.read_config(folder)
        self.film, self.tokenized = layout.is_video(config), not layout.is_original(config)
        self.towers = {name: tower(folder, config, f"mm_{name}_tower") for name in ("image", "video")}
        self.layers = int((config["text_config"] if self.tokenized else config).get("num_hidden_layers", 32))
        self.side = int(self.towers["image"]["image_size"]) // int(self.towers["image"]["patch_size"])
        self.adapter = native(folder) if self.tokenized else template(self.film, self.towers["image"])
        self.normal = {name: self.adapter.setting(name) for name in ("image_mean", "image_std")}
        self.clips = Clips()

    def tokens(self, media: str) -> int:
        """Visual tokens of one picture or clip."""
        return self.side**2 if media == "image" else FRAMES * (self.side**2 + 1)

    def read(self, sample: Sample, conversation: str | None) -> Any:
        """The `Request` of a question, with its pictures or frames as they are."""
        try:
            return request(sample, conversation, self.clips)
        except ValueError as error:
            raise BrokenPicture(str(error)) from None

    def question(self, sample: Sample, conversation: str | None) -> dict[str, Any]:
        """The sample on the wire. Video-LLaVA gets pixels: its own transforms need packages without a CPU build."""
        read = self.read(sample, conversation)
        images, frames, prompt = read.images, read.video, self.adapter.prompt(read)
        asked: dict[str, Any] = {"ids": None, "image": None, "pixels": None, "frames": None, "size": None}
        if frames is not None:
            prompt = prompt.replace(VIDEO, IMAGE * len(frames))
            asked |= {"pixels": wire(self.adapter.clip(frames)), "frames": len(frames), "size": frames[0].size}
        elif images:
            shown = {"pixels": wire(self.adapter.picture(images[0]))} if self.film else {"image": png(images[0])}
            asked |= {**shown, "size": images[0].size}
        if self.tokenized:
            asked["ids"] = folded(self.adapter, read)
        return {**asked, "prompt": prompt}

    def decode(self, ids: list[int]) -> str:
        """The text of an answer."""
        import torch

        return str(self.adapter.decode(torch.tensor([ids]))[0])


def tower(folder: Path, config: dict[str, Any], key: str) -> dict[str, Any]:
    """The configuration of a vision tower, wherever the checkpoint keeps it."""
    if not layout.is_original(config):
        return dict(config["vision_config"])
    if not layout.is_video(config):
        name = Path(layout.tower_folder(folder, config))
        values: dict[str, Any] = layout.read_config(name) if name.is_dir() else {"image_size": 336, "patch_size": 14}
        return dict(values.get("vision_config", values))
    name = Path(layout.tower_folder(folder, config, key))
    if not name.is_dir():
        from huggingface_hub import hf_hub_download

        name = Path(hf_hub_download(str(name), "config.json")).parent
    return dict(layout.read_config(name)["vision_config"])


def native(folder: Path) -> Any:
    """The native adapter of a checkpoint without its weights: prompts, tokens, settings of pictures."""
    from transformers import AutoConfig

    kind = adapter(folder)
    model = SimpleNamespace(
        config=AutoConfig.from_pretrained(folder, trust_remote_code=False), device="cpu", dtype=None
    )
    return kind(model, *kind.load_processor(str(folder)))


def template(film: bool, vision: dict[str, Any]) -> Any:
    """A family's templates and pictures, for a checkpoint whose own tokenizer runs in the worker."""
    config = SimpleNamespace(vision_config=SimpleNamespace(**vision), image_token_id=PLACE, video_token_id=PLACE)
    return family("video_llava" if film else "llava")(SimpleNamespace(config=config))


def folded(adapter: Any, request: Any) -> list[int]:
    """The prompt's ids with one placeholder per picture and frame, as the original layout has them."""
    config, side = adapter.model.config, adapter.side
    runs = {int(config.image_token_id): side**2}
    if request.video is not None:
        runs[int(config.video_token_id)] = side**2 + 1
    ids, made = adapter.encode([request]).inputs["input_ids"][0].tolist(), []
    while ids:
        made.append(PLACE if ids[0] in runs else ids[0])
        ids = ids[runs.get(ids[0], 1) :]
    return made


def png(image: Any) -> str:
    """A picture as a file in base64."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode()


def wire(shown: Any) -> dict[str, Any]:
    """The pixels that the native adapter makes of one picture [3, s, s] or clip [frames, 3, s, s]."""
    (pixels,) = (tensor[0] for tensor in shown.inputs.values())
    return wire_pixels(pixels)


def wire_pixels(pixels: Any) -> dict[str, Any]:
    """A tensor as float32 in JSON."""
    raw = pixels.detach().float().cpu().contiguous()
    return {"shape": list(raw.shape), "data": base64.b64encode(raw.numpy().tobytes()).decode()}
