"""BERT for any `Layout`, in plain torch, with Hugging Face parameter names.

transformers 5 can neither prune heads nor gate them, and returns empty attention tuples under its default kernel; so
every method here runs on this model instead. What a distillation loss needs (hidden states, raw attention scores) is
returned on request and never silently empty.

Shape legend: `B` batch, `L` length, `D` hidden, `h` heads, `V` vocabulary, `C` labels.

References:
    Devlin et al., BERT: Pre-training of Deep Bidirectional Transformers, 2019, https://arxiv.org/abs/1810.04805
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from methods.parts.layers import MASKED, Attended, Encoder, Heads, Layer, Linear, Tokens
from methods.parts.layout import Layout

Runs: TypeAlias = Callable[[Tensor, Tensor, bool, bool], Attended]
"""A layer, or what stands for one: states (B, L, D), additive mask, whether raw scores and [CLS] scores are wanted."""

HEADS = ("plain", "relu")
"""Kinds of classifier head: dropout after the pooler's tanh, or a ReLU (the ROSITA and TinyBERT distillation code)."""


@dataclass(frozen=True, slots=True)
class Output:
    """What a forward pass gave; asking for what was not computed raises ValueError."""

    last: Tensor
    """Hidden states after the last layer, (B, L, D)."""
    _logits: Tensor | None = None
    _hidden: tuple[Tensor, ...] | None = None
    _scores: tuple[Tensor, ...] | None = None
    _cls_scores: tuple[Tensor, ...] | None = None

    @property
    def logits(self) -> Tensor:
        """Classifier outputs, (B, C)."""
        if self._logits is None:
            raise ValueError("Output.logits: the model has no classifier (its layout has labels = 0), or was cut short")
        return self._logits

    @property
    def hidden(self) -> tuple[Tensor, ...]:
        """Hidden states, num_layers + 1 of (B, L, D); index 0 is the embedding output after LayerNorm and dropout."""
        return _requested("hidden", self._hidden)

    @property
    def scores(self) -> tuple[Tensor, ...]:
        """Scaled dot products plus mask, before the softmax: num_layers of (B, h, L, L), query before key."""
        return _requested("scores", self._scores)

    @property
    def cls_scores(self) -> tuple[Tensor, ...]:
        """The [CLS] query's row of `scores`: num_layers of (B, h, L)."""
        return _requested("cls_scores", self._cls_scores)


def _requested(name: str, found: tuple[Tensor, ...] | None) -> tuple[Tensor, ...]:
    """Return `found`, or say how to request it."""
    if found is None:
        raise ValueError(f"Output.{name}: not computed; call the model with {name}=True")
    return found


