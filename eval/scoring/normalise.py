"""The two normalisers of VQA answers, quirks included, and the soft accuracy that goes with them.

`m4c` is what LLaVA scores TextVQA with and writes into submissions; `vqa_official` is VQAv2's own. They share the
tables below and the two steps, and differ in when the steps are applied.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

ARTICLES = {"a", "an", "the"}
NUMBERS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6",
           "seven": "7", "eight": "8", "nine": "9", "ten": "10"}  # fmt: skip
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'  # not among them: . : ' $ % & * # ~ ^ |
_CONTRACTIONS = """
aint=ain't arent=aren't cant=can't couldve=could've couldnt=couldn't couldn'tve=couldn't've couldnt've=couldn't've
didnt=didn't doesnt=doesn't dont=don't hadnt=hadn't hadnt've=hadn't've hadn'tve=hadn't've hasnt=hasn't
havent=haven't hed=he'd hed've=he'd've he'dve=he'd've hes=he's howd=how'd howll=how'll hows=how's Id've=I'd've
I'dve=I'd've Im=I'm Ive=I've isnt=isn't itd=it'd itd've=it'd've it'dve=it'd've itll=it'll let's=let's maam=ma'am
mightnt=mightn't mightnt've=mightn't've mightn'tve=mightn't've mightve=might've mustnt=mustn't mustve=must've
neednt=needn't notve=not've oclock=o'clock oughtnt=oughtn't ow's'at='ow's'at 'ows'at='ow's'at 'ow'sat='ow's'at
shant=shan't shed've=she'd've she'dve=she'd've she's=she's shouldve=should've shouldnt=shouldn't
shouldnt've=shouldn't've shouldn'tve=shouldn't've somebody'd=somebodyd somebodyd've=somebody'd've
somebody'dve=somebody'd've somebodyll=somebody'll somebodys=somebody's someoned=someone'd someoned've=someone'd've
someone'dve=someone'd've someonell=someone'll someones=someone's somethingd=something'd somethingd've=something'd've
something'dve=something'd've somethingll=something'll thats=that's thered=there'd thered've=there'd've
there'dve=there'd've therere=there're theres=there's theyd=they'd theyd've=they'd've they'dve=they'd've
theyll=they'll theyre=they're theyve=they've twas='twas wasnt=wasn't wed've=we'd've we'dve=we'd've weve=we've
werent=weren't whatll=what'll whatre=what're whats=what's whatve=what've whens=when's whered=where'd wheres=where's
whereve=where've whod=who'd whod've=who'd've who'dve=who'd've wholl=who'll whos=who's whove=who've whyll=why'll
whyre=why're whys=why's wont=won't wouldve=would've wouldnt=wouldn't wouldnt've=wouldn't've wouldn'tve=wouldn't've
yall=y'all yall'll=y'all'll y'allll=y'all'll yall'd've=y'all'd've y'alld've=y'all'd've y'all'dve=y'all'd've
youd=you'd youd've=you'd've you'dve=you'd've youll=you'll youre=you're youve=you've
"""
CONTRACTIONS = dict(pair.split("=") for pair in _CONTRACTIONS.split())

# The official pattern means "not between digits", but its look-behind is mistyped: only what follows decides.
_PERIOD = re.compile(r"\.(?!\d)")
_MAX_PERIODS = 32  # the official call passes a flag of this value where the count belongs
_THOUSANDS = re.compile(r"\d,\d")


def process_punctuation(text: str) -> str:
    """Deletes or blanks each mark: what happens to a mark is decided by the original text, and done to the result."""
    result = text
    number = _THOUSANDS.search(text) is not None
    for mark in PUNCTUATION:
        if mark in text:
            glued = not (mark + " " in text or " " + mark in text or number)
            result = result.replace(mark, " " if glued else "")
    return _PERIOD.sub("", result, count=_MAX_PERIODS)


def process_digit_article(text: str) -> str:
    """Lower case, numbers as digits, apostrophes put back, articles left out."""
    words = [NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def m4c(text: str) -> str:
    """An answer as LLaVA's script for TextVQA compares it."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = text.replace("\n", " ").replace("\t", " ").strip()
    return process_digit_article(process_punctuation(text))


def soft_accuracy(answer: str, humans: Sequence[str]) -> float:
    """Leave-one-out agreement: against the others of each human answer, a third for every match, at most 1."""
    matches = [human == answer for human in humans]
    total = sum(matches)
    return sum(min(1.0, (total - match) / 3) for match in matches) / len(matches)


def m4c_accuracy(answer: str, humans: Sequence[str]) -> float:
    """The soft accuracy of an answer normalised so."""
    return soft_accuracy(m4c(answer), [m4c(human) for human in humans])


def vqa_official_accuracy(answer: str, humans: Sequence[str]) -> float:
    """VQAv2's accuracy. Where all humans agree, the strings are compared as they are, capitals and all."""
    answer, *others = (text.replace("\n", " ").replace("\t", " ").strip() for text in (answer, *humans))
    if len(set(others)) > 1:
        answer, *others = (process_digit_article(process_punctuation(text)) for text in (answer, *others))
    return soft_accuracy(answer, others)
