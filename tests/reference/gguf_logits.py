#!/usr/bin/env python3
"""Logits of a GGUF file in f64, by numpy alone: a reading of the format and of llama.cpp's architectures `deci` and
`llama` that shares nothing with Tangram.

    gguf_logits.py MODEL.gguf TOKENS.safetensors LOGITS [TOLERANCE]

TOKENS has input_ids (S, T) i32. LOGITS is what another program makes of them, (S T, V) f32: a safetensors file as
`tangram logits` writes it, or, as any other file, the bare numbers. Prints the largest difference over the largest
logit, and ends with 1 if it is above the tolerance (1e-5).
"""
import json
import os
import struct
import sys

import numpy as np

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
F32, F16, Q8_0, BF16 = 0, 1, 8, 30


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def scalar(self, code):
        size = struct.calcsize("<" + code)
        self.at += size
        return struct.unpack_from("<" + code, self.data, self.at - size)[0]

    def text(self):
        size = self.scalar("Q")
        self.at += size
        return self.data[self.at - size : self.at].decode()

    def value(self, kind):
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            element, count = self.scalar("I"), self.scalar("Q")
            return [self.value(element) for _ in range(count)]
        return self.scalar(SCALARS[kind])


def elements(data, kind, count):
    if kind == F32:
        return np.frombuffer(data, "<f4", count).astype(np.float64)
    if kind == F16:
        return np.frombuffer(data, "<f2", count).astype(np.float64)
    if kind == BF16:
        return (np.frombuffer(data, "<u2", count).astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    if kind == Q8_0:
        blocks = np.frombuffer(data, np.dtype([("d", "<f2"), ("q", "i1", 32)]), count // 32)
        return (blocks["d"].astype(np.float64)[:, None] * blocks["q"]).reshape(-1)
    raise SystemExit(f"type {kind} of a tensor")


def read_gguf(path):
    with open(path, "rb") as file:
        data = file.read()
    assert data[:4] == b"GGUF", "no GGUF file"
    r = Reader(data)
    r.at = 4
    assert r.scalar("I") == 3, "version"
    tensor_count, key_count = r.scalar("Q"), r.scalar("Q")
    keys = {}
    for _ in range(key_count):
        name = r.text()
        keys[name] = r.value(r.scalar("I"))
    infos = []
    for _ in range(tensor_count):
        name = r.text()
        shape = [r.scalar("Q") for _ in range(r.scalar("I"))]
        infos.append((name, shape, r.scalar("I"), r.scalar("Q")))
    alignment = keys.get("general.alignment", 32)
    start = -(-r.at // alignment) * alignment
    tensors = {}
    for name, shape, kind, offset in infos:
        count = int(np.prod(shape))
        tensors[name] = elements(memoryview(data)[start + offset :], kind, count).reshape(shape[::-1])
    return keys, tensors


def norm(x, weight, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def rotate(x, positions, theta, factors):
    """x (T, heads, D): neighbouring channels turn together (the type NORM)."""
    size = x.shape[-1]
    speed = theta ** (-np.arange(0, size, 2) / size) / factors
    angle = positions[:, None] * speed
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    even, odd = x[..., 0::2], x[..., 1::2]
    return np.stack([even * cos - odd * sin, even * sin + odd * cos], -1).reshape(x.shape)


class Model:
    def __init__(self, path):
        self.keys, self.t = read_gguf(path)
        self.arch = self.keys["general.architecture"]
        self.layers = self.key("block_count")
        self.eps = self.key("attention.layer_norm_rms_epsilon")

    def key(self, name, layer=None):
        value = self.keys[f"{self.arch}.{name}"]
        return value[layer] if isinstance(value, list) else value

    def attention(self, x, l):
        t = lambda name: self.t[f"blk.{l}.{name}.weight"]
        heads, kv_heads = self.key("attention.head_count", l), self.key("attention.head_count_kv", l)
        if heads == 0:
            return 0
        h = norm(x, t("attn_norm"), self.eps)
        if kv_heads == 0:
            return h @ t("attn_output").T
        size, length = self.key("attention.key_length"), len(x)
        positions = np.arange(length)
        factors = self.t.get("rope_freqs.weight", np.ones(size // 2))
        theta = self.key("rope.freq_base")
        q = rotate((h @ t("attn_q").T).reshape(length, heads, size), positions, theta, factors)
        k = rotate((h @ t("attn_k").T).reshape(length, kv_heads, size), positions, theta, factors)
        v = (h @ t("attn_v").T).reshape(length, kv_heads, size)
        k, v = (np.repeat(a, heads // kv_heads, 1) for a in (k, v))
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(size)
        scores = np.where(positions[:, None] >= positions, scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return np.einsum("hqk,khd->qhd", weights, v).reshape(length, -1) @ t("attn_output").T

    def ffn(self, x, l):
        if self.key("feed_forward_length", l) == 0:
            return 0
        t = lambda name: self.t[f"blk.{l}.{name}.weight"]
        bias = lambda name: self.t.get(f"blk.{l}.{name}.bias", 0)
        h = norm(x, t("ffn_norm"), self.eps)
        gate = h @ t("ffn_gate").T + bias("ffn_gate")
        up = h @ t("ffn_up").T + bias("ffn_up")
        return (gate / (1 + np.exp(-gate)) * up) @ t("ffn_down").T + bias("ffn_down")

    def logits(self, ids):
        x = self.t["token_embd.weight"][ids]
        for l in range(self.layers):
            # llama.cpp's deci graph skips the rest of a block without an FFN, the attention's result included.
            lone = self.key("feed_forward_length", l) == 0 and self.key("attention.head_count", l) != 0
            assert not lone, f"block {l}: attention without an FFN, which llama.cpp loses"
            x = x + self.attention(x, l)
            x = x + self.ffn(x, l)
        head = self.t.get("output.weight", self.t["token_embd.weight"])
        return norm(x, self.t["output_norm.weight"], self.eps) @ head.T


def read_safetensors(path):
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        data = file.read()
    types = {"F32": "<f4", "I32": "<i4"}
    return {
        name: np.frombuffer(data[t["data_offsets"][0] : t["data_offsets"][1]], types[t["dtype"]]).reshape(t["shape"])
        for name, t in header.items()
        if name != "__metadata__"
    }


def main():
    model, tokens = Model(sys.argv[1]), sys.argv[2]
    tolerance = float(sys.argv[4]) if len(sys.argv) > 4 else 1e-5
    assert model.key("attention.head_count", 0) != 0, "a first block without attention heads, which llama.cpp refuses"
    ids = np.atleast_2d(read_safetensors(tokens)["input_ids"])
    found = sys.argv[3]
    found = read_safetensors(found)["logits"] if found.endswith(".safetensors") else np.fromfile(found, "<f4")
    logits = np.concatenate([model.logits(row) for row in ids])
    difference = np.abs(logits - found.reshape(logits.shape)).max() / np.abs(logits).max()
    print(f"{os.path.basename(sys.argv[1])}: {len(logits)} x {logits.shape[1]} logits, largest difference {difference:.2e} of the largest")
    return int(not difference <= tolerance)


if __name__ == "__main__":
    sys.exit(main())
