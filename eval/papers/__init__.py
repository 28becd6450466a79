"""The tables and figures of the papers: what each takes, what was published, and ours beside it.

Imports every room but commands.
"""
