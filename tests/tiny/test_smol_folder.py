"""The finished folder of `smol`: it computes what was trained, is made once, checked by hash, and refused in words."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoProcessor, AutoTokenizer, LlavaForConditionalGeneration

from pruners.models import Request, adapter
from tiny.drawn.drawing import draw
from tiny.smol import folder as smol_folder
from tiny.smol import model as smol
from tiny.smol import train as smol_train
from tiny.smol.world import VISUAL, smol_scene
from tiny.training import sight

real = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in (smol.PACKAGE, "gguf")),
    reason="the language model of smol is not installed: bash setup.sh --smol",
)


@pytest.fixture
def parts(toy, tmp_path):
    """What would be shipped of a student that has learned something, and the student."""
    student = smol_train.SmolStudent(fast=False)
    torch.manual_seed(5)
    for matrix in student.thin.parameters():
        matrix.data.normal_(0, 0.05)
    out = tmp_path / "parts"
    smol_folder.ship(student.model, smol.thin_matrices(student.added), student.tokens, out)
    return out, student


def test_the_finished_model_answers_as_the_trained_one(parts, tmp_path):
    out, student = parts
    made = smol_folder.finished(out, tmp_path / "kept")
    scene = smol_scene(4)
    pixels = sight.pixels(draw(scene))[None]
    ids, _ = student.teacher.turn("What is the red shape?", "")
    row = [*student.teacher.opening, *[smol.number(student.tokens, smol.IMAGE)] * VISUAL, *ids]
    model = LlavaForConditionalGeneration.from_pretrained(made)
    with torch.no_grad():
        trained = student.model(input_ids=torch.tensor([row]), pixel_values=pixels).logits
        finished = model(input_ids=torch.tensor([row]), pixel_values=pixels).logits
    assert model.dtype == torch.float32
    towers = [name for name in load_file(made / smol_folder.WEIGHTS) if name.startswith("vision_tower.")]
    assert towers
    assert all(
        name.startswith("vision_tower.vision_model.") for name in towers
    )  # as on the hub: other programs load it
    assert (finished - trained).abs().max() < 0.02 * trained.abs().max()  # sixteen bits


def test_what_is_shipped_holds_no_weight_of_the_language_model(parts):
    out, student = parts
    shipped = load_file(out / smol_folder.PARTS)
    assert {key.split("/")[0] for key in shipped} == {"tower", "projector", "lora"}
    assert {tensor.dtype for tensor in shipped.values()} == {torch.float16}
    lora = sum(tensor.numel() for key, tensor in shipped.items() if key.startswith("lora/"))
    linear = [m.base for m in student.added.values()]
    assert lora == sum(smol.RANK * (m.in_features + m.out_features) for m in linear)
    assert "_name_or_path" not in (out / "config.json").read_text()  # it would name a folder of this machine


def test_a_finished_folder_is_made_once_and_again_when_it_was_damaged(parts, tmp_path, monkeypatch, capsys):
    out, _ = parts
    made = smol_folder.finished(out, tmp_path / "kept")
    assert made.name == "smol"
    good = (made / smol_folder.WEIGHTS).read_bytes()
    own = smol_folder.write
    monkeypatch.setattr(smol_folder, "write", lambda *given: pytest.fail("made twice"))
    assert smol_folder.finished(out, tmp_path / "kept") == made

    monkeypatch.setattr(smol_folder, "write", own)
    (made / smol_folder.WEIGHTS).write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert smol_folder.finished(out, tmp_path / "kept") == made
    assert (made / smol_folder.WEIGHTS).read_bytes() == good

    (out / "trends.toml").write_text("# other parts, another folder\n")
    other = smol_folder.finished(out, tmp_path / "kept")
    assert other != made
    assert (other / "trends.toml").is_file()
    untaught = smol_folder.finished(out, tmp_path / "kept", bare=True)
    assert untaught == other.with_name("smol-bare")
    assert not (untaught / "trends.toml").exists()


def test_another_language_model_is_refused(parts, tmp_path):
    out, _ = parts
    (smol.package() / smol.GGUF).write_bytes(b"another language model")
    with pytest.raises(ValueError, match="is not the file that 'smol' was trained on"):
        smol_folder.finished(out, tmp_path / "kept")


def test_parts_that_are_missing_are_named(toy, tmp_path):
    with pytest.raises(ValueError, match="nowhere is missing"):
        smol_folder.finished(tmp_path / "nowhere")


def test_a_missing_package_is_one_sentence(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == smol.PACKAGE else found(name))
    with pytest.raises(ValueError, match=r"^the model 'smol' needs .*: run `bash setup.sh --smol`$"):
        smol.package()


def test_the_adapter_asks_as_the_model_was_taught(parts, tmp_path):
    """No second BOS, no system message, every visual token in its place, and the same pixels."""
    out, student = parts
    made = smol_folder.finished(out, tmp_path / "kept")
    one = adapter(str(made)).load(str(made))
    scene = smol_scene(6)
    encoded = one.encode([Request("What is the red shape?", [draw(scene)])])
    ids, _ = student.teacher.turn("What is the red shape?", "")
    taught = [*student.teacher.opening, *[smol.number(student.tokens, smol.IMAGE)] * VISUAL, *ids[:-1]]
    assert encoded.inputs["input_ids"][0].tolist() == taught
    assert torch.allclose(encoded.inputs["pixel_values"][0], sight.pixels(draw(scene)), atol=1e-6)


def test_any_other_tool_asks_the_same_through_the_processor(parts, tmp_path):
    out, student = parts
    made = smol_folder.finished(out, tmp_path / "kept")
    processor = AutoProcessor.from_pretrained(made)
    content = [{"type": "image"}, {"type": "text", "text": "What is the red shape?"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    made_of = processor(images=draw(smol_scene(6)), text=text, add_special_tokens=False, return_tensors="pt")
    ids, _ = student.teacher.turn("What is the red shape?", "")
    taught = [*student.teacher.opening, *[smol.number(student.tokens, smol.IMAGE)] * VISUAL, *ids[:-1]]
    assert made_of["input_ids"][0].tolist() == taught
    assert torch.allclose(made_of["pixel_values"][0], sight.pixels(draw(smol_scene(6))), atol=1e-6)


def test_every_command_takes_smol_as_a_model_and_one_writes_it(parts, tmp_path, monkeypatch, capsys):
    from eval import cli
    from eval.commands import export_model
    from eval.core import embedded

    assets = tmp_path / "assets"
    assets.mkdir()
    (assets / "smol-llava").symlink_to(parts[0])
    monkeypatch.setattr(embedded, "ASSETS", assets)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "kept"))
    given = []
    for name in ("diagnose", "speed"):  # the one takes a string, the other a path
        monkeypatch.setattr(f"eval.commands.{name}.work", lambda args: given.append(args.model) or {})
        assert cli.main([name, "--model", "smol"]) == 0
    assert Path(given[0]) == given[1]
    assert LlavaForConditionalGeneration.from_pretrained(given[0]).config.image_seq_length == VISUAL

    out = tmp_path / "out"
    assert cli.main(["export-model", "smol", str(out)]) == 0
    assert (out / smol_folder.WEIGHTS).read_bytes() == (Path(given[0]) / smol_folder.WEIGHTS).read_bytes()
    assert cli.main(["export-model", "smol", str(out)]) == 1
    assert "is there already" in capsys.readouterr().err
    assert cli.main(["export-model", "smoll", str(tmp_path / "other")]) == 1
    assert "did you mean smol?" in capsys.readouterr().err
    assert export_model.NAMES["smol"] == embedded.SMOL


def test_a_run_on_its_way_is_not_shipped(toy, tmp_path):
    torch.save({"step": 7, "optimizer": {}}, tmp_path / "tune.pt")
    with pytest.raises(ValueError, match="of step 7, on its way"):
        smol_train.save(tmp_path, 0, "cpu", False)


STORY = (
    "The little boat drifted slowly across the lake while the children watched from the shore. Nobody had expected the "
    "wind to die so early in the afternoon, and the old man at the oars was already tired. He looked up at the clouds, "
    "sighed, and began to sing a song that his grandmother had taught him many years ago."
)


def perplexity(model, ids):
    with torch.no_grad():
        return float(model(ids, labels=ids).loss.exp())


@real
def test_the_real_language_model_reads_english_and_not_with_its_rows_permuted():
    """GGUF keeps the rows of q and k in another order. Undone wrongly, the model still speaks, but badly."""
    model, tokens = smol.language_model(), smol.tokens()
    story = tokens(STORY, add_special_tokens=False, return_tensors="pt")["input_ids"]
    licence = (Path(__file__).parents[2] / "LICENSE").read_text(encoding="utf-8")[:4000]
    licence = tokens(licence, add_special_tokens=False, return_tensors="pt")["input_ids"]
    assert perplexity(model, story) == pytest.approx(19.5, abs=0.1)
    assert perplexity(model, licence) == pytest.approx(14.0, abs=0.1)
    for layer in model.model.layers:
        for heads, part in ((9, layer.self_attn.q_proj), (3, layer.self_attn.k_proj)):
            halves = part.weight.data.view(heads, 2, -1, part.in_features)
            part.weight.data = halves.transpose(1, 2).reshape(part.weight.shape)
    assert perplexity(model, story) > 45
    assert perplexity(model, licence) > 100


@real
def test_the_tokens_that_smol_relies_on():
    tokens = smol.tokens()
    assert (tokens.bos_token, smol.number(tokens, smol.END)) == ("<|im_start|>", 2)
    assert len(tokens(smol.IMAGE, add_special_tokens=False)["input_ids"]) == 1
    for word in ("red", "circle", "yes", "no", "big", "upper", "3"):
        assert tokens.decode(tokens(word, add_special_tokens=False)["input_ids"]) == word
    text = tokens.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


@real
def test_the_tokenizer_survives_being_saved(tmp_path):
    tokens = smol.tokens()
    tokens.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again(STORY, add_special_tokens=False)["input_ids"] == tokens(STORY, add_special_tokens=False)["input_ids"]
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["bos_token"] == "<|im_start|>"
