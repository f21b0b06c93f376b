"""The benchmarks' work in PyTorch, eagerly, on the CPU, for comparison in the same run.

    peer_torch.py bld|prefill|decode f32|bf16 THREADS      prints "PyTorch 2.9.1: 123.4 ms"

bld       one layer's step as in bench_bld.cpp: the frozen teacher layer forward, then every variant of its attention and
          FFN forward and backward with AdamW. bf16 is autocast over f32 weights, as one trains in PyTorch.
prefill   512 tokens of the model in llama-2b/config.json.
decode    one token of it behind 512, with a KV cache.

Works with PyTorch 1.13 (without scaled_dot_product_attention) and later.
"""

import json
import os
import sys
import time

import torch
import torch.nn.functional as F

HAS_SDPA = hasattr(F, "scaled_dot_product_attention")


def rms_norm(x, w, eps=1e-5):
    return (x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype) * w


def rotations(length, dim, theta, dtype):
    angles = torch.arange(length).float()[:, None] * theta ** (-torch.arange(0, dim, 2).float() / dim)[None, :]
    return torch.cat([angles.cos()] * 2, -1).to(dtype), torch.cat([angles.sin()] * 2, -1).to(dtype)


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


def attend(q, k, v, causal):
    """q (B, H, T, D), k and v (B, G, S, D)."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    if HAS_SDPA:
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(-1) @ v


def attention(x, q, k, v, o, heads, cos, sin):
    B, T, _ = x.shape
    split = lambda y: y.view(B, T, -1, q.shape[0] // heads).transpose(1, 2)
    y = attend(rotate(split(F.linear(x, q)), cos, sin), rotate(split(F.linear(x, k)), cos, sin), split(F.linear(x, v)),
               causal=True)
    return F.linear(y.transpose(1, 2).reshape(B, T, -1), o)


def swiglu(x, gate, up, down):
    return F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down)


def weight(rows, cols, dtype=torch.float32):
    return (torch.randn(rows, cols) / cols**0.5).to(dtype)


def bld(dtype):
    H, I, heads, kv_heads, D, B, T = 1024, 4096, 16, 4, 64, 8, 512
    autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)
    cos, sin = rotations(T, D, 500000.0, dtype)

    def attention_weights(kv, dtype):
        return [weight(H, H, dtype), weight(kv * D, H, dtype), weight(kv * D, H, dtype), weight(H, H, dtype)]

    def ffn_weights(width, dtype):
        return [weight(width, H, dtype), weight(width, H, dtype), weight(H, width, dtype)]

    teacher_attention, teacher_ffn = attention_weights(kv_heads, dtype), ffn_weights(I, dtype)
    norm = torch.ones(H, dtype=dtype)
    # The widths of bench_bld's ratios.
    widths = [3584, 3072, 2048, 1024, 768, 512]
    attentions = [attention_weights(2, torch.float32), attention_weights(1, torch.float32)]
    ffns = [ffn_weights(w, torch.float32) for w in widths]
    linears = [[weight(H, H)], [weight(H, H)]]
    parameters = [p.requires_grad_() for v in attentions + ffns + linears for p in v]
    fused = {"fused": True} if HAS_SDPA else {"foreach": True}
    optimiser = torch.optim.AdamW(parameters, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.01, **fused)
    x = torch.randn(B, T, H).to(dtype)

    def loss_of(y, target):
        return (y.float() - target.float()).pow(2).sum() / target.float().pow(2).sum()

    def step():
        with torch.no_grad():
            a = rms_norm(x, norm)
            attention_target = attention(a, *teacher_attention, heads, cos, sin)
            h = x + attention_target
            f = rms_norm(h, norm)
            ffn_target = swiglu(f, *teacher_ffn)
        # A variant at a time, so that only its own activations stand in memory.
        students = [(lambda w: attention(a, *w, heads, cos, sin), w, attention_target) for w in attentions]
        students += [(lambda w: F.linear(a, w[0]), linears[0], attention_target)]
        students += [(lambda w: swiglu(f, *w), w, ffn_target) for w in ffns]
        students += [(lambda w: F.linear(f, w[0]), linears[1], ffn_target)]
        for forward, w, target in students:
            with autocast:
                y = forward(w)
            loss_of(y, target).backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


class Llama:
    def __init__(self, dtype, context):
        with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "llama-2b/config.json")) as file:
            c = json.load(file)
        self.c, self.D = c, c["head_dim"]
        H, I, q = c["hidden_size"], c["intermediate_size"], c["num_attention_heads"] * self.D
        kv = c["num_key_value_heads"] * self.D
        self.embedding = weight(c["vocab_size"], H, dtype)
        self.norm = torch.ones(H, dtype=dtype)
        self.layers = [
            [weight(q, H, dtype), weight(kv, H, dtype), weight(kv, H, dtype), weight(H, q, dtype),
             weight(I, H, dtype), weight(I, H, dtype), weight(H, I, dtype)]
            for _ in range(c["num_hidden_layers"])
        ]
        shape = (1, c["num_key_value_heads"], context, self.D)
        self.cache = [(torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype)) for _ in self.layers]
        self.cos, self.sin = rotations(context, self.D, c["rope_theta"], dtype)

    def infer(self, tokens, past):
        T = tokens.shape[1]
        x = F.embedding(tokens, self.embedding)
        cos, sin = self.cos[past:past + T], self.sin[past:past + T]
        split = lambda y: y.view(1, T, -1, self.D).transpose(1, 2)
        for (q, k, v, o, gate, up, down), (keys, values) in zip(self.layers, self.cache):
            a = rms_norm(x, self.norm)
            keys[:, :, past:past + T] = rotate(split(F.linear(a, k)), cos, sin)
            values[:, :, past:past + T] = split(F.linear(a, v))
            y = attend(rotate(split(F.linear(a, q)), cos, sin), keys[:, :, :past + T], values[:, :, :past + T],
                       causal=T > 1)
            x = x + F.linear(y.transpose(1, 2).reshape(1, T, -1), o)
            x = x + swiglu(rms_norm(x, self.norm), gate, up, down)
        return F.linear(rms_norm(x[:, -1:], self.norm), self.embedding).argmax(-1)


def inference(work, dtype):
    model = Llama(dtype, 512 + 64)
    tokens = torch.arange(512)[None]

    def run():
        with torch.no_grad():
            if work == "prefill":
                model.infer(tokens, 0)
            else:
                model.infer(tokens[:, :1], 512)

    return run


def main():
    work, dtype, threads = sys.argv[1], {"f32": torch.float32, "bf16": torch.bfloat16}[sys.argv[2]], int(sys.argv[3])
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    run = bld(dtype) if work == "bld" else inference(work, dtype)
    run()
    seconds = []
    for _ in range(20 if work == "decode" else 4):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    print(f"PyTorch {torch.__version__.split('+')[0]}: {min(seconds) * 1e3:.2f} ms")


main()
