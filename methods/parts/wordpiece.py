"""WordPiece tokenizers as a folder: reading any BERT's, and learning a small one that is the same on every machine.

References:
    Devlin et al., BERT: Pre-training of Deep Bidirectional Transformers, 2019, https://arxiv.org/abs/1810.04805
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Encoding, Tokenizer, models, trainers
from tokenizers.decoders import WordPiece as WordPieceDecoder
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

from methods.parts.examples import contents, digest
from methods.parts.files import JsonValue, read_json, write_json

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""The special tokens of a learned vocabulary, in order of their ids; padding is 0 as in BERT."""

_FILES = ("tokenizer.json", "vocab.txt", "tokenizer_config.json")


@dataclass(frozen=True, slots=True)
class Pieces:
    """A loaded BERT tokenizer and the ids of its special tokens."""

    tokenizer: Tokenizer
    pad: int
    cls: int
    sep: int
    size: int
    """Number of token ids."""

    def split(self, texts: Sequence[str]) -> list[Encoding]:
        """Split texts into pieces, without special tokens and uncut."""
        found: list[Encoding] = self.tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return found


def load_pieces(folder: Path) -> Pieces:
    """Load the tokenizer in a checkpoint folder: `tokenizer.json`, or the older `vocab.txt` with its casing option.

    Raises:
        ValueError: the folder has neither file, or the vocabulary lacks [PAD], [CLS] or [SEP].
    """
    tokenizer = _read(folder)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    vocabulary = tokenizer.get_vocab()
    missing = [name for name in ("[PAD]", "[CLS]", "[SEP]") if name not in vocabulary]
    if missing:
        raise ValueError(f"{folder}: found no {', '.join(missing)} in the vocabulary, expected the tokenizer of a BERT")
    return Pieces(tokenizer, vocabulary["[PAD]"], vocabulary["[CLS]"], vocabulary["[SEP]"], len(vocabulary))


def fingerprint_of_tokenizer(folder: Path) -> str:
    """Hash what decides the pieces: the bytes of the tokenizer's files."""
    found = [folder / name for name in _FILES if (folder / name).is_file()]
    if not found:
        raise _no_tokenizer(folder)
    return digest(part for path in found for part in (path.name, path.read_bytes()))


def train_wordpiece(sentences: Iterable[str], vocab_size: int, folder: Path) -> None:
    """Learn an uncased WordPiece vocabulary of exactly `vocab_size` entries and store it as a tokenizer folder.

    If whole words, and the single characters that spell any other, fit into `vocab_size`, they are the vocabulary:
    merges that only led to longer pieces are left out. Otherwise it is the trainer's first `vocab_size` entries. Unused
    ids are filled with `[unused<N>]`, as in BERT's own vocabulary. Equal sentences give equal bytes: every character
    has its id before the trainer starts, because it breaks ties by id and would number characters in an order that
    changes from run to run.

    Args:
        sentences: the text to learn from.
        vocab_size: entries in all, special tokens included.
        folder: made if need be; gets `vocab.txt`, `tokenizer.json` and `tokenizer_config.json`, which transformers
            opens.

    Raises:
        ValueError: the special tokens and single characters alone exceed `vocab_size`.
    """
    words = _count_words(sentences)
    letters = sorted({letter for word in words for letter in word})
    start = [*SPECIAL, *letters, *("##" + letter for letter in letters)]
    if len(start) > vocab_size:
        raise ValueError(
            f"vocab_size: found {vocab_size}, allowed is at least {len(start)} ({len(letters)} different characters)"
        )
    learned = _learn(words, start, 8 * vocab_size)
    used = _in_use(words, learned)
    vocabulary = [piece for piece in learned if piece in used or piece in set(start)]
    if len(vocabulary) > vocab_size:
        vocabulary = _learn(words, start, vocab_size)
    vocabulary += [f"[unused{number}]" for number in range(vocab_size - len(vocabulary))]
    _write(vocabulary, folder)


def _count_words(sentences: Iterable[str]) -> Counter[str]:
    """Count the words as BERT's uncased normaliser and pre-tokenizer see them."""
    normal, splitter = BertNormalizer(lowercase=True), BertPreTokenizer()
    raw = Counter(part for sentence in sentences for part in sentence.split())
    counts: Counter[str] = Counter()
    for part, count in raw.items():
        for word, _ in splitter.pre_tokenize_str(normal.normalize_str(part)):
            counts[word] += count
    return counts


def _learn(words: Counter[str], start: list[str], vocab_size: int) -> list[str]:
    """Run the WordPiece trainer; the pieces in order of their ids, `start` first."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    trainer = trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=start, show_progress=False)
    tokenizer.train_from_iterator([word for word in sorted(words) for _ in range(words[word])], trainer)
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    return sorted(vocabulary, key=lambda piece: vocabulary[piece])


def _in_use(words: Iterable[str], pieces: Sequence[str]) -> set[str]:
    """The pieces that longest-match-first spells the words with."""
    tokenizer = _tokenizer(pieces)
    return {
        piece
        for encoding in tokenizer.encode_batch(sorted(words), add_special_tokens=False)
        for piece in encoding.tokens
    }


def _tokenizer(vocabulary: Sequence[str], *, lowercase: bool = True) -> Tokenizer:
    """Build BERT's tokenizer around a vocabulary."""
    ids = {piece: number for number, piece in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordPiece(vocab=ids, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.decoder = WordPieceDecoder()
    tokenizer.add_special_tokens([piece for piece in SPECIAL if piece in ids])
    return tokenizer


def _write(vocabulary: Sequence[str], folder: Path) -> None:
    """Store the folder that transformers' BertTokenizer saves."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(vocabulary)
    ends = [(name, vocabulary.index(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", special_tokens=ends
    )
    (folder / "vocab.txt").write_text("".join(piece + "\n" for piece in vocabulary), encoding="utf-8", newline="\n")
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), encoding="utf-8", newline="\n")
    names = {f"{name.strip('[]').lower()}_token": name for name in SPECIAL}
    config: dict[str, JsonValue] = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512}
    write_json(folder / "tokenizer_config.json", {**config, **names})


def _read(folder: Path) -> Tokenizer:
    """Read `tokenizer.json`, or build the tokenizer from `vocab.txt`."""
    if (folder / "tokenizer.json").is_file():
        return Tokenizer.from_file(str(folder / "tokenizer.json"))
    if not (folder / "vocab.txt").is_file():
        raise _no_tokenizer(folder)
    config = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    vocabulary = (folder / "vocab.txt").read_text(encoding="utf-8").rstrip("\n").split("\n")
    return _tokenizer(vocabulary, lowercase=bool(config.get("do_lower_case", True)))


def _no_tokenizer(folder: Path) -> ValueError:
    """Spell the complaint about a folder without a tokenizer."""
    return ValueError(
        f"{folder}: found no tokenizer.json and no vocab.txt, expected the tokenizer of a BERT; {contents(folder)}"
    )
