"""Model folders that strangers made: what does not add up is refused in a sentence, before anything is built."""

from __future__ import annotations

import json
import os
import shutil
import struct
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from eval.answering.checkpoints import digest_of
from pruners.loading import folder
from pruners.models import adapter


@pytest.fixture
def model(checkpoints, tmp_path):
    return shutil.copytree(checkpoints["image"], tmp_path / "model")


def load(model, **more):
    return adapter(str(model)).load(str(model), dtype=torch.float32, **more)


def changed(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def part(model, name, **values):
    config = json.loads((model / "config.json").read_text())
    changed(model / "config.json", **{name: {**config[name], **values}})


def refused(model, message):
    with pytest.raises(ValueError, match=message) as error:
        load(model)
    assert str(model) in str(error.value)
    assert len(str(error.value)) < 1000


def spread(model, files=("a.safetensors", "b.safetensors")):
    """The checkpoint's tensors in several files and an index."""
    tensors = load_file(model / "model.safetensors")
    names = {name: files[i % len(files)] for i, name in enumerate(sorted(tensors))}
    for file in files:
        save_file({name: tensors[name] for name in names if names[name] == file}, model / file)
    (model / "model.safetensors").unlink()
    (model / folder.INDEX).write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return names


def test_no_pickle_is_opened_whatever_an_index_names(model):
    tensors = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    torch.save(tensors, model / "weights.bin")
    (model / folder.INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(tensors, "weights.bin")}))
    refused(model, "expected plain names of .safetensors files")
    torch.save(tensors, model / "weights.safetensors")  # the name alone does not make it one
    (model / folder.INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(tensors, "weights.safetensors")}))
    refused(model, "not a (whole )?safetensors file")


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "..", "a/b.safetensors", ".safetensors", 7, None,
                                  "a\nb.safetensors", "../model/a.safetensors"])  # fmt: skip
def test_an_index_leads_nowhere_else(model, name):
    names = spread(model)
    (model / folder.INDEX).write_text(json.dumps({"weight_map": {**names, sorted(names)[0]: name}}))
    refused(model, "expected plain names of .safetensors files")


def test_an_index_is_read_as_it_says(model):
    names = spread(model)
    assert load(model)
    first = sorted(names)[0]
    (model / folder.INDEX).write_text(json.dumps({"weight_map": {**names, first: "b.safetensors"}}))
    refused(model, "b.safetensors does not hold the tensor")


def test_a_tensor_stands_in_one_file(model):
    names = spread(model)
    first = sorted(names)[0]
    one, other = (load_file(model / f"{name}.safetensors") for name in "ab")
    save_file({**other, first: one[first]}, model / "b.safetensors")
    (model / folder.INDEX).write_text(json.dumps({"weight_map": {**names, first: "b.safetensors"}}))
    refused(model, "stands in two files")


@pytest.mark.parametrize("value", [None, [], {}, 3, "a.safetensors"])
def test_an_index_of_another_kind(model, value):
    spread(model)
    (model / folder.INDEX).write_text(json.dumps({"weight_map": value}))
    refused(model, "expected 'weight_map'")


def test_tensors_are_all_there_and_no_others(model):
    tensors = load_file(model / "model.safetensors")
    gone = sorted(tensors)[:4]
    save_file({name: tensor for name, tensor in tensors.items() if name not in gone}, model / "model.safetensors")
    refused(model, "4 missing")
    assert load(model, allow_missing=True)
    save_file({**tensors, "model.more": torch.zeros(3)}, model / "model.safetensors")
    refused(model, r"1 unknown \(model.more\)")
    save_file({**tensors, gone[0]: torch.zeros(3)}, model / "model.safetensors")
    refused(model, "1 of another shape")
    save_file(tensors, model / "model.safetensors")
    assert load(model)


def test_the_command_refuses_missing_tensors_and_can_be_told_to_go_on(model, world, tmp_path, capsys):
    from eval.cli import main

    tensors = load_file(model / "model.safetensors")
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, model / "model.safetensors")
    words = ["run", "--model", str(model), "--data", str(world), "--benchmarks", "pope", "--limit", "2",
             "--arms", "none", "--keep", "4", "--device", "cpu", "--out", str(tmp_path / "run")]  # fmt: skip
    assert main(words) == 1
    assert "1 missing" in capsys.readouterr().err
    assert main([*words, "--allow-missing"]) == 0


