"""From attention to a trend: the mean curve of many samples (`measure`), the shape fitted to it (`fit`, by the straight
lines of `lines`), and whether there is a trend to divide by at all (`settle`).
"""

from __future__ import annotations
