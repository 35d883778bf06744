"""Data and models small enough to train in milliseconds, for tests of the loop."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from methods.parts.batches import Batch
from methods.parts.bert import Bert, initialise
from methods.parts.layout import Layout
from methods.parts.losses import Term, hard_cross_entropy
from methods.parts.training import Losses

VOCAB = 30


def tiny_layout(heads: int = 2, num_layers: int = 2, ffn: int = 8) -> Layout:
    return Layout.uniform(
        vocab=VOCAB, positions=12, hidden=8, num_layers=num_layers, heads=heads, head_width=4, ffn=ffn, labels=2
    )


def tiny_bert(seed: int = 0, dropout: float = 0.0, layout: Layout | None = None) -> Bert:
    model = Bert(layout or tiny_layout(), dropout=dropout)
    initialise(model, seed, 0.3)
    return model


@dataclass
class Rows:
    """Random sentences of 2 to 9 tokens, dealt like the real `Batches`: row i of a batch goes to share i mod shares."""

    num_rows: int = 22
    batch_size: int = 8
    rank: int = 0
    world_size: int = 1
    micro_batches: int = 1

    @property
    def num_steps(self) -> int:
        return -(-self.num_rows // self.batch_size)

    def step(self, step: int) -> list[Batch]:
        epoch, within = divmod(step, self.num_steps)
        order = torch.randperm(self.num_rows, generator=torch.Generator().manual_seed(epoch)).tolist()
        rows = order[within * self.batch_size : (within + 1) * self.batch_size]
        shares = self.world_size * self.micro_batches
        dealt = [rows[part::shares] for part in range(self.rank, shares, self.world_size)]
        return [collated(share) for share in dealt if share]


def collated(rows: Sequence[int]) -> Batch:
    lengths = [2 + 5 * row % 8 for row in rows]
    ids, mask = torch.zeros(len(rows), max(lengths), dtype=torch.int64), torch.zeros(len(rows), max(lengths)).long()
    for place, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        generator = torch.Generator().manual_seed(1000 + row)
        ids[place, :length] = torch.randint(1, VOCAB, (length,), generator=generator)
        mask[place, :length] = 1
    return Batch(
        input_ids=ids,
        attention_mask=mask,
        token_type_ids=torch.zeros_like(ids),
        labels=torch.tensor([row % 2 for row in rows]),
        ids=torch.tensor(rows),
        sites=None,
        sizes={"examples": len(rows), "tokens": sum(lengths), "positions": ids.numel()},
    )


def label_losses(model: Bert) -> Losses:
    def losses(batch: Batch) -> Iterator[Sequence[Term]]:
        yield [hard_cross_entropy(model(batch).logits, batch.labels)]

    return losses


def three_losses(model: Bert) -> Losses:
    """Three graphs: labels and a mean over tokens, a penalty per micro-batch, a second forward."""

    def losses(batch: Batch) -> Iterator[Sequence[Term]]:
        output = model(batch)
        real = batch.attention_mask[:, :, None]
        tokens = Term("tokens", (output.last.square().mean(-1, keepdim=True) * real).sum(), "tokens", 0.3)
        yield [hard_cross_entropy(output.logits, batch.labels), tokens]
        yield [Term("penalty", weights(model).square().sum(), "batches", 0.1)]
        yield [0.5 * hard_cross_entropy(model(batch).logits / 2, batch.labels)]

    return losses


def weights(model: nn.Module) -> torch.Tensor:
    """All parameters as one vector."""
    return torch.cat([parameter.reshape(-1) for parameter in model.parameters()])


def flat(model: nn.Module) -> torch.Tensor:
    """A detached copy of all parameters as one vector."""
    return weights(model).detach().clone()


def defined(model: nn.Module) -> torch.Tensor:
    """`flat` without the key biases: no softmax sees them, so their gradient is rounding noise that Adam blows up."""
    kept = [value.detach().reshape(-1) for name, value in model.named_parameters() if not name.endswith("key.bias")]
    return torch.cat(kept).clone()
