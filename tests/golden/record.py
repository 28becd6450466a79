"""Record what the authors' own code keeps and answers on the small random model of toy.py: numbers only.

    python tests/golden/record.py [NAME...]        needs `bash setup.sh --forks`

Each case runs in a process of its own, in the fork's environment. Kept sets are read at the patches' `debias.kept`
calls. Without an arm nothing is debiased: the patched code then computes what the unpatched code does (tests/forks
shows it).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# case -> (fork, options[, arm]). Schedules are the published 128-token settings; fewer layers where a fork allows it.
CASES = {
    "fastv_mask": ("fastv", {"keep": 128, "layer": 2, "inplace": False, "cache": True}),
    "fastv_inplace": ("fastv", {"keep": 128, "layer": 2, "inplace": True, "cache": False}),
    "pyramiddrop": ("pyramiddrop", {"layers": [2, 10, 20], "ratios": [0.32, 0.16, 0.08]}),
    "sparsevlm": ("sparsevlm", {"keep": 128}),
    "himap": ("himap", {"layers": [2, 8], "keeps": [115, 90], "cache": False}),
    "tokencarve": ("tokencarve", {"keep": 128, "mode": 0, "weight": 0.5}),
    "vispruner": ("vispruner", {"keep": 128, "important_ratio": 0.5}),
    "illava": ("illava", {"layer": 8, "keep": 0.7}),
    "illava_trend": ("illava", {"layer": 8, "keep": 0.7}, "trend"),
    "illava_padding": ("illava", {"layer": 8, "keep": 0.7}, "padding"),
    "illava_both": ("illava", {"layer": 8, "keep": 0.7}, "both"),
}
SEEDS = 2  # the first ones without a tie
STAGES = {"pyramiddrop": 3, "sparsevlm": 3, "himap": 2}
CLEAR = 1e-6  # of the largest score: what must lie between the last token kept and the first one left out


def record(case: str) -> None:
    """In the fork's environment: run the first seeds whose choice is clear and write tests/golden/CASE.safetensors."""
    import torch

    sys.path[:0] = [str(HERE), str(ROOT / "eval/forks")]
    import toy
    from safetensors.torch import save_file

    import debias

    method, options, *arm = CASES[case]
    out, about, done, seed = {}, {"case": case, "fork": method, "options": repr(options)}, [], 0
    margins = watch_ties()
    while len(done) < SEEDS:
        seed += 1
        kept, state = [], toy.weights(seed)
        debias.kept = lambda index, kept=kept, **_: kept.append(index.detach().clone())  # the call our patches insert
        margins.clear()
        with debias.using(toy.debias(*arm), [debias.Span(toy.START, (24, 24), size=toy.SIZE)]):
            logits, answer = (decoder_step if method == "illava" else whole_model)(method, options, state, seed)
        if min(margins, default=1.0) < CLEAR:
            print(f"{case}: seed {seed} has a tie (margin {min(margins):.1e}); which token stays is then chance")
            continue
        if case == "vispruner" and not steady(kept[0], partial(whole_model, method, options, state, seed), kept):
            print(f"{case}: seed {seed} changes with the last digit of the pixels")
            continue
        done.append(seed)
        about[f"weights.{seed}"] = toy.digest(state)
        for stage, index in enumerate(kept[: STAGES.get(method, 1)]):
            flat = index.flatten()
            index = flat.nonzero()[:, 0] if flat.dtype == torch.bool else flat.sort().values
            out[f"{seed}.kept.{stage}"] = index.to(torch.int16).contiguous()
        out[f"{seed}.logits"] = logits.float().contiguous()
        if answer:
            out[f"{seed}.answer"] = torch.tensor(answer, dtype=torch.int16)
        counts = [len(index) for name, index in out.items() if name.startswith(f"{seed}.kept")]
        print(f"{case}: seed {seed} keeps {counts}, margin {min(margins, default=1.0):.1e}, answers {answer}")
    about["seeds"] = repr(done)
    save_file(out, str(HERE / f"{case}.safetensors"), about)


def steady(choice, again, kept) -> bool:
    """Whether pixels off by a millionth give the same choice. VisPruner deals its list into two hands 56 times by the
    order of likenesses, so that two of them a rounding error apart change all that follows."""
    for shift in (1, 2, 3):
        kept.clear()
        again(shift)
        if not bool((kept[0] == choice).all()):
            return False
    return True


