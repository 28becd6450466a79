"""Rewrite a LLaVA-1.5 or Video-LLaVA checkpoint from Hugging Face's layout into the original one, or back.

    python -m eval.forks.convert SRC DST          which way is read off SRC/config.json

The fork backend reads both layouts as they are; this is for the authors' own scripts, and for checkpoints of theirs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import save_torch_state_dict
from torch import Tensor

from eval.core.tables import say
from eval.forks import layout

TOWER = "clip-vision-tower"  # VisPruner's builder takes a tower for a CLIP by its name
TOKENIZER = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "generation_config.json", "*.jinja")


def convert(source: Path, target: Path) -> str:
    """Write `target`, a new folder; returns the layout it has."""
    if target.exists() and any(target.iterdir()):
        raise ValueError(f"{target} is not empty; name a new folder")
    config = layout.read_config(source)
    target.mkdir(parents=True, exist_ok=True)
    for pattern in TOKENIZER:
        for file in source.glob(pattern):
            shutil.copyfile(file, target / file.name)
    if layout.is_original(config):
        back(source, target, config)
        return "Hugging Face"
    forth(source, target, config)
    return "original"


def forth(source: Path, target: Path, config: dict[str, Any]) -> None:
    """From the layout of Hugging Face, whose configuration is given, to the original."""
    vision = {**config["vision_config"], "model_type": "clip_vision_model"}
    save(target / "config.json", layout.original_config(config, TOWER))
    if layout.is_video(config):
        for name in layout.VIDEO_TOWERS.values():
            (target / name).mkdir()
            save(target / name / "config.json", {"vision_config": {**vision, "add_time_attn": False}})
    else:
        (target / TOWER).mkdir()
        save(target / TOWER / "config.json", vision)
        save(target / TOWER / "preprocessor_config.json", settings(source, vision))

    def named(inside: bool) -> Iterator[tuple[str, Tensor]]:
        for name, weight in layout.weights(source):
            new = layout.to_original(name)
            if new.startswith(layout.TOWER) == inside:
                yield new[len(layout.TOWER) :] if inside else new, weight

    write(target, named(False))
    if not layout.is_video(config):
        write(target / TOWER, named(True))


def back(source: Path, target: Path, config: dict[str, Any]) -> None:
    """From the original layout, whose configuration is given, to that of Hugging Face."""
    film = layout.is_video(config)
    key = "mm_video_tower" if film else "mm_vision_tower"
    tower = Path(layout.tower_folder(source, config, key))
    if not tower.is_dir():
        raise ValueError(
            f"{source} takes its vision tower from {tower}, which is not a folder. Download it, and write its folder "
            f"as {key} into {source / 'config.json'}"
        )
    vision = layout.read_config(tower)
    vision = vision.get("vision_config", vision)
    made = layout.hf_config(config, vision, placeholders(target, ["<image>", "<video>"] if film else ["<image>"]))
    rows = made["text_config"]["vocab_size"]
    save(target / "config.json", made)
    save(target / "preprocessor_config.json", settings(tower, vision))

    def named() -> Iterator[tuple[str, Tensor]]:
        for name, weight in layout.weights(source):
            if not name.startswith(layout.TOWER) and "rotary_emb" not in name:
                yield layout.to_hf(name), layout.grow(name, weight, rows)
        for name, weight in () if film else layout.weights(tower):
            if name.startswith("vision_model.") and not name.endswith("position_ids"):
                yield f"vision_tower.{name}", weight

    write(target, named())


def placeholders(folder: Path, names: list[str]) -> dict[str, int]:
    """The ids of <image> and the like in the folder's tokenizer, which is given those it lacks."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    missing = [name for name in names if name not in tokenizer.get_vocab()]
    if missing:
        tokenizer.add_special_tokens({"additional_special_tokens": missing})
        tokenizer.save_pretrained(folder)
    return {name: int(tokenizer.get_vocab()[name]) for name in names}


def settings(folder: Path, vision: dict[str, Any]) -> dict[str, Any]:
    """How pictures are prepared: the checkpoint's numbers, in a form that old and new versions read."""
    values: dict[str, Any] = {}
    for name in ("processor_config.json", "preprocessor_config.json"):
        if (folder / name).is_file():
            read = json.loads((folder / name).read_text(encoding="utf-8"))
            values.update(read.get("image_processor", read))
    side = int(vision["image_size"])
    return {
        "image_processor_type": "CLIPImageProcessor",
        "image_mean": values.get("image_mean", layout.CLIP_MEAN),
        "image_std": values.get("image_std", layout.CLIP_STD),
        "size": {"shortest_edge": side},
        "crop_size": {"height": side, "width": side},
        "resample": 3,
    }


def save(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON file."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def write(folder: Path, pairs: Iterable[tuple[str, Tensor]]) -> None:
    """Safetensors in shards, with an index where there is more than one."""
    save_torch_state_dict(dict(pairs), folder, max_shard_size="4GB")


def main() -> int:
    """The command line; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    args = parser.parse_args()
    try:
        made = convert(args.source, args.target)
    except ValueError as error:
        say(f"convert: {error}")
        return 1
    say(f"{args.target} holds the {made} layout")
    return 0


if __name__ == "__main__":
    sys.exit(main())
