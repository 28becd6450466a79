"""Build a fork's own model class on any device and dtype. Runs in the fork's environment, next to its code.

The forks' loaders ask for CUDA, fp16 and fixed layer counts; the classes themselves do not, so they are built directly.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import layout
import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[2]
IMAGE = -200  # what stands for an image in the original's token ids
CLASSES = {
    "fastv": ("llava.model.language_model.llava_llama", "LlavaLlamaForCausalLM"),
    "himap": ("llava.model.language_model.llava_llama", "LlavaLlamaForCausalLM"),
    "tokencarve": ("llava.model.language_model.llava_llama", "LlavaLlamaForCausalLM"),
    "vispruner": ("llava.model.language_model.llava_llama", "LlavaLlamaForCausalLM"),
    "pyramiddrop": ("llava.model.language_model.llava_llama_pdrop", "LlavaLlamaForCausalLM_PDrop"),
    "sparsevlm": ("llava.model.language_model.sparse_llava_llama", "LlavaLlamaDynamicForCausalLM"),
}


def shims(method: str, device: torch.device) -> None:
    """What keeps a fork from running here and no inserted line can help: CUDA calls, files meant for site-packages."""
    if method == "tokencarve":
        # Two modules that upstream copies over transformers' own: loaded under those names instead.
        importlib.import_module("transformers.models.llama")
        for part in ("configuration_llama", "modeling_llama"):
            name = f"transformers.models.llama.{part}"
            spec = importlib.util.spec_from_file_location(
                name, ROOT / "third_party/TokenCarve/TokenCarve" / f"{part}.py"
            )
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module
            spec.loader.exec_module(module)
            package = sys.modules["transformers.models.llama"]
            setattr(package, part, module)
            for public in ("LlamaConfig", "LlamaModel", "LlamaForCausalLM", "LlamaPreTrainedModel"):
                if hasattr(module, public):
                    setattr(package, public, getattr(module, public))
                    setattr(sys.modules["transformers"], public, getattr(module, public))
    if method == "sparsevlm" and device.type != "cuda":

        class Event:
            def __init__(self, **_: Any) -> None: ...

            def record(self) -> None: ...

            def elapsed_time(self, _: Any) -> float:
                return 0.0

        torch.cuda.Event = Event  # type: ignore[assignment, misc]
        torch.cuda.synchronize = lambda *_: None  # type: ignore[assignment]
        torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[assignment, method-assign]


def plain_attention(self: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
    """Stands in for flash-attn's kernel: PyTorch's own, on [batch, length, heads, channels]."""
    q, k, v = (t.transpose(1, 2) for t in (query, key, value))
    return nn.functional.scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] > 1).transpose(1, 2)


def model_class(method: str) -> Any:
    """The class in a fork's own code."""
    module, name = CLASSES[method]
    return getattr(importlib.import_module(module), name)


