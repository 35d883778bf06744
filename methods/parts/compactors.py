"""A BERT with a masked-LM head whose linear maps stand between square matrices that learn to make it narrower.

Every linear map y = W x + b becomes y = C_out (W C_in x + b), and the sum of the embedding tables C_out e; the C, the
compactors, start as the identity. (The paper's row compactor is C_in, its column compactor C_out.) Rows of C_out and
columns of C_in that training drives to zero can be cut, and the rest multiplied out: see `methods.parts.merge`. The
word decoder is no longer the word table; it starts as a copy.

A forward pass first multiplies W_eff = C_out W C_in, b_eff = C_out b and then runs the ordinary layers, which gives
the same gradients as three products a token at a third of the cost. Embeddings and decoder are far taller than a batch
is long, so there the compactor is applied to the states. Compactors are dense: masks only choose the dimensions over
which LayerNorms take mean and variance.

Shape legend: `B` batch, `L` length, `D` hidden, `N` chosen positions, `V` vocabulary.

References:
    Wu et al.: Weight-Inherited Distillation for Task-Agnostic BERT Compression, Findings of NAACL 2024,
    https://arxiv.org/abs/2305.09098
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from methods.parts.bert import Bert
from methods.parts.layers import LINEARS, Attended, Heads, Tokens
from methods.parts.layout import Layout
from methods.parts.mask_groups import DECODER, EMBEDDINGS, RESIDUAL, TRANSFORM, WORDS, groups_of, layer_name

COMPAT = ("uer-layernorm",)
"""Published behaviours: LayerNorms with the unbiased standard deviation, and epsilon beside it instead of in the
root."""

UER_EPS = 1e-6


class MaskedNorm(nn.Module):
    """LayerNorm whose mean and variance are those of the kept dimensions; all dimensions are normalised."""

    share: Tensor

    def __init__(self, width: int, eps: float, uer: bool) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.register_buffer("share", torch.full((width,), 1 / width), persistent=False)
        self.eps, self.uer = eps, uer

    def forward(self, states: Tensor) -> Tensor:
        """Normalise (..., D); `share` is 1 / kept at the kept dimensions and 0 elsewhere."""
        states = states.float()  # sums of many squares, also under autocast
        centred = states - (states * self.share).sum(-1, keepdim=True)
        variance = (centred.square() * self.share).sum(-1, keepdim=True)
        if self.uer:
            kept = 1 / self.share.max()
            return self.weight * centred / ((variance * kept / (kept - 1)).sqrt() + UER_EPS) + self.bias
        return self.weight * centred * (variance + self.eps).rsqrt() + self.bias


class CompactedBert(Bert):
    """A masked language model with compactors; the masks of its groups are in its state.

    The model that was inherited from keeps its names, without pooler and classifier, with a decoder of its own.
    """

    unbiased: Tensor

    def __init__(
        self, layout: Layout, *, dropout: float = 0.1, layer_norm_eps: float = 1e-12, compat: Sequence[str] = ()
    ) -> None:
        """Build the modules, compactors as identities, all dimensions kept.

        Raises:
            ValueError: the layout is not one of equal layers whose heads fill the hidden width, with a full word
                table; or `compat` is unknown.
        """
        if not layout.is_stock:
            found = layout.describe()
            raise ValueError(f"CompactedBert: found {found}, allowed are equal layers with full heads and word table")
        if unknown := [name for name in compat if name not in COMPAT]:
            raise ValueError(f"compat: found {unknown[0]!r}, allowed are {', '.join(COMPAT)}")
        layout = dataclasses.replace(layout, labels=0, pooler=False, masked_lm=True, tied=False)
        super().__init__(layout, dropout=dropout, layer_norm_eps=layer_norm_eps)
        uer = "uer-layernorm" in compat
        self.groups = groups_of(len(layout.layers))
        sizes = _sizes(layout)
        _replace_norms(self, layer_norm_eps, uer)
        self.compactors = nn.ParameterDict({_key(name): torch.eye(size) for name, size in sizes.items()})
        self.masks = nn.Module()
        for group in self.groups:
            self.masks.register_buffer(_key(group.name), torch.ones(sizes[f"{group.scored}.in"], dtype=torch.bool))
        # In the state, so that a checkpoint alone can be merged.
        self.register_buffer("unbiased", torch.tensor(uer))

    @classmethod
    def inherit(cls, model: Bert, compat: Sequence[str] = ()) -> CompactedBert:
        """Start from a masked language model, whose weights are copied; on the same device.

        Raises:
            ValueError: it has no masked-LM head, or another layout than `__init__` allows.
        """
        if model.cls is None:
            raise ValueError("CompactedBert: found a model without masked-LM head, allowed is one with")
        words = model.bert.embeddings.word_embeddings.weight
        compacted = cls(model.layout, dropout=model.dropout, layer_norm_eps=model.layer_norm_eps, compat=compat)
        own = compacted.state_dict()
        own.update({name: value for name, value in model.state_dict().items() if name in own})
        if model.cls.predictions.decoder is None:
            own[f"{DECODER}.weight"] = words
        compacted.load_state_dict(own)
        return compacted.to(words.device).train(model.training)

    def compactor(self, name: str) -> nn.Parameter:
        """One by `<module>.in` or `<module>.out`."""
        return cast(nn.Parameter, self.compactors[_key(name)])

    def named_compactors(self) -> Iterator[tuple[str, nn.Parameter]]:
        """All of them: embeddings, layers bottom first, masked-LM head."""
        return ((name, self.compactor(name)) for name in _sizes(self.layout))

    def mask(self, group: str) -> Tensor:
        """Which dimensions of a group are kept, bool."""
        return self.masks.get_buffer(_key(group))

    @torch.no_grad()
    def set_masks(self, masks: Mapping[str, Tensor]) -> None:
        """Take new masks by group name; groups that are not named stay as they are."""
        for name, mask in masks.items():
            self.mask(name).copy_(mask)

    def embed(self, batch: Tokens) -> Tensor:
        """States before the first layer, (B, L, D)."""
        embeddings = self.bert.embeddings
        total = F.linear(embeddings.total(batch), self.compactor(f"{EMBEDDINGS}.out"))
        norm = functional_call(embeddings.LayerNorm, {"share": self._share(RESIDUAL)}, (total,))
        return cast(Tensor, embeddings.dropout(norm))

    def run_layer(self, number: int, states: Tensor, mask: Tensor, scores: bool, cls_scores: bool) -> Attended:
        """The states after a layer, its weights composed."""
        weights, share = self._composed(self.layers[number], layer_name(number), LINEARS), self._share(RESIDUAL)
        weights |= {f"{part}.LayerNorm.share": share for part in ("attention.output", "output")}
        return cast(Attended, functional_call(self.layers[number], weights, (states, mask, scores, cls_scores)))

    def name_words(self, heads: Heads, states: Tensor) -> Tensor:
        """Map last states (N, D) to logits (N, V)."""
        head = heads.predictions
        weights = self._composed(head.transform, TRANSFORM, ("dense",)) | {"LayerNorm.share": self._share(WORDS)}
        chosen = F.linear(functional_call(head.transform, weights, (states,)), self.compactor(f"{DECODER}.in"))
        return cast(Tensor, cast(nn.Module, head.decoder)(chosen) + head.bias)

    def _share(self, group: str) -> Tensor:
        """1 / kept at the kept dimensions, 0 elsewhere."""
        mask = self.mask(group).float()
        return mask / mask.sum()

    def _composed(self, module: nn.Module, where: str, names: Sequence[str]) -> dict[str, Tensor]:
        """The weights and biases of a module's linear maps with their compactors multiplied in; in fp32."""
        composed = {}
        with torch.autocast(self.unbiased.device.type, enabled=False):
            for name in names:
                inner, outer = (self.compactor(f"{where}.{name}.{side}") for side in ("in", "out"))
                composed[f"{name}.weight"] = outer @ module.get_parameter(f"{name}.weight") @ inner
                composed[f"{name}.bias"] = outer @ module.get_parameter(f"{name}.bias")
        return composed


def _sizes(layout: Layout) -> dict[str, int]:
    """The width of each compactor, by name."""
    hidden, ffn = layout.hidden, layout.layers[0].ffn
    sizes = {f"{EMBEDDINGS}.out": hidden}
    for number in range(len(layout.layers)):
        for name in LINEARS:
            module = f"{layer_name(number)}.{name}"
            sizes[f"{module}.in"] = ffn if name == "output.dense" else hidden
            sizes[f"{module}.out"] = ffn if name == "intermediate.dense" else hidden
    return sizes | {f"{TRANSFORM}.dense.in": hidden, f"{TRANSFORM}.dense.out": hidden, f"{DECODER}.in": hidden}


def _key(name: str) -> str:
    """A name without dots, which a module's parameters may not have."""
    return name.replace(".", "/")


def _replace_norms(base: Bert, eps: float, uer: bool) -> None:
    """Put masked LayerNorms, whose parameters have the same names, in place of all LayerNorms."""
    for module in list(base.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.LayerNorm):
                setattr(module, name, MaskedNorm(child.normalized_shape[0], eps, uer))
