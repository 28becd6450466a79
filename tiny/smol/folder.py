"""The finished `smol`: what was trained here, put onto the language model, as a plain checkpoint in the user's cache.

The shipped parts hold no weight of the language model. The finished folder is made on first use (half a minute),
checked by hash at every later one, and made again when anything that it was made from has changed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig, LlavaConfig, LlavaForConditionalGeneration

from tiny import benchmarks, folder
from tiny.benchmarks import user_cache
from tiny.smol import model as smol
from tiny.smol.world import SIDE

PARTS, ORIGIN, STAMP = "parts.safetensors", "origin.json", "finished.json"
MEASURED = ("prior.json", "trends.toml")  # on the trained model: nothing that the bare one could divide by
WEIGHTS = folder.WEIGHTS


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    seen = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            seen.update(part)
    return seen.hexdigest()


def finished(parts: Path, kept: Path | None = None, bare: bool = False) -> Path:
    """The checkpoint folder made of the shipped parts and of the package's language model.

    bare: the language model as it was pretrained, without what it learned about pictures.
    """
    source = smol.package() / smol.GGUF
    if not (parts / ORIGIN).is_file() or not (parts / PARTS).is_file():
        raise ValueError(f"{parts} is missing: the trained parts of 'smol' are not part of this installation")
    origin = json.loads((parts / ORIGIN).read_text(encoding="utf-8"))
    checksum = digest(source)
    if checksum != origin["sha256"]:
        raise ValueError(
            f"{source} is not the file that 'smol' was trained on (SHA-256 {checksum[:12]}, expected "
            f"{origin['sha256'][:12]}): run `bash setup.sh --smol`, which installs {smol.PACKAGE} {smol.VERSION}"
        )
    names = {path.name: digest(path) for path in sorted(parts.iterdir()) if path.is_file()}
    key = hashlib.sha256(json.dumps([checksum, names]).encode()).hexdigest()[:16]
    # its own folder, so that the model is called smol wherever it is named
    made = (kept or user_cache() / "smol") / key / ("smol-bare" if bare else "smol")

    def make(scratch: Path) -> None:
        write(parts, scratch, bare)
        if made.exists() and not whole(made):
            shutil.rmtree(made)

    if whole(made):
        return made
    print(f"smol: putting the trained parts onto the language model, once, in {made}", file=sys.stderr)
    benchmarks.whole(made, whole, make)
    return made


def whole(made: Path) -> bool:
    """Whether a finished folder is there and its weights are those that were written."""
    stamp = made / STAMP
    if not stamp.is_file() or not (made / WEIGHTS).is_file():
        return False
    return bool(json.loads(stamp.read_text(encoding="utf-8")).get("sha256") == digest(made / WEIGHTS))


@torch.no_grad()
def write(parts: Path, out: Path, bare: bool = False) -> None:
    """Writes the whole model in float32, beside the small files that the parts bring."""
    state = load_file(parts / PARTS)
    model = LlavaForConditionalGeneration(LlavaConfig.from_pretrained(parts))
    decoder = smol.language_model()
    if not bare:
        smol.merge(decoder.model, section(state, "lora"))
    inner: Any = model.model
    inner.language_model.load_state_dict(decoder.model.state_dict())
    inner.vision_tower.load_state_dict(section(state, "tower"))
    inner.multi_modal_projector.load_state_dict(section(state, "projector"))
    model.tie_weights()
    model.generation_config = GenerationConfig.from_pretrained(parts)
    model.save_pretrained(out)
    folder.as_published(out)
    left = (PARTS, "config.json", "generation_config.json", *(MEASURED if bare else ()))
    for path in parts.iterdir():
        if path.name not in left:
            shutil.copy(path, out / path.name)
    (out / STAMP).write_text(json.dumps({"sha256": digest(out / WEIGHTS)}) + "\n", encoding="utf-8")


def section(state: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """The tensors of one of the parts, in float32."""
    start = f"{name}/"
    return {key.removeprefix(start): tensor.float() for key, tensor in state.items() if key.startswith(start)}


def ship(model: LlavaForConditionalGeneration, learned: dict[str, torch.Tensor], tokens: Any, out: Path) -> None:
    """Writes what is shipped: tower, projector and LoRA in 16 bits, configuration, tokenizer, origin."""
    out.mkdir(parents=True, exist_ok=True)
    inner: Any = model.model
    state = {f"tower/{key}": value for key, value in inner.vision_tower.state_dict().items()}
    state |= {f"projector/{key}": value for key, value in inner.multi_modal_projector.state_dict().items()}
    state |= {f"lora/{key}": value for key, value in learned.items()}
    halves = {key: value.detach().to("cpu", torch.float16) for key, value in state.items() if value.is_floating_point()}
    save_file(halves, out / PARTS)
    (out / PARTS).chmod(0o644)
    folder.as_float32(out / "config.json", model.config.to_dict())
    end = smol.number(tokens, smol.END)
    ends = {"bos_token_id": tokens.bos_token_id, "eos_token_id": end, "pad_token_id": end}
    GenerationConfig(**ends, do_sample=False, max_new_tokens=32).save_pretrained(out)
    tokens.save_pretrained(out)
    folder.processor(tokens, SIDE, smol.IMAGE).save_pretrained(out)
    origin = {
        "world": "smol",  # whose questions are asked where no data is named
        "package": f"{smol.PACKAGE.replace('_', '-')} {smol.VERSION}",
        "file": smol.GGUF,
        "sha256": digest(smol.package() / smol.GGUF),
        "language_model": "SmolLM2-135M-Instruct by Hugging Face, pretrained on text only",
        "licence": "Apache-2.0, as this repository; its text is in the file LICENSE",
        "changed": "LoRA of rank 16 on every linear layer, added to the weights when the folder is finished",
    }
    (out / ORIGIN).write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8")
