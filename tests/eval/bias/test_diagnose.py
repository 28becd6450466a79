"""The diagnosis finds planted biases, and finds them gone where an arm removes them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from debias import Padding, Span
from eval import cli
from eval.bias import diagnose, probe
from eval.bias import strength as bias
from eval.bias.probe import activations
from pruners import find
from pruners.models import adapter
from pruners.models.request import Request

ARGS = argparse.Namespace(keep=16, seed=0)


@pytest.fixture(scope="module")
def checkpoint(builders, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    builders.checkpoint("llava", folder)
    return folder


def planted(rate: float, spike: float = 1.0, samples: int = 80) -> probe.Watched:
    """Attention that rises with position; in every other picture, padding above and below, `spike` times as loud."""
    rng = np.random.default_rng(0)
    scores = np.exp(rate * np.arange(144) + 0.4 * rng.standard_normal((samples, 144)))
    spans = [Span(5, (12, 12), size=(96, 48) if number % 2 else (96, 96)) for number in range(samples)]
    for number, span in enumerate(spans):
        scores[number, ~Padding().valid(span).numpy()] *= spike
    scores /= scores.sum(1, keepdims=True)
    return probe.Watched(scores[:, None, None].astype(np.float32), spans)


def test_trend_arm_removes_a_planted_rise():
    seen = planted(0.006)
    found = diagnose.arms(seen, seen.heads_mean[:, 0], ARGS)
    rise, low, high = found["none"]["rise"]
    assert low < rise < high
    assert rise == pytest.approx(0.006 * 143, abs=0.08)
    assert abs(found["both"]["rise"][0]) < 0.1
    assert found["none"]["correlation"][1] > 0.2 > abs(found["both"]["correlation"][0])
    assert found["none"]["kept_in_lowest_third"][0] > 0.5
    assert found["both"]["kept_in_lowest_third"][0] == pytest.approx(1 / 3, abs=0.1)


def test_selection_is_more_biased_than_attention_and_debiased_is_not():
    """A sharp choice enlarges a slope; dividing by the trend takes it from both, within what the fit leaves unsure."""
    seen = planted(0.006, samples=160)
    found = diagnose.arms(seen, seen.heads_mean[:, 0], ARGS)
    assert found["none"]["kept_rise"][1] > 1.5 * found["none"]["rise"][0] > 0.5
    value, low, high = found["both"]["kept_rise"]
    assert low < 0 < high
    assert abs(value) < 0.5
    settled = diagnose.first_half(seen, seen.heads_mean[:, 0])
    divided = seen.heads_mean[80:, 0] * settled.trend.weight(torch.arange(144), 144).numpy()
    sure = bias.kept_rise(bias.kept_highest(divided, 16), np.ones((80, 144), bool))
    assert value == pytest.approx(found["trend"]["kept_rise"][0], abs=0.3)  # a quarter of it is padding in `both`
    assert found["trend"]["kept_rise"][0] == pytest.approx(sure[0])
    trend = found["trend"]["kept_rise"]
    assert trend[2] - trend[1] > 1.1 * (sure[2] - sure[1])  # it carries the error of the fit


def test_without_a_trend_the_trend_arm_changes_nothing():
    seen = planted(0.0)
    assert not diagnose.first_half(seen, seen.heads_mean[:, 0]).agreed
    found = diagnose.arms(seen, seen.heads_mean[:, 0], ARGS)
    assert found["trend"] == found["none"]
    assert found["both"] == found["padding"]


def test_bands_of_the_trend_carry_the_error_of_its_fit():
    """Both halves are alike, so that a difference of the two is unsure by the root of two."""
    seen = planted(0.006)
    found = diagnose.arms(seen, seen.heads_mean[:, 0], ARGS, ("none", "trend"))
    for name, least, most in (("rise", 1.2, 1.8), ("correlation", 1.2, 4)):
        width = {arm: measured[name][2] - measured[name][1] for arm, measured in found.items()}
        assert least < width["trend"] / width["none"] < most, name
    assert found["trend"]["rise"][1] < 0 < found["trend"]["rise"][2]


def test_the_error_of_a_fit_falls_with_the_root_of_the_pictures():
    seen = planted(0.006, samples=320)
    values = diagnose.without_padding(seen, seen.heads_mean[:, 0])
    found = diagnose.fit_errors(values, None, 0)
    assert list(found) == [8, 16, 32, 64, 128, 256]
    assert found[16] / found[256] == pytest.approx(4, rel=0.25)
    slopes = [np.polyfit(np.arange(144), np.log(bias.mean_seen(values[i : i + 32])), 1)[0] for i in range(0, 320, 32)]
    assert found[32] == pytest.approx(np.std(slopes) * 143, rel=0.6)  # ten fits to other pictures


def test_chance_is_the_noise_floor_of_every_number():
    seen = planted(0.006, spike=20)
    mixed = diagnose.shuffled(seen, seen.heads_mean[:, 0], 0)
    chance = diagnose.arms(seen, mixed, ARGS, ("none",))["none"]
    found = diagnose.arms(seen, seen.heads_mean[:, 0], ARGS, ("none",))["none"]
    padded = np.mean([1 - Padding().valid(span).float().mean() for span in seen.spans])
    assert chance["kept_in_padding"][1] < padded < chance["kept_in_padding"][2] < found["kept_in_padding"][1]
    assert chance["kept_in_lowest_third"][0] == pytest.approx(1 / 3, abs=0.06)
    assert abs(chance["correlation"][0]) < 0.05
    assert chance["entropy"][0] == pytest.approx(found["entropy"][0])  # the same numbers


@pytest.mark.filterwarnings("error")
def test_positions_that_are_padding_in_every_picture_have_no_mean():
    seen = planted(0.006)
    wide = probe.Watched(seen.attention[1::2], seen.spans[1::2])  # padding above and below in all of them
    padded = ~Padding().valid(wide.spans[0]).numpy()
    values = diagnose.without_padding(wide, wide.heads_mean[:, 0])
    mean = bias.mean_seen(values)
    assert padded.any()
    assert np.isnan(mean).tolist() == padded.tolist()
    assert mean.dtype == values.dtype
    np.testing.assert_allclose(mean[~padded], np.nanmean(values[:, ~padded], 0), rtol=1e-5)
    profile = bias.row_profile(values, (12, 12))
    assert np.isnan(profile).tolist() == padded.reshape(12, 12).all(1).tolist()
    rise, low, high = diagnose.arms(wide, wide.heads_mean[:, 0], ARGS, ("none",))["none"]["rise"]
    assert low < rise < high
    assert rise == pytest.approx(0.006 * 143, abs=0.1)
    raw = np.array(
        diagnose.curves(wide, wide.heads_mean[:, 0], diagnose.first_half(wide, wide.heads_mean[:, 0]))["raw"]
    )
    assert (raw[padded] == 0).all()
    assert (raw[~padded] > 0).all()


def test_heads_are_measured_one_by_one():
    flat, steep = planted(0.0), planted(0.006)
    seen = probe.Watched(np.concatenate([flat.attention, steep.attention], axis=2), flat.spans)
    (low, *_), (high, *_) = diagnose.heads(seen, 0, seed=0)
    assert low == pytest.approx(0, abs=0.1)
    assert high == pytest.approx(0.006 * 143, abs=0.1)


def test_padding_arm_keeps_no_padding_and_the_others_do():
    seen = planted(0.0, spike=20)
    found = diagnose.arms(seen, seen.heads_mean[:, 0], ARGS)
    assert found["none"]["kept_in_padding"][0] == pytest.approx(0.5, abs=0.02)  # all of it, in every other picture
    assert found["trend"]["kept_in_padding"][0] > 0.4
    assert found["padding"]["kept_in_padding"] == found["both"]["kept_in_padding"] == (0, 0, 0)


def test_probe_sees_what_eager_attention_returns(checkpoint):
    family = adapter(str(checkpoint)).load(checkpoint, attention="eager")
    pictures = diagnose.drawn(3, 0)
    requests = [Request("What is the circle?", [picture]) for picture in pictures]
    seen = probe.watch(family, requests, batch=2)
    for number, request in enumerate(requests):
        encoded = family.encode([request])
        with torch.no_grad():
            layers = family.model(**encoded.inputs, output_attentions=True).attentions
        (span,) = family.spans(encoded.inputs, encoded.sizes)[0]
        place = slice(span.start, span.start + len(span))
        expected = np.stack([layer[0, :, -1, place].numpy() for layer in layers])
        np.testing.assert_allclose(seen.attention[number], expected, atol=1e-6)
        assert seen.spans[number].size == pictures[number].size


def test_a_clip_with_words_between_its_frames_is_one_sample(builders):
    """The mean of its frames, each of which is a span."""
    family = builders.adapter("internvl")
    clips = [[builders.picture(48, 48, 3 * clip + frame) for frame in range(3)] for clip in range(2)]
    requests = [Request("What happens?", [], clip) for clip in clips]
    seen, direct = probe.watch(family, requests), probe.AttentionProbe()
    encoded = family.encode(requests)
    with torch.inference_mode(), direct(family, sizes=encoded.sizes):
        family.model(**encoded.inputs)
    each = np.stack([weights.numpy() for _, _, weights in sorted(direct.seen, key=lambda entry: entry[0])])
    assert len(each) == 6
    assert len(seen.spans) == 2
    np.testing.assert_allclose(seen.attention, np.stack([each[:3].mean(0), each[3:].mean(0)]), rtol=1e-4, atol=1e-7)
    method = find("fastv")(keep=4)
    with torch.inference_mode(), method(family, sizes=encoded.sizes) as trace:
        family.model(**encoded.inputs)
    scores = np.stack([raw.numpy() for raw, _ in trace.scores[0]])
    whole, keep = probe.first_cut(family, method, requests)
    assert keep == 4
    means = np.stack([scores[:3].mean(0), scores[3:].mean(0)])
    np.testing.assert_allclose(whole.attention[:, 0, 0], means, rtol=1e-4, atol=1e-7)


def test_a_methods_score_at_its_first_cut(checkpoint):
    """FastV's is the mean over heads of the layer before its cut; as many stay as it was told to keep."""
    family = adapter(str(checkpoint)).load(checkpoint)
    requests = [Request("What is the circle?", [picture]) for picture in diagnose.drawn(3, 0)]
    seen, keep = probe.first_cut(family, find("fastv")(keep=11, layer=2), requests, batch=2)
    whole = probe.watch(family, requests)
    assert keep == 11
    assert [span.size for span in seen.spans] == [span.size for span in whole.spans]
    np.testing.assert_allclose(seen.heads_mean[:, 0], whole.heads_mean[:, 1], rtol=1e-4)


