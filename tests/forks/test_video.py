"""Clips in the authors' code: Video-LLaVA with FastV's LLaMA below it, and its two layouts of a checkpoint."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from debias import Debias, Padding, Trend
from eval.forks import convert, layout
from eval.forks.backend import Fork
from eval.forks.reader import Reader
from eval.forks.setup import ROOT, code_of, environment
from eval.reading.sample import Sample
from pruners import make

ARMS = {"none": Debias(), "both": Debias(Trend.exponential(0.01), Padding())}
CLIP = Sample("clip", "What moves?", video=Path("made-up.mp4"))
BENCHMARK = SimpleNamespace(name="made up", conversation="llava_v1", max_new_tokens=3, media="video")


@pytest.fixture(scope="module")
def frames():
    """Eight noisy frames over which a block wanders."""
    made = [Image.effect_noise((96, 64), 90).convert("RGB") for _ in range(8)]
    for place, frame in enumerate(made):
        frame.paste((220, 40, 30), (8 * place, 20, 8 * place + 20, 44))
    return made


def test_there_and_back_gives_equal_weights_and_settings(video_checkpoint, tmp_path):
    assert convert.convert(video_checkpoint, tmp_path / "original") == "original"
    config = layout.read_config(tmp_path / "original")
    assert layout.is_original(config)
    assert layout.is_video(config)
    assert convert.convert(tmp_path / "original", tmp_path / "back") == "Hugging Face"
    from transformers import VideoLlavaForConditionalGeneration

    first, second = (
        VideoLlavaForConditionalGeneration.from_pretrained(f) for f in (video_checkpoint, tmp_path / "back")
    )
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    for name in ("video_token_id", "image_token_id", "vision_feature_layer"):
        assert getattr(first.config, name) == getattr(second.config, name)


def test_a_tower_that_attends_over_time_is_not_converted():
    config = {"mm_video_tower": "LanguageBind_Video_merge", "vocab_size": 9}
    with pytest.raises(ValueError, match="attends over time"):
        layout.hf_config(
            config, {"image_size": 28, "patch_size": 14, "add_time_attn": True}, {"<image>": 7, "<video>": 8}
        )


def test_questions_on_the_wire(video_checkpoint, tmp_path, frames):
    convert.convert(video_checkpoint, tmp_path / "original")
    asked = []
    for folder in (video_checkpoint, tmp_path / "original"):
        reader = Reader(folder)
        reader.clips = lambda _: frames
        assert (reader.film, reader.layers, reader.tokens("image"), reader.tokens("video")) == (True, 10, 16, 8 * 17)
        asked.append(reader.question(CLIP, "llava_v1"))
    named, original = asked
    assert named["pixels"] == original["pixels"]
    assert named["pixels"]["shape"] == [8, 3, 56, 56]
    assert named["ids"].count(-200) == original["prompt"].count("<image>") == named["frames"] == 8
    assert "<video>" not in original["prompt"]


def test_only_fastv_runs_under_video_llava():
    assert code_of("fastv") == "fastv"
    assert code_of("fastv", True) == "video-llava"
    with pytest.raises(ValueError, match=r"himap sits in a LLaVA of its own.*--backend native"):
        code_of("himap", True)


def test_a_package_that_is_only_imported_gets_a_stand_in(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "eval/forks"))
    try:
        import video
    finally:
        for name in ("video", "load", "layout"):
            sys.modules.pop(name, None)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "meta_path", [video.StandIns(["not_there"]), *sys.meta_path])
        from not_there.transforms import Compose
    for name in [name for name in sys.modules if name.startswith("not_there")]:
        del sys.modules[name]
    with pytest.raises(RuntimeError, match=r"not_there\.transforms\.Compose is called, and not_there is not installed"):
        Compose([])
    video.Absent("decord").bridge.set_bridge("torch")


@pytest.mark.forks
def test_clips_and_pictures_agree_with_the_native_method(video_checkpoint, tmp_path, frames):
    from eval.forks.parity import compare
    from pruners.models import adapter

    try:
        environment("video-llava")
    except ValueError as reason:
        pytest.skip(str(reason))
    frames[3].save(tmp_path / "picture.png")
    picture = Sample("picture", "What is red?", image=tmp_path / "picture.png")
    pruner = make("fastv", keep=40, mode="mask")
    fork = Fork("fastv", pruner, video_checkpoint, lambda _, arm: ARMS[arm], media="video")
    if not fork.patched:
        fork.close()
        pytest.skip("third_party/FastV is not patched: bash scripts/apply_patches.sh fastv")
    fork.reader.clips = lambda _: frames
    loaded = adapter(video_checkpoint).load(video_checkpoint, dtype="float32", device="cpu")
    chosen = SimpleNamespace(
        adapter=lambda _: loaded, pruner=fork.pruner, debias=lambda _, arm: ARMS[arm], longest=lambda _: 3
    )
    try:
        clips = {arm: compare(chosen, fork, BENCHMARK, [CLIP], arm) for arm in (*ARMS, "unpruned")}
        text = fork.ask(Sample("text", "Is snow white?"), "none", BENCHMARK)
        kept = {arm: fork.ask(CLIP, arm, BENCHMARK)["kept"] for arm in ARMS}
        whole = compare(chosen, fork, BENCHMARK, [picture], "unpruned")
    finally:
        fork.close()
    for arm, one in {**clips, "picture": whole}.items():
        assert one["logit_max"] < 1e-4, (arm, one)
        assert one["answers_same"] == 1, (arm, one)
        assert arm in ("unpruned", "picture") or one["kept_same"] == 1, (arm, one)
    assert kept["none"] != kept["both"]
    assert [len(stage) for stage in kept["none"]] == [40]
    assert (text["kept"], text["start"]) == ([], None)


ALONE = """
import itertools, json, sys, torch
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import layout, video

