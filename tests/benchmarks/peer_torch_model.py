"""Prefill and decode of a whole Llama with random weights, in PyTorch.

    prefill:TOKENS,VOCABULARY,HIDDEN,FFN,LAYERS,HEADS,KV_HEADS,HEAD_DIM,TIED       a prompt of TOKENS
    decode_model:TOKENS,...                                                        one token behind TOKENS

On a GPU by the transformers library, eagerly and with a static cache under torch.compile; where that library is not
there, and on the CPU, by the few lines below.
"""

import torch
import torch.nn.functional as F

from peer_torch import VERSION, attend, rms_norm, rotate, rotations, swiglu, work


SPARE_TOKENS = 256  # of a cache, behind the prompt


class Llama:
    def __init__(self, m, context, vocabulary, hidden, ffn, layers, heads, kv_heads, head_dim, tied):
        weight = lambda rows, cols: m.randn(rows, cols, scale=cols**-0.5)
        self.D, q, kv = head_dim, heads * head_dim, kv_heads * head_dim
        self.embedding = weight(vocabulary, hidden)
        self.head = self.embedding if tied else weight(vocabulary, hidden)
        self.norm = torch.ones(hidden, dtype=m.dtype, device=m.device)
        self.layers = [[weight(q, hidden), weight(kv, hidden), weight(kv, hidden), weight(hidden, q),
                        weight(2 * ffn, hidden), weight(hidden, ffn)] for _ in range(layers)]
        self.cache = [[m.randn(1, kv_heads, context, head_dim) for _ in range(2)] for _ in range(layers)]
        self.cos, self.sin = rotations(context, head_dim, 500000.0, m.dtype, m.device)

    @torch.no_grad()
    def infer(self, tokens, past):
        T = tokens.shape[1]
        x = F.embedding(tokens, self.embedding)
        cos, sin = self.cos[past:past + T], self.sin[past:past + T]
        split = lambda y: y.view(1, T, -1, self.D).transpose(1, 2)
        for (q, k, v, o, gate_up, down), (keys, values) in zip(self.layers, self.cache):
            a = rms_norm(x, self.norm)
            keys[:, :, past:past + T] = rotate(split(F.linear(a, k)), cos, sin)
            values[:, :, past:past + T] = split(F.linear(a, v))
            y = attend(rotate(split(F.linear(a, q)), cos, sin), keys[:, :, :past + T], values[:, :, :past + T],
                       causal=T > 1)
            x = x + F.linear(y.transpose(1, 2).reshape(1, T, -1), o)
            x = x + F.linear(swiglu(*F.linear(rms_norm(x, self.norm), gate_up).chunk(2, -1)), down)
        return F.linear(rms_norm(x[:, -1:], self.norm), self.head).argmax(-1)


def transformers_llama(m, vocabulary, hidden, ffn, layers, heads, kv_heads, head_dim, tied, context):
    import transformers
    config = transformers.LlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=ffn, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=head_dim, tie_word_embeddings=bool(tied),
        max_position_embeddings=context, attn_implementation="sdpa", bos_token_id=None, eos_token_id=None)
    default = torch.get_default_dtype()
    torch.set_default_dtype(m.dtype)
    try:
        with torch.device(m.device):
            model = transformers.LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(default)
    return transformers, config, model


def library_ways(m, tokens, shape, prompt):
    """`prompt`: prefill, else a decode step."""
    context = tokens + SPARE_TOKENS
    transformers, config, model = transformers_llama(m, *shape, context)
    name = f"transformers {transformers.__version__}, {VERSION}"
    ids = torch.arange(tokens, device=m.device)[None] % config.vocab_size

    @torch.no_grad()
    def prefill(cache):
        return model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits.argmax(-1)

    if prompt:
        yield name, lambda: prefill(transformers.DynamicCache(config=config))
        return

    one = ids[:, :1].contiguous()

    def dynamic():
        cache = transformers.DynamicCache(config=config)
        prefill(cache)

        @torch.no_grad()
        def step():
            model(input_ids=one, past_key_values=cache, use_cache=True).logits.argmax(-1)
            cache.crop(-1)

        return step

    def static():
        cache = transformers.StaticCache(config=config, max_cache_len=context)
        prefill(cache)
        position = torch.tensor([[tokens]], device=m.device)
        forward = torch.compile(model.forward, mode="reduce-overhead", fullgraph=True) if m.cuda else model.forward
        steps = 0

        @torch.no_grad()
        def step():
            nonlocal steps
            steps += 1
            if steps % (SPARE_TOKENS - 1) == 0:  # the cache is full: back to behind the prompt
                for layer in cache.layers:
                    layer.cumulative_length.fill_(tokens)
            forward(input_ids=one, past_key_values=cache, use_cache=True, position_ids=position).logits.argmax(-1)

        return step

    yield name, dynamic()
    yield name + ", compiled, static cache", static()


def ways(m, tokens, shape, prompt):
    try:
        import transformers  # noqa: F401
        yield from library_ways(m, tokens, shape, prompt)
    except ImportError:
        model = Llama(m, tokens + SPARE_TOKENS, *shape)
        ids = torch.arange(tokens, device=m.device)[None] % shape[0]
        yield VERSION, lambda: model.infer(ids, 0) if prompt else model.infer(ids[:, :1], tokens)


@work
def prefill(m, tokens, *shape):
    return ways(m, tokens, shape, True)


@work
def decode_model(m, tokens, *shape):
    return ways(m, tokens, shape, False)
