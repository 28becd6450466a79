"""iLLaVA's own LLaVA-OneVision, small and random, pruned in tower and decoder in several arms. test_illava.py starts it
in the fork's environment; prints, for every arm, the new tokens, the logits behind the prompt and the tokens kept."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import types

sys.path.insert(0, sys.argv[1])

import packaging.version
import torch
import transformers.models.siglip.modeling_siglip  # noqa: F401 (looks for torchvision before there is a stand-in)
import video

import debias
from debias import Debias, Padding, Span, Trend

video.Absent.__call__ = lambda self, *_, **__: None  # a Resize is made, and never used
sys.modules["pkg_resources"] = types.SimpleNamespace(packaging=packaging)
missing = [name for name in ("torchvision", "ftfy", "cv2", "decord") if importlib.util.find_spec(name) is None]
sys.meta_path.insert(0, video.StandIns(missing))
torch.Tensor.get_device = lambda self: self.device  # upstream calls .to(get_device()), which is -1 on a CPU
torch.Tensor.half = lambda self: self  # and casts what it merged to fp16, whatever the model's dtype

qwen = importlib.import_module("llava.model.language_model.llava_qwen_training_free")
siglip = importlib.import_module("llava.model.multimodal_encoder.siglip_encoder")
projector = importlib.import_module("llava.model.multimodal_projector.builder").build_vision_projector

WIDTH = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4}
START, PIXELS = 5, 384  # 27 x 27 patches, of which 4 layers of the tower leave 19 x 19
SETTING = {
    "enable_illava_vit": True,
    "illava_vit_k": [3, 4, 5, 6],
    "illava_vit_r": 92,
    "illava_track_vit_source": False,
    "enable_illava_llm": True,
    "illava_llm_k": [3],
    "illava_llm_r": 0.5,
    "illava_llm_image_token_start_index": START,
    "illava_track_llm_source": False,
}
ARMS = {"plain": None, "none": Debias(), "both": Debias(Trend.exponential(0.01), Padding())}


def build():
    config = qwen.LlavaQwenTrainingFreeConfig(
        **WIDTH,
        num_hidden_layers=10,
        num_key_value_heads=4,
        vocab_size=200,
        max_position_embeddings=4096,
        mm_hidden_size=64,
        mm_projector_type="mlp2x_gelu",
        mm_patch_merge_type="flat",
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    config._attn_implementation = "sdpa"
    model = qwen.LlavaQwenTrainingFreeForCausalLM(config)
    tower = siglip.SigLipVisionTower("siglip", config, delay_load=True)
    tower.config = siglip.SigLipVisionConfig(**WIDTH, num_hidden_layers=8)
    tower.vision_tower, tower.is_loaded = siglip.SigLipVisionModel(tower.config), True
    tower.vision_tower.vision_model.head = torch.nn.Identity()
    model.model.vision_tower, model.model.mm_projector = tower, projector(config)
    for weight in model.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, 0, 1.5 * weight[0].numel() ** -0.5)
    return model.eval()


def answer(model, pixels):
    seen = []
    hook = model.lm_head.register_forward_hook(lambda _, __, out: seen.append(out[0, -1].tolist()))
    ids = torch.tensor([[1, 11, 12, 13, 14, -200, 15, 16, 17]])
    options = {"do_sample": False, "max_new_tokens": 3, "use_cache": True}
    with torch.inference_mode():
        made = model.generate(ids, images=pixels, illava_config=SETTING, **options)
    hook.remove()
    return {"ids": made[0].tolist(), "logits": seen[0]}


torch.manual_seed(0)
model, pixels = build(), torch.randn(1, 3, PIXELS, PIXELS)
found = {}
for arm, value in ARMS.items():
    if value is None:
        found[arm] = answer(model, pixels)
        continue
    with debias.using(value, [Span(START, (19, 19), size=(640, 360))]) as context:
        found[arm] = {**answer(model, pixels), "kept": context.after(0, 0).tolist()}
print(json.dumps(found))
