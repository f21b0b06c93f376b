"""The benchmarks' work in PyTorch, for comparison in the same run.

    peer_torch.py [--device cpu|cuda] [--dtype f32|bf16] [--threads N] WORK...

A WORK is a name and numbers, "rmsnorm_forward:16384,8192". For every way of doing it that this PyTorch has, a line

    WORK<tab>PyTorch 2.11.0, compiled<tab>milliseconds

is printed as soon as it is measured. The works are the functions marked @work here, in peer_torch_bld.py and in
peer_torch_model.py; each gives pairs of a name and a function to time, or a list of functions that a CUDA graph is to
hold together. Works with PyTorch 1.13 and later.
"""

import argparse
import math
import os
import statistics
import sys
import time

import torch
import torch.nn.functional as F

VERSION = "PyTorch " + torch.__version__.split("+")[0]
HAS_COMPILE = hasattr(torch, "compile")
L2_BYTES = 50 << 20
WORKS = {}


def work(f):
    WORKS[f.__name__] = f
    return f


class Machine:
    """Where to run, and in which type."""

    def __init__(self, device, dtype):
        self.device, self.dtype, self.cuda = device, dtype, device == "cuda"

    def randn(self, *shape, dtype=None, scale=1.0):
        return (torch.randn(*shape, device=self.device, dtype=torch.float32 if not self.cuda else dtype or self.dtype)
                * scale).to(dtype or self.dtype)

    def synchronize(self):
        if self.cuda:
            torch.cuda.synchronize()

    def compile(self, f):
        """`f` as torch.compile makes it on a GPU; eagerly elsewhere, where that takes a C++ compiler."""
        return torch.compile(f) if self.cuda and HAS_COMPILE else f

    def seconds(self, run, least_run=5e-3, runs=7):
        """As Bench::seconds of harness.h: the median of runs of several calls; on the CPU the least."""

        def timed(calls):
            self.synchronize()
            start = time.perf_counter()
            for _ in range(calls):
                run()
            self.synchronize()
            return (time.perf_counter() - start) / calls

        timed(1)
        once = timed(1)
        calls = min(max(math.ceil(least_run / once), 1), 10000)
        seconds = [timed(calls) for _ in range(3 if once > 1 else runs)]
        return statistics.median(seconds) if self.cuda else min(seconds)

    def graph_seconds(self, calls):
        """Seconds of one of `calls`, which a CUDA graph holds together."""
        if not self.cuda:
            return self.seconds(lambda: [call() for call in calls]) / len(calls)
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(2):
                for call in calls:
                    call()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for call in calls:
                call()
        return self.seconds(graph.replay) / len(calls)


# The formulas, which the compiler makes one kernel of.


def rms_norm(x, w, eps=1e-5):
    return (x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype) * w


def rms_norm_gradient(dy, x, w, rstd):
    x, g = x.float(), dy.float() * w.float()
    dx = rstd * (g - x * (rstd * rstd * (g * x).mean(-1, keepdim=True)))
    return dx.to(dy.dtype), (dy.float() * x * rstd).sum(0)


def swiglu(gate, up):
    return F.silu(gate) * up


def swiglu_gradient(dh, gate, up):
    dh, z, u = dh.float(), gate.float(), up.float()
    s = torch.sigmoid(z)
    return (dh * u * s * (1 + z * (1 - s))).to(gate.dtype), (dh * z * s).to(gate.dtype)


def rotations(length, dim, theta, dtype, device="cpu"):
    angles = (torch.arange(length, device=device).float()[:, None] *
              theta**(-torch.arange(0, dim, 2, device=device).float() / dim)[None, :])
    return torch.cat([angles.cos()] * 2, -1).to(dtype), torch.cat([angles.sin()] * 2, -1).to(dtype)


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


def mse_loss(y, target, target_sum_squares):
    """The loss and its gradient."""
    difference = y.float() - target.float()
    return difference.pow(2).sum() / target_sum_squares, (2 * difference / target_sum_squares).to(y.dtype)


