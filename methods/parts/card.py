"""What config.json says of a BERT checkpoint, as a value: read from stock and our own files, written for both.

A layout that `transformers.BertConfig` can say, with the plain head, is written as model type "bert", so that stock
transformers opens it. Anything else is written as "distilsweep_bert", whose exact layout and head kind stand under
the key `distilsweep`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers.configuration_utils import PretrainedConfig

from methods.parts.bert import HEADS
from methods.parts.layout import Layout

STOCK, OWN = "bert", "distilsweep_bert"
"""The model types that can be read."""

SHAPE = (
    "vocab_size",
    "max_position_embeddings",
    "type_vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
)
"""The keys of a stock config.json that give the layout."""

ALLOWED = {
    "hidden_act": ("gelu",),
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
}
"""Settings of a stock config.json that change the function, and the values that `Bert` computes; absent is fine."""


class DistilsweepBertConfig(PretrainedConfig):  # type: ignore[misc]
    """config.json of a layout that stock transformers does not know; its numbers stand under `distilsweep`."""

    model_type = OWN


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """Everything about a checkpoint but its weights."""

    layout: Layout
    head: str = "plain"
    labels: tuple[str, ...] = ()
    """Names of the classes in the order of the outputs; empty for regression and where none were given."""
    dropout: float = 0.1
    layer_norm_eps: float = 1e-12

    def __post_init__(self) -> None:
        """Refuse an unknown head kind and a wrong number of names."""
        if self.head not in HEADS:
            raise ValueError(f"head: found {self.head!r}, allowed are {list(HEADS)}")
        if self.labels and (len(self.labels) != self.layout.labels or len(set(self.labels)) != len(self.labels)):
            raise ValueError(f"labels: found {list(self.labels)}, allowed are {self.layout.labels} different names")

    @property
    def is_stock(self) -> bool:
        """Whether stock transformers can open the checkpoint and get the same outputs."""
        return self.layout.is_stock and self.head == "plain" and not (self.layout.labels and self.layout.masked_lm)


def read_card(config: Mapping[str, Any], *, masked_lm: bool = False) -> Card:
    """Read a parsed config.json; a masked-LM head is part of the layout only if `masked_lm` asks for it.

    A stock file does not say whether the weights hold a pooler; it is taken to be there.

    Raises:
        ValueError: the model is no BERT, or one that `Bert` does not compute; the message names the key and the
            value.
    """
    if not isinstance(config, Mapping):
        raise ValueError(f"found {config!r}, allowed is a mapping")
    model_type = config.get("model_type")
    if model_type not in (STOCK, OWN):
        raise ValueError(f"model_type: found {model_type!r}, allowed are {[STOCK, OWN]}")
    layout, head = _stock_layout(config) if model_type == STOCK else _own_layout(config)
    return Card(
        layout=dataclasses.replace(layout, masked_lm=masked_lm, tied=layout.tied or not masked_lm),
        head=head,
        labels=_names(config, layout.labels),
        dropout=_number(config, "hidden_dropout_prob", 0.1),
        layer_norm_eps=_number(config, "layer_norm_eps", 1e-12),
    )


def _number(config: Mapping[str, Any], key: str, default: float) -> float:
    """Read a number from 0 up to 1."""
    value = config.get(key, default)
    if not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise ValueError(f"{key}: found {value!r}, allowed is a number from 0 up to 1")
    return float(value)


def _stock_layout(config: Mapping[str, Any]) -> tuple[Layout, str]:
    """Read the layout of a stock BERT, whose head is always the plain one."""
    wrong = [f"{key} = {config.get(key)!r}" for key in SHAPE if type(config.get(key)) is not int or config[key] < 1]
    if wrong:
        raise ValueError(f"found {', '.join(wrong)}; allowed are positive integers")
    for key, values in ALLOWED.items():
        if config.get(key, values[0]) not in values:
            raise ValueError(f"{key}: found {config[key]!r}, allowed is {values[0]!r}")
    vocab, positions, types, hidden, num_layers, heads, ffn = (config[key] for key in SHAPE)
    if hidden % heads:
        raise ValueError(f"hidden_size: found {hidden}, allowed are multiples of num_attention_heads = {heads}")
    layout = Layout.uniform(
        vocab=vocab,
        positions=positions,
        types=types,
        hidden=hidden,
        num_layers=num_layers,
        heads=heads,
        head_width=hidden // heads,
        ffn=ffn,
        labels=_num_labels(config),
    )
    return dataclasses.replace(layout, tied=config.get("tie_word_embeddings", True) is not False), "plain"


def _own_layout(config: Mapping[str, Any]) -> tuple[Layout, str]:
    """Read the exact layout and head kind that `write_card` stored."""
    own = config.get("distilsweep")
    if not isinstance(own, Mapping) or not {"layout", "head"} <= set(own):
        raise ValueError(f"distilsweep: found {own!r}, allowed is a mapping with the keys 'layout' and 'head'")
    return Layout.from_json(own["layout"]), str(own["head"])


def _num_labels(config: Mapping[str, Any]) -> int:
    """Count the classifier's outputs; a checkpoint of another architecture has none."""
    if not any(name.endswith("ForSequenceClassification") for name in config.get("architectures") or ()):
        return 0
    return len(config["id2label"]) if "id2label" in config else int(config.get("num_labels", 2))


def _names(config: Mapping[str, Any], count: int) -> tuple[str, ...]:
    """Return the label names in output order, or () where there are none or only transformers' place-holders."""
    found = {int(number): str(name) for number, name in (config.get("id2label") or {}).items()}
    names = tuple(found[number] for number in sorted(found))
    generic = tuple(f"LABEL_{number}" for number in range(len(names)))
    return names if count > 1 and len(names) == count and names != generic else ()


def write_card(card: Card) -> dict[str, Any]:
    """Return the config.json that `read_card` and transformers read."""
    layout, first = card.layout, card.layout.layers[0]
    names = card.labels or tuple(f"LABEL_{number}" for number in range(layout.labels))
    config: dict[str, Any] = {
        "model_type": STOCK if card.is_stock else OWN,
        "architectures": [_architecture(card)],
        **dict(zip(SHAPE, (layout.vocab, layout.positions, layout.types, layout.hidden), strict=False)),
        "num_hidden_layers": len(layout.layers),
        "num_attention_heads": first.heads,
        "intermediate_size": first.ffn,
        "hidden_act": "gelu",
        "hidden_dropout_prob": card.dropout,
        "attention_probs_dropout_prob": card.dropout,
        "layer_norm_eps": card.layer_norm_eps,
        "pad_token_id": 0,
    }
    if layout.masked_lm and not layout.tied:
        config["tie_word_embeddings"] = False
    if layout.labels:
        config["id2label"] = {str(number): name for number, name in enumerate(names)}
        config["label2id"] = {name: number for number, name in enumerate(names)}
    if not card.is_stock:
        config["distilsweep"] = {"layout": layout.to_json(), "head": card.head}
    return config


def _architecture(card: Card) -> str:
    """Return the name of the transformers class that opens the checkpoint."""
    prefix = "Bert" if card.is_stock else "DistilsweepBert"
    if card.layout.labels:
        return f"{prefix}ForSequenceClassification"
    return f"{prefix}ForMaskedLM" if card.layout.masked_lm or not card.is_stock else "BertModel"