def logits(folder, over_time=False):
    config, state = layout.read_config(folder), layout.weights(folder)
    if layout.is_original(config):
        names = zip(("image", "video"), layout.VIDEO_TOWERS.values())
        towers = {kind: layout.read_config(folder / name)["vision_config"] for kind, name in names}
    else:
        towers = dict.fromkeys(("image", "video"), config["vision_config"])
        config, state = layout.original_config(config, ""), ((layout.to_original(n), w) for n, w in state)
    if over_time:
        towers["video"] = {**towers["video"], "add_time_attn": True, "num_frames": 8}
        d, layers = towers["video"]["hidden_size"], range(towers["video"]["num_hidden_layers"])
        shapes = {"temporal_embedding": [1, 8, d], "temporal_layer_norm1.weight": [d], "temporal_layer_norm1.bias": [d]}
        for part in ("k", "v", "q", "out"):
            shapes.update({f"temporal_attn.{part}_proj.weight": [d, d], f"temporal_attn.{part}_proj.bias": [d]})
        layer = "model.video_tower.video_tower.encoder.layers"
        more = ((f"{layer}.{i}.{name}", torch.randn(shape)) for i in layers for name, shape in shapes.items())
        state = itertools.chain(state, more)
    fork = video.build({"keep": 40, "layer": 2, "inplace": False, "cache": True}, config, state, towers)
    fork.prepare(2, True, 8 * 17)
    generator = torch.Generator().manual_seed(1)
    return fork.generate([1, 5, *[-200] * 8, 6, 7], torch.randn(8, 3, 56, 56, generator=generator), 1)[1]

named, original = Path(sys.argv[2]), Path(sys.argv[3])
torch.manual_seed(0)
first = logits(named)
print(json.dumps([float((first - logits(original)).abs().max()), float((first - logits(original, True)).abs().max())]))
"""


@pytest.mark.forks
def test_the_original_layout_is_read_and_may_attend_over_time(video_checkpoint, tmp_path):
    try:
        python, path = environment("video-llava")
    except ValueError as reason:
        pytest.skip(str(reason))
    convert.convert(video_checkpoint, tmp_path / "original")
    command = [python, "-c", ALONE, ROOT / "eval/forks", video_checkpoint, tmp_path / "original"]
    environ = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    same, over_time = json.loads(done.stdout.splitlines()[-1])
    assert same == 0
    assert over_time > 1e-3
