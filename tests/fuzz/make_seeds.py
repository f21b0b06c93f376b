#!/usr/bin/env python3
"""Writes tests/fuzz/seeds/<target>/, from which the fuzzers start: small files of every form that a parser knows.

    tests/fuzz/make_seeds.py TANGRAM      # the program, which makes the score table

The same call writes the same bytes.
"""

import json
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[2]
SEEDS = pathlib.Path(__file__).parent / "seeds"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")


def put(target, name, content):
    path = SEEDS / target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def safetensors(tensors, metadata=None):
    """tensors: name -> (dtype, shape, bytes)."""
    header, data = {"__metadata__": metadata} if metadata else {}, b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)
    return struct.pack("<Q", len(text)) + text + data


def i32(*values):
    return struct.pack(f"<{len(values)}i", *values)


def f32(*values):
    return struct.pack(f"<{len(values)}f", *values)


def make_safetensors():
    put("safetensors", "one", safetensors({"a": ("F32", [2, 3], f32(*range(6)))}))
    put("safetensors", "kinds", safetensors({
        "f16": ("F16", [4], b"\0\1" * 4), "bf16": ("BF16", [2, 2], b"\x80\x3f" * 4), "i32": ("I32", [1, 2], i32(1, -1)),
        "i64": ("I64", [1], bytes(8)), "u8": ("U8", [3], b"abc"), "scalar": ("F32", [], f32(1)),
        "empty": ("F32", [0, 5], b"")}, {"format": "pt"}))


def make_token_shards():
    tensors = {"tokens": ("I32", [2, 4], i32(*range(8))), "first_segment": ("I32", [3], i32(0, 2, 3)),
               "segment_length": ("I32", [3], i32(1, 3, 4)), "segment_next": ("I32", [3], i32(1, 7, -1))}
    origin = {"text_digest": "text", "tokenizer_digest": "tokenizer"}
    put("token_shard", "plain", safetensors(tensors, origin))
    put("token_shard", "weights", safetensors({**tensors, "weights": ("F32", [2, 4], f32(*[1] * 8))}, origin))


def gguf_string(text):
    return struct.pack("<Q", len(text)) + text.encode()


def make_gguf():
    keys = [("general.architecture", 8, gguf_string("llama")), ("u8", 0, b"\1"), ("i16", 3, b"\1\0"), ("flag", 7, b"\1"),
            ("f64", 12, struct.pack("<d", 0.5)), ("general.alignment", 4, struct.pack("<I", 32)),
            ("texts", 9, struct.pack("<IQ", 8, 2) + gguf_string("a") + gguf_string("")),
            ("ints", 9, struct.pack("<IQ", 5, 2) + i32(1, 2)), ("floats", 9, struct.pack("<IQ", 6, 1) + f32(1))]
    tensors = [("a", [32, 2], 0, f32(*range(64))), ("b", [32], 8, bytes(34)), ("c", [4], 1, bytes(8)),
               ("d", [2, 2], 30, bytes(8))]
    for version in (2, 3):
        out = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys))
        for key, kind, value in keys:
            out += gguf_string(key) + struct.pack("<I", kind) + value
        data = b""
        for name, shape, kind, content in tensors:
            out += gguf_string(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
            out += struct.pack("<IQ", kind, len(data))
            data += content + bytes(-len(content) % 32)
        put("gguf", f"version-{version}", out + bytes(-len(out) % 32) + data)


def make_config_json():
    llama = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 128,
             "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 32,
             "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "max_position_embeddings": 256, "hidden_act": "silu",
             "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": [2, 3], "torch_dtype": "bfloat16"}
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 128}
    def block(attention, ffn):
        return {"attention": {"n_heads_in_group": None, "no_op": False, "replace_with_linear": False, **attention},
                "ffn": {"ffn_mult": None, "no_op": False, "replace_with_linear": False, **ffn}}
    blocks = [block({"n_heads_in_group": 2}, {"ffn_mult": 1.5}), block({"no_op": True}, {"replace_with_linear": True})]
    nas = {**llama, "model_type": "nemotron-nas", "architectures": ["DeciLMForCausalLM"], "block_configs": blocks,
           "num_key_value_heads": None, "intermediate_size": None}
    for name, config in {"llama": llama, "scaled": {**llama, "rope_scaling": scaling}, "nemotron-nas": nas}.items():
        put("config_json", name, json.dumps(config))


