"""Removes padding inside an encoder: its layers compute real tokens only, and the last one only those that the head reads."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mat_ds.models import rotary
from mat_ds.models.packing import Packing

# Attribute of a mask on its way through the model to the encoder.
PACKING = "packing"


def remove_padding(model: Any, token_step: int = 0) -> bool:
    """Makes the encoder of a classifier compute real tokens only; changes neither weights, nor their names, nor the config.

    Embeddings, which perturbations are added to, and the head see the same shapes as before. A batch whose texts do not begin
    at the left, or that has no attention mask, is computed with its padding.

    Args:
        model: a transformers classifier without adapters; changed in place.
        token_step: see `Packing.of`.

    Returns:
        Whether the architecture allows it; otherwise the model is left as it is.
    """
    config, parts = model.config, FAMILIES.get(model.config.model_type)
    more_outputs = config.output_hidden_states or config.output_attentions or not config.return_dict
    if more_outputs or getattr(config, "is_decoder", False) or config.chunk_size_feed_forward:
        return False
    if config.model_type in rotary.FAMILIES:
        return rotary.remove_padding_around(model, token_step)
    if parts is None:
        return False
    (encoder_part, attention_part), encoder = parts, model.base_model.encoder
    if not encoder.layer:
        return False
    model.base_model.token_step = token_step
    model.base_model.register_forward_pre_hook(_announce, with_kwargs=True)
    _extend(encoder, encoder_part)
    for layer in encoder.layer:
        _extend(layer.attention, attention_part)
        if attention_part is _BertAttention:
            _extend(layer, _BertLayer)
    # In these families all such heads read the first token and nothing else.
    heads = ("ForSequenceClassification", "ForMultipleChoice")
    encoder.layer[-1].attention.first_only = type(model).__name__.endswith(heads) and _summary(config) == "first"
    return True


def _summary(config: Any) -> str:
    """Which token the head reads, where a configuration lets one choose (ELECTRA's, of multiple choice)."""
    return str(getattr(config, "summary_type", "first"))


def _extend(module: nn.Module, part: type[nn.Module]) -> None:
    # By its class, not by hooks bound to it, so that copies of a module (PEFT makes some) are what it is.
    module.__class__ = type(f"Unpadded{type(module).__name__}", (part, type(module)), {})


def _announce(module: Any, args: Any, inputs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
    """Replaces the mask (B, L) by one (B, 1, 1, L), which transformers hands on to the encoder as it is, with its packing."""
    mask = inputs.get("attention_mask")
    if mask is None or mask.dim() != 2 or (packing := Packing.of(mask, module.token_step)) is None:
        return None
    carrier = packing.real[:, None, None, :]
    setattr(carrier, PACKING, packing)
    return args, {**inputs, "attention_mask": carrier}


class _Encoder(nn.Module):
    """Packs its input, and hands the packing to its layers in place of the mask."""

    layer: nn.ModuleList
    packing: Packing | None = None

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **more: Any) -> Any:
        self.packing = packing = getattr(attention_mask, PACKING, None)
        if packing is None:
            return super().forward(hidden_states, attention_mask=attention_mask, **more)
        output = super().forward(packing.pack(hidden_states), attention_mask=packing, **more)
        found, last = output.last_hidden_state, self.layer[-1].get_submodule("attention")
        # (B, 1, H) if only first tokens are left.
        output.last_hidden_state = found.transpose(0, 1) if last.first_only else packing.unpack(found)
        return output


class _MPNetEncoder(_Encoder):
    def compute_position_bias(self, x: Tensor, *more: Any, **others: Any) -> Any:
        """That of a padded text; `x` is only read for its shape and device."""
        x = x if self.packing is None else x.new_empty(1, self.packing.real.shape[1], 0)
        return super().compute_position_bias(x, *more, **others)  # type: ignore[misc]


class _Attention(nn.Module):
    """Attention with the residual connection around it.

    Attributes:
        first_only: whether only the first token of each text is needed.
    """

    first_only = False

    def forward(self, hidden_states: Tensor, attention_mask: Any = None, *args: Any, **more: Any) -> Any:
        if not isinstance(attention_mask, Packing):
            return super().forward(hidden_states, attention_mask, *args, **more)
        asking = attention_mask.first(hidden_states) if self.first_only else hidden_states
        return self.attended(asking, hidden_states, attention_mask, **more), None

    def attended(self, asking: Tensor, hidden_states: Tensor, packing: Packing, **more: Any) -> Tensor:
        """(1, T, H) or (1, B, H), as `asking`."""
        raise NotImplementedError


class _BertAttention(_Attention):
    self: Any
    output: Any

    def attended(self, asking: Tensor, hidden_states: Tensor, packing: Packing, **more: Any) -> Tensor:
        own = self.self
        heads, dropout = own.num_attention_heads, own.dropout.p if own.training else 0.0
        mixed = packing.attend(own.query(asking), own.key(hidden_states), own.value(hidden_states), heads, dropout)
        return self.output(mixed, asking)


class _BertLayer(nn.Module):
    """Leaves out what transformers looks up before each feed-forward block: a tenth of a pass's time where the processor starts
    the kernels of a GPU."""

    attention: Any
    feed_forward_chunk: Any

    def forward(self, hidden_states: Tensor, attention_mask: Any = None, *args: Any, **more: Any) -> Any:
        if not isinstance(attention_mask, Packing):
            return super().forward(hidden_states, attention_mask, *args, **more)
        return self.feed_forward_chunk(self.attention(hidden_states, attention_mask, **more)[0])


class _MPNetAttention(_Attention):
    attn: Any
    LayerNorm: Any
    dropout: Any

    def attended(
        self, asking: Tensor, hidden_states: Tensor, packing: Packing, position_bias: Tensor | None = None, **more: Any
    ) -> Tensor:
        own = self.attn
        heads, dropout = own.num_attention_heads, own.dropout.p if own.training else 0.0
        mixed = packing.attend(own.q(asking), own.k(hidden_states), own.v(hidden_states), heads, dropout, position_bias)
        return self.LayerNorm(self.dropout(own.o(mixed)) + asking)


FAMILIES: dict[str, tuple[type[_Encoder], type[_Attention]]] = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "electra"), (_Encoder, _BertAttention)),
    "mpnet": (_MPNetEncoder, _MPNetAttention),
}
