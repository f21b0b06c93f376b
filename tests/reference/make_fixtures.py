#!/usr/bin/env python3
"""Builds small random models in transformers, one for each form that Tangram reads, and what they make of random ids.

    make_fixtures.py ../data/reference      # needs torch and transformers

Each folder has a model as transformers saves it, and reference.safetensors with input_ids (S, T) i32 and logits
(S T, vocabulary) f32. tests/blocks/test_reference.cpp reads them without Python.
"""
import json
import pathlib
import shutil
import sys

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

CODE = pathlib.Path(__file__).resolve().parents[2] / "blocks" / "huggingface"
VOCAB, HEAD_DIM = 61, 8
BASE = dict(vocab_size=VOCAB, num_hidden_layers=2, intermediate_size=40, max_position_embeddings=256, rms_norm_eps=1e-5,
            rope_theta=10000.0, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2)  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}


def heads(count, kv):
    return {"num_attention_heads": count, "num_key_value_heads": kv, "hidden_size": count * HEAD_DIM}


def scaled(factor):
    # With so low a base the four frequencies of a head lie on all parts of the scaling: kept, in between, stretched.
    return {"rope_theta": 100.0, "rope_scaling": {**LLAMA3, "factor": factor}}


def forms():
    """Name, length of its sequences and config."""
    for group in range(1, 9):
        kv = 2 if group < 5 else 1
        yield f"gqa_group_{group}", 12, {**BASE, **heads(group * kv, kv)}
    yield "llama_2", 24, {**BASE, **heads(4, 4)}
    yield "llama_3", 24, {**BASE, **heads(4, 1), "rope_theta": 500000.0}
    yield "llama_3_1", 160, {**BASE, **heads(4, 2), **scaled(8.0)}
    yield "llama_3_2_tied", 160, {**BASE, **heads(4, 1), **scaled(32.0), "tie_word_embeddings": True}
    yield "wide_heads", 24, {**BASE, **heads(2, 1), "hidden_size": 24, "head_dim": 16}


def nemotron(folder):
    """A folder with all kinds of blocks, whose class is that of blocks/huggingface."""
    attention = lambda group=None, **kind: {"n_heads_in_group": group, "no_op": False, "replace_with_linear": False, **kind}
    ffn = lambda **kind: {"no_op": False, "replace_with_linear": False, **kind}
    blocks = [(attention(2), ffn(ffn_mult=5.25)), (attention(no_op=True), ffn(replace_with_linear=True)),
              (attention(4), ffn(no_op=True)), (attention(replace_with_linear=True), ffn(intermediate_size=24)),
              (attention(1, window_length=5), ffn(intermediate_size=7)), (attention(no_op=True), ffn(no_op=True))]  # fmt: skip
    config = {**BASE, **heads(4, 4), **scaled(8.0), "model_type": "nemotron-nas", "num_hidden_layers": len(blocks),
              "architectures": ["DeciLMForCausalLM"], "intermediate_size": None, "num_key_value_heads": None,
              "block_configs": [{"attention": a, "ffn": f} for a, f in blocks],
              "auto_map": {"AutoConfig": "configuration_decilm.DeciLMConfig",
                           "AutoModelForCausalLM": "modeling_decilm.DeciLMForCausalLM"}}  # fmt: skip
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    for file in CODE.glob("*.py"):
        shutil.copy(file, folder)
    read = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True)
    return AutoModelForCausalLM.from_config(read, trust_remote_code=True)


def randomise(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if weight.dim() == 1:
            weight.data = 1 + 0.1 * noise
        else:  # attention that chooses: scores of a few
            weight.data = noise * weight.shape[-1] ** -0.5 * (1.7 if "q_proj" in name or "k_proj" in name else 1)
    model.tie_weights()
    return model.float().eval()


def store(folder, model, length, seed):
    model.config._name_or_path = ""
    model.save_pretrained(folder)
    for extra in ["generation_config.json", *(file.name for file in folder.glob("*.py"))]:
        (folder / extra).unlink(missing_ok=True)
    ids = torch.randint(VOCAB, (2, length), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        logits = model(ids).logits.flatten(0, 1)
    save_file({"input_ids": ids.int(), "logits": logits.contiguous()}, folder / "reference.safetensors")
    print(f"{folder.name}: {sum(p.numel() for p in model.parameters())} parameters, logits up to {logits.abs().max():.1f}")


def main():
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    root = pathlib.Path(sys.argv[1])
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    for seed, (name, length, config) in enumerate(forms()):
        store(root / name, randomise(LlamaForCausalLM(LlamaConfig(**config)), seed), length, seed)
    store(root / "nemotron", randomise(nemotron(root / "nemotron"), 99), 160, 99)


if __name__ == "__main__":
    main()
