#!/usr/bin/env python3
"""Random small models of the form `nemotron-nas`, in which all kinds of neighbouring subblocks, of first and of last
blocks are, and tokens for them, by numpy alone.

    irregular_models.py FOLDER      # writes FOLDER/model-*/ and FOLDER/tokens.safetensors, and
                                    # FOLDER/long/ with FOLDER/long.safetensors: beyond Llama 3.1's 8192 positions
"""
import json
import pathlib
import struct
import sys

import numpy as np

HIDDEN, HEADS, HEAD_DIM, VOCAB = 64, 4, 16, 96
ATTENTION = [2, 1, "linear", "no_op"]  # KV heads, or a word
FFN = [96, 24, "linear", "no_op"]  # widths, or a word


def write_safetensors(path, tensors):
    types = {np.dtype("<f4"): "F32", np.dtype("<i4"): "I32"}
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, t in tensors.items():
        header[name] = {"dtype": types[t.dtype], "shape": list(t.shape), "data_offsets": [at, at + t.nbytes]}
        at += t.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(t.tobytes() for t in tensors.values()))


def attention_entry(kind):
    word = isinstance(kind, str)
    return {
        "no_op": kind == "no_op",
        "replace_with_linear": kind == "linear",
        "n_heads_in_group": None if word else HEADS // kind,
    }


def ffn_entry(kind):
    entry = {"no_op": kind == "no_op", "replace_with_linear": kind == "linear", "ffn_mult": None}
    if not isinstance(kind, str):
        del entry["ffn_mult"]
        entry["intermediate_size"] = kind
    return entry


def subblock_tensors(layer, attention, ffn, matrix):
    prefix, tensors = f"model.layers.{layer}.", {}
    if attention == "linear":
        tensors["self_attn.linear_attn"] = matrix(HIDDEN, HIDDEN)
    elif attention != "no_op":
        kv = attention * HEAD_DIM
        tensors["self_attn.q_proj"], tensors["self_attn.k_proj"] = matrix(HIDDEN, HIDDEN), matrix(kv, HIDDEN)
        tensors["self_attn.v_proj"], tensors["self_attn.o_proj"] = matrix(kv, HIDDEN), matrix(HIDDEN, HIDDEN)
    if ffn == "linear":
        tensors["mlp.linear_mlp"] = matrix(HIDDEN, HIDDEN)
    elif ffn != "no_op":
        tensors["mlp.gate_proj"], tensors["mlp.up_proj"] = matrix(ffn, HIDDEN), matrix(ffn, HIDDEN)
        tensors["mlp.down_proj"] = matrix(HIDDEN, ffn)
    if attention != "no_op":
        tensors["input_layernorm"] = 1 + 0.1 * matrix(1, HIDDEN)[0]
    if ffn != "no_op":
        tensors["post_attention_layernorm"] = 1 + 0.1 * matrix(1, HIDDEN)[0]
    return {f"{prefix}{name}.weight": t for name, t in tensors.items()}


def write_model(folder, blocks, seed, original=32, theta=10000.0):
    random = np.random.default_rng(seed)
    matrix = lambda rows, cols: (random.standard_normal((rows, cols)) / np.sqrt(cols)).astype("<f4")
    folder.mkdir(parents=True)
    tied, scaled = seed % 3 == 0, seed % 2 == 0
    llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    config = {
        "architectures": ["DeciLMForCausalLM"],
        "model_type": "nemotron-nas",
        "hidden_size": HIDDEN,
        "num_attention_heads": HEADS,
        "num_hidden_layers": len(blocks),
        "vocab_size": VOCAB,
        "max_position_embeddings": 16 * original,
        "rms_norm_eps": 1e-5,
        "rope_theta": theta,
        "rope_scaling": {**llama3, "original_max_position_embeddings": original} if scaled else None,
        "tie_word_embeddings": tied,
        "hidden_act": "silu",
        "torch_dtype": "float32",
        "block_configs": [{"attention": attention_entry(a), "ffn": ffn_entry(f)} for a, f in blocks],
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    tensors = {"model.embed_tokens.weight": matrix(VOCAB, HIDDEN), "model.norm.weight": 1 + 0.1 * matrix(1, HIDDEN)[0]}
    for layer, (attention, ffn) in enumerate(blocks):
        tensors.update(subblock_tensors(layer, attention, ffn, matrix))
    if not tied:
        tensors["lm_head.weight"] = matrix(VOCAB, HIDDEN)
    write_safetensors(folder / "model.safetensors", tensors)


def architectures():
    random = np.random.default_rng(1)
    some = lambda kinds: kinds[random.integers(len(kinds))]
    block = lambda: (some(ATTENTION), some(FFN))
    for a in ATTENTION:
        for f in FFN:
            for following in ATTENTION:
                yield [block(), (a, f), (following, some(FFN)), block()]
            yield [(a, f), block(), block()]
            yield [block(), block(), (a, f)]


def main():
    folder = pathlib.Path(sys.argv[1])
    for i, blocks in enumerate(architectures()):
        if all(a in ("no_op", "linear") for a, _ in blocks):
            blocks.append((2, 96))  # the number of heads has to be seen
        write_model(folder / f"model-{i:03}", blocks, i)
    write_model(folder / "long", [(2, 96), ("linear", 24), ("no_op", "linear"), (1, 256)], 2, 8192, 500000.0)
    for name, shape in {"tokens": (2, 80), "long": (1, 8448)}.items():
        ids = np.random.default_rng(2).integers(0, VOCAB, shape).astype("<i4")
        write_safetensors(folder / f"{name}.safetensors", {"input_ids": ids})


if __name__ == "__main__":
    main()