def test_activations_of_padding_are_those_of_the_hidden_states(checkpoint):
    family = adapter(str(checkpoint)).load(checkpoint)
    wide, square = (Image.effect_noise(size, 60).convert("RGB") for size in ((90, 40), (50, 50)))
    requests = [Request("What is the circle?", [picture]) for picture in (square, wide, wide.rotate(90, expand=True))]
    found = activations(family, requests)
    depth = len(family.decoder.layers)
    assert found.at_sink["valid"].shape == (2, depth)  # the square one is left out
    for number, request in enumerate(requests[1:]):
        encoded = family.encode([request])
        with torch.no_grad():
            states = family.model(**encoded.inputs, output_hidden_states=True).hidden_states[:depth]
        sizes = [np.abs(x) / np.sqrt((x**2).mean(1, keepdims=True)) for x in (state[0].numpy() for state in states)]
        assert set(np.argsort(np.max([size[0] for size in sizes], 0))[-2:]) == set(found.dimensions)
        (span,) = family.spans(encoded.inputs, encoded.sizes)[0]
        valid = Padding().valid(span).numpy()
        for layer, size in enumerate(sizes):
            inside = size[span.start : span.start + len(span)][:, found.dimensions].max(1)
            assert found.at_sink["valid"][number, layer] == pytest.approx(inside[valid].mean(), rel=1e-4)
            assert found.at_sink["padding"][number, layer] == pytest.approx(inside[~valid].mean(), rel=1e-4)
            assert found.first[layer] == pytest.approx(size[0, found.dimensions].max(), rel=1e-4)
    with pytest.raises(ValueError, match="none of 1 pictures has padding"):
        activations(family, requests[:1])


