"""Record what the debiasing paper's own release keeps and answers on the random model of toy.py: numbers only.

    python tests/golden/record_release.py RELEASE [NAME...]

RELEASE is a folder that holds the release (intcomp/attention-bias) with its submodules checked out at their pins and
its patches put in, and LLaVA (v1.2.2.post1) beside them for TokenCarve. Nothing of it enters this repository. Each case
runs in the environment that `bash setup.sh --forks` makes for the method's code, or in $RELEASE_PYTHON_431 and _437.
Tags: paper, before, after. Sizes: those a picture comes in, wide to where a mask leaves nothing.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SIZES = ((640, 480), (480, 640), (640, 360), (640, 400), (500, 500), (1024, 200), (300, 1200), (2400, 100), (3000, 100))
TAGS = ("paper", "before", "after")
PATHS = {
    "fastv": ["FastV/src/transformers/src", "FastV/src/LLaVA"],
    "himap": ["HiMAP/src/LLaVA"],
    "tokencarve": ["LLaVA"],
    "pyramiddrop": ["PyramidDrop"],
    "sparsevlm": ["SparseVLMs"],
}
WEIGHTS = {  # of one benchmark: GQA's, or the one that all share
    "fastv": "FastV/weight.npy",
    "himap": "HiMAP/gqa.npy",
    "tokencarve": "TokenCarve/gqa.npy",
    "pyramiddrop": "PyramidDrop/gqa.npy",
    "sparsevlm": "SparseVLMs/gqa.npy",
}
OPTIONS = {
    "fastv": {"keep": 128, "layer": 2, "inplace": False, "cache": True},
    "himap": {"layers": [2, 8], "keeps": [115, 90], "cache": False},
    "tokencarve": {"keep": 64, "mode": 0, "weight": 0.5},
    "pyramiddrop": {"layers": [2, 10, 20], "ratios": [0.32, 0.16, 0.08]},
    "sparsevlm": {"keep": 128},
}
STARTS = {"fastv": 36, "tokencarve": 36, "himap": 35}  # what the release's scripts pass
STAGES = {"fastv": 1, "himap": 2, "tokencarve": 3, "pyramiddrop": 3, "sparsevlm": 3}
OLD = ("fastv", "himap")  # transformers 4.31
CLEAR = 1e-6


def record(method: str, release: Path, folder: Path) -> None:
    """In the method's environment: the first seed whose choices are clear in every case."""
    sys.path[:0] = [str(HERE), str(ROOT / "eval/forks")]
    import toy
    from safetensors.torch import save_file

    seed = 0
    while True:
        seed += 1
        out = cases(method, release, seed)
        if out is not None:
            about = {"method": method, "seed": str(seed), "weights": toy.digest(toy.weights(seed))}
            about["sorted by"] = toy.sorting()
            save_file(out, str(folder / f"release_{method}.safetensors"), {**about, "options": repr(OPTIONS[method])})
            return


def cases(method, release, seed):
    import torch
    import toy

    fork = build(method, release, seed)
    out, chosen = {}, []
    watch(chosen)
    for tag in TAGS:
        for size in SIZES if tag != "paper" else SIZES[:1]:
            told(fork, method, release, tag, size)
            fork.prepare(STARTS.get(method, toy.START))
            chosen.clear()
            ids = [-200 if i == toy.IMAGE_ID else i for i in toy.prompt(seed)]
            name = f"{tag}.{size[0]}x{size[1]}"
            # Without a cache HiMAP prunes again for every new token, which the native method does not.
            answer, logits = fork.generate(ids, toy.pixels(seed), 6 if OPTIONS[method].get("cache", True) else 1)
            margins = [margin for margin, *_ in chosen]
            print(f"{method} seed {seed} {name}: margins {[f'{margin:.0e}' for margin in margins]}", flush=True)
            if any(0 < margin < CLEAR for margin in margins):
                print("a choice hangs on rounding: next seed")
                return None
            out[f"{name}.answer"] = torch.tensor(answer, dtype=torch.int16)
            for stage, (_, index, _) in enumerate(chosen[: STAGES[method]]):
                out[f"{name}.kept.{stage}"] = index.sort().values.to(torch.int16).contiguous()
            # TokenCarve ranks all tokens, so that zeros tie wherever they are.
            zeros = method == "tokencarve" and any(zeros for _, _, zeros in chosen)
            out[f"{name}.tie"] = torch.tensor(0.0 in margins or zeros)
            out[f"{name}.logits"] = logits.float().contiguous()
    return out