@contextlib.contextmanager
def building(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """New weights lie on the device in the dtype, and nobody spends time on initial values."""
    from transformers.modeling_utils import no_init_weights

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    resets = {cls: cls.reset_parameters for cls in (nn.Linear, nn.Embedding, nn.LayerNorm, nn.Conv2d)}
    try:
        for cls in resets:
            cls.reset_parameters = lambda self: None  # type: ignore[method-assign, assignment]
        with torch.device(device), no_init_weights(_enable=True):
            yield
    finally:
        torch.set_default_dtype(before)
        for cls, reset in resets.items():
            cls.reset_parameters = reset  # type: ignore[method-assign]


def fill(places: dict[str, Tensor], state: Iterable[tuple[str, Tensor]], what: str) -> None:
    """Copy weights in one by one (a 7B model is never held twice) and refuse unknown or missing ones."""
    missing = set(places)
    with torch.no_grad():
        for name, weight in state:
            if name.endswith(("rotary_emb.inv_freq", "position_ids")):
                continue
            if name not in places:
                raise ValueError(f"{what}: weight '{name}' has no place in this fork's model")
            if places[name].shape != weight.shape:
                raise ValueError(
                    f"{what}: '{name}' is {tuple(weight.shape)}, not {tuple(places[name].shape)} as the model expects"
                )
            places[name].copy_(weight)
            missing.discard(name)
    if missing:
        raise ValueError(f"{what}: {len(missing)} weights are missing, among them '{sorted(missing)[0]}'")


def draw(places: dict[str, Tensor]) -> None:
    """Random weights of the usual size."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in places.items():
            if "norm" in name:
                weight.fill_(float(name.endswith("weight")))
            else:
                weight.normal_(0, 0.02)


class ForkModel:
    """One fork's model, ready to answer."""

    package = "llava"  # the authors' own

    def __init__(self, method: str, model: Any, options: dict[str, Any], tokenizer: Any = None) -> None:
        self.method, self.model, self.options, self.tokenizer = method, model, options, tokenizer
        self.device = next(model.parameters()).device
        self.dtype = next(model.parameters()).dtype

    @property
    def tower(self) -> Any:
        """The vision tower of pictures."""
        return self.model.get_vision_tower()

    @property
    def tokens(self) -> int:
        """Visual tokens of one picture."""
        return int(self.tower.num_patches)

    def ids(self, prompt: str) -> list[int]:
        """A prompt by the original's own tokenizer, IMAGE for every <image>."""
        helpers = importlib.import_module(f"{self.package}.mm_utils")
        return list(helpers.tokenizer_image_token(prompt, self.tokenizer, IMAGE))

    def pixels(self, image: Any) -> Tensor:
        """What the model is given for a picture, by the original's own processor."""
        helpers = importlib.import_module(f"{self.package}.mm_utils")
        processed: Tensor = helpers.process_images([image], self.tower.image_processor, self.model.config)
        return processed

    def shown(self, pixels: Tensor) -> Any:
        """Pixels as the model's `images`."""
        return pixels.to(self.device, self.dtype)

    def prepare(
        self, start: int | None, prune: bool = True, tokens: int | None = None, limit: int | None = None
    ) -> None:
        """Tell the fork where this prompt's image begins (None: no image), of how many tokens, and what to keep.

        limit: the most that FastV may keep, whose release lets its budget shrink.
        """
        core, config, options = self.model.model, self.model.config, self.options
        on = prune and start is not None
        if self.method == "fastv":
            config.use_fast_v, config.fast_v_inplace = on, options["inplace"]
            config.fast_v_sys_length, config.fast_v_image_token_length = start, tokens or self.tokens
            config.fast_v_attention_rank = options["keep"] if limit is None else min(options["keep"], limit)
            config.fast_v_agg_layer = options["layer"]
            core.reset_fastv()
        elif self.method == "himap":
            config.use_hmap_v, config.hmap_v_sys_length, config.hmap_v_img_length = on, start, self.tokens
            config.hmap_v_attn_txt_layer, config.hmap_v_attn_img_layer = options["layers"]
            config.hmap_v_attn_txt_rank, config.hmap_v_attn_img_rank = options["keeps"]
            core.reset_hmapv()
        elif self.method == "pyramiddrop":
            core.layer_list = list(options["layers"]) if on else []
            core.image_token_ratio_list = [1.0, *options["ratios"]]
        elif self.method == "sparsevlm" and "keeps" in options:
            # Its schedule stands in tables of a module; a budget of our own goes in next to the published ones.
            score = importlib.import_module("llava.model.language_model.score")
            core.pruning_loc = list(options["layers"]) if on else []
            score.layer_dict.clear()
            score.layer_dict.update({layer: stage for stage, layer in enumerate(options["layers"])})
            score.sparse_token_dict[options["keep"]] = list(options["keeps"])
        elif self.method == "tokencarve":
            config.use_token_carve, config.token_carve_work_layer = on, 2
            config.token_carve_sys_length, config.token_carve_image_token_length = start, self.tokens
            config.token_carve_image_token_rank = int(options["keep"] / 2 * 3)
            config.token_carve_merge_token_nums = int(options["keep"] / 2)
            config.token_carve_SV_AV_mode, config.token_carve_SV_AV_weight = options["mode"], options["weight"]
            core.reset_token_carve_parameter()
            for layer in core.layers:
                layer.self_attn.keep_index_map = None
        elif self.method == "vispruner":
            self.model.visual_token_num = options["keep"] if on else self.tokens
            self.model.important_ratio = options["important_ratio"]

    def generate(self, ids: list[int], pixels: Tensor | None, new_tokens: int) -> tuple[list[int], Tensor]:
        """(new token ids, logits of the prompt's last token), greedily. `ids` holds IMAGE where the picture goes."""
        seen: list[Tensor] = []
        hook = self.model.lm_head.register_forward_hook(lambda _, __, out: seen.append(out[0, -1].float().cpu()))
        extra: dict[str, Any] = {}
        if self.method == "sparsevlm":
            extra = {"retained_tokens": self.options["keep"]}
        elif self.method == "tokencarve":
            extra = {"output_attentions": True}
        elif self.method in ("fastv", "himap"):
            extra = {"output_attentions": pixels is not None}
        prompt = torch.tensor([ids], device=self.device)
        try:
            with torch.inference_mode():
                out = self.model.generate(
                    prompt,
                    images=None if pixels is None else self.shown(pixels),
                    do_sample=False,
                    max_new_tokens=new_tokens,
                    use_cache=self.options.get("cache", True),
                    **extra,
                )
        finally:
            hook.remove()
        tokens = (out[0] if isinstance(out, tuple) else out)[0].tolist()
        # One forward pass, one new token; in front of them stands the prompt (LLaVA 1.1) or a BOS (transformers 4.37).
        return tokens[len(tokens) - len(seen) :], seen[0]


def build(
    method: str,
    options: dict[str, Any],
    config: dict[str, Any],
    state: Iterable[tuple[str, Tensor]] | None,
    vision: dict[str, Any] | None = None,
    normal: dict[str, Any] | None = None,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> ForkModel:
    """A fork from a configuration in the original layout and weights by original names; random if there are none.

    vision: configuration of a vision tower whose weights are among `state`; None: the tower has a folder of its own.
    """
    where = torch.device(device)
    shims(method, where)
    cls = model_class(method)
    base = 10000.0
    made = cls.config_class(**config)
    made.pretraining_tp = 1
    if config.get("rope_theta", base) != base and not hasattr(cls.config_class(), "rope_theta"):
        raise ValueError(
            f"the fork of {method} rotates with base {base:g} only; this checkpoint needs {config['rope_theta']:g}"
        )
    extra = (
        {"visual_token_num": options["keep"], "important_ratio": options["important_ratio"]}
        if method == "vispruner"
        else {}
    )
    folder = contextlib.ExitStack()
    if vision is not None:
        # The towers read their configuration from a folder, and VisPruner's wants "clip" in its name.
        made.mm_vision_tower = folder.enter_context(tempfile.TemporaryDirectory(prefix="clip-"))
        (Path(made.mm_vision_tower) / "config.json").write_text(
            json.dumps({**vision, "model_type": "clip_vision_model"})
        )
    with folder:
        with building(where, dtype):
            model = cls(made, **extra)
        tower = model.get_vision_tower()
        if vision is None:
            tower.load_model()
        else:
            tower_of(tower, vision, normal or {}, where, dtype)
    tower.to(where, dtype)
    inside = {name: weight for name, weight in model.named_parameters() if vision or not name.startswith(layout.TOWER)}
    if state is None:
        draw(inside)
    else:
        outside = () if vision else (layout.TOWER,)
        fill(inside, (pair for pair in state if not pair[0].startswith(outside)), f"the fork of {method}")
    model.eval().requires_grad_(False)
    if method == "sparsevlm":
        flash = importlib.import_module(
            "llava.model.language_model.modelling_sparse_llama"
        ).LlamaDynamicvitFlashAttention2
        flash._flash_attention_forward = plain_attention
        for index, layer in enumerate(model.model.layers):
            with building(torch.device("meta"), dtype):
                module = flash(config=model.config, layer_idx=index)
            for name, child in layer.self_attn.named_children():
                setattr(module, name, child)  # the same weights, not a second copy
            layer.flash_attn = module.eval()
    return ForkModel(method, model, options)


def tower_of(
    tower: Any, vision: dict[str, Any], normal: dict[str, Any], device: torch.device, dtype: torch.dtype
) -> None:
    """Put an empty CLIP and its image processor into a LLaVA vision tower."""
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

    known = CLIPVisionConfig().to_dict()
    with building(device, dtype):
        tower.vision_tower = CLIPVisionModel(CLIPVisionConfig(**{k: v for k, v in vision.items() if k in known}))
    side = int(vision["image_size"])
    tower.image_processor = CLIPImageProcessor(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_mean=list(normal.get("image_mean", layout.CLIP_MEAN)),
        image_std=list(normal.get("image_std", layout.CLIP_STD)),
    )
    tower.is_loaded = True