class Bert(nn.Module):
    """A BERT of any `Layout` for classification, regression and masked words.

    Dropout is where the published code has it: embeddings, attention probabilities, both outputs of a layer, and the
    classifier's input under the plain head. Weights start as `initialise` draws them, but from torch's global
    generator.
    """

    def __init__(
        self, layout: Layout, *, head: str = "plain", dropout: float = 0.1, layer_norm_eps: float = 1e-12
    ) -> None:
        """Build the modules.

        Raises:
            ValueError: `head` is not one of `HEADS`.
        """
        super().__init__()
        if head not in HEADS:
            raise ValueError(f"Bert(head): found {head!r}, allowed are {list(HEADS)}")
        self.layout, self.head, self.dropout, self.layer_norm_eps = layout, head, dropout, layer_norm_eps
        self.bert = Encoder(layout, dropout, layer_norm_eps)
        self.classifier = Linear(layout.hidden, layout.labels) if layout.labels else None
        self.cls = Heads(layout, layer_norm_eps) if layout.masked_lm else None
        _draw(self, 0.02, None)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The transformer layers, bottom first."""
        return tuple(self.bert.encoder)

    def forward(
        self,
        batch: Tokens,
        *,
        hidden: bool = False,
        scores: bool = False,
        cls_scores: bool = False,
        depth: int | None = None,
        layers: Sequence[Runs] | None = None,
    ) -> Output:
        """Run the model, keeping what was asked for.

        Args:
            batch: the sequences.
            hidden: keep the states after the embeddings and after each layer.
            scores: keep the raw attention scores.
            cls_scores: keep those of the [CLS] query alone, which cost next to nothing.
            depth: stop after this many layers, without logits; None runs them all.
            layers: what runs in place of the model's own layers; None runs these.

        Raises:
            ValueError: the sequences are longer than the position table, or the model than `depth`.
        """
        own = (partial(self.run_layer, number) for number in range(len(self.layers)))
        running: Sequence[Runs] = [*own] if layers is None else layers
        if depth is not None and not 0 <= depth <= len(running):
            raise ValueError(f"Bert(depth): found {depth}, allowed are 0 to {len(running)}")
        length = batch.input_ids.shape[1]
        if length > self.layout.positions:
            raise ValueError(f"Bert: found sequences of {length} tokens, allowed are {self.layout.positions}")
        states = self.embed(batch)
        mask = (1.0 - batch.attention_mask[:, None, None, :].to(states.dtype)) * MASKED
        every, raws, firsts = [states], [], []
        for layer in running[:depth]:
            states, raw, first = layer(states, mask, scores, cls_scores)
            raws.append(raw)
            firsts.append(first)
            if hidden:  # not kept otherwise: under no_grad each layer's states are freed at once
                every.append(states)
        return Output(
            states,
            self._classify(states[:, 0]) if depth is None else None,
            tuple(every) if hidden else None,
            tuple(raw for raw in raws if raw is not None) if scores else None,
            tuple(first for first in firsts if first is not None) if cls_scores else None,
        )

    def embed(self, batch: Tokens) -> Tensor:
        """States before the first layer, (B, L, D); one of the three steps that a model of other parts replaces."""
        return cast(Tensor, self.bert.embeddings(batch))

    def run_layer(self, number: int, states: Tensor, mask: Tensor, scores: bool, cls_scores: bool) -> Attended:
        """The states after a layer, and the scores asked for; `mask` is additive, (B, 1, 1, L)."""
        return cast(Attended, self.layers[number](states, mask, scores, cls_scores))

    def _classify(self, first: Tensor) -> Tensor | None:
        """Map the [CLS] states (B, D) to logits (B, C), if there is a classifier."""
        if self.classifier is None or self.bert.pooler is None:
            return None
        pooled = self.bert.pooler(first)
        pooled = pooled.relu() if self.head == "relu" else F.dropout(pooled, self.dropout, self.training)
        return cast(Tensor, self.classifier(pooled))

    def mlm_logits(self, batch: Tokens, positions: Tensor) -> Tensor:
        """Predict the words at the chosen places.

        Args:
            batch: the sequences.
            positions: (B, L) bool, true where a word is wanted.

        Returns:
            (N, V) logits, places in row-major order.

        Raises:
            ValueError: the layout has no masked-LM head, or `positions` is not a bool mask.
        """
        if self.cls is None:
            raise ValueError("Bert.mlm_logits: this model has no masked-LM head (its layout has masked_lm = False)")
        if positions.dtype != torch.bool:
            raise ValueError(f"Bert.mlm_logits(positions): found dtype {positions.dtype}, allowed is torch.bool")
        return self.name_words(self.cls, self(batch).last[positions])

    def name_words(self, heads: Heads, states: Tensor) -> Tensor:
        """Map last states (N, D) to logits (N, V) by the masked-LM head."""
        head = heads.predictions
        chosen = head.transform(states)
        decoded = self.bert.embeddings.decode(chosen) if head.decoder is None else head.decoder(chosen)
        return cast(Tensor, decoded + head.bias)


def build(layout: Layout, state: Mapping[str, Tensor], *, like: Bert) -> Bert:
    """Make a model of another layout from the tensors of `state`; head kind, dropout and mode are those of `like`.

    Nothing is drawn and nothing copied.

    Raises:
        RuntimeError: a tensor is missing, unknown or of another shape.
    """
    with torch.device("meta"):
        model = Bert(layout, head=like.head, dropout=like.dropout, layer_norm_eps=like.layer_norm_eps)
    model.load_state_dict(state, assign=True)
    return model.train(like.training)


def initialise(model: Bert, seed: int, std: float = 0.02) -> None:
    """Draw all weights anew like BERT does: matrices and tables N(0, std), biases 0, LayerNorm 1 and 0, padding row 0.

    The numbers depend on `seed` and the layout only; torch's global generator is neither read nor moved.
    """
    _draw(model, std, torch.Generator().manual_seed(seed))


@torch.no_grad()
def _draw(model: Bert, std: float, generator: torch.Generator | None) -> None:
    """Fill every parameter."""
    for name, parameter in model.named_parameters():
        if name.endswith("LayerNorm.weight"):
            parameter.fill_(1.0)
        elif name.endswith("bias"):
            parameter.zero_()
        elif generator is None:
            parameter.normal_(0.0, std)
        else:  # drawn on the CPU, so that the numbers do not depend on the device
            parameter.copy_(torch.empty(parameter.shape).normal_(0.0, std, generator=generator))
    model.bert.embeddings.word_embeddings.weight[0] = 0.0


def set_dropout(model: Bert, dropout: float | None) -> None:
    """Give the whole model another dropout, in place; None leaves it.

    Raises:
        ValueError: the share is not in [0, 1).
    """
    if dropout is None:
        return
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout: found {dropout!r}, allowed is a share in [0, 1)")
    model.dropout = dropout
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
    for layer in model.layers:
        layer.attention.self.dropout = dropout
