"""The modules a BERT is made of: embeddings, attention over any number of heads, layers, masked-LM head.

Attribute names spell Hugging Face's parameter names. Every width comes from a `LayerLayout` and may be 0: such a part
keeps its output bias and LayerNorm, so cutting all heads equals zeroing their output columns.

Shape legend: `B` batch, `L` length, `D` hidden, `h` heads, `d` head width, `r` embedding rank, `V` vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from methods.parts.layout import LayerLayout, Layout

MASKED = -10000.0
"""Added to the scores of padded keys, as in the original BERT code; their softmax weight is exactly 0 in fp32."""

LINEARS = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)
"""The linear maps of a layer, by their names within it."""

Attended = tuple[Tensor, Tensor | None, Tensor | None]
"""States, raw scores (B, h, L, L) if asked for, the [CLS] query's scores (B, h, L) if asked for."""


class Tokens(Protocol):
    """The part of a batch that the model reads; all (B, L) int64."""

    @property
    def input_ids(self) -> Tensor:
        """Word-piece numbers."""

    @property
    def attention_mask(self) -> Tensor:
        """1 at real tokens, 0 at padding."""

    @property
    def token_type_ids(self) -> Tensor:
        """Segment numbers."""


class Linear(nn.Linear):
    """A linear layer that leaves its weights to `Bert`, and so may have a width of 0 without torch's warning."""

    def reset_parameters(self) -> None:
        """Do nothing; `Bert` draws all weights at once."""


class Residual(nn.Module):
    """Dense, dropout, add to the residual stream, LayerNorm."""

    def __init__(self, width: int, hidden: int, dropout: float, eps: float) -> None:
        super().__init__()
        self.dense = Linear(width, hidden)
        self.LayerNorm = nn.LayerNorm(hidden, eps=eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, inner: Tensor, stream: Tensor) -> Tensor:
        """Map (B, L, width) and (B, L, D) to (B, L, D)."""
        return cast(Tensor, self.LayerNorm(self.dropout(self.dense(inner)) + stream))


