"""Small made-up files in the layouts that the loaders read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image


class Folder:
    """A data root to write into."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __truediv__(self, name: str) -> Path:
        return self.root / name

    def text(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def lines(self, name: str, records: list) -> Path:
        return self.text(name, "".join(json.dumps(record) + "\n" for record in records))

    def json(self, name: str, value: object) -> Path:
        return self.text(name, json.dumps(value))

    def picture(self, name: str, size: tuple[int, int] = (8, 6), mode: str = "RGB", **options: object) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, size).save(path, **options)
        return path


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "eval")


@pytest.fixture
def answered():
    """Rows as LLaVA writes them: one answer per sample, from a dict by key, a function of the sample, or one text."""

    def rows(samples, answers):
        for sample in samples:
            text = answers
            if callable(answers):
                text = answers(sample)
            elif isinstance(answers, dict):
                text = answers.get(sample.key)
            if text is not None:
                prompt = sample.meta.get("prompt", sample.text)
                yield {"question_id": sample.id, "prompt": prompt, "text": text, "answer_id": "x", "model_id": "m",
                       "metadata": {}}  # fmt: skip

    return rows
