"""Our model as transformers classes, which `AutoModelForSequenceClassification` and `AutoModelForMaskedLM` open.

Importing this module costs seconds (transformers' model code), so `methods.parts.checkpoint` registers place-holders
that import it on first use.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.modeling_outputs import MaskedLMOutput, SequenceClassifierOutput
from transformers.modeling_utils import PreTrainedModel

from methods.parts.bert import Bert
from methods.parts.card import DistilsweepBertConfig, read_card


@dataclass(frozen=True, slots=True)
class Inputs:
    """Model inputs, (B, L) int64, with transformers' defaults filled in."""

    input_ids: Tensor
    attention_mask: Tensor
    token_type_ids: Tensor


def _inputs(input_ids: Tensor, attention_mask: Tensor | None, token_type_ids: Tensor | None) -> Inputs:
    """Fill in the defaults: no padding, one segment."""
    return Inputs(
        input_ids,
        torch.ones_like(input_ids) if attention_mask is None else attention_mask,
        torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids,
    )


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean squared error for float labels, else mean cross-entropy; written out, as this module is also exported."""
    if labels.is_floating_point():
        return F.mse_loss(logits.reshape(labels.shape), labels)
    return F.cross_entropy(logits, labels)


class _OpenedBert(PreTrainedModel):  # type: ignore[misc]
    """A `Bert` whose parts hang directly below this module, under the names that its checkpoint has."""

    config_class = DistilsweepBertConfig
    base_model_prefix = "bert"

    def __init__(self, config: DistilsweepBertConfig) -> None:
        super().__init__(config)
        stored = config.to_dict()
        card = read_card(stored, masked_lm=bool(stored["distilsweep"]["layout"]["masked_lm"]))
        model = Bert(card.layout, head=card.head, dropout=card.dropout, layer_norm_eps=card.layer_norm_eps)
        for name, part in model.named_children():
            self.add_module(name, part)
        # A plain attribute: were it a submodule, every parameter would have a second name.
        object.__setattr__(self, "model", model)
        self.post_init()

    def train(self, mode: bool = True) -> _OpenedBert:
        """Set the mode of the parts, and of the model that applies the classifier's dropout."""
        super().train(mode)
        self.model.training = mode
        return self


class DistilsweepBertForSequenceClassification(_OpenedBert):
    """What `AutoModelForSequenceClassification` opens."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool = False,
    ) -> SequenceClassifierOutput:
        """Return logits (B, C), and the mean loss if labels (B,) are given."""
        output = self.model(_inputs(input_ids, attention_mask, token_type_ids), hidden=output_hidden_states)
        loss = None if labels is None else _loss(output.logits, labels)
        hidden = output.hidden if output_hidden_states else None
        return SequenceClassifierOutput(loss=loss, logits=output.logits, hidden_states=hidden)


class DistilsweepBertForMaskedLM(_OpenedBert):
    """What `AutoModelForMaskedLM` opens."""

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> MaskedLMOutput:
        """Return logits (B, L, V) for every position."""
        inputs = _inputs(input_ids, attention_mask, token_type_ids)
        logits = self.model.mlm_logits(inputs, torch.ones_like(input_ids, dtype=torch.bool))
        return MaskedLMOutput(logits=logits.view(*input_ids.shape, -1))