BROKEN = {
    "cut short": lambda data: data[:-9],
    "seven bytes": lambda data: data[:7],
    "empty": lambda data: b"",
    "a header beyond the file": lambda data: struct.pack("<Q", 1 << 62) + data[8:],
    "a header of zeros": lambda data: struct.pack("<Q", 64) + bytes(64) + data,
    "a header that is a list": lambda data: struct.pack("<Q", 2) + b"[]",
    "a tensor that is a list": lambda data: struct.pack("<Q", 8) + b'{"a":[]}',
    "bytes left over": lambda data: data + b"more",
    "an HTML page": lambda data: b"<!DOCTYPE html><html><body>404</body></html>",
}


@pytest.mark.parametrize("how", BROKEN)
def test_broken_weights(model, how):
    path = model / "model.safetensors"
    path.write_bytes(BROKEN[how](path.read_bytes()))
    refused(model, "safetensors|its header describes|the tensor 'a'")


def header(entries, data=b""):
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    "entries",
    [
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]}},
        {"a": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}},
        {"a": {"dtype": "X9", "shape": [1], "data_offsets": [0, 4]}},
        {"a": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}},
        {name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for name in "ab"},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
        {"a": {"dtype": "F32", "shape": [1 << 60], "data_offsets": [0, 1 << 62]}},
    ],
)  # fmt: skip
def test_headers_that_do_not_add_up(tmp_path, entries):
    path = tmp_path / "x.safetensors"
    path.write_bytes(header(entries, bytes(8)))
    with pytest.raises(ValueError, match=r"x\.safetensors: "):
        folder.tensors(path)


def test_headers_are_read_as_safetensors_reads_them(model):
    path = model / "model.safetensors"
    assert folder.tensors(path) == {name: tuple(tensor.shape) for name, tensor in load_file(path).items()}


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "preprocessor_config.json", "tokenizer.json",
                                  "tokenizer_config.json", "processor_config.json"])  # fmt: skip
@pytest.mark.parametrize("text", ["[]", "null", "", "{", "3", '"a"', "[" * 100_000, "\udcff"])
def test_files_that_hold_no_object(model, name, text):
    (model / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    refused(model, f"{name}: expected a JSON object")


@pytest.mark.parametrize(
    ("where", "name", "value"),
    [
        ("text_config", "num_hidden_layers", "four"), ("text_config", "num_hidden_layers", 10**9),
        ("text_config", "hidden_size", 0), ("text_config", "hidden_size", -32), ("text_config", "vocab_size", None),
        ("text_config", "vocab_size", 1.5), ("text_config", "num_attention_heads", True),
        ("text_config", "dtype", "__import__"), ("text_config", "rope_parameters", []),
        ("vision_config", "patch_size", 0), ("vision_config", "patch_size", None),
        ("vision_config", "image_size", [1, 2, 3]),
        ("vision_config", "patch_size", 900), ("vision_config", "model_type", "timm_wrapper"),
    ],
)  # fmt: skip
def test_sizes_are_bounded_before_anything_is_built(model, where, name, value):
    part(model, where, **{name: value})
    refused(model, f"config.json: .*{'another library' if name == 'model_type' else name}")


@pytest.mark.parametrize("name", ["text_config", "vision_config"])
@pytest.mark.parametrize("value", [None, [], 7, "llama"])
def test_parts_that_are_none(model, name, value):
    begun = time.monotonic()
    changed(model / "config.json", **{name: value})
    refused(model, f"expected an object in '{name}'")
    assert time.monotonic() - begun < 5


def test_a_part_left_out_is_no_model_of_billions(model):
    """LLaVA's own defaults would take 7 billion random weights."""
    config = json.loads((model / "config.json").read_text())
    del config["text_config"]
    (model / "config.json").write_text(json.dumps(config))
    refused(model, "describes .* weights, but the files hold")


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("config.json", {"transformers_weights": "../../x.safetensors"}, "transformers_weights"),
        ("config.json", {"model_type": None}, "model_type"),
        ("config.json", {"image_seq_length": -1}, "image_seq_length"),
        ("config.json", {"hidden_size": 10**9}, "hidden_size"),
        ("tokenizer.json", {"model": None}, "expected 'model'"),
        ("tokenizer_config.json", {"tokenizer_file": "/etc/passwd"}, "names a file"),
        ("preprocessor_config.json", {"image_mean": [0.5]}, "three numbers in 'image_mean'"),
        ("preprocessor_config.json", {"image_std": [0, 1, 1]}, "three numbers in 'image_std'"),
        ("preprocessor_config.json", {"crop_size": {"height": -1}}, "positive whole numbers in 'crop_size'"),
        ("preprocessor_config.json", {"patch_size": "a"}, "positive whole numbers in 'patch_size'"),
    ],
)
def test_what_a_file_may_not_say(model, file, values, message):
    changed(model / file, **values)
    refused(model, message)


