"""A Llama whose blocks differ from each other: `DeciLMConfig.block_configs` says what each is made of.

Attention layers number their part of the cache among themselves, so that layers without one take no room in it.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F
from transformers import DynamicCache, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from .configuration_decilm import DeciLMConfig


class RMSNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


def rope_parameters(config):
    """`rope_parameters` of transformers 5, or what older versions keep in two places."""
    parameters = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    theta = parameters.get("rope_theta") or getattr(config, "rope_theta", 10000.0)
    return {"rope_type": "default", **parameters, "rope_theta": theta}


def rope_frequencies(config, device):
    """Radians a token of each pair of channels, in f64: those of f32 are off by 1e-3 radians at position 10,000."""
    rope = rope_parameters(config)
    half = torch.arange(config.head_dim // 2, dtype=torch.float64, device=device)
    frequencies = rope["rope_theta"] ** (-2 * half / config.head_dim)
    if rope["rope_type"] == "default":
        return frequencies
    if rope["rope_type"] != "llama3":
        raise ValueError(f"rope_type {rope['rope_type']}; allowed: llama3, default")
    # Waves that fit the trained length `high_freq_factor` times stay, those that fit it less than `low_freq_factor`
    # times are stretched, and between them the change is gradual.
    fits = rope["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    kept = ((fits - low) / (high - low)).clamp(0, 1)
    return frequencies * ((1 - kept) / rope["factor"] + kept)


def rotate(x, cos, sin):
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class Attention(nn.Module):
    def __init__(self, config, layer, cache_layer):
        super().__init__()
        entry = config.block_configs[layer].attention
        self.head_dim, self.cache_layer = config.head_dim, cache_layer
        self.heads, self.group = config.num_attention_heads, entry.n_heads_in_group
        self.window = getattr(entry, "window_length", None)
        inner, kv = self.heads * self.head_dim, self.heads // self.group * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, inner, bias=config.attention_bias)
        self.k_proj = nn.Linear(config.hidden_size, kv, bias=config.attention_bias)
        self.v_proj = nn.Linear(config.hidden_size, kv, bias=config.attention_bias)
        self.o_proj = nn.Linear(inner, config.hidden_size, bias=config.attention_bias)

    def forward(self, x, cos, sin, masks, cache):
        heads = lambda y: y.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        q, k, v = rotate(heads(self.q_proj(x)), cos, sin), rotate(heads(self.k_proj(x)), cos, sin), heads(self.v_proj(x))
        if cache is not None:
            k, v = cache.update(k, v, self.cache_layer)
        k, v = (y.repeat_interleave(self.group, dim=1) for y in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, **masks(self.window))
        return self.o_proj(y.transpose(1, 2).flatten(-2))


class LinearAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.linear_attn = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, x, *_):
        return self.linear_attn(x)


class MLP(nn.Module):
    def __init__(self, config, width):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, width, bias=config.mlp_bias)
        self.up_proj = nn.Linear(config.hidden_size, width, bias=config.mlp_bias)
        self.down_proj = nn.Linear(width, config.hidden_size, bias=config.mlp_bias)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class LinearMLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.linear_mlp = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, x):
        return self.linear_mlp(x)


class DeciLMDecoderLayer(nn.Module):
    def __init__(self, config, layer, cache_layer):
        super().__init__()
        attention, ffn = config.block_configs[layer].attention, config.block_configs[layer].ffn
        self.has_attention, self.has_ffn = not attention.no_op, not ffn.no_op
        if self.has_attention:
            self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
            linear = attention.replace_with_linear
            self.self_attn = LinearAttention(config) if linear else Attention(config, layer, cache_layer)
        if self.has_ffn:
            self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
            self.mlp = LinearMLP(config) if ffn.replace_with_linear else MLP(config, config.ffn_width(layer))

    def forward(self, x, *context):
        if self.has_attention:
            x = x + self.self_attn(self.input_layernorm(x), *context)
        if self.has_ffn:
            x = x + self.mlp(self.post_attention_layernorm(x))
        return x


class Masks:
    """The arguments of attention that say which tokens see which, for each length of a window."""

    def __init__(self, padding, past, new, device):
        self.padding, self.past, self.new, self.device = padding, past, new, device
        self.made = {}

    def __call__(self, window):
        if window not in self.made:
            self.made[window] = self.make(window)
        return self.made[window]

    def make(self, window):
        length = self.past + self.new
        if self.padding is None and (window is None or window >= length) and (self.new == 1 or self.past == 0):
            return {"is_causal": self.new > 1}
        query = torch.arange(self.past, length, device=self.device)[:, None]
        key = torch.arange(length, device=self.device)
        seen = key <= query
        if window is not None:
            seen = seen & (key > query - window)
        if self.padding is not None:
            # A padding token sees itself, since attention to nothing is no number.
            seen = (seen & self.padding[:, None, None, :].bool()) | (key == query)
        return {"attn_mask": seen}


class DeciLMPreTrainedModel(PreTrainedModel):
    config_class = DeciLMConfig
    base_model_prefix = "model"
    _no_split_modules = ["DeciLMDecoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_cache_class = True

    def _init_weights(self, module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


class DeciLMModel(DeciLMPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers, cached = nn.ModuleList(), 0
        for layer, block in enumerate(config.block_configs):
            self.layers.append(DeciLMDecoderLayer(config, layer, cached))
            cached += not (block.attention.no_op or block.attention.replace_with_linear)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_init()

    def get_input_embeddings(self):
        return self.embed_tokens

    def set_input_embeddings(self, value):
        self.embed_tokens = value

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, inputs_embeds=None,
                use_cache=None, **kwargs):
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if past_key_values is None and (self.config.use_cache if use_cache is None else use_cache):
            past_key_values = DynamicCache()
        past = 0 if past_key_values is None else int(past_key_values.get_seq_length())
        if position_ids is None:
            position_ids = torch.arange(past, past + x.shape[1], device=x.device)[None]
        angles = position_ids[:, None, :, None] * rope_frequencies(self.config, x.device)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        masks = Masks(self.padding(attention_mask), past, x.shape[1], x.device)
        for layer in self.layers:
            x = layer(x, cos, sin, masks, past_key_values)
        return BaseModelOutputWithPast(last_hidden_state=self.norm(x), past_key_values=past_key_values)

    @staticmethod
    def padding(attention_mask):
        """(batch, length) with 0 at padding; None without any."""
        if attention_mask is None or bool((attention_mask != 0).all()):
            return None
        if attention_mask.dim() != 2:
            raise ValueError(f"an attention_mask of shape {tuple(attention_mask.shape)}; allowed: (batch, length)")
        return attention_mask


class DeciLMForCausalLM(DeciLMPreTrainedModel, GenerationMixin):
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config):
        super().__init__(config)
        self.model = DeciLMModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.model.embed_tokens

    def set_input_embeddings(self, value):
        self.model.embed_tokens = value

    def get_output_embeddings(self):
        return self.lm_head

    def set_output_embeddings(self, value):
        self.lm_head = value

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, inputs_embeds=None,
                labels=None, use_cache=None, logits_to_keep=0, **kwargs):
        output = self.model(input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache)
        hidden = output.last_hidden_state
        logits = self.lm_head(hidden[:, -logits_to_keep:] if logits_to_keep else hidden)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=output.past_key_values)
