"""One picture, one question: every family is drawn where its tokens lie, and `show` says what the arms kept."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from eval.cli import main
from eval.core.embedded import EMBEDDED
from eval.core.settings import Settings
from eval.harnesses.pruned import Pruned
from eval.serving.panels import in_arms, panels
from eval.serving.sheets import sheet
from pruners.models import Request
from tiny.layouts.media import write_video

QUESTION = "What colour is the circle?"
EXAMPLE = EMBEDDED["image"].parent / "example.png"


def spans_of(adapter, request):
    encoded = adapter.encode([request], device="cpu")
    return adapter.spans(encoded.inputs, encoded.sizes)[0]


@pytest.mark.parametrize("family", ["llava", "llava_next", "internvl", "qwen2_5_vl", "qwen3_vl"])
def test_cells_lie_where_the_family_says_its_tokens_lie(builders, family):
    """Two accounts of one thing: `canvas`, from the configuration alone, and `places`, which the methods use."""
    adapter = builders.adapter(family)
    for size in ((60, 200), (130, 130), (300, 110)):
        request = Request("?", [builders.picture(*size)])
        (span,) = spans_of(adapter, request)
        canvas = sheet(adapter, request, [span]).canvas
        assert len(canvas.cells) == span.total
        xy, view = (found.numpy() for found in adapter.places(span))
        patch = xy[:, 0] >= 0
        x1, y1, x2, y2 = canvas.cells.T
        assert ((x1 < x2) & (y1 < y2)).tolist() == patch.tolist()
        assert (canvas.cells >= 0).all()
        assert x2.max() <= canvas.size[0] + 1e-6
        assert y2.max() <= canvas.size[1] + 1e-6
        for number in set(view.tolist()):
            mine = patch & (view == number)
            for low, high, place in ((x1, x2, xy[:, 0]), (y1, y2, xy[:, 1])):
                edge = (high - low)[mine]
                assert np.allclose(edge, edge[0])  # cells of one view are of one size, side by side
                assert np.allclose(low[mine] - low[mine].min(), (place[mine] - place[mine].min()) * edge[0])


@pytest.mark.parametrize("family", ["video_llava", "internvl", "qwen2_5_vl", "qwen3_vl"])
def test_frames_of_a_clip_are_drawn_with_their_own_tokens(builders, family):
    """Each frame has one colour; the middle of every token's cell has to show the colour of its frame."""
    adapter = builders.adapter(family)
    colours = np.linspace(20, 230, 8).astype(int)
    frames = [Image.new("RGB", (120, 90), (int(colour), 0, 0)) for colour in colours]
    request = Request("?", video=frames)
    spans = spans_of(adapter, request)
    drawn = sheet(adapter, request, spans)
    pixels, seen = np.asarray(drawn.picture), []
    for x1, y1, x2, y2 in drawn.canvas.cells:
        seen.append(int(pixels[int((y1 + y2) / 2), int((x1 + x2) / 2), 0]) if x2 > x1 else None)
    expected, groups = [], sum(span.frames for span in spans)
    for number in range(groups):
        span = spans[0] if len(spans) == 1 else spans[number]
        special = span.special is not None  # Video-LLaVA: a CLS token in front of each frame, which lies nowhere
        expected += [None] * special + [int(colours[number * 8 // groups])] * (span.grid[0] * span.grid[1])
    assert seen == expected


def test_a_frame_is_drawn_as_the_model_sees_it(builders):
    """Video-LLaVA cuts the middle out of a frame: what `window` shows is what its pixels are made of."""
    adapter = builders.adapter("video_llava")
    frame = Image.new("RGB", (160, 80), "red")
    frame.paste((0, 255, 0), (40, 0, 120, 80))
    for turned in (frame, frame.transpose(Image.Transpose.ROTATE_90)):
        assert adapter.window(turned).getcolors() == [(80 * 80, (0, 255, 0))]
        seen = adapter.frame(turned)
        assert seen[1].mean() > 1.5
        assert seen[0].mean() < -1.5


@pytest.fixture(scope="module")
def pruned():
    return Pruned(Settings("fastv", keep=0.2, device="cpu"))


def test_panels_show_what_each_arm_kept(pruned):
    picture = Image.open(EXAMPLE).convert("RGB")
    request = Request(QUESTION, [picture])
    found = {one.arm: one for one in panels(in_arms(pruned), request, 5)}
    assert list(found) == ["unpruned", "none", "trend", "padding", "both"]
    assert [one.text for one in found.values()] == ["red", "unanswerable", "unanswerable", "red", "red"]
    assert found["unpruned"].kept is None
    for arm, one in found.items():
        assert one.tokens == 144
        alone = Pruned(Settings("fastv", keep=0.2, arms=(arm,), device="cpu"))([request], 5)[0]
        assert one.text == alone.text  # a model that is shared answers as one of its own
        if one.kept is None:
            continue
        assert len(one.kept) == 28
        # 12 x 12 tokens over a picture three times as wide as high: rows 0 to 3 and 8 to 11 show border alone.
        assert one.padding == sum(not 4 <= place // 12 < 8 for place in one.kept)
        whole, pixels = (np.asarray(found[name].picture).astype(int) for name in ("unpruned", arm))
        edge = one.picture.width // 12
        middle = np.ix_(edge // 2 + edge * np.arange(12), edge // 2 + edge * np.arange(12))
        whole, pixels = whole[middle].reshape(144, 3), pixels[middle].reshape(144, 3)
        stayed = np.isin(np.arange(144), one.kept)
        assert (pixels[stayed] == whole[stayed]).all()
        assert (pixels[~stayed] <= 0.25 * whole[~stayed]).all()  # what was not kept is dimmed
    assert found["none"].padding > 0
    assert found["padding"].padding == 0


def test_the_command_draws_and_says_what_was_kept(tmp_path, capsys):
    out = tmp_path / "figure.png"
    words = ["show", str(EXAMPLE), QUESTION, "--keep", "0.2", "--arms", "none,both", "--out", str(out), "--json"]
    assert main([*words, "--device", "cpu", "--terminal", "blocks"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert {arm: one["answer"] for arm, one in found["arms"].items()} == {"none": "unanswerable", "both": "red"}
    assert Image.open(out).size[0] > 500
    assert "▀" in said.err
    assert "unanswerable" in said.err


def test_a_clip_is_shown_too(tmp_path, capsys):
    clip = tmp_path / "clip.mp4"
    write_video([Image.new("RGB", (64, 48), (20 * number, 90, 90)) for number in range(8)], clip)
    out = tmp_path / "figure.png"
    words = ["show", str(clip), "What happens?", "--method", "grid", "--out", str(out), "--device", "cpu", "--json"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)["arms"]
    assert list(found) == ["unpruned", "none", "padding"]
    assert found["none"]["tokens"] == 8 * 37
    assert Image.open(out).size[0] > 500


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere.png", "?"], "nowhere.png: no such picture or clip"),
        ([str(EXAMPLE), "?", "--out", "figure.jpg"], "ends in .png"),
        ([str(EXAMPLE), "?", "--out", "no/where/figure.png"], "no/where is not there"),
        ([str(EXAMPLE), "?", "--method", "vispruner", "--arms", "trend"], "no trend to divide by"),
        ([str(EXAMPLE), "?", "--method", "fastw"], "did you mean fastv"),
        (["clip.mp4", "?", "--model", str(EMBEDDED["image"])], "take pictures, not clips"),
    ],
)
def test_what_cannot_be_shown_is_refused_before_a_model_is_loaded(words, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clip.mp4").touch()
    monkeypatch.setattr("pruners.models.base.Adapter.load", lambda *args, **kwargs: pytest.fail("loaded"))
    assert main(["show", *words]) in (1, 2)
    assert said in capsys.readouterr().err
