"""Run one fork on a small random model and print what it answers, to the bit. Started by test_forks.py in a fork's
environment, on code with and without our patch; the picture is small and the prompt long enough for either."""

from __future__ import annotations

import hashlib
import json
import sys

method, forks, golden, options = *sys.argv[1:4], json.loads(sys.argv[4])
sys.path[:0] = [forks, golden]

import layout  # noqa: E402
import load  # noqa: E402
import record  # noqa: E402
import torch  # noqa: E402
import toy  # noqa: E402

if method == "illava":
    logits, answer = record.decoder_step(method, options, toy.weights(1), 1)
else:
    # 64 patches of a model 64 wide: TokenCarve's full SVD needs one channel per patch where it is not patched.
    toy.VISION["image_size"], toy.TOKENS = 112, 64
    torch.rand = lambda *shape, **_: torch.zeros(*shape)  # SparseVLM's noise against ties
    state = ((layout.to_original(name), weight) for name, weight in toy.weights(1).items())
    fork = load.build(method, options, layout.original_config(toy.CONFIG, ""), state, toy.VISION)
    ids = [load.IMAGE if i == toy.IMAGE_ID else i for i in toy.prompt(1, words=150)]
    fork.prepare(toy.START)
    answer, logits = fork.generate(ids, toy.draw("picture", 1, 1, 3, 112, 112), 3)
print(json.dumps({"answer": answer, "logits": hashlib.sha256(logits.numpy().tobytes()).hexdigest()}))
