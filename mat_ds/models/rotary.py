"""Removes padding inside models with rotary positions: all that follows their word embeddings computes real tokens only."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from mat_ds.models.packing import Packing

# The name of `attend` in transformers, and the attribute of a mask on its way through the model to it.
NAME, PACKING = "unpadded", "packing"
FAMILIES = ("modernbert", "nomic_bert", "eurobert", "llama", "qwen2", "qwen3", "gemma", "gemma3_text")


def remove_padding_around(model: Any, token_step: int = 0) -> bool:
    """Makes the base of a classifier of `FAMILIES` compute real tokens only; changes neither weights nor their names. For
    `token_step` see `Packing.of`.

    Returns:
        Whether it does; a decoder that its config makes an encoder is left as it is.
    """
    if not getattr(model.config, "is_causal", True) or getattr(model.config, "use_bidirectional_attention", False):
        return False
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    base = model.base_model
    base.__class__ = type(f"Unpadded{type(base).__name__}", (_Packed, type(base)), {})
    base.token_step = token_step
    # Not saved with it.
    model.config._attn_implementation = NAME
    return True


class _Packed(nn.Module):
    """Packs word embeddings, to which a perturbation has been added, and hands the packing on in place of the mask."""

    get_input_embeddings: Any
    token_step: int

    def forward(self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, **more: Any) -> Any:
        packing = None
        if attention_mask is not None and attention_mask.dim() == 2 and more.get("position_ids") is None:
            packing = Packing.of(attention_mask, self.token_step)
        if packing is None or packing.full or input_ids is None:
            return super().forward(input_ids, attention_mask=attention_mask, **more)
        # With four dimensions, as transformers then hands it on to the layers as it is.
        carrier = packing.real[:, None, None, :]
        setattr(carrier, PACKING, packing)
        embedded = packing.pack(self.get_input_embeddings()(input_ids))
        if (types := more.get("token_type_ids")) is not None:
            more["token_type_ids"] = packing.pack(types)
        more |= {"inputs_embeds": embedded, "position_ids": packing.positions}
        output = super().forward(attention_mask=carrier, **more)
        output.last_hidden_state = packing.unpack(output.last_hidden_state)
        if output.get("pooler_output") is not None:  # of the first text's first token alone
            output.pooler_output = self.get_submodule("pooler")(output.last_hidden_state)
        return output


def attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, dropout: float = 0.0,
    scaling: float | None = None, sliding_window: int | None = None, **more: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Attention as transformers calls it, among the real tokens of each text if the mask has a packing.

    Args:
        module: the layer's attention.
        query, key, value: (1, heads, T, size); keys and values may have fewer heads.
        attention_mask: of `_Packed`, or an ordinary one.
        dropout: probability of dropping a weight.
        scaling: of the scores.
        sliding_window: see `Packing.visible`.

    Returns:
        (1, T, heads x size).
    """
    packing: Packing | None = getattr(attention_mask, PACKING, None)
    if packing is None:
        found, _ = sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **more)
        return found, None
    groups, size = query.shape[1] // key.shape[1], query.shape[-1]
    if scaling is not None:
        query = query * (scaling * size**0.5)
    if groups > 1:
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    q, k, v = (x.transpose(1, 2).flatten(2) for x in (query, key, value))
    visible = packing.visible(sliding_window, module.is_causal)
    return packing.attend(q, k, v, query.shape[1], dropout, visible=visible), None
