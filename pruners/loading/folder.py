"""A checkpoint's folder, checked before any other library reads it: what its configuration says, which files hold
weights, and which tensors stand in them. Everything here costs a few file headers; nothing is built."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from pruners.loading import files

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
READ = (".json", ".model", ".txt", ".jinja", ".safetensors")  # the kinds of files that are read at all
BESIDE = ("prior.json", "prior.safetensors")  # a prior measured on the model; older versions wrote the second
UNREACHED = {
    "ConnectError": "it cannot be reached", "ConnectTimeout": "it does not answer", "ReadTimeout": "it does not answer",
    "OfflineModeIsEnabled": "HF_HUB_OFFLINE is set, and the cache does not hold it",
    "GatedRepoError": "it asks for a login: accept the model's terms there, then `hf auth login`",
    "RepositoryNotFoundError": "it has none of this name, or a private one", "HFValidationError": "no name it allows",
}  # fmt: skip
LARGEST_JSON = 256 << 20  # bytes; the largest tokenizers have about 20 million
LONGEST_HEADER = 100_000_000  # bytes, as safetensors itself allows

# Bits of one element, by safetensors' name of the type.
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "U16": 16, "I16": 16, "F16": 16,
    "BF16": 16, "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64, "F4": 4,
}  # fmt: skip

# The whole numbers of a configuration that decide how much is built, and the most that each may be.
SIZES = {
    "hidden_size": 1 << 16, "intermediate_size": 1 << 20, "num_hidden_layers": 1024, "depth": 1024,
    "num_attention_heads": 4096, "num_key_value_heads": 4096, "num_heads": 4096, "head_dim": 1 << 14,
    "vocab_size": 1 << 24, "image_size": 1 << 14, "patch_size": 1 << 10, "temporal_patch_size": 64, "num_channels": 64,
    "in_channels": 64, "projection_dim": 1 << 16, "out_hidden_size": 1 << 16, "max_position_embeddings": 1 << 28,
    "num_position_embeddings": 1 << 22, "spatial_merge_size": 64, "spatial_patch_size": 1 << 10,
    "window_size": 1 << 14, "image_seq_length": 1 << 20, "video_seq_length": 1 << 24,
}  # fmt: skip
MAY_BE_NULL = ("num_key_value_heads", "head_dim")
PAIRS = ("image_size", "patch_size")  # one number, or one for each direction
PARTS = ("text_config", "vision_config")
DTYPES = ("float32", "float16", "bfloat16", "float64", "auto")

# Files beside the weights that must hold a JSON object, where they are there.
OBJECTS = ("generation_config.json", "preprocessor_config.json", "video_preprocessor_config.json",
           "processor_config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
           "tokenizer.json")  # fmt: skip

Shapes = dict[str, tuple[int, ...]]


def checked(folder: Path) -> Shapes:
    """The shapes of a checkpoint's tensors, by name, after everything that will be read was found in order."""
    if (folder / "adapter_config.json").exists():
        raise ValueError(f"{folder}: an adapter for another model (adapter_config.json); expected a merged checkpoint")
    config_in(folder)
    for name in OBJECTS:
        if os.path.lexists(folder / name):
            _object(folder / name, read_object(folder / name))
    shapes: Shapes = {}
    for path in weight_files(folder):
        for name, shape in tensors(path).items():
            if name in shapes:
                raise ValueError(f"{path}: the tensor {name!r:.120} stands in two files of the checkpoint")
            shapes[name] = shape
    return shapes


def config_in(folder: Path) -> dict[str, Any]:
    """config.json, with every size in it a positive whole number within its bound."""
    path = folder / "config.json"
    config = read_object(path)
    if not isinstance(config.get("model_type"), str):
        raise ValueError(f"{path}: expected 'model_type' (a string), found {config.get('model_type')!r:.80}")
    if "transformers_weights" in config:
        raise ValueError(f"{path}: 'transformers_weights' names a file of weights; expected {WEIGHTS} or {INDEX}")
    _sizes(path, "", config)
    for part in PARTS:
        if part not in config:
            continue
        inner = config[part]
        if not isinstance(inner, dict):
            raise ValueError(f"{path}: expected an object in {part!r}, found {inner!r:.80}")
        if str(inner.get("model_type", "")).startswith("timm"):
            raise ValueError(f"{path}: {part} asks for a model of another library ({inner['model_type']!r:.80})")
        _sizes(path, f"{part}.", inner)
    return config


