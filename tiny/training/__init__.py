"""What the tiny models learn from, and how: lessons, curriculum, stages. Imports `drawn`."""
