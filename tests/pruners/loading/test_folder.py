"""A checkpoint's folder, file by file: each bound met and passed, each rule kept and broken. No model is loaded."""

from __future__ import annotations

import json
import struct

import pytest

from pruners.loading import folder

K = 1024
MOST = {
    "hidden_size": 64 * K, "intermediate_size": K * K, "num_hidden_layers": K, "depth": K, "num_attention_heads": 4 * K,
    "num_key_value_heads": 4 * K, "num_heads": 4 * K, "head_dim": 16 * K, "vocab_size": 16 * K * K,
    "image_size": 16 * K, "patch_size": K, "temporal_patch_size": 64, "num_channels": 64, "in_channels": 64,
    "projection_dim": 64 * K, "out_hidden_size": 64 * K, "max_position_embeddings": 256 * K * K,
    "num_position_embeddings": 4 * K * K, "spatial_merge_size": 64, "spatial_patch_size": K, "window_size": 16 * K,
    "image_seq_length": K * K, "video_seq_length": 16 * K * K,
}  # fmt: skip
BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
         "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8}  # fmt: skip


def weights(entries, data=b""):
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(shape=(2,), at=0, kind="F32", size=8):
    return {"dtype": kind, "shape": list(shape), "data_offsets": [at, at + size]}


@pytest.fixture
def home(tmp_path):
    """The smallest folder that is in order."""
    (tmp_path / "config.json").write_text('{"model_type": "any"}')
    (tmp_path / folder.WEIGHTS).write_bytes(weights({"__metadata__": {"format": "pt"}, "a": tensor()}, bytes(8)))
    return tmp_path


def said(home, **files):
    """The shapes of a folder, or why it is refused, with some JSON files exchanged (config=...: config.json)."""
    before = {}
    for name, value in files.items():
        path = home / f"{name}.json"
        before[path] = path.read_text() if path.exists() else None
        path.write_text(json.dumps(value))
    try:
        return folder.checked(home)
    except ValueError as error:
        return str(error).removeprefix(f"{home}/")
    finally:
        for path, text in before.items():
            path.unlink() if text is None else path.write_text(text)


def config(home, **values):
    return said(home, config={"model_type": "any", **values})


GOOD = {"a": (2,)}


def test_the_smallest_folder(home):
    assert said(home) == GOOD
    assert (folder.WEIGHTS, folder.INDEX) == ("model.safetensors", "model.safetensors.index.json")
    assert folder.READ == (".json", ".model", ".txt", ".jinja", ".safetensors")


@pytest.mark.parametrize("where", ["", "text_config", "vision_config"])
def test_every_size_has_its_bound(home, where, monkeypatch):
    dotted = f"{where}." if where else ""

    def told(name, value, **others):
        others |= {"image_size": MOST["image_size"]} if name == "patch_size" else {}
        values = {**others, name: value}
        monkeypatch.setattr(
            folder, "read_object", lambda path: {"model_type": "any", **({where: values} if where else values)}
        )
        try:
            return folder.config_in(home) and None
        except ValueError as error:
            return str(error).removeprefix(f"{home}/")

    for name, most in MOST.items():
        refused = f"config.json: expected a whole number from 1 to {most:,} in '{dotted}{name}', found "
        assert told(name, most) is told(name, 1) is None, name
        for value in (most + 1, 0, -1, 1.0, True, "1", [1], [1, 1, 1], [1, most + 1], [0, 1]):
            assert told(name, value) == refused + repr(value), (name, value)
        assert (told(name, [1, 2]) is None) == (name in ("image_size", "patch_size")), name
        assert (told(name, None) is None) == (name in ("num_key_value_heads", "head_dim")), name
    assert "'image_seq_length', found 0" in told(
        "image_seq_length", 0, head_dim=None, num_key_value_heads=None
    ).replace(dotted, "")
    assert folder.SIZES == MOST


def test_a_patch_is_no_larger_than_its_picture(home):
    assert config(home, image_size=4, patch_size=4) == GOOD
    assert config(home, image_size=4, patch_size=5).startswith("config.json: 'patch_size' is 5, more than the 4 of ")
    told = config(home, vision_config={"image_size": 4, "patch_size": 5})
    assert told == "config.json: 'vision_config.patch_size' is 5, more than the 4 of 'vision_config.image_size'"
    assert config(home, image_size=[4, 4], patch_size=5) == config(home, image_size=4, patch_size=[5, 5]) == GOOD


