"""Figures and the HTML report: from stored numbers alone, never from a model. Imports scoring."""