def simple(m, f, *arguments):
    """Eagerly on the CPU, compiled on a GPU."""
    compiled = m.compile(f)
    yield VERSION + (", compiled" if compiled is not f else ""), lambda: compiled(*arguments)


@work
def rmsnorm_forward(m, n, c):
    return simple(m, rms_norm, m.randn(n, c), m.randn(c))


@work
def rmsnorm_backward(m, n, c):
    x = m.randn(n, c)
    rstd = torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-5)
    return simple(m, rms_norm_gradient, m.randn(n, c), x, m.randn(c), rstd)


@work
def swiglu_forward(m, n, i):
    return simple(m, swiglu, *m.randn(n, 2 * i).chunk(2, -1))


@work
def swiglu_backward(m, n, i):
    return simple(m, swiglu_gradient, m.randn(n, i), *m.randn(n, 2 * i).chunk(2, -1))


@work
def rope(m, n, h, d):
    cos, sin = (t[:, None] for t in rotations(n, d, 500000.0, torch.float32, m.device))
    return simple(m, lambda x, c, s: rotate(x.float(), c, s).to(x.dtype), m.randn(n, h // d, d), cos, sin)


@work
def adamw(m, count, size):
    parameters = [torch.nn.Parameter(m.randn(size, dtype=torch.float32)) for _ in range(count)]
    copies = [p.detach().to(m.dtype) for p in parameters]
    for p in parameters:
        p.grad = m.randn(size, dtype=torch.float32, scale=1e-2)
    fused = {"fused": True} if m.cuda else {"foreach": True}
    optimiser = torch.optim.AdamW(parameters, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.01, **fused)

    def run():
        optimiser.step()
        if m.dtype != torch.float32:
            torch._foreach_copy_(copies, [p.detach() for p in parameters])

    yield VERSION + (", fused" if m.cuda else ", foreach"), run


@work
def gradient_norm(m, count, size):
    grads = [m.randn(size, dtype=torch.float32) for _ in range(count)]
    yield VERSION + ", foreach", lambda: torch.stack(torch._foreach_norm(grads)).norm().item()


@work
def sum_squares(m, n, h):
    return simple(m, lambda x: x.float().pow(2).sum(), m.randn(n, h))


@work
def mse(m, n, h):
    return simple(m, mse_loss, m.randn(n, h), m.randn(n, h), torch.full((), float(n * h), device=m.device))


@work
def cosine(m, n, h):
    return simple(m, lambda x, y: 1 - F.cosine_similarity(x.float(), y.float(), dim=-1), m.randn(n, h), m.randn(n, h))


def head_losses(m, n, h, v, backward):
    """Over 1024 tokens at a time, so that the logits need not all stand in memory."""
    hidden, teacher_hidden = m.randn(n, h).requires_grad_(backward), m.randn(n, h)
    w, teacher_w = m.randn(v, h, scale=0.02), m.randn(v, h, scale=0.02)
    targets = torch.arange(n, device=m.device) * 7919 % v

    def losses(l, t, y):
        lp, tp = l.float().log_softmax(-1), t.float().log_softmax(-1)
        kl = (tp.exp() * (tp - lp)).sum(-1)
        if backward:
            return kl.sum() / n
        best = l.gather(-1, t.argmax(-1, keepdim=True))
        return kl, -lp.gather(-1, y[:, None])[:, 0], (l > best).sum(-1)

    compiled = m.compile(losses)

    def run():
        for part in range(0, n, 1024):
            rows = slice(part, part + 1024)
            with torch.set_grad_enabled(backward):
                loss = compiled(F.linear(hidden[rows], w), F.linear(teacher_hidden[rows], teacher_w), targets[rows])
                if backward:
                    loss.backward()
        hidden.grad = None

    yield VERSION + (", losses compiled" if m.cuda else ""), run


@work
def head_forward(m, n, h, v):
    return head_losses(m, n, h, v, False)


@work
def head_backward(m, n, h, v):
    return head_losses(m, n, h, v, True)


@work
def matmul(m, rows, cols, k):
    a, b = m.randn(rows, k), m.randn(cols, k)
    out = torch.empty(rows, cols, device=m.device, dtype=m.dtype)
    yield VERSION, lambda: torch.mm(a, b.t(), out=out)


# Attention: q (B, H, T, D), k and v (B, G, S, D).

HAS_SDPA = hasattr(F, "scaled_dot_product_attention")


def attend(q, k, v, causal):
    if q.is_cuda:
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1])
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    if HAS_SDPA:
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    scores = q @ k.transpose(-1, -2) * q.shape[-1]**-0.5
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(-1) @ v


