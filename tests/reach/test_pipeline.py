"""The pipeline example: what a Hugging Face pipeline computes is what our own adapter computes."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

PATH = Path(__file__).parents[2] / "examples" / "pipeline.py"
QUESTION = "What colour is the circle?"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("pipeline_example", PATH)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.fixture(scope="module")
def pipe(example):
    made = example.pipeline("image-text-to-text", model=str(example.EMBEDDED), device="cpu")
    made.image_processor.do_pad = True
    return made


def test_the_pipeline_prunes_as_the_library_does(example, pipe, photos, answers):
    texts, kept = answers(QUESTION, longest=16)
    found = [example.ask(pipe, Image.open(photo), QUESTION, "padding", keep=36) for photo in photos]
    assert [text for text, _ in found] == texts
    assert [sorted(stayed) for _, stayed in found] == kept


def test_its_pixels_and_ids_are_the_adapters(example, pipe, photos):
    from pruners.models import Request, adapter

    family = adapter(example.EMBEDDED).load(example.EMBEDDED, device="cpu")
    image = Image.open(photos[0])
    ours = family.encode([Request(QUESTION, [image])]).inputs
    turn = [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": QUESTION}]}]
    theirs = pipe.processor.apply_chat_template(
        turn, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    assert torch.equal(ours["input_ids"], theirs["input_ids"])
    assert (ours["pixel_values"] - theirs["pixel_values"]).abs().max() < 0.05  # a grey level is 0.015


def test_the_pipeline_is_as_it_was(example, pipe, photos):
    image = Image.open(photos[0])
    turn = [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": QUESTION}]}]

    def plain():
        return pipe(text=turn, generate_kwargs={"max_new_tokens": 5, "do_sample": False}, return_full_text=False)

    def hooks():
        return [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in pipe.model.modules()]

    before, there = plain()[0]["generated_text"], hooks()  # transformers has hooks of its own
    example.ask(pipe, image, QUESTION, "padding", keep=1)
    assert plain()[0]["generated_text"] == before
    assert hooks() == there


def test_it_runs_as_a_program(example, photos, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pipeline.py", "--image", str(photos[0]), "--keep", "0.25"])
    example.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["none", "padding"]
    assert all("(36 visual tokens, " in line for line in lines)
    assert lines[1].endswith(", 0 of them padding)")