def test_what_a_configuration_may_say_of_types_and_rotation(home):
    for name in ("dtype", "torch_dtype"):
        for value in (None, "float32", "float16", "bfloat16", "float64", "auto"):
            assert config(home, **{name: value}) == GOOD
        told = config(home, text_config={name: "int8"})
        assert told == ("config.json: expected one of float32, float16, bfloat16, float64, auto in "
                        f"'text_config.{name}', found 'int8'")  # fmt: skip
    for name in ("rope_parameters", "rope_scaling"):
        assert config(home, **{name: None}) == config(home, **{name: {"any": 1}}) == GOOD
        told = config(home, vision_config={name: [1]})
        assert told == f"config.json: expected an object in 'vision_config.{name}', found [1]"


def test_what_a_configuration_may_say_of_its_parts(home):
    for value in (None, 3, "any"):
        told = said(home, config={"model_type": value} if value != "any" else {})
        assert told == f"config.json: expected 'model_type' (a string), found {value if value == 3 else None}"
    assert config(home, transformers_weights="x").startswith("config.json: 'transformers_weights' names a file")
    for part in ("text_config", "vision_config"):
        assert config(home, **{part: {}}) == config(home, **{part: {"model_type": "plain"}}) == GOOD
        assert config(home, **{part: None}) == f"config.json: expected an object in {part!r}, found None"
        told = config(home, **{part: {"model_type": "timm_wrapper"}})
        assert told == f"config.json: {part} asks for a model of another library ('timm_wrapper')"
    assert config(home, vision_config=[1]).startswith("config.json: expected an object")  # also behind a part left out


def test_objects_beside_the_weights(home):
    names = ("generation_config", "preprocessor_config", "video_preprocessor_config", "processor_config",
             "tokenizer_config", "special_tokens_map", "added_tokens", "tokenizer")  # fmt: skip
    for name in names:
        assert said(home, **{name: {"model": {}}}) == GOOD
        assert said(home, **{name: [1]}) == f"{name}.json: expected a JSON object (found list)"
    assert said(home, other=[1]) == GOOD
    (home / "tokenizer.json").symlink_to(home / "gone")
    assert said(home) == "tokenizer.json: no such file"
    (home / "tokenizer.json").unlink()
    told = said(home, adapter_config={}).removeprefix(str(home))
    assert told.startswith(": an adapter for another model (adapter_config.json)")
    assert (
        said(home, tokenizer={"a": 1, "b": 2})
        == "tokenizer.json: expected 'model' (an object) of a tokenizer, found a, b"
    )
    assert said(home, tokenizer={"model": [1]}).endswith("of a tokenizer, found model")
    assert said(home, tokenizer={}).endswith("of a tokenizer, found nothing")
    assert said(home, tokenizer_config={"vocab_file": None, "files": "x"}) == GOOD
    told = said(home, tokenizer_config={"vocab_file": "x"})
    assert (
        told == "tokenizer_config.json: 'vocab_file' names a file; a tokenizer's files are found by their usual names"
    )
    assert said(home, special_tokens_map={"vocab_file": "x"}) == GOOD


@pytest.mark.parametrize("name", ["preprocessor_config", "video_preprocessor_config", "processor_config"])
@pytest.mark.parametrize("inner", [None, "image_processor", "video_processor"])
def test_how_pictures_are_prepared(home, name, inner):
    def told(**values):
        return said(home, **{name: {inner: values} if inner else values})

    for key in ("image_mean", "image_std"):
        assert told(**{key: None}) == told(**{key: [0.5, 1, 2]}) == GOOD
        for value in ([0.5, 0.5], [0.5] * 4, 0.5, "abc", [1, 1, True], [1, 1, "1"], [1, 1, float("inf")]):
            assert told(**{key: value}) == f"{name}.json: expected three numbers in {key!r}, found {value!r}"
    assert told(image_mean=[0, 0, 0]) == GOOD
    assert told(image_std=[1, 0, 1]).endswith("three numbers in 'image_std', found [1, 0, 1]")
    for key in ("size", "crop_size", "patch_size", "temporal_patch_size", "merge_size", "min_patches", "max_patches"):
        assert told(**{key: 1}) == told(**{key: {"height": 1 << 30, "width": None}}) == GOOD
        for value in (0, 1.0, True, "1", (1 << 30) + 1, {"height": 1, "width": 0}):
            assert told(**{key: value}) == f"{name}.json: expected positive whole numbers in {key!r}, found {value!r}"
    if inner:
        assert said(home, **{name: {inner: None}}) == GOOD
        assert said(home, **{name: {inner: 3}}) == f"{name}.json: expected an object for a processor, found 3"
    assert said(home, generation_config={"image_mean": 3}) == GOOD


