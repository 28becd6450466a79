"""The arithmetic of scores: normalising answers, boxes, paired statistics, and asking a judge.

Knows no benchmark and no model.
"""