def test_without_rope_attention_does_not_change_with_the_question_being_farther_away(checkpoint):
    """Only rotation tells layer 0 where a token stands: without it a longer way to the last row changes no ratio."""
    family = adapter(str(checkpoint)).load(checkpoint)
    picture = diagnose.drawn(1, 0)
    for rotary, alike in ((False, True), (True, False)):
        rows = []
        for text in ("What is the circle?", "the the the What is the circle?"):
            seen = probe.watch(family, [Request(text, picture)], rotary=rotary).attention[0, 0]
            rows.append(seen / seen.sum(1, keepdims=True))
        assert np.allclose(*rows, atol=1e-5) == alike


def run(capsys, checkpoint: Path, *words: str) -> tuple[int, str, str]:
    code = cli.main(["diagnose", "--model", str(checkpoint), *words])
    return code, *capsys.readouterr()


def test_command_line(checkpoint, capsys):
    words = ("--limit", "8", "--layers", "1,2", "--heads", "--json")
    code, out, err = run(capsys, checkpoint, *words)
    result = json.loads(out)
    assert code == 0
    assert [layer["layer"] for layer in result["layers"]] == [1, 2]
    assert set(result["layers"][0]["arms"]) == {"none", "trend", "padding", "both"}
    layer = result["layers"][0]
    for name in ("heads", "heads_no_rope"):
        assert all(low <= rise <= high for rise, low, high in layer[name])
    assert layer["heads"] != layer["heads_no_rope"]
    assert set(layer["chance"]) == set(layer["arms"]["none"])
    assert "Prompts and heads" in err
    assert "8 drawn pictures of the tiny world" in err


