"""A stand-in for the language model of `smol`, which comes in a package that need not be installed."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tiny import tokenizer
from tiny.smol import model as smol


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """A random language model of two layers with the tokens that `smol` needs, in place of the real one."""
    known = tokenizer.build()
    known.add_special_tokens({"additional_special_tokens": [smol.IMAGE, smol.END, "<|im_start|>"]})
    ends = {"bos_token": "<|im_start|>", "eos_token": smol.END, "pad_token": smol.END, "unk_token": "<unk>"}
    tokens = PreTrainedTokenizerFast(
        tokenizer_object=known.backend_tokenizer, **ends, chat_template=smol.TEMPLATE, padding_side="left"
    )

    def decoder():
        torch.manual_seed(3)
        shape = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "max_position_embeddings": 2048}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
        return LlamaForCausalLM(
            LlamaConfig(vocab_size=len(tokens), **shape, **heads, tie_word_embeddings=True, attn_implementation="sdpa")
        ).eval()

    monkeypatch.setattr(smol, "language_model", decoder)
    monkeypatch.setattr(smol, "tokens", lambda: tokens)
    package = tmp_path / "package"
    package.mkdir()
    (package / smol.GGUF).write_bytes(b"a language model")
    monkeypatch.setattr(smol, "package", lambda: package)
