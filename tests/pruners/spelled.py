"""A small LLaVA with every layer spelled out, to hold methods against: none of the mechanism is used here.

Attention is written out, every layer runs on the shortened sequence, batch of one. Fixtures `llava` and `prompt`, in
conftest.py, are the model and one prompt: START tokens of text, a picture of TOKENS, 7 tokens of text.
"""

import torch

START, TOKENS = 5, 36
LAYERS = 8


class Decoder:
    """A LLaMA decoder, spelled out. Images stand at START; text follows them."""

    def __init__(self, model, prompt):
        self.model = model
        self.text = model.model.language_model
        seen = []
        handle = self.text.layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        with torch.no_grad():
            model(**prompt)
        handle.remove()
        self.embedded = seen[0][0]

    def rotate(self, x, positions):
        """[heads, n, d] queries or keys, turned by the rotary embedding of their positions."""
        cos, sin = self.text.rotary_emb(x, positions[None])
        half = x.shape[-1] // 2
        return x * cos[0] + torch.cat([-x[..., half:], x[..., :half]], -1) * sin[0]

    def attention(self, i, h, positions, rotary=True):
        """[heads, n, n] of layer i on its input, and the heads' values."""
        layer = self.text.layers[i]
        attn, x = layer.self_attn, layer.input_layernorm(h)
        q, k, v = (
            project(x).view(len(h), -1, attn.head_dim).transpose(0, 1)
            for project in (attn.q_proj, attn.k_proj, attn.v_proj)
        )
        if rotary:
            q, k = self.rotate(q, positions), self.rotate(k, positions)
        k, v = (x.repeat_interleave(len(q) // len(x), 0) for x in (k, v))
        causal = torch.full((len(h), len(h)), -torch.inf).triu(1)
        return (q @ k.transpose(1, 2) * attn.head_dim**-0.5 + causal).softmax(-1), v

    def layer(self, i, h, positions):
        """Output and attention of layer i."""
        layer = self.text.layers[i]
        weights, v = self.attention(i, h, positions)
        h = h + layer.self_attn.o_proj((weights @ v).transpose(0, 1).flatten(1))
        return h + layer.mlp(layer.post_attention_layernorm(h)), weights

    def logits(self, h):
        """Of the next token, from the states behind the last layer."""
        return self.model.lm_head(self.text.norm(h[-1]))


def native(llava, prompt, pruner):
    """What the mechanism makes of the prompt: its trace, and the logits of the next token."""
    with torch.no_grad(), pruner(llava) as trace:
        logits = llava(**prompt).logits[0, -1]
    return trace, logits


def check(llava, prompt, pruner, kept, logits):
    """The mechanism keeps these tokens at each cut and comes to these logits; returns its trace."""
    trace, ours = native(llava, prompt, pruner)
    assert [stage[0].tolist() for stage in trace.kept] == [sorted(stage) for stage in kept]
    torch.testing.assert_close(ours, logits, rtol=1e-4, atol=1e-4)
    return trace


def without(h, keep, tokens=TOKENS):
    """Rows of the sequence when only `keep` of the image's tokens stay."""
    keep = torch.as_tensor(keep)
    return torch.cat([torch.arange(START), START + keep, torch.arange(START + tokens, len(h))])


class Tower:
    """A CLIP tower, spelled out, up to the layer whose output LLaVA projects."""

    def __init__(self, model, pixels):
        self.layers = model.model.vision_tower.encoder.layers[: model.config.vision_feature_layer + 1]
        seen = []
        first = model.model.vision_tower.encoder.layers[0]
        handle = first.register_forward_pre_hook(lambda _, args, kwargs: seen.append(args[0]), with_kwargs=True)
        model.model.vision_tower(pixels)
        handle.remove()
        self.embedded = seen[0][0]

    def middle(self, layer, h):
        """After attention and residual, before the MLP; the attention; the keys."""
        attn, x = layer.self_attn, layer.layer_norm1(h)
        q, k, v = (
            project(x).view(len(h), -1, attn.head_dim).transpose(0, 1)
            for project in (attn.q_proj, attn.k_proj, attn.v_proj)
        )
        weights = (q @ k.transpose(1, 2) * attn.head_dim**-0.5).softmax(-1)
        return h + attn.out_proj((weights @ v).transpose(0, 1).flatten(1)), weights, k

    def run(self):
        """The output of the last layer, its attention, and its keys."""
        h = self.embedded
        for layer in self.layers:
            m, weights, keys = self.middle(layer, h)
            h = m + layer.mlp(layer.layer_norm2(m))
        return h, weights, keys


def after(llava, prompt, visual, positions=None):
    """Next-token logits with `visual` in the place of the image."""
    run = Decoder(llava, prompt)
    h = torch.cat([run.embedded[:START], llava.model.multi_modal_projector(visual), run.embedded[START + TOKENS :]])
    positions = torch.arange(len(h)) if positions is None else positions
    for i in range(LAYERS):
        h, _ = run.layer(i, h, positions)
    return run.logits(h)