def watch_ties():
    """How clear every top-k of the run was, relative to its largest score."""
    import torch

    margins = []

    def watched(score, k, *args, _real=torch.topk, **kwargs):
        if k < score.shape[-1] and kwargs.get("largest", True):
            ordered = score.detach().float().sort(dim=-1, descending=True).values
            gap = (ordered[..., k - 1] - ordered[..., k]) / ordered.abs().amax(-1).clamp(min=1e-30)
            margins.append(float(gap.min()))
        return _real(score, k, *args, **kwargs)

    torch.topk = torch.Tensor.topk = watched
    return margins


def whole_model(method, options, state, seed, shift=0):
    import layout
    import load
    import torch
    import toy

    if method == "sparsevlm":
        # Its clustering breaks ties by random noise of 1e-6: without it, the result is a result.
        torch.rand = lambda *shape, **_: torch.zeros(*shape)
    config = layout.original_config(toy.CONFIG, "")
    fork = load.build(method, options, config, ((layout.to_original(n), w) for n, w in state.items()), toy.VISION)
    ids = [load.IMAGE if i == toy.IMAGE_ID else i for i in toy.prompt(seed)]
    fork.prepare(toy.START)
    # Without a cache the fork prunes again for every new token; what it says after the first is then another matter.
    pixels = toy.pixels(seed) + (toy.draw(f"shift{shift}", seed, 1, 3, 336, 336) * 1e-6 if shift else 0)
    answer, logits = fork.generate(ids, pixels, 6 if options.get("cache", True) else 1)
    return logits, answer


def decoder_step(method, options, state, seed):
    """iLLaVA lives in a Qwen2: with its biases at zero that is the LLaMA of our toy, so the same weights serve.

    Asking for attentions gives it the causal mask that its sdpa path forgets at the layer before the cut.
    """
    import torch
    import toy
    from transformers import CLIPVisionConfig, CLIPVisionModel, Qwen2Config, Qwen2Model

    torch.Tensor.get_device = lambda self: self.device  # upstream calls .to(get_device()), which is -1 on a CPU
    torch.Tensor.half = lambda self: self  # and casts what it merged to fp16, whatever the model's dtype

    def part(prefix):
        return {name[len(prefix) :]: weight for name, weight in state.items() if name.startswith(prefix)}

    tower = CLIPVisionModel(CLIPVisionConfig(**toy.VISION)).eval()
    tower.load_state_dict(part("vision_tower."), strict=False)
    model = Qwen2Model(
        Qwen2Config(**{k: v for k, v in toy.TEXT.items() if k != "model_type"}, rope_theta=10000.0)
    ).eval()
    unset = model.load_state_dict(part("language_model.model."), strict=False)
    assert not unset.unexpected_keys, unset
    assert all(name.endswith(".bias") for name in unset.missing_keys), unset
    for name, weight in model.named_parameters():
        if name.endswith(".bias"):
            weight.data.zero_()
    one, two = (part(f"multi_modal_projector.linear_{i}.") for i in (1, 2))
    with torch.inference_mode():
        picture = tower(toy.pixels(seed), output_hidden_states=True).hidden_states[-2][:, 1:]
        picture = torch.nn.functional.gelu(picture @ one["weight"].T + one["bias"]) @ two["weight"].T + two["bias"]
        ids = toy.prompt(seed)
        words = model.embed_tokens(torch.tensor([[i for i in ids if i != toy.IMAGE_ID]]))
        out = model.forward_illava(
            inputs_embeds=torch.cat([words[:, : toy.START], picture, words[:, toy.START :]], dim=1),
            use_cache=True,
            output_attentions=True,
            illava_config={
                "illava_llm_k": [options["layer"]],
                "illava_llm_r": options["keep"],
                "illava_llm_image_token_start_index": toy.START,
                "illava_track_llm_source": False,
            },
            image_token_length=toy.TOKENS,
        )
    return out.last_hidden_state[0, -1] @ state["language_model.lm_head.weight"].T, []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(CASES))
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.here:
        for name in args.names:
            record(name)
        return 0
    sys.path.insert(0, str(ROOT))
    from eval.forks.setup import environment

    for name in args.names:
        python, path = environment(CASES[name][0])
        command = [str(python), str(HERE / "record.py"), "--here", name]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": path})
    return 0


if __name__ == "__main__":
    sys.exit(main())
