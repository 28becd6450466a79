"""The authors' code as a backend.

`worker`, `load`, `layout`, `convert` and `video` run in a fork's own old environment and import `debias` and each
other alone; `backend`, `options`, `reader` and `setup` talk to them from ours,
and `parity` asks both sides the same questions.
"""