def test_an_empty_tokenizer(model):
    (model / "tokenizer.json").write_text("{}")
    refused(model, "tokenizer.json: expected 'model'")
    (model / "tokenizer.json").write_text('{"model": {}}')
    refused(model, str(model))


def test_what_transformers_would_read_before_the_usual_names(model):
    (model / "adapter_config.json").write_text('{"base_model_name_or_path": "somebody/else"}')
    refused(model, "adapter_config.json")
    (model / "adapter_config.json").unlink()
    shutil.copy(model / "model.safetensors", model / "shard-00000-model-00001-of-00001.safetensors")
    refused(model, "distributed checkpoint")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "generation_config.json"])
def test_a_pipe_is_not_waited_for(model, name):
    (model / name).unlink()
    os.mkfifo(model / name)
    refused(model, "expected a regular file")


@pytest.mark.parametrize("where", ["", "text_config", "vision_config"])
@pytest.mark.parametrize("name", ["_attn_implementation", "attn_implementation", "_attn_implementation_internal"])
@pytest.mark.parametrize("asked", [None, "eager"])
def test_no_checkpoint_chooses_a_hubs_kernel(model, where, name, asked, monkeypatch):
    from transformers.integrations import hub_kernels

    fetched = []
    for door in ("load_and_register_attn_kernel", "get_kernel"):
        monkeypatch.setattr(hub_kernels, door, lambda *words, **more: fetched.append(words), raising=False)
    monkeypatch.setattr(
        "transformers.modeling_utils.lazy_import_flash_attention", lambda *words, **more: fetched.append(words)
    )
    value = {name: "kernels-community/flash-attn2"}
    if where:
        part(model, where, **value)
    else:
        changed(model / "config.json", **value)
    loaded = load(model, attention=asked).model
    assert not fetched
    parts = (loaded.config, loaded.config.text_config, loaded.config.vision_config)
    assert {one._attn_implementation for one in parts} == {asked or "sdpa"}


def test_a_kernel_is_one_of_the_known(model, monkeypatch):
    with pytest.raises(ValueError, match="unknown attention kernel 'kernels-community/x'"):
        load(model, attention="kernels-community/x")
    monkeypatch.setattr("pruners.loading.kernels.installed", lambda name: False)
    with pytest.raises(ValueError, match="needs the package flash_attn"):  # transformers would look on the hub
        load(model, attention="flash_attention_2")


def test_a_digest_is_of_every_byte(model, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = model / "model.safetensors"
    save_file({"a": torch.zeros(70 << 20, dtype=torch.uint8)}, path)
    first = digest_of(str(model))
    assert digest_of(str(model)) == first
    was = path.stat()
    with open(path, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x01")
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))  # the same size, name, inode and time
    assert digest_of(str(model)) != first


def test_digests_of_large_files_are_remembered(model, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("eval.answering.checkpoints.REMEMBERED", 1)
    first = digest_of(str(model))
    notes = list((tmp_path / "cache" / "debias" / "digests").iterdir())
    assert len(notes) == len([path for path in model.iterdir() if path.suffix in folder.READ])
    assert digest_of(str(model)) == first
    notes[0].write_text("0" * 64)
    assert digest_of(str(model)) != first
    notes[0].write_text("not a digest")
    assert digest_of(str(model)) == first


def test_a_shard_that_an_index_names_is_in_the_digest(model):
    spread(model)
    first = digest_of(str(model))
    tensors = load_file(model / "b.safetensors")
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, model / "b.safetensors")
    assert digest_of(str(model)) != first
