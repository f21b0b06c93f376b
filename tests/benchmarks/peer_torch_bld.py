"""A step of blockwise distillation in PyTorch: the frozen teacher layer forward, then every variant of its attention and
FFN forward and backward, each variant's gradient clipped, AdamW. As in bench_bld.cpp.

    bld:HIDDEN,HEADS,KV_HEADS,HEAD_DIM,FFN,SEQUENCES,TOKENS,K,GQA...,WIDTH...       K grouped-query variants

bf16 is autocast over f32 weights, as one trains in PyTorch.
"""

import torch
import torch.nn.functional as F

from peer_torch import HAS_SDPA, VERSION, attend, rms_norm, rotate, rotations, swiglu, work


class Shape:
    def __init__(self, hidden, heads, kv_heads, head_dim, ffn, sequences, tokens, count, *sizes):
        self.H, self.heads, self.kv_heads, self.D, self.I = hidden, heads, kv_heads, head_dim, ffn
        self.B, self.T, self.gqa, self.widths = sequences, tokens, sizes[:count], sizes[count:]

    def attention(self, kv_heads):
        """Rows of q, k, v; and of the input of o."""
        return [self.heads * self.D, kv_heads * self.D, kv_heads * self.D], self.heads * self.D


class Functions:
    """What is neither a product nor attention: on a GPU one compiled kernel each, of every shape."""

    def __init__(self, m, compiled):
        compile = m.compile if compiled else lambda f: f
        self.norm, self.swiglu, self.rotate = compile(rms_norm), compile(swiglu), compile(rotate)
        self.sum_squares = compile(lambda t: t.float().pow(2).sum())
        self.loss = compile(lambda y, t, squares: (y.float() - t.float()).pow(2).sum() / squares)


class Layer:
    def __init__(self, m, shape, compiled):
        self.m, self.s, self.f = m, shape, Functions(m, compiled)
        self.cos, self.sin = rotations(shape.T, shape.D, 500000.0, m.dtype, m.device)
        self.x = m.randn(shape.B, shape.T, shape.H)
        self.norm = torch.ones(shape.H, dtype=m.dtype, device=m.device)
        rows, inner = shape.attention(shape.kv_heads)
        self.teacher = [self.weight(sum(rows), shape.H, m.dtype), self.weight(shape.H, inner, m.dtype),
                        self.weight(2 * shape.I, shape.H, m.dtype), self.weight(shape.H, shape.I, m.dtype)]

    def weight(self, rows, cols, dtype=torch.float32):
        return self.m.randn(rows, cols, dtype=dtype, scale=cols**-0.5)

    def mix(self, q, k, v):
        """From projections to what o multiplies."""
        heads = lambda y: y.view(self.s.B, self.s.T, -1, self.s.D).transpose(1, 2)
        q, k = (self.f.rotate(heads(y), self.cos, self.sin) for y in (q, k))
        return attend(q, k, heads(v), causal=True).transpose(1, 2).reshape(self.s.B, self.s.T, -1)

    @torch.no_grad()
    def forward(self):
        """Inputs and targets of the attention's and of the FFN's variants."""
        qkv, o, gate_up, down = self.teacher
        a = self.f.norm(self.x, self.norm)
        y = F.linear(self.mix(*F.linear(a, qkv).split(self.s.attention(self.s.kv_heads)[0], -1)), o)
        h = self.x + y
        f = self.f.norm(h, self.norm)
        z = F.linear(self.f.swiglu(*F.linear(f, gate_up).chunk(2, -1)), down)
        return (a, y, self.f.sum_squares(y)), (f, z, self.f.sum_squares(z))

    def autocast(self):
        return torch.autocast(self.m.device, dtype=torch.bfloat16, enabled=self.m.dtype == torch.bfloat16)


def adamw(m, parameters):
    fused = {"fused": True} if m.cuda and HAS_SDPA else {"foreach": True}
    return torch.optim.AdamW(parameters, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.01, **fused)


def clip(grads, norm=1.0):
    factor = (norm / (torch.stack(torch._foreach_norm(grads)).norm() + 1e-6)).clamp(max=1)
    torch._foreach_mul_(grads, factor if hasattr(torch, "compile") else float(factor))


class Students:
    """Variants of one subblock: their output matrices, and the rows that each has of the input matrix."""

    def __init__(self, layer, rows, inner):
        # One list of rows a variant; `linear` is a single matrix and has no output matrix.
        H = layer.s.H
        self.rows = rows
        self.outputs = [None if i is None else torch.nn.Parameter(layer.weight(H, i)) for i in inner]
        self.inputs = [torch.nn.Parameter(layer.weight(sum(r), H)) for r in rows]

    def parameters(self):
        return self.inputs + [o for o in self.outputs if o is not None]


class SharedStep:
    """All variants of a subblock share one product with their common input, forward and backward."""

    def __init__(self, layer, students):
        self.layer, self.students = layer, students
        for s in students:
            s.inputs = [torch.nn.Parameter(torch.cat([w.detach() for w in s.inputs]))]
        self.optimiser = adamw(layer.m, [p for s in students for p in s.parameters()])

    def __call__(self, combine):
        for students, (x, target, squares), f in zip(self.students, self.layer.forward(), combine):
            with self.layer.autocast():
                parts = F.linear(x, students.inputs[0]).split([sum(r) for r in students.rows], -1)
                ys = [f(part, rows, o) for part, rows, o in zip(parts, students.rows, students.outputs)]
            sum(self.layer.f.loss(y, target, squares) for y in ys).backward()
            grads = students.inputs[0].grad.split([sum(r) for r in students.rows])
            for grad, o in zip(grads, students.outputs):
                clip([grad] if o is None else [grad, o.grad])
        self.optimiser.step()
        self.optimiser.zero_grad()


class ModuleStep:
    """Every variant multiplies and learns by itself."""

    def __init__(self, layer, students):
        self.layer, self.students = layer, students
        self.optimiser = adamw(layer.m, [p for s in students for p in s.parameters()])

    def __call__(self, combine):
        for students, (x, target, squares), f in zip(self.students, self.layer.forward(), combine):
            for w, rows, o in zip(students.inputs, students.rows, students.outputs):
                with self.layer.autocast():
                    y = f(F.linear(x, w), rows, o)
                self.layer.f.loss(y, target, squares).backward()
                clip([w.grad] if o is None else [w.grad, o.grad])
        self.optimiser.step()
        self.optimiser.zero_grad()


@work
def bld(m, *numbers):
    shape = Shape(*numbers)
    ways = [(", compiled, one input product", SharedStep, True), (", a module a variant", ModuleStep, False)]
    for name, kind, compiled in ways if m.cuda else [(", one input product", SharedStep, False), ways[1]]:
        layer = Layer(m, shape, compiled)
        attention_rows, attention_inner = zip(*[shape.attention(g) for g in shape.gqa])
        step = kind(layer, [
            Students(layer, list(attention_rows) + [[shape.H]], list(attention_inner) + [None]),
            Students(layer, [[w, w] for w in shape.widths] + [[shape.H]], list(shape.widths) + [None]),
        ])

        def combine_attention(part, rows, o):
            return part if o is None else F.linear(layer.mix(*part.split(rows, -1)), o)

        def combine_ffn(part, rows, o):
            return part if o is None else F.linear(layer.f.swiglu(*part.split(rows, -1)), o)

        yield VERSION + name, lambda: step((combine_attention, combine_ffn))
        del step, layer
        if m.cuda:
            torch.cuda.empty_cache()
