"""Hugging Face's layout of a LLaVA and the original one: there and back without a bit lost."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from eval.forks import convert, layout


def logits(folder):
    from transformers import LlavaForConditionalGeneration

    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    image = model.config.image_token_id
    ids = torch.tensor([[1, 20, 21, *[image] * 64, 22, 23, 24]])
    torch.manual_seed(1)
    with torch.inference_mode():
        return model(input_ids=ids, pixel_values=torch.randn(1, 3, 112, 112)).logits


def test_there_and_back_gives_equal_logits(checkpoint, tmp_path):
    assert convert.convert(checkpoint, tmp_path / "original") == "original"
    assert convert.convert(tmp_path / "original", tmp_path / "back") == "Hugging Face"
    assert torch.equal(logits(checkpoint), logits(tmp_path / "back"))


def test_the_original_layout_is_the_one_that_llava_reads(checkpoint, tmp_path):
    convert.convert(checkpoint, tmp_path / "original")
    config = layout.read_config(tmp_path / "original")
    assert config["mm_projector_type"] == "mlp2x_gelu"
    assert config["image_aspect_ratio"] == "pad"
    names = dict(layout.weights(tmp_path / "original"))
    assert {"model.embed_tokens.weight", "model.mm_projector.0.weight", "lm_head.weight"} <= set(names)
    assert not any("vision" in name for name in names), "the tower has a folder of its own"
    tower = layout.tower_folder(tmp_path / "original", config)
    assert "vision_model.embeddings.class_embedding" in dict(layout.weights(tower))


def test_old_bin_files_are_read_as_tensors_and_never_as_programs(checkpoint, tmp_path):
    weights = dict(layout.weights(checkpoint))
    torch.save(weights, tmp_path / "pytorch_model-00001-of-00001.bin")
    assert all(torch.equal(weights[name], weight) for name, weight in layout.weights(tmp_path))
    torch.save({"x": Surprise()}, tmp_path / "pytorch_model-00001-of-00001.bin")
    with pytest.raises(Exception, match="Weights only load failed"):
        list(layout.weights(tmp_path))


class Surprise:
    def __reduce__(self):
        return (print, ("a program ran",))


def test_what_lies_beside_the_weights_is_not_read(checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "copy")
    shutil.copy(tmp_path / "copy" / "model.safetensors", tmp_path / "copy" / "prior.safetensors")
    names = [name for name, _ in layout.weights(tmp_path / "copy")]
    assert len(names) == len(set(names))


def test_a_smaller_vocabulary_gets_a_row_for_the_image(checkpoint):
    weight = torch.arange(6.0).reshape(3, 2)
    grown = layout.grow("language_model.lm_head.weight", weight, 4)
    assert grown.tolist() == [[0, 1], [2, 3], [4, 5], [2, 3]]
    assert layout.grow("language_model.model.norm.weight", weight, 4) is weight


@pytest.mark.parametrize(
    "name",
    [
        "model.language_model.layers.0.mlp.up_proj.weight",
        "language_model.model.layers.0.mlp.up_proj.weight",
    ],
)
def test_both_spellings_of_transformers_mean_the_same(name):
    assert layout.to_original(name) == "model.layers.0.mlp.up_proj.weight"


def test_what_is_no_llava_1_5_is_refused(checkpoint, tmp_path):
    config = layout.read_config(checkpoint)
    with pytest.raises(ValueError, match="belongs to no part"):
        layout.to_original("audio_tower.weight")
    with pytest.raises(ValueError, match="qwen2"):
        layout.original_config({**config, "text_config": {**config["text_config"], "model_type": "qwen2"}}, "t")
    stretched = {**config["text_config"], "rope_parameters": {"rope_type": "linear", "factor": 2}}
    with pytest.raises(ValueError, match="plain rotary"):
        layout.original_config({**config, "text_config": stretched}, "t")
    with pytest.raises(ValueError, match=r"no config\.json"):
        layout.read_config(tmp_path)
    with pytest.raises(ValueError, match="neither"):
        list(layout.weights(tmp_path))


def test_a_folder_with_something_in_it_is_not_written_into(checkpoint, tmp_path):
    with pytest.raises(ValueError, match="not empty"):
        convert.convert(checkpoint, checkpoint)
    shutil.copytree(checkpoint, tmp_path / "copy")
    config = json.loads((tmp_path / "copy" / "config.json").read_text())
    (tmp_path / "copy" / "config.json").write_text(
        json.dumps({**config["text_config"], "mm_vision_tower": "somewhere/clip"})
    )
    with pytest.raises(ValueError, match="somewhere/clip"):
        convert.convert(tmp_path / "copy", tmp_path / "new")
