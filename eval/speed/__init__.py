"""Time and memory: of prefill, decoding, the debias, and whole evaluations, on real shapes with random weights."""
