import hashlib
import io
import json
import struct
from dataclasses import FrozenInstanceError
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

import pruners
from debias import Span
from pruners.prior import CLIP_PROMPT, PROMPT, Prior

CPU = torch.device("cpu")


def test_what_is_saved_comes_back(tmp_path):
    prior = Prior((0.1, 0.2, 0.7), layer=1, model="tiny", prompt="Why?", images=4, tiles=True)
    prior.save(tmp_path / "prior.json")
    back = Prior.load(tmp_path / "prior.json")
    assert torch.equal(torch.tensor(back.values), torch.tensor(prior.values))
    assert (back.layer, back.model, back.prompt, back.images, back.tiles) == (1, "tiny", "Why?", 4, True)
    assert back.digest == prior.digest
    assert "values" not in repr(back)  # a repr is a provenance, not a table
    assert back.digest in repr(back)


def test_values_follow_the_tokens_that_are_left():
    prior = Prior((0.1, 0.2, 0.3, 0.4), layer=1, model="tiny")
    span = Span(0, (2, 2), index=torch.tensor([3, 1]))
    torch.testing.assert_close(prior.at(span, 1, CPU), torch.tensor([0.4, 0.2]))
    tiles = Prior((0.1, 0.2), layer=1, model="tiny", tiles=True)
    torch.testing.assert_close(tiles.at(Span(0, (2, 2)), 1, CPU), torch.tensor([0.1, 0.2, 0.1, 0.2]))


def test_a_prior_of_something_else_is_refused(tmp_path):
    prior = Prior((0.1, 0.2, 0.3, 0.4), layer=1, model="tiny")
    with pytest.raises(ValueError, match="4 values and the image has 9"):
        prior.at(Span(0, (3, 3)), 1, CPU)
    with pytest.raises(ValueError, match=r"layer 1 .* --layer 3"):
        prior.at(Span(0, (2, 2)), 2, CPU)
    with pytest.raises(ValueError, match="no such file"):
        Prior.load(tmp_path / "none.json")
    torch.save({}, tmp_path / "other.safetensors")
    save_file({"weight": torch.ones(2)}, tmp_path / "weights.safetensors")
    for name, text in {"text": "hello", "list": "[1]", "none": '{"layer": 1, "values": []}', "words": '{"layer": 1, '
                       '"values": ["a"]}', "lost": '{"values": [1.0]}'}.items():  # fmt: skip
        (tmp_path / f"{name}.json").write_text(text)
    for name in ("other.safetensors", "weights.safetensors", "text.json", "list.json", "none.json", "words.json",
                 "lost.json"):  # fmt: skip
        with pytest.raises(ValueError, match=f"{name}: not a prior"):
            Prior.load(tmp_path / name)


def test_priors_of_older_versions_are_read(tmp_path):
    facts = {"layer": "1", "model": "tiny", "prompt": "Why?", "images": "4", "tiles": "True"}
    save_file({"prior": torch.tensor([0.1, 0.2])}, tmp_path / "prior.safetensors", metadata=facts)
    prior = Prior((0.1, 0.2), layer=1, model="tiny", prompt="Why?", images=4, tiles=True)
    assert Prior.load(tmp_path / "prior.safetensors").digest == prior.digest
    assert Prior.load(tmp_path / "prior.safetensors").tiles
    model = SimpleNamespace(config=SimpleNamespace(_name_or_path=str(tmp_path)))
    assert Prior.beside(model).digest == prior.digest
    Prior((0.3,), layer=1, model="tiny").save(tmp_path / "prior.json")
    assert Prior.beside(model).values == pytest.approx((0.3,))


def test_a_prior_is_never_written_where_weights_are_looked_for(tmp_path):
    with pytest.raises(ValueError, match=r"prior\.safetensors: a prior does not hold weights"):
        Prior((0.1,), layer=1, model="tiny").save(tmp_path / "prior.safetensors")
    assert not list(tmp_path.iterdir())


def test_shipped_priors_are_those_of_the_shipped_models():
    from eval.answering.checkpoints import config_of
    from eval.core.embedded import EMBEDDED

    for media, folder in EMBEDDED.items():
        prior, config = Prior.load(folder / "prior.json"), config_of(str(folder))
        assert prior.model == folder.name
        side = config["vision_config"]["image_size"] // config["vision_config"]["patch_size"]
        assert len(prior.values) == (config["video_seq_length"] if media == "video" else side**2)
        assert [path.name for path in folder.glob("*.safetensors")] == ["model.safetensors"]


