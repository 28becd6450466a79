"""docs/new_model.md is run as it stands."""

import importlib
import json
import re
import sys
from pathlib import Path

import pytest
import torch
import transformers
from following import DOCS, blocks

import pruners.models
from debias import Padding
from pruners.models import Request
from pruners.models.base import Adapter

PAGE = (DOCS / "new_model.md").read_text(encoding="utf-8")
BLOCKS = blocks("new_model.md", "python")


@pytest.fixture
def vipllava(tmp_path, monkeypatch):
    """The page's family, as one more file of the package."""
    (tmp_path / "vipllava.py").write_text(BLOCKS[0], encoding="utf-8")
    monkeypatch.setattr(pruners.models, "__path__", [*pruners.models.__path__, str(tmp_path)])
    yield importlib.import_module("pruners.models.vipllava")
    sys.modules.pop("pruners.models.vipllava", None)
    vars(pruners.models).pop("vipllava", None)


@pytest.fixture
def folder(builders, tmp_path):
    names = builders.tokenizer("llava")
    settings = builders.config("llava").to_dict()
    config = transformers.VipLlavaConfig(
        vision_config={**settings["vision_config"], "num_hidden_layers": 4},
        text_config=settings["text_config"],
        image_token_index=settings["image_token_index"],
        vision_feature_layers=[-2, 2],
        image_seq_length=36,
    )
    torch.manual_seed(0)
    transformers.VipLlavaForConditionalGeneration(config).eval().save_pretrained(tmp_path / "model")
    names.save_pretrained(tmp_path / "model")
    text = json.dumps(builders.preprocessor("llava"))
    (tmp_path / "model" / "preprocessor_config.json").write_text(text, encoding="utf-8")
    return tmp_path / "model"


def test_the_page_runs(vipllava, folder, builders):
    assert "vipllava" in pruners.models.families()
    shown = {"path": folder, "image": builders.picture(90, 30)}
    exec(BLOCKS[1], shown)
    kept = shown["trace"].kept[0][0]
    assert len(kept) == 8
    assert Padding().valid((90, 30), (6, 6))[kept].all()
    family, encoded = shown["family"], shown["encoded"]
    assert type(family) is vipllava.VipLlava
    with torch.no_grad():
        plain = family.model(**encoded.inputs).logits
        with pruners.make("fastv", keep=1.0)(family.model):
            assert torch.equal(family.model(**encoded.inputs).logits, plain)
    with pytest.raises(ValueError, match="does not open its vision tower"), pruners.make("vispruner")(family.model):
        pass
    assert family.prompt(Request("Why?", [shown["image"]])).endswith("###Human: <image>\nWhy?###Assistant:")


def test_the_page_names_what_exists():
    files = re.findall(r"`(\w+\.py)`", PAGE)
    assert files
    for name in files:
        assert (Path(pruners.models.__file__).parent / name).is_file(), name
    table = PAGE.split("## What an adapter says")[1].split("Examples")[0]
    names = [
        name for row in table.splitlines() if row.startswith("| `") for name in re.findall(r"`(\w+)", row.split("|")[1])
    ]
    assert {"spans", "prompt"} <= set(names)
    for name in names:
        assert hasattr(Adapter, name), name
