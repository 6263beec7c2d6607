"""The real tokens of a padded batch one after another, and attention among those of the same text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from mat_ds.models.kernels import kernel_for, variable_length

# Attribute of a mask: its packing, so that the passes after the first over a batch do not wait for the device again.
KNOWN = "_packing"
# Where passes are replayed (`model.compile`), packed tokens and padded lengths are multiples of these: there are fewer shapes.
TOKEN_STEP, LENGTH_STEP = 128, 32


class _Rows(torch.autograd.Function):
    """Gathers rows of x. So does its backward, where index_select's own would add them up."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, back: Tensor, blank: Tensor | None) -> Tensor:
        ctx.back, ctx.blank = back, blank
        return x.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        found = gradients[0].index_select(0, ctx.back)
        if ctx.blank is not None:
            found = found.masked_fill(ctx.blank.view(-1, *[1] * (found.dim() - 1)), 0.0)
        return found, None, None, None


@dataclass(eq=False)
class Packing:
    """Where the T real tokens of a batch (B, L) are, if all padding is at the end of its texts.

    Attributes:
        real: (B, L) bool; True on real tokens.
        lengths: of the texts, (B,).
        tokens: T, known on the host.
        longest: no text has more tokens.
        full: whether no token is padding.
        spare: whether T may be more than the real tokens. The others, at the end, are a text of their own that nobody reads:
            copies of the first token, without a gradient.
    """

    real: Tensor
    lengths: Tensor
    tokens: int
    longest: int
    full: bool
    spare: bool = False

    def __post_init__(self) -> None:
        device, (texts, length), lengths = self.real.device, self.real.shape, self.lengths
        if self.spare:
            lengths = torch.cat([lengths, self.tokens - lengths.sum(0, keepdim=True)])
        self.ends = pad(lengths.cumsum(0), (1, 0)).int()
        # Index of the first token of each text among the packed tokens.
        self.firsts = self.ends[:texts].long()
        if self.full:
            return
        tokens = torch.arange(self.tokens, device=device)
        # Given its size, repeat_interleave does not wait for the device.
        text = torch.arange(len(lengths), device=device).repeat_interleave(lengths, output_size=self.tokens)
        # Row of each packed token in the padded batch, and the other way round; there is none for padding, which gets 0.
        rows = tokens - self.ends[text] + text * length
        packed = self.firsts[:, None] + torch.arange(length, device=device)
        self._packed_rows = packed.masked_fill(~self.real, 0).flatten()
        self._blank = ~self.real.flatten()
        self._unread = text == texts if self.spare else None
        self._padded_rows = rows if self._unread is None else rows.masked_fill(self._unread, 0)

    @staticmethod
    def of(mask: Tensor, step: int = 0) -> Packing | None:
        """The packing of an attention mask (B, L); None if texts do not begin at its left. The host waits for the device, once
        for a mask, or for the mask (samples, C, L) of which it is a view.

        Args:
            mask: of the texts.
            step: unless 0, T is a multiple of it, and there are up to so many spare tokens.
        """
        version, owner = None if mask.is_inference() else mask._version, _owner(mask)
        known: tuple[int, Packing | None] | None = getattr(owner, KNOWN, None)
        if known and known[0] == version:
            return known[1]
        real = mask.bool()
        at_left = real[:, 0].all() & (real[:, 1:] <= real[:, :-1]).all()
        lengths = real.sum(1)
        *counts, fits = torch.cat([lengths, at_left[None]]).tolist()
        found = None
        if fits:
            total, (texts, length) = sum(counts), real.shape
            full = total == texts * length
            if step and not full:
                found = Packing(real, lengths, (total // step + 1) * step, max(length, step), False, spare=True)
            else:
                found = Packing(real, lengths, total, max(counts), full)
        if version is not None:
            setattr(owner, KNOWN, (version, found))
        return found

    def like(self, real: Tensor, times: int = 1) -> Packing:
        """A packing of other texts, of the same sizes or those sizes so many times, without waiting for the device."""
        longest = self.longest * times if self.spare else self.longest
        return Packing(real, real.sum(1), self.tokens * times, longest, self.full, self.spare)

    @cached_property
    def starts(self) -> Tensor:
        """`ends`, if of each text there is the first token alone."""
        return torch.arange(len(self.real) + 1, dtype=torch.int32, device=self.real.device)

    @cached_property
    def positions(self) -> Tensor:
        """Position of each real token in its text, (1, T)."""
        texts, length = self.real.shape
        return self.pack(torch.arange(length, device=self.real.device).expand(texts, length))

    def visible(self, window: int | None, causal: bool) -> Tensor | None:
        """Which tokens each token attends to, (B, 1, L, L) bool; None if all real ones of its text.

        Args:
            window: of two tokens at that distance or more neither attends to the other; None: at any distance.
            causal: whether no token attends to later ones.
        """
        longest = self.real.shape[1]
        if not causal and (window is None or window >= longest):
            return None
        known: dict[tuple[int | None, bool], Tensor] = self.__dict__.setdefault("_visible", {})
        if (window, causal) not in known:
            ahead = torch.arange(longest, device=self.real.device)
            ahead = ahead[None, :] - ahead[:, None]
            seen = (ahead <= 0 if causal else ahead.abs() >= 0) & (ahead.abs() < (window or longest))
            # Padding attends to all real tokens: of what attends to none, the result is not a number.
            known[window, causal] = ((seen | ~self.real[:, :, None]) & self.real[:, None, :])[:, None]
        return known[window, causal]

    def pack(self, x: Tensor) -> Tensor:
        """Real tokens (1, T, ...) of x (B, L, ...)."""
        flat = x.flatten(0, 1)
        return (flat if self.full else _Rows.apply(flat, self._padded_rows, self._packed_rows, self._blank))[None]

    def unpack(self, x: Tensor) -> Tensor:
        """(B, L, ...) of real tokens x (1, T, ...), zero on padding."""
        padded = self._spread(x)
        return padded if self.full else padded.masked_fill(~self.real.view(*self.real.shape, *[1] * (x.dim() - 2)), 0.0)

    def first(self, x: Tensor) -> Tensor:
        """The first token of each text, (1, B, ...), of real tokens x (1, T, ...)."""
        return x.index_select(1, self.firsts)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, heads: int, dropout: float, bias: Tensor | None = None,
        visible: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Attention of the tokens of each text to one another.

        Args:
            query: (1, T, H), or (1, B, H) of the first tokens alone.
            key, value: (1, T, H).
            heads: that H is divided into.
            dropout: probability of dropping a weight.
            bias: (1, heads, L, L), added to the scores.
            visible: from `visible`, for all tokens; not with a bias.

        Returns:
            In the shape of `query`.
        """
        q, k, v = (x.view(1, x.shape[1], heads, -1) for x in (query, key, value))
        of_first = query.shape[1] < key.shape[1]
        plain = bias is None and visible is None
        kernel = kernel_for(q.device, q.dtype, q.shape[-1]) if plain else None
        if kernel and of_first:
            if self.spare and self._unread is not None:  # no kernel writes gradients of keys that no text has
                k, v = (x.masked_fill(self._unread[None, :, None, None], 0.0) for x in (k, v))
            ends = self.starts, self.ends[: len(self.starts)]
            return variable_length(kernel, q, k, v, ends, (1, self.longest), dropout).flatten(2)
        if kernel:
            ends = self.ends, self.ends
            return variable_length(kernel, q, k, v, ends, (self.longest, self.longest), dropout).flatten(2)
        q = q.transpose(0, 1) if of_first else self._spread(q)
        if visible is None and not self.full:
            visible = self.real[:, None, None, :]
        if bias is not None:
            bias = bias[:, :, : q.shape[1]]
            visible = bias if visible is None else torch.where(visible, bias, -torch.inf)
        q, k, v = (x.transpose(1, 2) for x in (q, self._spread(k), self._spread(v)))
        mixed = scaled_dot_product_attention(q, k, v, visible, dropout).transpose(1, 2).flatten(2)
        return mixed.transpose(0, 1) if of_first else self.pack(mixed)

    def _spread(self, x: Tensor) -> Tensor:
        """(B, L, ...) of real tokens x (1, T, ...); what lies on padding is arbitrary, and is taken for constant."""
        rows = x[0] if self.full else _Rows.apply(x[0], self._packed_rows, self._padded_rows, self._unread)
        return rows.view(*self.real.shape, *x.shape[2:])


def _owner(mask: Tensor) -> Tensor:
    """The mask whose texts these are: itself, or the one that it is a flat view of, which models of multiple choice make."""
    base = mask._base
    same = base is not None and base.shape[-1] == mask.shape[-1] and base.numel() == mask.numel()
    return base if base is not None and same and base.is_contiguous() and mask.is_contiguous() else mask


def pack_doubled(inputs: Mapping[str, Tensor], twice: Mapping[str, Tensor]) -> None:
    """Derives the packing of `twice`, which is `inputs` and `inputs` again, from theirs if that is known: so the host does not
    wait for the device."""
    mask, both = inputs.get("attention_mask"), twice.get("attention_mask")
    known: tuple[int, Packing | None] | None = getattr(mask, KNOWN, None)
    if mask is not None and both is not None and known and known[1] and known[0] == mask._version and not hasattr(both, KNOWN):
        pack_as(both, known[1], times=2)


def pack_as(mask: Tensor, packing: Packing | None, times: int = 1) -> None:
    """Gives a mask the packing that `Packing.of` would find, known to have the sizes of another one, or so many times those:
    the host does not wait for the device, and a CUDA graph can record it."""
    found = packing and packing.like(mask.bool().flatten(0, -2), times)
    setattr(mask, KNOWN, (mask._version, found))
