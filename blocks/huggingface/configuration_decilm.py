"""Configuration of a Llama whose blocks differ from each other (model type `nemotron-nas`).

Each entry of `block_configs` says of one block's `attention` and `ffn`:

    no_op                 it is absent, and so is the norm before it
    replace_with_linear   it is one matrix
    n_heads_in_group      attention: query heads that share a head of keys and values
    window_length         attention: a token sees itself and the tokens before it, so many in all; null: all of them
    ffn_mult              ffn: its width is 2 ffn_mult hidden_size / 3, cut and rounded up to a multiple of 256
    intermediate_size     ffn: its width, where ffn_mult is not there

Entries are objects with attributes; configuration files have them as dictionaries.
"""

from types import SimpleNamespace

from transformers import LlamaConfig


def _to_objects(value):
    if isinstance(value, dict):
        return SimpleNamespace(**{key: _to_objects(element) for key, element in value.items()})
    return value


def _to_dicts(value):
    if isinstance(value, SimpleNamespace):
        return {key: _to_dicts(element) for key, element in vars(value).items()}
    return value


class DeciLMConfig(LlamaConfig):
    model_type = "nemotron-nas"

    def __init__(self, block_configs=None, **kwargs):
        # Null, since blocks differ in them; the base class wants numbers, which no block looks at.
        for key in ("intermediate_size", "num_key_value_heads"):
            if kwargs.get(key) is None:
                kwargs.pop(key, None)
        self.block_configs = [_to_objects(block) for block in block_configs or []]
        super().__init__(**kwargs)
        self.num_key_value_heads = None
        if self.block_configs:
            self.intermediate_size = max(self.ffn_width(layer) for layer in range(len(self.block_configs)))
            if len(self.block_configs) != self.num_hidden_layers:
                raise ValueError(f"{len(self.block_configs)} block_configs for {self.num_hidden_layers} layers")

    def ffn_width(self, layer):
        """Channels between the projections of a layer's FFN; 0 where it has none."""
        ffn = self.block_configs[layer].ffn
        if ffn.no_op or ffn.replace_with_linear:
            return 0
        mult = getattr(ffn, "ffn_mult", None)
        if mult is None:
            return ffn.intermediate_size
        return -(-int(2 * mult * self.hidden_size / 3) // 256) * 256

    def to_dict(self):
        values = super().to_dict()
        values["block_configs"] = [_to_dicts(block) for block in self.block_configs]
        return values