class SelfAttention(nn.Module):
    """Multi-head attention over a given number of heads, possibly none."""

    def __init__(self, layer: LayerLayout, hidden: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.head_width, self.dropout = layer.heads, layer.head_width, dropout
        self.query = Linear(hidden, layer.width)
        self.key = Linear(hidden, layer.width)
        self.value = Linear(hidden, layer.width)

    def forward(self, states: Tensor, mask: Tensor, scores: bool, cls_scores: bool) -> Attended:
        """Return the context (B, L, h d) and the scores asked for; `mask` is additive, (B, 1, 1, L)."""
        query, key, value = (self._split(part(states)) for part in (self.query, self.key, self.value))
        if not scores:
            first = self._scores(query[:, :, :1], key, mask)[:, :, 0] if cls_scores else None
            return self._attend(query, key, value, mask).transpose(1, 2).flatten(2), None, first
        raw = self._scores(query, key, mask)
        context = F.dropout(raw.softmax(-1), self.dropout, self.training) @ value
        return context.transpose(1, 2).flatten(2), raw, raw[:, :, 0] if cls_scores else None

    def _split(self, flat: Tensor) -> Tensor:
        """Turn (B, L, h d) into (B, h, L, d)."""
        return flat.view(*flat.shape[:2], self.heads, self.head_width).transpose(1, 2)

    def _scores(self, query: Tensor, key: Tensor, mask: Tensor) -> Tensor:
        """Return scaled dot products plus the mask, (B, h, queries, L)."""
        return query @ key.transpose(-1, -2) / math.sqrt(self.head_width) + mask

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """Return the context (B, h, L, d) from torch's fused kernel, which keeps no (L, L) matrix."""
        if not self.heads:
            return value
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(query, key, value, mask.to(query.dtype), dropout)


class Attention(nn.Module):
    """Self-attention and its output projection; the two names are Hugging Face's."""

    def __init__(self, layer: LayerLayout, hidden: int, dropout: float, eps: float) -> None:
        super().__init__()
        self.self = SelfAttention(layer, hidden, dropout)
        self.output = Residual(layer.width, hidden, dropout, eps)

    def forward(self, states: Tensor, mask: Tensor, scores: bool, cls_scores: bool) -> Attended:
        """Return the new states (B, L, D) and the scores asked for."""
        context, raw, first = self.self(states, mask, scores, cls_scores)
        return self.output(context, states), raw, first


class Intermediate(nn.Module):
    """First half of the feed-forward network."""

    def __init__(self, hidden: int, ffn: int) -> None:
        super().__init__()
        self.dense = Linear(hidden, ffn)

    def forward(self, states: Tensor) -> Tensor:
        """Map (B, L, D) to (B, L, ffn) with the exact GELU."""
        return F.gelu(self.dense(states))


class Layer(nn.Module):
    """One post-LayerNorm transformer layer."""

    def __init__(self, layer: LayerLayout, hidden: int, dropout: float, eps: float) -> None:
        super().__init__()
        self.attention = Attention(layer, hidden, dropout, eps)
        self.intermediate = Intermediate(hidden, layer.ffn)
        self.output = Residual(layer.ffn, hidden, dropout, eps)

    def forward(self, states: Tensor, mask: Tensor, scores: bool, cls_scores: bool) -> Attended:
        """Return the new states (B, L, D) and the scores asked for."""
        states, raw, first = self.attention(states, mask, scores, cls_scores)
        return self.output(self.intermediate(states), states), raw, first


class Embeddings(nn.Module):
    """Word, position and type tables, added, normalised and dropped out; the word table may be two factors."""

    def __init__(self, layout: Layout, dropout: float, eps: float) -> None:
        super().__init__()
        hidden, rank = layout.hidden, layout.embedding_rank
        self.word_embeddings = nn.Embedding(layout.vocab, rank or hidden, padding_idx=0)
        self.word_projection = None if rank is None else Linear(rank, hidden, bias=False)
        self.position_embeddings = nn.Embedding(layout.positions, hidden)
        self.token_type_embeddings = nn.Embedding(layout.types, hidden)
        self.LayerNorm = nn.LayerNorm(hidden, eps=eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch: Tokens) -> Tensor:
        """Return (B, L, D)."""
        return cast(Tensor, self.dropout(self.LayerNorm(self.total(batch))))

    def total(self, batch: Tokens) -> Tensor:
        """Add up the three tables' rows, (B, L, D)."""
        words = self.word_embeddings(batch.input_ids)
        if self.word_projection is not None:
            words = self.word_projection(words)
        positions = self.position_embeddings.weight[: batch.input_ids.shape[1]]
        return cast(Tensor, words + positions + self.token_type_embeddings(batch.token_type_ids))

    def decode(self, states: Tensor) -> Tensor:
        """Multiply (N, D) with the transposed word table: (N, V)."""
        if self.word_projection is not None:
            states = states @ self.word_projection.weight
        return F.linear(states, self.word_embeddings.weight)


class Stack(nn.Module):
    """The transformer layers, bottom first."""

    def __init__(self, layout: Layout, dropout: float, eps: float) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(layer, layout.hidden, dropout, eps) for layer in layout.layers)

    def __iter__(self) -> Iterator[Layer]:
        return (cast(Layer, layer) for layer in self.layer)


class Pooler(nn.Module):
    """Dense and tanh over the [CLS] state."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.dense = Linear(hidden, hidden)

    def forward(self, first: Tensor) -> Tensor:
        """Map (B, D) to (B, D)."""
        return torch.tanh(self.dense(first))


class Encoder(nn.Module):
    """Embeddings, layers and pooler under the names of `transformers.BertModel`."""

    def __init__(self, layout: Layout, dropout: float, eps: float) -> None:
        super().__init__()
        self.embeddings = Embeddings(layout, dropout, eps)
        self.encoder = Stack(layout, dropout, eps)
        self.pooler = Pooler(layout.hidden) if layout.pooler else None


class Transform(nn.Module):
    """Dense, GELU and LayerNorm before the masked-LM decoder."""

    def __init__(self, hidden: int, eps: float) -> None:
        super().__init__()
        self.dense = Linear(hidden, hidden)
        self.LayerNorm = nn.LayerNorm(hidden, eps=eps)

    def forward(self, states: Tensor) -> Tensor:
        """Map (N, D) to (N, D)."""
        return cast(Tensor, self.LayerNorm(F.gelu(self.dense(states))))


class MaskedWords(nn.Module):
    """The masked-LM head; its decoder is missing where it is the word table itself."""

    def __init__(self, layout: Layout, eps: float) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(layout.vocab))
        self.transform = Transform(layout.hidden, eps)
        self.decoder = None if layout.tied else Linear(layout.hidden, layout.vocab, bias=False)


class Heads(nn.Module):
    """Pre-training heads, of which only the masked-LM one exists here."""

    def __init__(self, layout: Layout, eps: float) -> None:
        super().__init__()
        self.predictions = MaskedWords(layout, eps)