def test_a_prior_of_clips_is_their_mean_attention(builders):
    family = builders.adapter("video_llava")
    clips = [[builders.picture(40, 40, 8 * clip + frame) for frame in range(8)] for clip in range(2)]
    prior = Prior.measure(family, clips, layer=2, prompt="What happens?")
    seen = []
    for clip in clips:
        encoded = family.encode([pruners.models.Request("What happens?", video=clip)])
        with pruners.make("fastv", keep=1.0, layer=2)(family) as trace, torch.no_grad():
            family.model(**encoded.inputs)
        seen.append(trace.scores[0][0][0])
    assert prior.images == 2
    torch.testing.assert_close(torch.tensor(prior.values), torch.stack(seen).mean(0), rtol=1e-4, atol=1e-7)


def test_d2pruner_takes_the_prior_beside_the_checkpoint_or_the_one_given(builders, tmp_path):
    folder = builders.checkpoint("llava", tmp_path / "model")
    pictures = [builders.picture(60, 40, seed) for seed in range(3)]
    adapter = pruners.models.adapter(str(folder)).load(str(folder))
    inputs = adapter.encode([pruners.models.Request("What is it?", images=pictures[:1])]).inputs
    with pytest.raises(ValueError, match="no prior was given"), pruners.make("d2pruner", keep=7)(adapter):
        adapter.model(**inputs)
    with pytest.raises(ValueError, match="no image"):
        Prior.measure(adapter, [])
    prior = Prior.measure(adapter, pictures[1:])
    prior.save(folder / "prior.json")
    kept = []
    for found in (None, prior, str(folder / "prior.json")):  # beside the checkpoint, given, by name
        with pruners.make("d2pruner", keep=7, prior=found)(adapter) as trace:
            adapter.model(**inputs)
        kept.append(trace.kept[0][0].tolist())
    assert kept[0] == kept[1] == kept[2]


def test_a_file_holds_every_bit_and_every_fact(tmp_path):
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(200, generator=generator) * 10.0 ** torch.randint(-9, 3, (200,), generator=generator)
    prior, path = Prior(tuple(values.tolist()), 3, "tiny", "Wie grüßt man?", 7), tmp_path / "prior.json"
    prior.save(path)
    text = path.read_text(encoding="utf-8")
    facts = json.loads(text)
    assert torch.equal(torch.tensor(facts.pop("values")), values)
    assert facts == {"layer": 3, "model": "tiny", "prompt": "Wie grüßt man?", "images": 7, "tiles": False}
    assert text.endswith("}\n")
    assert prior.digest == hashlib.sha256(struct.pack("<200f", *values.tolist())).hexdigest()[:12]
    back = Prior.load(path)
    assert back == prior
    with pytest.raises(FrozenInstanceError):
        back.layer = 4


def test_what_a_file_does_not_say_has_a_meaning(tmp_path, monkeypatch):
    path = tmp_path / "prior.json"
    path.write_text('{"layer": "1", "values": [0.5]}', encoding="utf-8")
    assert Prior.load(path) == Prior((0.5,), layer=1, model="")
    assert (Prior.load(path).prompt, Prior.load(path).images, Prior.load(path).tiles) == (PROMPT, 0, False)
    path.write_text('{"layer": 1, "values": [1, 2]}', encoding="utf-8")
    assert Prior.load(path).digest == Prior((1.0, 2.0), layer=1, model="").digest
    assert (PROMPT, CLIP_PROMPT) == ("Please describe the provided image.", "Please describe the provided video.")
    for told, tiles in ((True, True), ("True", True), (False, False), ("False", False)):
        path.write_text(json.dumps({"layer": 1, "values": [0.5], "tiles": told}), encoding="utf-8")
        assert Prior.load(path).tiles == tiles
    # On a machine whose own encoding is another one.
    monkeypatch.setattr(io, "text_encoding", lambda encoding, *more: encoding or "latin-1")
    path.write_bytes('{"layer": 1, "values": [0.5], "prompt": "Wie grüßt man?"}'.encode())
    assert Prior.load(path).prompt == "Wie grüßt man?"


