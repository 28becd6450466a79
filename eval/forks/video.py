"""Video-LLaVA's own model class, with FastV's LLaMA below it. Runs in the fork's environment, next to their code.

Its package imports torchvision, pytorchvideo, decord and others for transforms and decoders that are not used here: the
evaluation decodes and prepares clips itself. Where such a package is missing, a stand-in takes its name.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import layout
import load
import torch
from torch import Tensor, nn

IMPORTED = ("cv2", "decord", "peft", "pytorchvideo", "torchaudio", "torchvision")
CONFIGURES = "decord.bridge.set_bridge"  # called while its module is imported


class Absent(ModuleType):
    """A package that is not installed, or something in it: it can be imported and named, and nothing else."""

    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Absent:
        if name.startswith("__"):
            raise AttributeError(name)
        return Absent(f"{self.__name__}.{name}")

    def __call__(self, *_: Any, **__: Any) -> None:
        if self.__name__ != CONFIGURES:
            raise RuntimeError(f"{self.__name__} is called, and {self.__name__.split('.')[0]} is not installed")


class StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the packages of these names, and makes of each an `Absent`."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, self) if name.split(".")[0] in self.names else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return Absent(spec.name)

    def exec_module(self, module: ModuleType) -> None: ...


def stand_in() -> None:
    """Give every package that is only imported a name. transformers looks for them first, and must not find ours."""
    importlib.import_module("transformers.models.clip.modeling_clip")
    sys.meta_path.insert(0, StandIns([name for name in IMPORTED if importlib.util.find_spec(name) is None]))


class VideoFork(load.ForkModel):
    """Pictures come as [3, s, s] and clips as [frames, 3, s, s], prepared; every frame has a placeholder."""

    package = "videollava"

    @property
    def tower(self) -> Any:
        return self.model.get_image_tower()

    def shown(self, pixels: Tensor) -> Any:
        pixels = pixels.to(self.device, self.dtype)
        return [pixels.transpose(0, 1) if pixels.dim() == 4 else pixels]  # a clip's channels stand first over there


def build(
    options: dict[str, Any],
    config: dict[str, Any],
    state: Iterable[tuple[str, Tensor]],
    towers: dict[str, dict[str, Any]],
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> VideoFork:
    """A Video-LLaVA from a configuration in the original layout, its towers' configurations, and weights."""
    stand_in()
    module = importlib.import_module("videollava.model.language_model.llava_llama")
    made = module.LlavaConfig(**{key: value for key, value in config.items() if key not in layout.VIDEO_TOWERS})
    made.pretraining_tp = 1
    if config.get("rope_theta", 10000.0) != 10000.0:
        raise ValueError(f"Video-LLaVA rotates with base 10000 only; this checkpoint needs {config['rope_theta']:g}")
    where = torch.device(device)
    projector = importlib.import_module("videollava.model.multimodal_projector.builder").build_vision_projector
    with load.building(where, dtype):
        model = module.LlavaLlamaForCausalLM(made)
        model.model.mm_projector = projector(made)
        model.model.image_tower = tower("image", made, towers["image"])
        model.model.video_tower = tower("video", made, towers["video"])
    model.to(where, dtype)
    load.fill(dict(model.named_parameters()), state, "Video-LLaVA")
    model.eval().requires_grad_(False)
    return VideoFork("fastv", model, options)


def tower(kind: str, config: Any, vision: dict[str, Any]) -> nn.Module:
    """One of Video-LLaVA's two towers, empty. They read their configuration from a folder."""
    package = "videollava.model.multimodal_encoder.languagebind"
    cls = getattr(importlib.import_module(package), f"LanguageBind{kind.capitalize()}Tower")
    inner = importlib.import_module(f"{package}.{kind}.modeling_{kind}").CLIPVisionTransformer
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps({"text_config": {}, "vision_config": vision}))
        made: Any = cls(folder, args=config, delay_load=True)
    setattr(made, f"{kind}_tower", inner(made.cfg_only.vision_config))
    made.is_loaded = True
    whole: nn.Module = made
    return whole
