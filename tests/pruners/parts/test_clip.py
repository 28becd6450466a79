"""CDPruner's relevance by CLIP's text tower, on a tiny random CLIP whose vision tower the model could have."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from spelled import Tower
from torch.nn.functional import normalize

import pruners
from pruners.models import Request
from pruners.parts.clip import Words, words

LONGEST = 12  # ids that this CLIP reads at once, of which two are its signs
ASKED = ("What is it?", "What is the colour of the human?")


@pytest.fixture(scope="module")
def folder(builders, tmp_path_factory):
    names = builders.byte_tokenizer(["<|begin|>", "<|end|>"], bos_token="<|begin|>", eos_token="<|end|>")
    narrow = {"intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "projection_dim": 16}
    text = {"vocab_size": len(names), "hidden_size": 24, "max_position_embeddings": LONGEST, **narrow}
    text |= {"bos_token_id": names.bos_token_id, "eos_token_id": names.eos_token_id}
    vision = {"hidden_size": 32, "image_size": 84, "patch_size": 14, **narrow}
    path = tmp_path_factory.mktemp("clip")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.CLIPModel(
            transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
        )
        for weight in model.parameters():
            torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(path)
    names.save_pretrained(path)
    return str(path)


def said(folder, text):
    """[m, P] by transformers' own function, stretch by stretch."""
    model, names = transformers.CLIPModel.from_pretrained(folder), Words(folder).tokenizer
    ids = names(text, add_special_tokens=False).input_ids
    parts = [ids[at : at + LONGEST - 2] for at in range(0, len(ids), LONGEST - 2)]
    rows = [torch.tensor([[names.bos_token_id, *part, names.eos_token_id]]) for part in parts]
    return torch.cat([model.get_text_features(row).pooler_output for row in rows])


@torch.no_grad()
def test_cdpruner_by_the_text_tower(folder, get, builders):
    adapter, model = get("llava"), transformers.CLIPModel.from_pretrained(folder).eval()
    encoded = adapter.encode([Request(ASKED[1], [builders.picture(90, 50)])])
    hidden, _, _ = Tower(adapter.model, encoded.inputs["pixel_values"]).run()
    shown = normalize(model.visual_projection(model.vision_model.post_layernorm(hidden[1:])), dim=-1)
    fits = -(shown @ normalize(said(folder, ASKED[1]), dim=-1).T).mean(1).double()
    share = (fits - fits.min()) / (fits.max() - fits.min())
    unit = normalize(adapter.project(hidden[1:]), dim=-1).double()
    kernel, kept = (unit @ unit.T) * share[:, None] * share, []
    while len(kept) < 9:
        left = [i for i in range(36) if i not in kept]
        kept.append(max(left, key=lambda i: torch.linalg.det(kernel[[*kept, i]][:, [*kept, i]]).item()))
    with pruners.make("cdpruner", keep=9, relevance="clip", clip=folder)(adapter) as trace:
        adapter.model(**encoded.inputs)
    torch.testing.assert_close(trace.scores[0][0][0], fits.float(), rtol=1e-4, atol=1e-5)
    assert trace.kept[0][0].tolist() == sorted(kept)


@torch.no_grad()
def test_each_row_of_a_batch_is_asked_its_own_question(folder, get, builders):
    for name in ("llava", "llava_next"):  # one square; tiles and newlines
        adapter, pruner = get(name), pruners.make("cdpruner", keep=0.3, relevance="clip", clip=folder)
        asked = [Request(text, [builders.picture(90, 50)]) for text in ASKED]
        encoded = adapter.encode(asked)
        with pruner(adapter, sizes=encoded.sizes) as trace:
            adapter.model(**encoded.inputs)
        together = [score[0] for score in trace.scores[0]]
        assert not torch.equal(*together)
        for row, request in enumerate(asked):
            single = adapter.encode([request])
            with pruner(adapter, sizes=single.sizes) as trace:
                adapter.model(**single.inputs)
            torch.testing.assert_close(trace.scores[0][0][0], together[row], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["llava", "internvl", "idefics3"])
def test_a_question_is_read_without_its_template(family, get):
    adapter = get(family)
    before = adapter.prompt(Request("\0")).partition("\0")[0]
    for text in ASKED:
        rest = adapter.prompt(Request(text)).removeprefix(before)
        assert len(rest) > len(text)
        ids = torch.tensor(adapter.tokenizer(rest, add_special_tokens=False).input_ids)
        assert adapter.question(ids) == text


def test_a_text_tower_of_another_model_is_refused(folder, get, llava, tmp_path):
    method = pruners.make("cdpruner", relevance="clip", clip=folder)
    with pytest.raises(ValueError, match=r"tower of this model is siglip_vision_model .*belongs to another"):
        method.check(get("llava_onevision"))
    with pytest.raises(ValueError, match="prune an adapter, not its model alone"), method(llava):
        pass
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava"}))
    with pytest.raises(ValueError, match="model_type is 'llava'; expected 'clip'"):
        pruners.make("cdpruner", relevance="clip", clip=str(tmp_path)).check(get("llava"))
    assert words(folder) is words(folder)


def test_a_text_tower_is_loaded_as_it_is_and_runs_no_code(folder, tmp_path, monkeypatch):
    asked = {}
    for kind in (transformers.AutoModel, transformers.AutoTokenizer):
        load = kind.from_pretrained

        def spied(*given, name=kind.__name__, load=load, **named):
            asked[name] = named
            return load(*given, **named)

        monkeypatch.setattr(kind, "from_pretrained", spied)
    tower = Words(folder)
    safe = {"trust_remote_code": False}
    assert asked == {"AutoTokenizer": safe, "AutoModel": {**safe, "dtype": torch.float32, "use_safetensors": True}}
    assert not tower.model.training
    assert not any(weight.requires_grad for weight in tower.model.parameters())
    (tmp_path / "config.json").write_text((Path(folder) / "config.json").read_text())
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="an adapter for another model"):
        Words(str(tmp_path))


@torch.no_grad()
def test_a_text_is_read_without_the_signs_that_a_tokenizer_adds(folder):
    tower = Words(folder)
    names = tower.tokenizer
    expected = normalize(said(folder, ASKED[1]), dim=-1)

    class Adding:
        bos_token_id, eos_token_id = names.bos_token_id, names.eos_token_id

        def __call__(self, text, add_special_tokens=True):
            ids = names(text, add_special_tokens=False).input_ids
            return SimpleNamespace(
                input_ids=[self.bos_token_id, *ids, self.eos_token_id] if add_special_tokens else ids
            )

    tower.tokenizer = Adding()
    torch.testing.assert_close(tower.features_of_text(ASKED[1], torch.device("cpu")), expected)
    assert tower.features_of_text("", torch.device("cpu")).shape == (1, 16)
