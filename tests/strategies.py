"""Random layouts, models and token rows for property tests."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from methods.parts.bert import Bert, initialise
from methods.parts.layout import LayerLayout, Layout

settings.register_profile("distilsweep", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("distilsweep")  # no deadline, since the machine may be busy; the same examples on every run
torch.set_num_threads(1)  # the tensors are tiny, and threads of several test processes wait for each other


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What a model and its losses read of a batch."""

    input_ids: Tensor
    attention_mask: Tensor
    token_type_ids: Tensor
    labels: Tensor
    sizes: Mapping[str, int]


def rows(layout: Layout, *, lengths: tuple[int, ...] = (6, 3, 4), length: int = 6, seed: int = 0) -> Rows:
    """Random words and labels, padded with zeros; the second half of a row is its second segment."""
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.arange(length) < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(min(1, layout.vocab - 1), layout.vocab, mask.shape, generator=generator) * mask
    second = (torch.arange(length) >= torch.tensor(lengths)[:, None] // 2).long() * mask
    types = second * (layout.types > 1)
    labels = torch.randint(0, max(layout.labels, 1), (len(lengths),), generator=generator)
    sizes = {"examples": len(lengths), "tokens": int(mask.sum()), "positions": mask.numel()}
    return Rows(input_ids=ids, attention_mask=mask, token_type_ids=types, labels=labels, sizes=sizes)


def random_bert(layout: Layout, *, seed: int = 0, head: str = "plain", dropout: float = 0.0) -> Bert:
    """A model whose weights, biases and LayerNorms are all random and large enough to matter."""
    model = Bert(layout, head=head, dropout=dropout)
    initialise(model, seed, std=0.3)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.empty(parameter.shape).normal_(0.0, 0.2, generator=generator))
    return model.eval()


def normal(seed: int, *shape: int) -> Tensor:
    """Standard normal numbers."""
    return torch.empty(shape).normal_(generator=torch.Generator().manual_seed(seed))


@st.composite
def layer_layouts(draw: st.DrawFn, *, min_heads: int = 0, min_ffn: int = 0) -> LayerLayout:
    """One layer, small, possibly without heads or neurons."""
    heads = draw(st.integers(min_heads, 4))
    return LayerLayout(heads=heads, head_width=draw(st.integers(1, 5)), ffn=draw(st.integers(min_ffn, 9)))


@st.composite
def layouts(
    draw: st.DrawFn, *, min_heads: int = 0, min_ffn: int = 0, factorised: bool | None = None, labels: int | None = None
) -> Layout:
    """A small layout with unequal layers.

    Args:
        draw: hypothesis'.
        min_heads: fewest heads of a layer.
        min_ffn: fewest neurons of a layer.
        factorised: whether the word table has two factors; None is either.
        labels: outputs; None is any number, 0 included.
    """
    vocab, hidden = draw(st.integers(3, 17)), draw(st.integers(2, 9))
    ranked = draw(st.booleans()) if factorised is None else factorised
    outputs = draw(st.integers(0, 3)) if labels is None else labels
    layer = layer_layouts(min_heads=min_heads, min_ffn=min_ffn)
    return Layout(
        vocab=vocab,
        positions=draw(st.integers(6, 10)),
        types=draw(st.integers(1, 2)),
        hidden=hidden,
        embedding_rank=draw(st.integers(1, min(vocab, hidden))) if ranked else None,
        layers=tuple(draw(st.lists(layer, min_size=1, max_size=3))),
        pooler=True if outputs else draw(st.booleans()),
        labels=outputs,
        masked_lm=draw(st.booleans()),
    )


@st.composite
def kept(draw: st.DrawFn, size: int) -> list[int]:
    """Some of 0..size-1, none twice, in any order."""
    return draw(st.permutations(range(size)))[: draw(st.integers(0, size))]