def square(config: Mapping[str, Any]) -> int | None:
    """Patches along one side of the square that the vision tower takes; None: the configuration does not say."""
    vision = config.get("vision_config") or {}
    return int(vision["image_size"]) // int(vision["patch_size"]) if "image_size" in vision else None


def _sizes(path: Path, where: str, config: Mapping[str, Any]) -> None:
    for name, most in SIZES.items():
        value = config.get(name, 1)
        if value is None and name in MAY_BE_NULL:
            continue
        numbers = value if isinstance(value, list) and name in PAIRS and len(value) == 2 else [value]
        if not all(type(number) is int and 0 < number <= most for number in numbers):
            raise ValueError(
                f"{path}: expected a whole number from 1 to {most:,} in '{where}{name}', found {value!r:.80}"
            )
    image, patch = config.get("image_size"), config.get("patch_size")
    if type(image) is int and type(patch) is int and patch > image:
        raise ValueError(f"{path}: '{where}patch_size' is {patch}, more than the {image} of '{where}image_size'")
    for name in ("dtype", "torch_dtype"):
        if config.get(name) not in (None, *DTYPES):
            raise ValueError(
                f"{path}: expected one of {', '.join(DTYPES)} in '{where}{name}', found {config[name]!r:.80}"
            )
    for name in ("rope_parameters", "rope_scaling"):
        if not isinstance(config.get(name), dict | None):
            raise ValueError(f"{path}: expected an object in '{where}{name}', found {config[name]!r:.80}")


def _object(path: Path, content: Mapping[str, Any]) -> None:
    """What else must hold in one of the OBJECTS."""
    if path.name == "tokenizer.json" and not isinstance(content.get("model"), dict):
        raise ValueError(
            f"{path}: expected 'model' (an object) of a tokenizer, found {', '.join(content) or 'nothing'!s:.80}"
        )
    if path.name == "tokenizer_config.json":
        for name, value in content.items():
            if name.endswith("_file") and value is not None:
                raise ValueError(
                    f"{path}: {name!r:.80} names a file; a tokenizer's files are found by their usual names"
                )
    if path.name.endswith("processor_config.json"):
        for inner in (content, content.get("image_processor"), content.get("video_processor")):
            if not isinstance(inner, dict | None):
                raise ValueError(f"{path}: expected an object for a processor, found {inner!r:.80}")
            _pictures(path, inner or {})


