"""Data augmentation by replacing words: a masked LM proposes for words of one piece, word vectors for the others.

For a sentence the candidates of every replaceable word are computed once; then, N times, each such word draws one of
its candidates and is replaced by it with probability p, and the result is kept if it is new.

Where this departs from the published code: it draws from a generator of each text's own, so any split of the work over
processes gives the same result; candidates are drawn from in order of their ids (a uniform draw does not care), so that
rounding, which may swap two of them, changes nothing; special tokens are no candidates, for written into a file they
would be read as such. In a pair task the variants of the second text go with the original first text; the published
code had edited the row in place, so that they went with the first text's last variant: `compat="in-place"`.

References:
    Jiao et al., TinyBERT: Distilling BERT for Natural Language Understanding, 2020, https://arxiv.org/abs/1909.10351,
    section 3.2 and algorithm 1
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from tokenizers import Encoding
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from torch import Tensor

from methods.parts.bert import Bert
from methods.parts.rng import derive
from methods.parts.stopwords import replaceable
from methods.parts.wordpiece import SPECIAL, Pieces
from methods.parts.wordvectors import WordVectors

VARIANTS: Mapping[str, int] = MappingProxyType(
    {"cola": 30, "sst2": 20, "qnli": 20, "qqp": 10, "mnli": 10, "mrpc": 30, "stsb": 30, "rte": 30}
)
"""Published rounds N by task."""
OTHER_VARIANTS = 30
"""Rounds for any other task."""

ROOM = 512
"""Tokens of the masked LM's input, special ones included, where its position table holds as many."""

_UNUSED = re.compile(r"\[unused\d+\]")

Candidates = dict[int, tuple[str, ...]]
"""What may replace the words of a sentence, by their number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Augmentation:
    """The numbers of the algorithm."""

    variants: int = OTHER_VARIANTS
    """Rounds N; a text gets at most as many variants."""
    candidates: int = 15
    """Proposals M for a word."""
    probability: float = 0.4
    """That a word is replaced in a round, [0, 1]."""
    seed: int = 0
    compat: str | None = None
    """None, or "in-place": the second text's variants go with the last variant of the first."""

    def __post_init__(self) -> None:
        """Refuse what no round can use."""
        for name in ("variants", "candidates"):
            if getattr(self, name) < 1:
                raise ValueError(f"augmentation: {name}: found {getattr(self, name)}, allowed is at least 1")
        if not 0.0 <= self.probability <= 1.0:
            raise ValueError(f"augmentation: probability: found {self.probability}, allowed is 0 to 1")
        if self.compat not in (None, "in-place"):
            raise ValueError(f"augmentation: compat: found {self.compat!r}, allowed is 'in-place'")


@dataclass(frozen=True, slots=True)
class _Gap:
    """A word of one piece that the masked LM is asked for."""

    text: int
    word: int
    ids: list[int]
    """The pieces of its sentence."""
    place: int
    """The piece that is masked."""


@dataclass(frozen=True, slots=True)
class _Padded:
    """Sequences for the model, each (B, L)."""

    input_ids: Tensor
    attention_mask: Tensor
    token_type_ids: Tensor