def make_tokenizers():
    def byte_level(pattern):
        return {"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "Ġ": 2, "ab": 3, "Ġab": 4, "Ċ": 5, "1": 6},
                          "merges": ["a b", "Ġ ab"], "ignore_merges": True},
                "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                    {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
                    {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}]},
                "decoder": {"type": "ByteLevel"},
                "added_tokens": [{"id": 7, "content": "<s>", "special": True, "normalized": False}],
                "post_processor": {"type": "TemplateProcessing", "single": [
                    {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                    "special_tokens": {"<s>": {"id": "<s>", "ids": [7], "tokens": ["<s>"]}}}}
    fallback = {"model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True,
                          "vocab": {"<unk>": 0, **{f"<0x{b:02X}>": b + 1 for b in range(256)}, "▁": 257, "a": 258,
                                    "▁a": 259}, "merges": ["▁ a"]},
                "normalizer": {"type": "Sequence", "normalizers": [
                    {"type": "Prepend", "prepend": "▁"},
                    {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
                "decoder": {"type": "Sequence", "decoders": [
                    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
                    {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}}
    metaspace = {"model": {"vocab": {"▁": 0, "a": 1, "▁a": 2}, "merges": [["▁", "a"]]},
                 "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}}
    def seed(tokenizer, text):
        return json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":")).encode() + b"\xff" + text
    put("tokenizer", "byte-level", seed(byte_level(LLAMA3), b"<s>ab ab\n\n  a1\n"))
    put("tokenizer", "pcre2", seed(byte_level(r"(?<=a)b|\p{L}{1,2}|[^\s\d]+|\s+"), b"abab aab\n"))
    put("tokenizer", "byte-fallback", seed(fallback, "a  a\né\xa0a 😀".encode() + b"\xf0\x9f"))
    put("tokenizer", "metaspace", seed(metaspace, b"a a"))


def make_yaml():
    for name in ("tiny", "stories260k"):
        put("config", name, (ROOT / "configs" / f"{name}.yaml").read_bytes())
    put("config", "other", 'teacher: m\ndata: {train: [a.jsonl], sequence_length: 64}\nsearch_space:\n'
        '  pairs: [{attention: no_op, ffn: 1.0}]\n  spans: [2, {layers: 3, ffn: 0.5}]\nscore: {tokens: 1e6}\n'
        'constraints: {memory: 60%, throughput: {chat: 1.5x}, forbid: [{layers: 0-1, ffn: no_op}]}\n'
        'scenarios: {chat: {input_tokens: 8, output_tokens: 8, concurrency: [1, 2]}}\n"quoted": "\\u00e9"\n')
    blocks = [("gqa_2", "ffn_256", ""), ("gqa_1", "linear", ""), ("no_op", "no_op", ", layers: 2"), ("linear", "ffn_128", ""),
              ("gqa_2", "ffn_256", ""), ("no_op", "ffn_256", ""), ("gqa_1", "ffn_64", "")]
    put("architecture", "student", "name: half-2\ntarget: half\nmethod: mip\nobjective: kl_divergence\nproven: true\n"
        "scenarios:\n  - chat\npredicted:\n  kl_divergence: 0.25\n  memory: 1000\nblocks:\n" + "".join(
            f"  - {{attention: {a}, ffn: {f}, trained: {'together' if more else 'apart'}{more}}}\n"
            for a, f, more in blocks))


def make_scores(tangram):
    lines = ["layer,attention,ffn,teacher,kl_divergence,weight_bytes,kv_cache_bytes,prefill_seconds,decode_seconds",
             "0,gqa_2,,1,0,10,20,0.02,0.11", "0,no_op,,0,0.01,5,0,0.01,0.07", "0,,ffn_64,1,0,30,0,0.06,0.3"]
    with tempfile.TemporaryDirectory() as folder:
        scores = pathlib.Path(folder) / "scores.csv"
        scores.write_text("\n".join(lines) + "\n")
        subprocess.run([tangram, "import-scores", scores, "--scenario", "chat=8/8/1", "--out", scores.with_suffix(".h5")],
                       check=True, stdout=subprocess.DEVNULL)
        put("scores", "imported", scores.with_suffix(".h5").read_bytes())


def main():
    shutil.rmtree(SEEDS, ignore_errors=True)
    make_safetensors()
    make_token_shards()
    make_gguf()
    make_config_json()
    make_tokenizers()
    make_yaml()
    make_scores(sys.argv[1])


main()