def attention_ways(m):
    """Names and contexts: every kernel that may be asked for on a GPU."""
    if not m.cuda:
        from contextlib import nullcontext
        return [("", nullcontext)]
    from torch.nn.attention import SDPBackend, sdpa_kernel
    return [(", FlashAttention", lambda: sdpa_kernel(SDPBackend.FLASH_ATTENTION)),
            (", cuDNN", lambda: sdpa_kernel(SDPBackend.CUDNN_ATTENTION))]


def qkv(m, s, t, h, g, d, query_tokens=None):
    shape = lambda heads, tokens: m.randn(s, tokens, heads, d).transpose(1, 2)
    return shape(h, query_tokens or t), shape(g, t), shape(g, t)


@work
def attention_forward(m, s, t, h, g, d):
    q, k, v = qkv(m, s, t, h, g, d)
    for name, way in attention_ways(m):

        def run():
            with torch.no_grad(), way():
                attend(q, k, v, causal=True)

        yield VERSION + name, run


@work
def attention_backward(m, s, t, h, g, d):
    q, k, v = (x.requires_grad_() for x in qkv(m, s, t, h, g, d))
    for name, way in attention_ways(m):
        with way():
            try:
                out = attend(q, k, v, causal=True)
            except RuntimeError as error:
                print(f"{name}: {error}", file=sys.stderr)
                continue
        dout = torch.randn_like(out)

        def run():
            with way():
                torch.autograd.grad(out, (q, k, v), dout, retain_graph=True)

        yield VERSION + name, run


@work
def decode(m, s, t, h, g, d):
    """One query a sequence, in a CUDA graph, over caches that take turns."""
    sets = [qkv(m, s, t, h, g, d, 1) for _ in range(math.ceil(4 * L2_BYTES / (4 * s * t * g * d)) if m.cuda else 1)]
    for name, way in attention_ways(m):

        def call(q, k, v, way=way):
            with torch.no_grad(), way():
                attend(q, k, v, causal=False)

        yield VERSION + name, [lambda tensors=tensors: call(*tensors) for tensors in sets]


def measure(m, text):
    name, _, numbers = text.partition(":")
    arguments = [int(x) for x in numbers.split(",")]
    ways = WORKS[name](m, *arguments)
    for way, run in ways:
        try:
            seconds = m.graph_seconds(run) if isinstance(run, list) else m.seconds(run)
        except Exception as error:  # this PyTorch has no such way
            print(f"{text}, {way}: {error}", file=sys.stderr)
            continue
        print(f"{text}\t{way}\t{seconds * 1e3:.5f}", flush=True)
        del run
    if m.cuda:
        torch.cuda.empty_cache()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="f32")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("works", nargs="+", metavar="WORK")
    options = parser.parse_args()
    torch.manual_seed(0)
    if options.threads:
        torch.set_num_threads(options.threads)
    import peer_torch_bld, peer_torch_model  # noqa: F401  they add their works
    m = Machine(options.device, {"f32": torch.float32, "bf16": torch.bfloat16}[options.dtype])
    for text in options.works:
        measure(m, text)


if __name__ == "__main__":
    sys.modules["peer_torch"] = sys.modules["__main__"]
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    main()
