"""Record what selections of the authors' code choose from drawn features: numbers only.

    python tests/golden/record_selections.py FOLDER [CASE...]

FOLDER holds clones of vbdi/divprune, Theia-4869/CDPruner, 42Shawn/LLaVA-PruMerge, obananas/HoloV,
Tencent/SelfEvolvingAgent, facebookresearch/ToMe and xuyang-liu16/VidCom2 under these names. DART's repository could not
be had: FOLDER/DART holds DART.py, a copy of the file with its choice. Cases may be named behind it: the others stay as
they are. Single functions of theirs are run, on the CPU, in this environment; their packages are not imported.
"""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors import safe_open
from safetensors.torch import save_file

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from toy import draw  # noqa: E402

HEAD = """from __future__ import annotations
import math
from typing import *
import numpy as np
import torch
from torch import nn
import torch.nn.functional as F
"""


def functions(folder, repository, file, *names):
    """A module of the named functions of a file alone."""
    tree = ast.parse((folder / repository / file).read_text(encoding="utf-8"))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name in names]
    for node in found:
        node.decorator_list = []
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "picked.py")
        path.write_text(HEAD + "outputs = {}\n" + "\n".join(ast.unparse(node) for node in found), encoding="utf-8")
        spec = importlib.util.spec_from_file_location("picked", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def divprune(folder, out):
    theirs = functions(folder, "divprune", "LLaVA/llava/model/llava_arch.py", "DivPrune", "pairwise_cosine_similarity")
    this = SimpleNamespace(pairwise_cosine_similarity=lambda matrix: theirs.pairwise_cosine_similarity(None, matrix))
    for seed, ratio in ((1, 0.1), (2, 0.2)):
        kept = theirs.DivPrune(this, draw("features", seed, 576, 24), 576, threshold_ratio=ratio)[0]
        out[f"divprune.{seed}"] = kept.to(torch.int16)


def cdpruner(folder, out):
    theirs = functions(folder, "CDPruner", "llava/model/llava_arch.py", "encode_images")
    for seed, count in ((1, 64), (2, 128)):
        made = draw("features", seed, 1, 576, 640), draw("pictures", seed, 1, 576, 16), draw("words", seed, 3, 16)
        this = SimpleNamespace(visual_token_num=count, mm_projector=lambda states: states)
        this.get_visual_token_num = lambda count=count: count
        this.get_vision_tower = lambda made=made: lambda images, texts=None: made
        this.get_model = lambda this=this: this
        mask = theirs.encode_images(this, torch.zeros(1, 3, 2, 2), ["?"])[1][0]
        out[f"cdpruner.{seed}"] = mask.nonzero()[:, 0].to(torch.int16)


def vscan(folder, out):
    names = "encode_images", "token_merging", "window_cls_selection"
    theirs = functions(folder, "SelfEvolvingAgent", "VScan/llava/model/llava_arch.py", *names)
    for seed, count in ((1, 64), (2, 128), (3, 192)):
        made = draw("features", seed, 1, 576, 8), draw("attention", seed, 24, 1, 4, 576)
        this = SimpleNamespace(mm_projector=lambda states: states, get_visual_token_num=lambda count=count: count)
        this.token_merging = lambda *given, **named: theirs.token_merging(None, *given, **named)
        this.window_cls_selection = lambda *given, **named: theirs.window_cls_selection(None, *given, **named)
        this.get_vision_tower = lambda made=made: lambda images: made
        this.get_model = lambda this=this: this
        features, mask, _ = theirs.encode_images(this, torch.zeros(1, 3, 2, 2))
        kept = mask[0].nonzero()[:, 0]
        out[f"vscan.{seed}"] = kept.to(torch.int16)
        out[f"vscan.{seed}.merged"] = features[0, kept].contiguous()


def holov(folder, out):
    theirs = functions(folder, "HoloV", "llava/model/utils.py", "HoloV")
    for seed, count in ((1, 64), (2, 128), (3, 192)):
        features, attention = draw("features", seed, 1, 576, 48), draw("attention", seed, 1, 576).mul(3).exp()
        made = theirs.HoloV(features, attention, 16, count)[0]
        kept = torch.cdist(made.double(), features[0].double()).argmin(-1).sort().values
        out[f"holov.{seed}"] = kept.to(torch.int16)


def prumerge(folder, out):
    from transformers import CLIPVisionConfig, CLIPVisionModel

    names = "complement_idx", "hook_k", "hook_q", "outlier_dectection", "token_prune_merge_advanced", "feature_select"
    theirs = functions(folder, "LLaVA-PruMerge", "llava/model/multimodal_encoder/clip_encoder.py", *names)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 24, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = CLIPVisionConfig(**sizes, image_size=112, patch_size=14, initializer_range=0.3)
    config._attn_implementation = "eager"
    tower = CLIPVisionModel(config).eval()
    if not hasattr(tower, "vision_model"):  # where the code expects the layers
        object.__setattr__(tower, "vision_model", tower)
    this = SimpleNamespace(vision_tower=tower, select_layer=-2, select_feature="patch", device="cpu")
    this.dtype, this.feature_select = torch.float32, lambda states: theirs.feature_select(this, states)
    pixels = draw("pixels", 1, 1, 3, 112, 112)
    with torch.no_grad():
        made = theirs.token_prune_merge_advanced(this, pixels, if_adaptive=False, reduction_ratio=1 / 8)[0]
        states = tower(pixels, output_hidden_states=True).hidden_states[-2][0]
        layer = tower.vision_model.encoder.layers[23]
        normed = layer.layer_norm1(states)
        query, keys = layer.self_attn.q_proj(normed), layer.self_attn.k_proj(normed)
        attention = (query[:1] @ keys.T * 16**-0.5).softmax(-1)[0, 1:]
        out["prumerge.outliers"] = torch.tensor(
            [round(theirs.outlier_dectection(attention**power) * 64) for power in (1, 4, 8)], dtype=torch.int16
        )
    out["prumerge.features"], out["prumerge.keys"] = states[1:].contiguous(), keys[1:].contiguous()
    out["prumerge.attention"], out["prumerge.merged"] = attention.contiguous(), made.contiguous()


def tome(folder, out):
    """One matching of [CLS] and 64 patches, which some merged tokens are among; listed by their first channel."""
    names = "do_nothing", "bipartite_soft_matching", "merge_wavg"
    theirs = functions(folder, "ToMe", "tome/merge.py", *names)
    for seed, count in ((1, 7), (2, 23), (3, 32)):
        states, keys = draw("states", seed, 1, 65, 8), draw("keys", seed, 1, 65, 12)
        size = draw("sizes", seed, 1, 65, 1).abs().mul(2).floor().add(1)
        size[:, 0] = 1
        merge, _ = theirs.bipartite_soft_matching(keys, count, class_token=True)
        merged, held = theirs.merge_wavg(merge, states, size)
        order = merged[0, :, 0].argsort()
        out[f"tome.{seed}"] = torch.cat([merged[0], held[0]], 1)[order].contiguous()


def vidcom2(folder, out):
    """The share of each frame by how unlike it is, and its tokens by their likeness."""
    names = "compute_scales", "select_outlier_indices"
    theirs = functions(folder, "VidCom2", "token_compressor/vidcom2/vidcom2.py", *names)
    for seed, ratio in ((1, 0.25), (2, 0.15)):
        scales = theirs.compute_scales(draw("frames", seed, 8).mul(0.02), ratio)
        kept = theirs.select_outlier_indices(draw("alike", seed, 8, 196), scales, 196)
        out[f"vidcom2.{seed}.scales"] = scales
        out[f"vidcom2.{seed}.counts"] = torch.tensor([len(one) for one in kept], dtype=torch.int16)
        out[f"vidcom2.{seed}.kept"] = torch.cat(kept).to(torch.int16)


def dart(folder, out):
    """Keys of a single head: with several, the file lays them out head by head, and its rows are no tokens."""
    theirs = functions(folder, "DART", "DART.py", "get_retained_image_token")
    about = {"K": 2, "image_token_start_index": 5, "image_token_length": 144, "pivot_image_token": 4}
    for seed, count in ((1, 56), (2, 24)):
        states, keys = draw("states", seed, 1, 170, 24), draw("keys", seed, 1, 170, 1, 16)
        size = keys.abs().sum((0, 2, 3))
        pivots = [*(size[5:149].topk(4).indices + 5).tolist(), *(size[149:].topk(4).indices + 149).tolist()]
        settings = {**about, "pivot_text_token": 4, "max_num_trunction": count}
        kept = theirs.get_retained_image_token(SimpleNamespace(DART_config=settings, text_length=None), states, keys)
        out[f"dart.{seed}"] = kept.sort().values.to(torch.int16)
        out[f"dart.{seed}.turns"] = torch.tensor(list(set(pivots).copy()), dtype=torch.int16)  # the order of a set


# Which clone each case runs.
CASES = {
    divprune: "divprune",
    cdpruner: "CDPruner",
    vscan: "SelfEvolvingAgent",
    holov: "HoloV",
    prumerge: "LLaVA-PruMerge",
    tome: "ToMe",
    vidcom2: "VidCom2",
    dart: "DART",
}


def main(folder, *wanted):
    path = HERE / "selections.safetensors"
    with safe_open(path, "pt") as kept:
        about, out = dict(kept.metadata()), {name: kept.get_tensor(name) for name in kept.keys()}  # noqa: SIM118
    for case, repository in CASES.items():
        if wanted and case.__name__ not in wanted:
            continue
        git = ["git", "-C", str(folder / repository), "rev-parse", "HEAD"]
        known = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
        about[repository] = known or "a copy"
        case(folder, out)
    save_file(out, str(path), about)
    print({name: tuple(value.shape) for name, value in out.items()})


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