def test_clips_with_tokens_that_are_no_patch(checkpoints, capsys):
    words = ("--video", "--limit", "4", "--layers", "1", "--heads", "--json")
    code, out, err = run(capsys, checkpoints["video"], *words)
    assert code == 0, err
    result = json.loads(out)
    layer = result["layers"][0]
    rows, columns = result["grid"]
    assert result["frames"] == 8
    assert result["tokens"] == 8 * (1 + rows * columns)
    assert len(layer["curves"]["raw"]) == 8 * rows * columns  # a CLS of each frame takes no part
    assert 0 <= layer["arms"]["none"]["kept_in_last_frames"][0] <= 1
    assert "4 drawn clips of the tiny world" in err


def test_tiled_pictures_of_the_commonest_layout_are_measured(builders, tmp_path, capsys):
    """Pictures of other shapes have other numbers of tiles: the commonest layout is measured, the others left out."""
    model = builders.checkpoint("internvl", tmp_path / "model")
    (tmp_path / "pictures").mkdir()
    for number, size in enumerate([(120, 60)] * 4 + [(60, 60)] * 2):
        builders.picture(*size, seed=number).save(tmp_path / "pictures" / f"{number}.png")
    code, out, err = run(capsys, model, "--images", str(tmp_path / "pictures"), "--layers", "1", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert (found["pictures"], found["left_out"]) == (4, 2)
    assert "2 were left out" in err


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_folder_of_wide_pictures_has_rows_that_show_nothing(builders, checkpoint, tmp_path, capsys):
    for number in range(4):
        builders.picture(120, 40, seed=number).save(tmp_path / f"{number}.png")
    code, out, err = run(capsys, checkpoint, "--images", str(tmp_path), "--layers", "1", "--json")
    assert code == 0, err
    profile = json.loads(out)["layers"][0]["row_profile"]
    assert profile[0] is profile[-1] is None
    assert np.mean([row for row in profile if row is not None]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--limit", "2"],
            "--limit 2: half of the pictures fit the trend, the others measure; give at least 4",
        ),
        (["--layers", "0,99"], "--layers 0,99: expected layers 0 to"),
        (["--layers", "first"], "found 'first'"),
        (["--prompts", "EMPTY/prompts.txt"], "prompts.txt: the file is empty"),
        (["--images", "EMPTY"], "holds no pictures"),
    ],
)
def test_bad_input(checkpoint, tmp_path, capsys, words, message):
    if "--prompts" in words:
        (tmp_path / "prompts.txt").touch()
    words = [word.replace("EMPTY", str(tmp_path)) for word in words]
    code, _, err = run(capsys, checkpoint, "--limit", "4", *words)
    assert code == (1 if "--images" in words else 2)  # the folder is looked into once the model is there
    assert message in err


def test_text_only_sees_the_language_model_and_no_picture(checkpoint, capsys):
    asked = diagnose.DiagnosisSettings(str(checkpoint), text_only=True, limit=6, batch_size=3)
    model = adapter(str(checkpoint)).load(str(checkpoint), device="cpu")
    requests = [Request("What?", [diagnose.BLANK])] * 2
    with torch.inference_mode():
        first, again, other, seen = (probe.watch(model, requests, words=seed) for seed in (0, 0, 1, None))
    assert np.array_equal(first.attention, again.attention)
    assert not np.allclose(first.attention, other.attention)
    assert not np.allclose(first.attention[0], first.attention[1]), "each row has words of its own"
    assert np.allclose(seen.attention[0], seen.attention[1]), "one picture twice"

    encoded = model.encode(requests[:1])
    (span,) = model.spans(encoded.inputs, encoded.sizes)[0]
    table = model.decoder.get_input_embeddings().weight
    usual = [word for word in range(len(table)) if word not in set(model.tokenizer.all_special_ids)]
    drawn = torch.tensor(usual)[torch.randint(len(usual), (span.total,), generator=torch.Generator().manual_seed(0))]
    ids = encoded.inputs["input_ids"].clone()
    ids[0, span.start : span.start + span.total] = drawn
    with torch.inference_mode():
        states = model.decoder(inputs_embeds=table[ids], output_hidden_states=True).hidden_states
    layer = model.decoder.layers[0].self_attn
    normed = model.decoder.layers[0].input_layernorm(states[0])[0]
    cos, sin = (table[0] for table in model.rotary(normed[None], torch.arange(len(normed))[None]))
    queries = model.rotate(model.queries(layer, normed).transpose(0, 1), cos, sin)[:, -1:]
    keys = model.rotate(model.keys(layer, normed).transpose(0, 1), cos, sin)
    keys = keys.repeat_interleave(len(queries) // len(keys), 0)
    expected = (queries @ keys.mT * model.scale(layer)).softmax(-1)[:, 0, span.start : span.start + span.total]
    assert np.allclose(first.attention[0, 0], expected.detach(), atol=1e-5)

    assert "words drawn at random" in diagnose.diagnose(asked)["source"]
    assert cli.main(["diagnose", "--model", str(checkpoint), "--text-only", "--video"]) == 2
    assert "looks at no picture" in capsys.readouterr().err
