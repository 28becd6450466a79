"""A loaded model that answers one question after another, in any arm: for `show`, the server and its page.

Imports answering, harnesses (for the pruned model), reading and showing.
"""