def tensors(home, data):
    path = home / "x.safetensors"
    path.write_bytes(data)
    try:
        return folder.tensors(path)
    except ValueError as error:
        return str(error).removeprefix(f"{path}: ")


def test_headers_account_for_every_byte(home):
    for kind, size in BYTES.items():
        assert tensors(home, weights({"a": tensor((3, 2), 0, kind, 6 * size)}, bytes(6 * size))) == {"a": (3, 2)}
    assert tensors(home, weights({"a": tensor((2,), 0, "F4", 1)}, bytes(1))) == {"a": (2,)}
    assert {**{kind: 8 * size for kind, size in BYTES.items()}, "F4": 4} == folder.BITS
    two = {"b": tensor((2,), 8), "__metadata__": {}, "a": tensor((2,), 0), "c": tensor((0,), 16, size=0),
           "d": tensor((), 16, size=4)}  # fmt: skip
    shapes = {"b": (2,), "a": (2,), "c": (0,), "d": ()}
    assert tensors(home, weights(two, bytes(20))) == shapes
    length = len(weights(two))
    assert (
        tensors(home, weights(two, bytes(21)))
        == f"its header describes {length + 20:,} bytes, but the file has {length + 21:,}"
    )
    assert tensors(home, weights(two, bytes(19))).startswith("its header describes")
    gap, overlap = {"a": tensor((2,), 1)}, {"a": tensor(), "b": tensor((2,), 7)}
    for entries, at in ((gap, 0), (overlap, 8)):
        told = tensors(home, weights(entries, bytes(16)))
        assert told == f"its tensors overlap or leave bytes between them, at byte {len(weights(entries)) + at:,}"
    wrong = "the tensor 'a' has no known type, or not the bytes of its shape"
    for entry in (3, [], {}, tensor(kind="F3"), tensor((3,)), tensor((-1, -2)), tensor((2.0,)), tensor((True, 2)),
                  tensor(at=-8), {**tensor(), "data_offsets": [0, 4, 8]}, {**tensor(), "shape": 2}):  # fmt: skip
        assert tensors(home, weights({"a": entry}, bytes(8))) == wrong, entry
    assert tensors(home, weights({"a": tensor((1,) * 15 + (2,))}, bytes(8))) == {"a": (1,) * 15 + (2,)}
    assert tensors(home, weights({"a": tensor((1,) * 16 + (2,))}, bytes(8))) == wrong


def test_headers_lie_inside_their_file(home, monkeypatch):
    short = "not a whole safetensors file (its header would be longer than the file allows)"
    assert tensors(home, b"") == tensors(home, bytes(7)) == short
    assert tensors(home, struct.pack("<Q", 3) + b"{}") == short
    assert tensors(home, struct.pack("<Q", 2) + b"{}") == {}
    assert tensors(home, struct.pack("<Q", 2) + b"[]") == "not a safetensors file (found list)"
    assert tensors(home, struct.pack("<Q", 0)).startswith("not a safetensors file (Expecting value")
    monkeypatch.setattr(folder, "LONGEST_HEADER", 2)
    assert tensors(home, struct.pack("<Q", 2) + b"{}") == {}
    assert tensors(home, struct.pack("<Q", 3) + b"{ }") == short


def test_an_index_and_its_files(home):
    whole = (home / folder.WEIGHTS).read_bytes()
    (home / folder.WEIGHTS).unlink()
    assert said(home).removeprefix(str(home)).startswith(": expected weights in model.safetensors, or in the files of ")
    index = home / folder.INDEX

    def told(names, **more):
        index.write_text(json.dumps({"weight_map": names, **more}))
        found = said(home)
        return found.removeprefix(f"{folder.INDEX}: ") if isinstance(found, str) else found

    for names in (None, [], {}, "x"):
        assert told(names) == f"expected 'weight_map' (an object from tensors to files), found {names!r}"
    (home / "z.safetensors").write_bytes(whole)
    (home / "b.c-d_e.safetensors").write_bytes(weights({"b": tensor((1, 2))}, bytes(8)))
    (home / "unread.safetensors").write_bytes(b"")
    names = {"a": "z.safetensors", "b": "b.c-d_e.safetensors"}
    assert told(names, metadata={}) == {"a": (2,), "b": (1, 2)}
    assert [path.name for path in folder.weight_files(home)] == ["b.c-d_e.safetensors", "z.safetensors"]
    for name in (
        3,
        "../z.safetensors",
        ".safetensors",
        ".z.safetensors",
        "z.bin",
        "z.safetensors\n",
        "a/z.safetensors",
    ):
        assert told({**names, "a": name}) == (
            f"expected plain names of .safetensors files in this folder, found {name!r}")  # fmt: skip
    for tensor_name, name in (("a", "b.c-d_e.safetensors"), ("c", "z.safetensors")):
        assert told({**names, tensor_name: name}) == (
            f"{name} does not hold the tensor {tensor_name!r}, which the index says it does")  # fmt: skip
    (home / "b.c-d_e.safetensors").write_bytes(weights({"b": tensor((1, 2)), "a": tensor(at=8)}, bytes(16)))
    assert told({**names, "c": "gone.safetensors"}).startswith("gone.safetensors: no such file")
    assert told(names) == "z.safetensors: the tensor 'a' stands in two files of the checkpoint"
    (home / folder.WEIGHTS).write_bytes(whole)  # comes before an index
    assert told(names) == GOOD
    (home / "shard-00001-model-00001-of-00002.safetensors").write_bytes(whole)
    assert told(names) == ("shard-00001-model-00001-of-00002.safetensors: a part of a distributed checkpoint; expected "
                           "model.safetensors or model.safetensors.index.json")  # fmt: skip