def test_a_prior_lies_where_it_is_asked_for():
    prior = Prior((0.1, 0.2), layer=1, model="tiny", tiles=True)
    assert prior.at(Span(0, (2, 2)), 1, torch.device("meta")).is_meta
    with pytest.raises(ValueError, match="2 values and the image has 3 visual tokens"):
        prior.at(Span(0, (1, 3)), 1, CPU)
    with pytest.raises(ValueError, match="2 values and the image has 4 visual tokens"):
        Prior((0.1, 0.2), layer=1, model="tiny").at(Span(0, (2, 2)), 1, CPU)


def test_where_no_prior_lies_the_command_that_measures_is_told(tmp_path):
    nameless = SimpleNamespace(config=SimpleNamespace())
    with pytest.raises(ValueError, match=r"and prior\.json does not exist; .*--kind prior --model MODEL --data"):
        Prior.beside(nameless)
    named = SimpleNamespace(config=SimpleNamespace(_name_or_path=str(tmp_path)))
    command = f"python -m eval fit --method d2pruner --kind prior --model {tmp_path} --data"
    with pytest.raises(ValueError, match=f"{tmp_path / 'prior.json'} does not exist; .*{command}"):
        Prior.beside(named)
    with pytest.raises(ValueError, match=r"no such file; measure a prior with `python -m eval fit"):
        Prior.load(tmp_path)
    save_file({"weight": torch.ones(2)}, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=r"not a prior \(.*tensor prior"):
        Prior.load(tmp_path / "weights.safetensors")
    torch.save({}, tmp_path / "prior.safetensors")
    with pytest.raises(ValueError, match=r"not a prior \(.*prior\.safetensors: not a whole safetensors file"):
        Prior.load(tmp_path / "prior.safetensors")


def test_a_prior_of_pictures_is_their_mean_attention(builders):
    """Of whole pictures, and of their tiles, of which each picture may have another number."""
    llava, tiled = builders.adapter("llava", layers=3), builders.adapter("internvl", layers=3)
    pictures = [builders.picture(60, 40, seed) for seed in range(2)]
    wide = [builders.picture(60, 60, 2), builders.picture(300, 100, 3)]
    for family, shown, tile, layer in ((llava, pictures, None, 1), (llava, pictures, 12, 2), (tiled, wide, 16, 2)):
        seen = []
        for picture in shown:
            encoded = family.encode([pruners.models.Request("Please describe the provided image.", [picture])])
            with pruners.make("fastv", keep=1.0, layer=layer)(family) as trace:
                family.model(**encoded.inputs)
            one = trace.scores[0][0][0]
            seen.append(one if tile is None else torch.stack(one.split(tile)).mean(0))
        prior = Prior.measure(family, iter(shown), tile=tile, **({} if layer == 2 else {"layer": layer}))
        torch.testing.assert_close(torch.tensor(prior.values), torch.stack(seen).mean(0), rtol=1e-4, atol=1e-7)
        facts = (prior.layer, prior.model, prior.prompt, prior.images, prior.tiles)
        assert facts == (layer - 1, type(family.model).__name__, PROMPT, 2, tile is not None)
    with pytest.raises(ValueError, match=r"image 2 has 64 visual tokens and the ones before it have 16; give"):
        Prior.measure(tiled, wide)
    frames = [builders.picture(60, 40, seed) for seed in range(3)]  # each of them a span, with words between
    encoded = tiled.encode([pruners.models.Request(CLIP_PROMPT, video=frames)])
    with pruners.make("fastv", keep=1.0, layer=2)(tiled) as trace:
        tiled.model(**encoded.inputs)
    each = [raw for raw, _ in trace.scores[0]]
    assert len(each) == 3
    values = torch.tensor(Prior.measure(tiled, [frames], prompt=CLIP_PROMPT).values)
    torch.testing.assert_close(values, torch.stack(each).mean(0), rtol=1e-4, atol=1e-7)
    llava.model.config._name_or_path = "/models/somebody/tiny-llava"
    assert Prior.measure(llava, pictures[:1]).model == "tiny-llava"