def _pictures(path: Path, said: Mapping[str, Any]) -> None:
    """How pictures are prepared: three means and deviations, and positive sizes."""
    for name in ("image_mean", "image_std"):
        value = said.get(name)
        three = isinstance(value, list) and len(value) == 3 and all(type(entry) in (int, float) for entry in value)
        if value is not None and not (
            three and all(map(math.isfinite, value)) and (name == "image_mean" or all(value))
        ):
            raise ValueError(f"{path}: expected three numbers in {name!r}, found {value!r:.80}")
    for name in ("size", "crop_size", "patch_size", "temporal_patch_size", "merge_size", "min_patches", "max_patches"):
        value = said.get(name)
        numbers = value.values() if isinstance(value, dict) else [value]
        if not all(number is None or (type(number) is int and 0 < number <= 1 << 30) for number in numbers):
            raise ValueError(f"{path}: expected positive whole numbers in {name!r}, found {value!r:.80}")


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that hold the weights: those that transformers would read, and no others."""
    shards = [path.name for path in folder.iterdir() if re.match(r"shard-\d{5}-model-", path.name)]
    if shards:  # transformers would take every .safetensors there, before it looks for the usual names
        raise ValueError(f"{folder / shards[0]!s}: a part of a distributed checkpoint; expected {WEIGHTS} or {INDEX}")
    if os.path.lexists(folder / WEIGHTS):
        return [folder / WEIGHTS]
    index = folder / INDEX
    if not os.path.lexists(index):
        raise ValueError(f"{folder}: expected weights in {WEIGHTS}, or in the files of {INDEX}; no other kind is read")
    names = read_object(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise ValueError(f"{index}: expected 'weight_map' (an object from tensors to files), found {names!r:.80}")
    for name in names.values():
        if not isinstance(name, str) or not re.fullmatch(r"[\w-][\w.-]*\.safetensors", name):
            raise ValueError(f"{index}: expected plain names of .safetensors files in this folder, found {name!r:.80}")
    files = [folder / name for name in sorted(set(names.values()))]
    held = {name: path.name for path in files for name in tensors(path)}
    for tensor, name in names.items():
        if held.get(tensor) != name:
            raise ValueError(f"{index}: {name} does not hold the tensor {tensor!r:.120}, which the index says it does")
    return files


def tensors(path: Path) -> Shapes:
    """The shapes of the tensors of a safetensors file, whose header has to account for every byte."""
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, LONGEST_HEADER):
            raise ValueError(f"{path}: not a whole safetensors file (its header would be longer than the file allows)")
        try:
            header = _parse(file.read(length))
        except ValueError as error:
            raise ValueError(f"{path}: not a safetensors file ({error})") from None
    header.pop("__metadata__", None)
    places: list[tuple[int, int]] = []
    for name, entry in header.items():
        try:
            shape, (begin, end), bits = entry["shape"], entry["data_offsets"], BITS[entry["dtype"]]
            whole = all(type(number) is int and number >= 0 for number in (begin, end, *shape))
        except (KeyError, TypeError, ValueError):
            whole = False
        if not whole or len(shape) > 16 or math.prod(shape) * bits != 8 * (end - begin):
            raise ValueError(f"{path}: the tensor {name!r:.120} has no known type, or not the bytes of its shape")
        places.append((begin, end))
    at = 0
    for begin, end in sorted(places):
        if begin != at:
            raise ValueError(f"{path}: its tensors overlap or leave bytes between them, at byte {8 + length + at:,}")
        at = end
    if 8 + length + at != size:
        raise ValueError(f"{path}: its header describes {8 + length + at:,} bytes, but the file has {size:,}")
    return {name: tuple(entry["shape"]) for name, entry in header.items()}


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object that a file holds."""
    with opened(path) as file:
        text = file.read(LARGEST_JSON + 1)
    try:
        if len(text) > LARGEST_JSON:
            raise ValueError(f"more than {LARGEST_JSON:,} bytes")
        return _parse(text)
    except ValueError as error:
        raise ValueError(f"{path}: expected a JSON object ({error})") from None


def _parse(text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text.decode())
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(value, dict):
        raise ValueError(f"found {type(value).__name__}")
    return value


def opened(path: Path) -> IO[bytes]:
    """A regular file, to read; what is wrong with another is said in a ValueError."""
    try:
        return files.opened(path)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None


def local(model: str | Path, only: str = "") -> Path:
    """The folder of a checkpoint. Of a hub id, the files that will be read are fetched first, or `only` one of them."""
    if Path(model).is_dir():
        return Path(model)
    kinds = [f"*{kind}" for kind in READ if kind != ".safetensors"]
    return fetched(str(model), [only] if only else [*kinds, "model*.safetensors", "prior.safetensors"])


def fetched(name: str, wanted: Sequence[str], kind: str = "model") -> Path:
    """The folder with the files of a model or dataset of the hub that match; a hub out of reach is told at once."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, snapshot_download, try_to_load_from_cache

    probe = "config.json" if kind == "model" else "README.md"
    try:
        if not isinstance(try_to_load_from_cache(name, probe, repo_type=kind), str):
            # This asks once; a download would go on asking for a minute.
            get_hf_file_metadata(hf_hub_url(name, probe, repo_type=kind))
        return Path(snapshot_download(name, repo_type=kind, allow_patterns=[*wanted, probe]))
    except Exception as error:  # whatever the hub's client and what it is made of may raise
        why = UNREACHED.get(type(error).__name__, type(error).__name__)
        raise ValueError(f"{name}: neither a folder nor a {kind} that the hub gives ({why})") from None
