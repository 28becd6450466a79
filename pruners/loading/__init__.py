"""From a checkpoint's folder to a model: its files, opened as what they are (`files`), checked before anything is built
from them (`folder`), and loaded on the attention kernel there is (`kernels`, `model`); and which families are refused.

Knows no family and no method.
"""
