"""Reading what other people made: records, pictures, clips. Everything is bounded, and every error names the file.

Imports core, and of `eval.benchmarks` only what LLaVA's question files say.
"""
