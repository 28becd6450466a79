"""The three video question sets as Video-LLaVA keeps them, and RefCOCO's lists of expressions and boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
from PIL import Image

from tiny.drawn import world
from tiny.drawn.questions import Box
from tiny.layouts.lots import Lots

HOLD = 2  # every picture of a clip stands for two frames: eight evenly chosen frames of sixteen show each of them once


def tgif(lots: Lots) -> None:
    """Clips in .mp4, asked what happens in them."""
    _videos(lots, "TGIF", "mp4/tumblr_{:06d}.mp4", ("action", "transition", "frame", "times"))


def msvd(lots: Lots) -> None:
    """Clips in .avi, asked who does something."""
    _videos(lots, "MSVD", "videos/clip{:04d}_10_20.avi", ("who", "action", "frame"))


def msrvtt(lots: Lots) -> None:
    """Clips in .mp4, asked about frames and acts."""
    _videos(lots, "MSRVTT", "videos/all/video{:04d}.mp4", ("frame", "who", "transition", "action"))


def _videos(lots: Lots, name: str, pattern: str, kinds: tuple[str, ...]) -> None:
    folder = f"GPT_Zero_Shot_QA/{name}_Zero_Shot_QA"
    asked: list[dict[str, Any]] = []
    answers: list[dict[str, Any]] = []
    number = 0
    while len(asked) < lots.n:
        clip = world.clip(lots.seed(number))
        kind = kinds[len(asked) % len(kinds)]
        questions = world.clip_questions(clip, 0, (kind,))
        number += 1
        if not questions:
            continue
        # a second question about the same clip, where there is any: videos are groups
        others = tuple(k for k in kinds if k != kind)
        questions += world.clip_questions(clip, 1, others)[:1]
        path = lots.path(f"{folder}/{pattern.format(number)}")
        write_video(world.draw_clip(clip), path)
        for k, question in enumerate(questions[: lots.n - len(asked)]):
            qid = f"v_{path.stem}_{k}"
            asked.append({"video_name": path.stem, "question_id": qid, "question": question.text})
            answers.append({"answer": question.answer, "type": kinds.index(question.kind), "question_id": qid})
    lots.json(asked, f"{folder}/test_q.json")
    lots.json(answers, f"{folder}/test_a.json")


def write_video(frames: list[Image.Image], path: Path) -> None:
    """A real file: H.264 in .mp4, MPEG-4 in .avi, at a quality that keeps small shapes and their colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        if path.suffix == ".mp4":
            stream = container.add_stream("libx264", rate=8, options={"crf": "6", "threads": "1"})
            stream.pix_fmt = "yuv444p"
        else:
            stream = container.add_stream("mpeg4", rate=8, options={"qmin": "1", "qmax": "2", "threads": "1"})
            stream.pix_fmt = "yuv420p"
            stream.bit_rate = 4_000_000
        stream.width, stream.height = frames[0].size
        for picture in frames:
            for _ in range(HOLD):
                container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())


SPLITS = (
    *(f"refcoco_{split}" for split in ("val", "testA", "testB")),
    *(f"refcoco+_{split}" for split in ("val", "testA", "testB")),
    *(f"refcocog_{split}" for split in ("val", "test")),
)


def refcoco(lots: Lots) -> None:
    """One line an expression; boxes in pixels of the picture as it lies on the disk."""
    for number, split in enumerate(SPLITS):
        lines: list[dict[str, Any]] = []
        for scene in lots.scenes(start=number * 10**5, things=(4, 9)):
            reference = world.referring(scene, 0)
            if reference is None:
                continue
            image = f"coco/train2014/COCO_train2014_{number * 10**5 + len(lines):012d}.jpg"
            lots.picture(scene, image)
            lines.append(grounded(image, scene.size, *reference))
            if len(lines) >= max(4, lots.n // 4):
                break
        lots.lines(lines, f"refcoco/{split}.jsonl")


def grounded(image: str, size: tuple[int, int], expression: str, box: Box) -> dict[str, Any]:
    """A line of RefCOCO's lists: the picture, named from the data root, an expression and the box that it means."""
    width, height = size
    return {"image": image, "sent": expression, "bbox": list(box), "height": height, "width": width}
