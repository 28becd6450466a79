"""Short-answer benchmarks as LLaVA's evaluation folder holds them: GQA, VQAv2, VizWiz, TextVQA, POPE, MME, MM-Vet."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from tiny import prompts
from tiny.drawn import world
from tiny.drawn.questions import Question
from tiny.drawn.scenes import COLOURS, SHAPES, Scene
from tiny.layouts.lots import Lots, ten_answers

POPE_FIRST_IDS = {"adversarial": 1, "popular": 20000001, "random": 10000001}

# kind -> GQA's structural and semantic type, and the operations of its reasoning
GQA_TYPES = {
    "colour": ("query", "attr", ("select", "query")),
    "shape": ("query", "cat", ("select", "query")),
    "size": ("choose", "attr", ("select", "choose size")),
    "exist": ("verify", "obj", ("select", "exist")),
    "relation": ("verify", "rel", ("select", "relate", "exist")),
    "same": ("compare", "attr", ("select", "select", "same color")),
    "where": ("choose", "obj", ("select", "choose rel")),
    "next_colour": ("query", "rel", ("select", "relate", "query")),
    "next_shape": ("query", "rel", ("select", "relate", "query")),
    "chain_colour": ("query", "rel", ("select", "relate", "relate", "query")),
    "chain_shape": ("query", "rel", ("select", "relate", "relate", "query")),
    "background": ("choose", "global", ("select", "choose")),
}


def gqa(lots: Lots) -> None:
    """Two questions a picture, with their types and the operations of their reasoning."""
    asked: list[dict[str, Any]] = []
    truth: dict[str, Any] = {}
    for picture, scene, questions in lots.asked(tuple(GQA_TYPES), each=2):
        image = f"n{100001 + picture}"
        lots.picture(scene, f"gqa/data/images/{image}.jpg")
        for question in questions:
            qid = f"{20130000 + len(asked)}"
            structural, semantic, operations = GQA_TYPES[question.kind]
            asked.append(_line(qid, f"{image}.jpg", prompts.short(question.text)))
            truth[qid] = {
                "question": question.text,
                "imageId": image,
                "isBalanced": True,
                "answer": question.answer,
                "fullAnswer": f"{question.answer}.",
                "types": {"structural": structural, "semantic": semantic, "detailed": question.kind},
                "semantic": [
                    {"operation": operation, "argument": "", "dependencies": [k - 1] if k else []}
                    for k, operation in enumerate(operations)
                ],
                "groups": {"global": question.kind, "local": f"{len(asked) // 8}-{question.kind}"},
                "entailed": [],
                "equivalent": [qid],
            }
    lots.lines(asked, "gqa/llava_gqa_testdev_balanced.jsonl")
    lots.json(truth, "gqa/data/testdev_balanced_questions.json")


def vqav2(lots: Lots) -> None:
    """val2014 with public answers, and a test set whose answers only the server would know."""
    kinds = ("exist", "count", "colour", "relation", "count", "next_colour", "compare", "shape", "chain_shape", "read")
    questions, annotations = [], []
    for picture, scene, group in lots.asked(kinds, each=2, signs=(1, 2)):
        image = 42 + 7 * picture
        lots.picture(scene, f"vqav2/val2014/COCO_val2014_{image:012d}.jpg")
        for k, question in enumerate(group):
            qid = image * 1000 + k
            questions.append({"image_id": image, "question": question.text, "question_id": qid})
            answers = ten_answers(question.answer, lots.rng(qid))
            annotations.append(
                {
                    "question_type": " ".join(question.text.lower().split()[:2]),
                    "multiple_choice_answer": question.answer,
                    "answers": _numbered(answers),
                    "image_id": image,
                    "answer_type": _answer_type(question),
                    "question_id": qid,
                }
            )
    head = {"info": {"description": "a tiny world in the layout of VQA v2"}, "data_type": "mscoco", "license": {}}
    task = {"task_type": "Open-Ended", "data_subtype": "val2014"}
    lots.json({**head, **task, "questions": questions}, "vqav2/v2_OpenEnded_mscoco_val2014_questions.json")
    truth = {"data_subtype": "val2014", "annotations": annotations}
    lots.json({**head, **truth}, "vqav2/v2_mscoco_val2014_annotations.json")
    test = []
    for picture, scene, group in lots.asked(kinds, each=2, n=max(8, lots.n // 4), start=5 * 10**6, signs=(1, 2)):
        name = f"COCO_test2015_{11 + 3 * picture:012d}.jpg"
        lots.picture(scene, f"vqav2/test2015/{name}")
        for k, question in enumerate(group):
            test.append(_line((11 + 3 * picture) * 1000 + k, name, prompts.short(question.text)))
    lots.lines(test, "vqav2/llava_vqav2_mscoco_test2015.jsonl")
    lots.lines(test[: len(test) // 2], "vqav2/llava_vqav2_mscoco_test-dev2015.jsonl")


def vizwiz(lots: Lots) -> None:
    """Pictures taken upright or askew, questions that sometimes have no answer in the picture."""
    kinds = ("read", "colour", "absent", "next_shape", "count", "absent", "shape", "first")
    entries = []
    for picture, scene, group in lots.asked(kinds, each=1, signs=(1, 2)):
        image = f"VizWiz_val_{picture:08d}.jpg"
        lots.picture(scene, f"vizwiz/val/{image}")
        question = group[0]
        answers = ten_answers(question.answer, lots.rng(picture))
        entries.append(
            {
                "image": image,
                "question": question.text,
                "answers": [{"answer": answer, "answer_confidence": "yes"} for answer in answers],
                "answer_type": "unanswerable" if question.kind == "absent" else "other",
                "answerable": int(question.kind != "absent"),
            }
        )
    lots.json(entries, "vizwiz/val.json")
    test, asked = [], []
    for picture, scene, group in lots.asked(kinds, each=1, n=max(8, lots.n // 4), start=5 * 10**6, signs=(1, 2)):
        image = f"VizWiz_test_{picture:08d}.jpg"
        lots.picture(scene, f"vizwiz/test/{image}")
        test.append({"image": image, "question": group[0].text})
        asked.append(_line(picture, image, prompts.unsure(group[0].text)))
    lots.json(test, "vizwiz/test.json")
    lots.lines(asked, "vizwiz/llava_test.jsonl")


def textvqa(lots: Lots) -> None:
    """Questions about what is printed, with the words that an unreliable reader saw."""
    asked: list[dict[str, Any]] = []
    data: list[dict[str, Any]] = []
    for picture, scene, group in lots.asked(("read", "first", "read", "last"), each=2, signs=(2, 2)):
        image = f"{lots.seed(picture):016x}"
        lots.picture(scene, f"textvqa/train_images/{image}.jpg")
        for question in group:
            tokens = _ocr(scene, lots.rng((picture, question.text)))
            asked.append(_line(image, f"{image}.jpg", prompts.ocr(question.text, tokens)))
            data.append(
                {
                    "question": question.text,
                    "image_id": image,
                    "image_classes": ["Sign"],
                    "image_width": scene.size[0],
                    "image_height": scene.size[1],
                    "question_id": 34602 + len(data),
                    "question_tokens": question.text.lower().rstrip("?").split(),
                    "answers": ten_answers(question.answer, lots.rng(len(data))),
                    "set_name": "val",
                }
            )
    lots.lines(asked, "textvqa/llava_textvqa_val_v051_ocr.jsonl")
    truth = {"dataset_type": "val", "dataset_version": "0.5.1", "data": data}
    lots.json(truth, "textvqa/TextVQA_0.5.1_val.json")


def _ocr(scene: Scene, rng: random.Random) -> list[str]:
    """What an unreliable reader saw: every sign in any order, now and then nothing, often a wrong character."""
    if rng.random() < 0.1:
        return []
    tokens = []
    for sign in rng.sample(scene.signs, len(scene.signs)):
        text = list(sign.text)
        if rng.random() < 0.5:
            text[rng.randrange(len(text))] = rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
        tokens.append("".join(text))
    return tokens


def pope(lots: Lots) -> None:
    """Two questions a picture and category: of a pair that is there, and of a pair that is not."""
    pictures = max(4, lots.n // 6)
    scenes = [scene for scene, _ in zip(lots.scenes(things=(5, 9), form=None), range(pictures), strict=False)]
    seen = [sorted({(t.colour, t.shape) for t in scene.things}) for scene in scenes]
    frequent = Counter(pair for pairs in seen for pair in pairs)
    every = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    asked: dict[str, list[dict[str, Any]]] = {}
    for category in POPE_FIRST_IDS:
        labels = asked[category] = []
        for number, (scene, pairs) in enumerate(zip(scenes, seen, strict=True)):
            rng = lots.rng((category, number))
            image = f"COCO_val2014_{42 + 31 * number:012d}.jpg"
            if category == "adversarial":
                lots.picture(scene, f"pope/val2014/{image}")
            absent = [pair for pair in every if pair not in pairs]
            rng.shuffle(absent)
            if category == "popular":
                absent.sort(key=lambda pair: -frequent[pair])
            elif category == "adversarial":  # the colour and the shape are there, but not together
                colours, shapes = {c for c, _ in pairs}, {s for _, s in pairs}
                absent.sort(key=lambda pair: (pair[0] not in colours) + (pair[1] not in shapes))
            for (colour, shape), label in ((rng.choice(pairs), "yes"), (absent[0], "no")):
                text = f"Is there a {colour} {shape} in the image?"
                labels.append({"question_id": len(labels) + 1, "image": image, "text": text, "label": label})
        if category == "random":  # the pinned random file lacks some pairs, as the real one does
            del labels[-2:]
        lots.lines(labels, f"pope/coco/coco_pope_{category}.json")
    lines = [
        {**_line(first + k, label["image"], prompts.short(label["text"])), "category": category}
        for category, first in POPE_FIRST_IDS.items()
        for k, label in enumerate(asked[category])
    ]
    lots.lines(lines, "pope/llava_pope_test.jsonl")


# MME's fourteen categories, each with the kind of yes/no question that is nearest to it in this world
MME_KINDS = {
    "existence": "exist",
    "count": "compare",
    "position": "relation",
    "color": "same",
    "posters": "says",
    "celebrity": "relation",
    "scene": "background",
    "landmark": "exist",
    "artwork": "same",
    "OCR": "says",
    "commonsense_reasoning": "relation",
    "numerical_calculation": "compare",
    "text_translation": "says",
    "code_reasoning": "same",
}
MME_FOLDERS = ("artwork", "celebrity", "landmark", "posters", "scene")  # these keep pictures and questions apart


def mme(lots: Lots) -> None:
    """Two questions a picture, one answered yes and one no; both shapes of folder that the release has."""
    base = "MME/MME_Benchmark_release_version"
    asked = []
    for number, (category, kind) in enumerate(MME_KINDS.items()):
        pairs = _pairs(lots, kind, start=number * 10**5)
        for picture, (scene, pair) in zip(range(max(1, round(lots.n / 28))), pairs, strict=False):
            stem = f"{picture + 1:012d}"
            split = category in MME_FOLDERS
            image = f"{category}/images/{stem}.jpg" if split else f"{category}/{stem}.jpg"
            words = f"{category}/questions_answers_YN/{stem}.txt" if split else f"{category}/{stem}.txt"
            lots.picture(scene, f"{base}/{image}")
            said = "".join(f"{q.text} Please answer yes or no.\t{q.answer.capitalize()}\n" for q in pair)
            lots.text(said, f"{base}/{words}")
            asked += [{**_line(image, image, prompts.short(q.text)), "category": category} for q in pair]
    lots.lines(asked, "MME/llava_mme.jsonl")


def _pairs(lots: Lots, kind: str, start: int) -> Iterator[tuple[Scene, tuple[Question, Question]]]:
    signs = (1, 2) if kind == "says" else (0, 2)
    for scene in lots.scenes(start, signs=signs):
        asked = [question for k in range(12) for question in world.questions(scene, k, (kind,))]
        yes = next((q for q in asked if q.answer == "yes"), None)
        no = next((q for q in asked if q.answer == "no"), None)
        if yes and no:
            yield scene, (yes, no)


# kind -> MM-Vet's capabilities
MMVET_KINDS = {
    "read": ("ocr",),
    "count": ("math", "rec"),
    "chain_colour": ("rec", "spat"),
    "first": ("ocr", "spat"),
    "next_shape": ("rec", "spat"),
    "shape": ("rec",),
    "last": ("ocr", "spat"),
    "colour": ("rec",),
}


def mmvet(lots: Lots) -> None:
    """Open questions with the capabilities that each needs."""
    asked: list[dict[str, Any]] = []
    truth: dict[str, dict[str, Any]] = {}
    for picture, scene, group in lots.asked(tuple(MMVET_KINDS), each=1, signs=(1, 2)):
        question = group[0]
        image = f"v1_{picture}.png"
        lots.picture(scene, f"mm-vet/images/{image}")
        asked.append({"image": image, "text": question.text, "category": "conv", "question_id": picture})
        truth[f"v1_{picture}"] = {
            "imagename": image,
            "question": question.text,
            "answer": question.answer,
            "imagesource": "a tiny world",
            "capability": list(MMVET_KINDS[question.kind]),
        }
    # a few answers of two parts, of which all or any must be named
    for first, second in list(pairwise(truth.values()))[::9]:
        if "rec" in first["capability"]:
            first["answer"] += f"<OR>{first['answer']} shape"
        elif "rec" in second["capability"]:
            second["answer"] += f"<OR>{second['answer']} shape"
    lots.lines(asked, "mm-vet/llava-mm-vet.jsonl")
    lots.json(truth, "mm-vet/mm-vet.json")


def _line(question_id: object, image: str, text: str) -> dict[str, Any]:
    return {"question_id": question_id, "image": image, "text": text, "category": "default"}


def _numbered(answers: list[str]) -> list[dict[str, Any]]:
    return [
        {"answer": answer, "answer_confidence": "yes", "answer_id": place}
        for place, answer in enumerate(answers, start=1)
    ]


def _answer_type(question: Question) -> str:
    if question.answer in ("yes", "no"):
        return "yes/no"
    return "number" if question.answer.isdigit() else "other"