def test_json_that_is_too_large_or_too_deep(home, monkeypatch):
    path = home / "x.json"
    path.write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"x.json: expected a JSON object \(nested too deep\)$"):
        folder.read_object(path)
    monkeypatch.setattr(folder, "LARGEST_JSON", 2)
    path.write_text("{}")
    assert folder.read_object(path) == {}
    path.write_text("{} ")
    with pytest.raises(ValueError, match=r"x.json: expected a JSON object \(more than 2 bytes\)$"):
        folder.read_object(path)


def test_files_that_cannot_be_read(home):
    with pytest.raises(ValueError, match=r"gone: no such file$"):
        folder.opened(home / "gone")
    with pytest.raises(ValueError, match=r"config.json/x: cannot be read \(Not a directory\)$"):
        folder.opened(home / "config.json" / "x")
    with folder.opened(home / "config.json") as file:
        assert file.read() == b'{"model_type": "any"}'


def test_what_is_fetched_of_a_hub_id(home, monkeypatch):
    import huggingface_hub

    asked, probed = [], []

    def probe(url):
        probed.append(url)
        if "who/gone" in url:
            raise huggingface_hub.errors.OfflineModeIsEnabled("no")

    def fetch(model, repo_type, allow_patterns):
        asked.append((model, repo_type, {*allow_patterns}))
        return str(home)

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", probe)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert folder.local(str(home)) == home
    assert asked == []
    assert folder.local("who/what") == folder.local("who/what", "config.json") == home
    kinds = {"*.json", "*.model", "*.txt", "*.jinja", "model*.safetensors", "prior.safetensors", "config.json"}
    assert asked == [("who/what", "model", kinds), ("who/what", "model", {"config.json"})]
    probed.clear()
    why = folder.UNREACHED["OfflineModeIsEnabled"]
    with pytest.raises(ValueError, match=rf"^who/gone: neither a folder nor a model that the hub gives \({why}\)$"):
        folder.local("who/gone")
    assert len(probed) == 1  # a hub out of reach is asked once,
    assert len(asked) == 2  # and for no download


def test_a_dataset_of_the_hub_is_probed_by_its_page(home, monkeypatch):
    import huggingface_hub

    looked, asked = [], []
    monkeypatch.setattr(
        huggingface_hub, "try_to_load_from_cache", lambda *given, **named: looked.append((given, named))
    )
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", looked.append)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **named: asked.append((name, named)) or home)
    assert folder.fetched("who/what", ["*.parquet"], "dataset") == home
    page = huggingface_hub.hf_hub_url("who/what", "README.md", repo_type="dataset")
    assert looked == [(("who/what", "README.md"), {"repo_type": "dataset"}), page]
    assert "/datasets/who/what/" in page
    assert asked == [("who/what", {"repo_type": "dataset", "allow_patterns": ["*.parquet", "README.md"]})]


def test_the_patches_of_a_square_are_those_of_its_tower():
    assert folder.square({"vision_config": {"image_size": 336, "patch_size": 14}}) == 24
    assert folder.square({"vision_config": {"patch_size": 14}}) is None
    assert folder.square({"vision_config": None}) is folder.square({}) is None


def test_each_processor_of_a_file_is_an_object(home):
    for name in ("image_processor", "video_processor"):
        assert said(home, processor_config={name: {"image_mean": [0, 0, 0]}}) == GOOD
        assert "expected an object for a processor, found 3" in said(home, processor_config={name: 3})
        assert "expected three numbers in 'image_mean'" in said(home, processor_config={name: {"image_mean": [0]}})
