"""Everything that is measured on a GPU, in steps of a few minutes: what they ask for, how they run, what they say.

Only this room knows the steps; each part of one is a command that a person can type. Imports the rest of `eval.speed`.
"""
