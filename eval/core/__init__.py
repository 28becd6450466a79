"""What every room uses: what a run is (`settings`, `fields`), the models and tables that ship with it (`embedded`),
which versions answer, and how files and tables are written.

Imports no other room.
"""
