"""Conversation templates of the authors' evaluations: system message, one question, and the cue to answer."""

from __future__ import annotations

from collections.abc import Sequence

TEMPLATES: dict[str, tuple[str, str]] = {  # what stands before the question, and after it
    "vicuna_v1": (
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions. USER: ",
        " ASSISTANT:",
    ),
    "llava_v1": (
        "A chat between a curious human and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the human's questions. USER: ",
        " ASSISTANT:",
    ),
    "mistral_instruct": ("[INST] ", " [/INST]"),
    "internvl2_5": (
        "<|im_start|>system\n你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位"
        "联合开发的多模态大语言模型。<|im_end|>\n<|im_start|>user\n",
        "<|im_end|>\n<|im_start|>assistant\n",
    ),
    "qwen2_5_vl": (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n",
        "<|im_end|>\n<|im_start|>assistant\n",
    ),
    "chatml": ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"),
}


def wrap(question: str, asked: str | None, known: Sequence[str]) -> str:
    """The whole prompt of one question, up to where the answer begins.

    asked: the template somebody wants; used when it is among those `known` to the model, else the first of them is.
    """
    if asked is not None and asked not in TEMPLATES:
        raise ValueError(f"unknown conversation {asked!r}; there are {', '.join(TEMPLATES)}")
    before, after = TEMPLATES[asked if asked is not None and asked in known else known[0]]
    return before + question + after


def with_media(question: str, media: dict[str, int], after: str = "\n") -> str:
    """The question with its media markers: as it is if it has them, else they go in front, each followed by `after`."""
    front = ""
    for marker, count in media.items():
        there = question.count(marker)
        if there == 0:
            front += f"{marker}{after}" * count
        elif there != count:
            raise ValueError(f"the question names {there} {marker}, and {count} were given: {question[:80]!r}")
    return front + question
