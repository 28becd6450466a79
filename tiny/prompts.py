"""The words around a question, as LLaVA-1.5 and Video-LLaVA ask it on each benchmark."""

from __future__ import annotations

from tiny.drawn.questions import CHINESE, Box, Question

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
SYSTEM_VIDEO = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
SHORT = "Answer the question using a single word or phrase."
UNSURE = "When the provided information is insufficient, respond with 'Unanswerable'."
LETTER = "Answer with the option's letter from the given choices directly."
LETTER_CHINESE = "请直接回答选项字母。"
OCR = "Reference OCR token: "
HINT = "Context: The shapes stand on a grid of equal cells."
REFER = "Please provide the bounding box coordinate of the region this sentence describes: "
CORNER = "Please provide the upper left corner of the region this sentence describes: "
REGION = "Please provide a short description for this region: "


def short(text: str) -> str:
    """VQAv2, GQA, POPE, MME."""
    return f"{text}\n{SHORT}"


def unsure(text: str) -> str:
    """VizWiz."""
    return f"{text}\n{UNSURE}\n{SHORT}"


def ocr(text: str, tokens: list[str]) -> str:
    """TextVQA, with the words an OCR system read."""
    return f"{text}\n{OCR}{', '.join(tokens)}\n{SHORT}"


def choice(question: Question, hint: str = "", chinese: bool = False) -> str:
    """ScienceQA and both MMBench: the options by letter, then the request for a letter."""
    text = question.chinese if chinese else question.text
    options = [CHINESE.get(option, option) if chinese else option for option in question.options]
    lines = (
        [hint] * bool(hint) + [text] + [f"{letter}. {option}" for letter, option in zip("ABCD", options, strict=False)]
    )
    return "\n".join([*lines, LETTER_CHINESE if chinese else LETTER])


def refer(expression: str) -> str:
    """RefCOCO."""
    return REFER + expression


def box_answer(box: Box, size: tuple[int, int]) -> str:
    """A box as LLaVA-1.5 writes it: relative to the padded square; here snapped outwards to twelfths (patches)."""
    side = max(size)
    left, top = (side - size[0]) // 2, (side - size[1]) // 2
    low = [(box[0] + left) * 12 // side, (box[1] + top) * 12 // side]
    high = [-(-(box[2] + left) * 12 // side), -(-(box[3] + top) * 12 // side)]
    return "[" + ", ".join(f"{value / 12:.2f}" for value in low + high) + "]"


def dialogue(turns: list[tuple[str, str]], system: str = SYSTEM, media: str = "<image>") -> str:
    """One training text: the picture first, then questions and answers; an empty answer leaves the turn open."""
    text = system
    for place, (question, answer) in enumerate(turns):
        head = f"{media}\n" if place == 0 and media else ""
        text += f"{' ' * (place == 0)}USER: {head}{question} ASSISTANT:"
        text += f" {answer}</s>" if answer else ""
    return text
