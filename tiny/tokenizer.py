"""A small word-level tokenizer: known words and phrases are one token, everything else falls back to bytes."""

from __future__ import annotations

import functools
import re
import string
from collections.abc import Iterable

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import Unigram
from transformers import PreTrainedTokenizerFast

from tiny import prompts
from tiny.drawn import clips, questions, scenes

PATCHES = 12  # along each side of the padded picture
SPECIAL = ("<unk>", "<s>", "</s>", "<pad>", "<image>", "<video>")
END = SPECIAL.index("</s>")
# names of what a patch can show besides the words of the questions; never printed or asked for
ROWS = tuple(f"<row{k}>" for k in range(PATCHES))
COLUMNS = tuple(f"<column{k}>" for k in range(PATCHES))
CELL_ROWS = tuple(f"<cellrow{k}>" for k in range(scenes.LONG))
CELL_COLUMNS = tuple(f"<cellcolumn{k}>" for k in range(scenes.LONG))
PLACES = tuple(f"<place{k}>" for k in range(4))  # of a character on its sign
HEAD = "<head>"  # the upper left patch of a thing: things are counted and boxed by it
BORDER = "<border>"
PATCH_NAMES = (*ROWS, *COLUMNS, *CELL_ROWS, *CELL_COLUMNS, *PLACES, HEAD, BORDER)
PHRASES = (
    prompts.SYSTEM,
    prompts.SYSTEM_VIDEO,
    " USER:",
    "USER:",
    " ASSISTANT:",
    prompts.SHORT,
    prompts.UNSURE,
    prompts.LETTER,
    prompts.LETTER_CHINESE,
    prompts.OCR.rstrip(),
    prompts.REFER.rstrip(),
    prompts.CORNER.rstrip(),
    prompts.REGION.rstrip(),
    prompts.HINT,
    *(f"\n{letter}." for letter in "ABCD"),
    "是什么颜色?",
    "是什么形状?",
    "是什么?",
    "是大的还是小的?",
    "unanswerable",
    "yes",
    "no",
    "and",
)


def _words() -> set[str]:
    """Every word the world can say, read off generated questions."""
    words: set[str] = set()
    for seed in range(200):
        scene, clip = scenes.scene(seed), clips.clip(seed)
        asked = questions.questions(scene, seed, tuple(questions.KINDS)) + clips.clip_questions(clip, seed)
        expression = questions.referring(scene, seed)
        texts = [q.text for q in asked] + [q.answer for q in asked if q.kind not in ("read", "first", "last")]
        for text in [*texts, expression[0] if expression else ""]:
            words.update(re.findall("[A-Za-z]{2,}", text))
    fixed = (*scenes.COLOURS, *scenes.SHAPES, *scenes.SIZES, *scenes.BACKGROUNDS, *map(questions.plural, scenes.SHAPES))
    return words | set(fixed)


def spellings() -> list[tuple[str, str]]:
    """Pairs of tokens that mean the same: as a patch is named, and as an answer is written."""
    same = [(mark, f"▁{mark}") for mark in scenes.LETTERS + scenes.DIGITS]
    same += [(letter, f"\n{letter}.") for letter in "ABCD"]
    same += [(f"▁{word.split()[0]}", chinese) for word, chinese in questions.CHINESE.items()]
    for tick in range(PATCHES):
        same += [(COLUMNS[tick], f"{tick / PATCHES:.2f}"), (ROWS[tick], f",▁{tick / PATCHES:.2f}")]
    return same


def number(tokens: PreTrainedTokenizerFast, token: str) -> int:
    """The id of a token, which must be known."""
    token_id = tokens.convert_tokens_to_ids(token)
    assert isinstance(token_id, int)
    return token_id


@functools.cache
def _vocabulary(tokens: PreTrainedTokenizerFast) -> dict[str, int]:
    return tokens.get_vocab()


def ids(words: Iterable[str], tokens: PreTrainedTokenizerFast) -> list[int]:
    """Of words that are one token each, with a space before them or without."""
    vocabulary = _vocabulary(tokens)
    return [vocabulary[word.replace(" ", "▁")] for word in words]


def build() -> PreTrainedTokenizerFast:
    """The same vocabulary every time: it is read off the world, not off a training run."""
    pieces: dict[str, float] = {}
    for word in sorted(_words()):
        pieces[f" {word}"] = pieces[word] = -10.0
    for phrase in (*PHRASES, *questions.CHINESE.values()):
        pieces[phrase] = -10.0
        if re.fullmatch("[a-z]+", phrase):
            pieces[f" {phrase}"] = -10.0
    for tick in range(PATCHES + 1):
        pieces[f"{tick / PATCHES:.2f}"] = pieces[f", {tick / PATCHES:.2f}"] = -10.0
    for mark in string.ascii_letters + string.digits + string.punctuation:
        pieces[mark] = pieces[f" {mark}"] = -10.0
    pieces[" "] = pieces["\n"] = -10.0
    vocabulary = [(piece, 0.0) for piece in SPECIAL]
    vocabulary += [(f"<0x{byte:02X}>", -20.0) for byte in range(256)]
    vocabulary += [(piece.replace(" ", "▁"), score) for piece, score in pieces.items()]
    vocabulary += [(piece, -30.0) for piece in PATCH_NAMES]
    core = Tokenizer(Unigram(vocabulary, unk_id=0, byte_fallback=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    core.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Replace("▁", " "), decoders.Fuse()])
    core.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in SPECIAL])
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>", "video_token": "<video>"},
        padding_side="left",
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
        chat_template=TEMPLATE,
    )


TEMPLATE = (
    f'{{{{ "{prompts.SYSTEM}" }}}}'
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}"
    "{{ ' ' if loop.first else '' }}USER: "
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>\n' }}{% elif part['type'] == 'video' %}{{ '<video>\n' }}{% endif %}"
    "{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endif %}"
    "{% elif message['role'] == 'assistant' %}"
    " ASSISTANT: {% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endif %}</s>"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)