class Augmenter:
    """A masked LM, its tokenizer and word vectors, ready to make variants of texts."""

    def __init__(
        self,
        model: Bert,
        pieces: Pieces,
        settings: Augmentation,
        vectors: WordVectors | None = None,
        *,
        batch_tokens: int = 8192,
    ) -> None:
        """Take the parts.

        Args:
            model: in evaluation mode, with a masked-LM head and two token types.
            pieces: its tokenizer, which also says whether texts are lower-cased.
            settings: the numbers.
            vectors: without, a word of several pieces keeps to itself.
            batch_tokens: tokens, padding included, of one pass of the model.

        Raises:
            ValueError: the model is not like that, or the vocabulary lacks [MASK] or is too large for it.
        """
        layout, ids = model.layout, pieces.tokenizer.get_vocab()
        if not layout.masked_lm or model.training:
            found = "one in training mode" if layout.masked_lm else "one without a masked-LM head"
            raise ValueError(f"augmentation: model: found {found}, allowed is a masked LM in evaluation mode")
        if layout.types < 2:
            raise ValueError(f"augmentation: model: found {layout.types} token type, allowed are 2: it is shown pairs")
        if "[MASK]" not in ids or pieces.size > layout.vocab:
            wanted = f"allowed are at most {layout.vocab}, [MASK] among them"
            raise ValueError(f"augmentation: tokenizer: found {pieces.size} entries, {wanted}")
        self.model, self.pieces, self.settings, self.vectors = model, pieces, settings, vectors
        self._batch_tokens, self._mask = batch_tokens, ids["[MASK]"]
        self._room = min(ROOM, layout.positions)
        names = (pieces.tokenizer.id_to_token(number) or "" for number in range(layout.vocab))
        self._names = [name if _proposable(name) else "" for name in names]

    def words(self, text: str) -> list[str]:
        """The words of a text as BERT's basic tokeniser sees them, lower-cased if the model is, punctuation apart."""
        normal = self.pieces.tokenizer.normalizer or BertNormalizer(lowercase=True)
        return [word for word, _ in BertPreTokenizer().pre_tokenize_str(normal.normalize_str(text))]

    def variants(self, texts: Sequence[str], keys: Sequence[tuple[int, ...]]) -> list[list[str]]:
        """New texts for each text, at most N, all different, without the text itself; words joined by single spaces.

        Args:
            texts: any number of them; what is made of one does not depend on the others.
            keys: what the draws for each text depend on, beside the seed.
        """
        distinct = list(dict.fromkeys(texts))
        split = [self.words(text) for text in distinct]
        found = dict(zip(distinct, zip(split, self.candidates(split), strict=True), strict=True))
        return [self._rounds(text, *found[text], key) for text, key in zip(texts, keys, strict=True)]

    def rows(self, rows: Sequence[tuple[str, ...]], numbers: Sequence[int]) -> list[list[tuple[str, ...]]]:
        """Each row's new rows, the row itself first.

        Args:
            rows: their one or two texts.
            numbers: row numbers in the whole set; the draws depend on them.
        """
        texts = [text for row in rows for text in row]
        keys = [(number, place) for number, row in zip(numbers, rows, strict=True) for place in range(len(row))]
        made = iter(self.variants(texts, keys))
        return [combine(row, [next(made) for _ in row], in_place=self.settings.compat == "in-place") for row in rows]

    def candidates(self, sentences: Sequence[Sequence[str]]) -> list[Candidates]:
        """What may replace each replaceable word of tokenised sentences; at least the word itself."""
        found: list[Candidates] = [{} for _ in sentences]
        gaps: list[_Gap] = []
        far: list[tuple[int, int]] = []
        for text, (words, encoding) in enumerate(zip(sentences, self._encode(sentences), strict=True)):
            places: dict[int | None, list[int]] = {}
            for place, owner in enumerate(encoding.word_ids):
                places.setdefault(owner, []).append(place)
            for word in (number for number, name in enumerate(words) if replaceable(name)):
                own = places.get(word, [])
                if len(own) == 1 and own[0] + 1 < self._room:
                    gaps.append(_Gap(text, word, encoding.ids, own[0]))
                else:
                    far.append((text, word))
        for text, word, names in [*self._near(sentences, far), *self._filled(gaps)]:
            found[text][word] = names or (sentences[text][word],)
        return [dict(sorted(each.items())) for each in found]

    def _encode(self, sentences: Sequence[Sequence[str]]) -> list[Encoding]:
        """Split words into pieces; a word's pieces bear its number."""
        tokenizer = self.pieces.tokenizer
        encoded: list[Encoding] = tokenizer.encode_batch(
            [list(words) for words in sentences], is_pretokenized=True, add_special_tokens=False
        )
        return encoded

    def _near(
        self, sentences: Sequence[Sequence[str]], far: Sequence[tuple[int, int]]
    ) -> Iterator[tuple[int, int, tuple[str, ...]]]:
        """Proposals of the word vectors, in alphabetical order."""
        names = {sentences[text][word] for text, word in far}
        near = self.vectors.nearest_to(sorted(names), self.settings.candidates) if self.vectors else {}
        for text, word in far:
            yield text, word, tuple(sorted(near.get(sentences[text][word], ())))

    def _filled(self, gaps: Sequence[_Gap]) -> Iterator[tuple[int, int, tuple[str, ...]]]:
        """Proposals of the masked LM, in order of their ids; gaps of like length share a pass."""
        order = sorted(gaps, key=lambda gap: len(gap.ids))
        while order:
            length = self._length(order[-1])
            count = max(1, self._batch_tokens // length)
            order, chosen = order[:-count], order[-count:]
            for gap, top in zip(chosen, self._best(chosen, length), strict=True):
                yield gap.text, gap.word, tuple(self._names[number] for number in sorted(top) if self._names[number])

    def _length(self, gap: _Gap) -> int:
        """Tokens of [CLS] masked [SEP] original [SEP]."""
        return min(2 * len(gap.ids) + 3, self._room)

    @torch.no_grad()
    def _best(self, gaps: Sequence[_Gap], length: int) -> list[list[int]]:
        """The ids of the M most probable pieces for each gap."""
        pieces, size = self.pieces, (len(gaps), length)
        ids, types = np.full(size, pieces.pad, dtype=np.int64), np.zeros(size, dtype=np.int64)
        for place, gap in enumerate(gaps):
            shown = [*gap.ids[: gap.place], self._mask, *gap.ids[gap.place + 1 :]]
            row = [pieces.cls, *shown, pieces.sep, *gap.ids, pieces.sep][:length]
            ids[place, : len(row)] = row
            types[place, len(shown) + 2 : len(row)] = 1
        sizes = torch.tensor([self._length(gap) for gap in gaps])
        real = (torch.arange(length) < sizes[:, None]).long()
        wanted = torch.zeros(size, dtype=torch.bool)
        wanted[torch.arange(len(gaps)), torch.tensor([gap.place + 1 for gap in gaps])] = True
        device = self.model.bert.embeddings.word_embeddings.weight.device
        batch = _Padded(torch.from_numpy(ids).to(device), real.to(device), torch.from_numpy(types).to(device))
        logits = self.model.mlm_logits(batch, wanted.to(device))
        best: list[list[int]] = logits.topk(min(self.settings.candidates, logits.shape[1])).indices.tolist()
        return best

    def _rounds(self, text: str, words: Sequence[str], candidates: Candidates, key: tuple[int, ...]) -> list[str]:
        """Draw the variants of one text."""
        settings = self.settings
        generator = np.random.default_rng(derive(settings.seed, "augment", *key))
        draws = generator.random((settings.variants, len(candidates), 2)).tolist()
        seen = {text: None}
        for row in draws:
            new = list(words)
            for (word, names), (which, chance) in zip(candidates.items(), row, strict=True):
                if chance < settings.probability:
                    new[word] = names[int(which * len(names))]
            seen.setdefault(" ".join(new))
        return [variant for variant in seen if variant not in (text, "")]


def combine(
    row: tuple[str, ...], variants: Sequence[Sequence[str]], *, in_place: bool = False
) -> list[tuple[str, ...]]:
    """The rows made of one row: itself, then each text's variants beside the other text.

    Args:
        row: its texts.
        variants: of each text.
        in_place: as published: from the second text on, beside the last row so far, which is then there twice.
    """
    rows = [row]
    for place, mine in enumerate(variants):
        beside = rows[-1] if in_place else row
        rows += [beside] if in_place and place else []
        rows += [(*beside[:place], variant, *beside[place + 1 :]) for variant in mine]
    return rows


def _proposable(piece: str) -> bool:
    """Whether a piece of the vocabulary is a word that may be written into a text."""
    return not (piece.startswith("##") or piece in SPECIAL or _UNUSED.fullmatch(piece))
