"""A font of 5 x 7 dots for capitals and digits: one character fits one patch."""

from __future__ import annotations

import functools

import numpy as np

# seven rows of five dots each, most significant bit on the left, two hexadecimal digits a row
_ROWS = {
    "A": "0e11111f111111",
    "B": "1e11111e11111e",
    "C": "0e11101010110e",
    "D": "1c12111111121c",
    "E": "1f10101e10101f",
    "F": "1f10101e101010",
    "G": "0e11101713110f",
    "H": "1111111f111111",
    "I": "0e04040404040e",
    "J": "0702020202120c",
    "K": "11121418141211",
    "L": "1010101010101f",
    "M": "111b1515111111",
    "N": "11191915131311",
    "O": "0e11111111110e",
    "P": "1e11111e101010",
    "Q": "0e11111115120d",
    "R": "1e11111e141211",
    "S": "0f10100e01011e",
    "T": "1f040404040404",
    "U": "1111111111110e",
    "V": "11111111110a04",
    "W": "1111111515150a",
    "X": "11110a040a1111",
    "Y": "11110a04040404",
    "Z": "1f01020408101f",
    "0": "0e11131519110e",
    "1": "040c040404041f",
    "2": "0e11010204081f",
    "3": "1f02040201110e",
    "4": "02060a121f0202",
    "5": "1f101e0101110e",
    "6": "0608101e11110e",
    "7": "1f010204080808",
    "8": "0e11110e11110e",
    "9": "0e11110f01020c",
}


@functools.cache
def glyph(character: str) -> np.ndarray:
    """The dots of one character, float32 [7, 5]."""
    if character not in _ROWS:
        raise ValueError(f"the font has capitals and digits only, not {character!r}")
    rows = bytes.fromhex(_ROWS[character])
    return np.array([[row >> (4 - bit) & 1 for bit in range(5)] for row in rows], np.float32)