def watch(chosen):
    """The choices: each top-k of the scores of visual tokens, with the gap at its edge; 0: a tie, as among zeros."""
    import torch

    def watched(score, k, *args, _real=torch.topk, **kwargs):
        found = _real(score, k, *args, **kwargs)
        k = int(k)
        if score.dim() and score.shape[-1] in (576, 312, 117, 115, 184, 92) and kwargs.get("largest", True):
            ordered = score.detach().float().flatten().sort(descending=True).values
            gap = (ordered[k - 1] - ordered[k]) / ordered.abs().amax().clamp(min=1e-30) if 0 < k < len(ordered) else 1.0
            chosen.append((float(gap), found.indices.detach().flatten().clone(), int((ordered == 0).sum()) > 1))
        return found

    torch.topk = torch.Tensor.topk = watched


def build(method, release, seed):
    import layout
    import load
    import torch
    import toy

    load.ROOT = release  # where TokenCarve's two modules are read from
    if method == "tokencarve":
        # U of a full decomposition is wider than the singular values where a model is narrower than it has patches.
        full = torch.linalg.svd
        torch.linalg.svd = lambda matrix, full_matrices=True, **_: full(matrix, full_matrices=False)
        torch.svd = torch.linalg.svd
    if method == "sparsevlm":
        torch.rand = lambda *shape, **_: torch.zeros(*shape)  # its clustering breaks ties by noise of 1e-6
    config = layout.original_config(toy.CONFIG, "")
    state = ((layout.to_original(name), weight) for name, weight in toy.weights(seed).items())
    return load.build(method, OPTIONS[method], config, state, toy.VISION)


def told(fork, method, release, tag, size):
    """What the release's drivers set before they ask."""
    import numpy as np
    import torch

    core, weights = fork.model.model, str(release / "playground/data/weight" / WEIGHTS[method])
    if method == "sparsevlm":
        from llava.mm_utils import process_images
        from PIL import Image

        fork.model.config.image_aspect_ratio = "pad"
        masks = process_images([Image.new("RGB", size)], fork.tower.image_processor, fork.model.config)[1]
        given = torch.from_numpy(np.load(weights)).float()
        core.weights = None if tag == "paper" else masks[0] if tag == "before" else given * masks[0]
        return
    if hasattr(core, "_cached_image_size"):
        del core._cached_image_size
    if tag != "paper":
        core._cached_image_size = size
    name = "define_attention_map" if method in ("fastv", "tokencarve") else "set_attention_score_frequency_file"
    if hasattr(core, "attention_avg_weight"):
        del core.attention_avg_weight
    getattr(core, name)(tag, weights)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("release", type=Path)
    parser.add_argument("names", nargs="*", default=list(PATHS))
    parser.add_argument("--out", type=Path, default=HERE, help="where the recordings go (default: %(default)s)")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    release = args.release.resolve()
    if args.here:
        record(args.names[0], release, args.out)
        return 0
    for name in args.names or list(PATHS):
        version = "4.31" if name in OLD else "4.37"
        python = os.environ.get(
            f"RELEASE_PYTHON_{version.replace('.', '')}", ROOT / f".venv-forks-{version}/bin/python"
        )
        path = os.pathsep.join([*(str(release / part) for part in PATHS[name]), str(ROOT)])
        command = [str(python), str(HERE / "record_release.py"), "--here", str(release), name]
        command += ["--out", str(args.out.resolve())]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": path})
    return 0


if __name__ == "__main__":
    sys.exit(main())
