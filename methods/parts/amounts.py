"""How much hidden-state knowledge a student gets: layers x tokens x share of the width, and the product of the three.

The uncompressed knowledge of an example is S + 1 states x N tokens x the whole width, for a student of S layers and
rows of N tokens. A^D layers, A^L tokens and the share A^W of the width make A^HSK = A^D * A^L * A^W, in units of one
state of one token; the normalised share is that over (S + 1) * N.

References:
    Liu, Li, Lin, Zhao: Marginal Utility Diminishes: Exploring the Minimum Knowledge for BERT Knowledge Distillation,
    ACL 2021, https://arxiv.org/abs/2106.05691, section 3
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from methods.parts.choosing import attention_layers, state_pairs
from methods.parts.layout import Layout
from methods.parts.selection import Selection

States: TypeAlias = tuple[int, ...]
"""Numbers of states, or of the layers that made them."""

_WRITTEN = re.compile(r"(\d+)l_(\d+)t_(\d+(?:\.\d+)?|\.\d+)h")


@dataclass(frozen=True, kw_only=True, slots=True)
class Amounts:
    """What is kept; None keeps all."""

    layers: int | None = None
    """Pairs of states, from the top."""
    tokens: int | None = None
    """Token positions of each state."""
    hidden: float | None = None
    """Share of the coordinates of each position."""

    def __post_init__(self) -> None:
        """Refuse amounts that keep nothing or more than all."""
        for name, value in (("keep_layers", self.layers), ("keep_tokens", self.tokens)):
            if value is not None and value < 1:
                raise ValueError(f"{name}: found {value!r}, allowed is at least 1, or null for all")
        if self.hidden is not None and not 0.0 < self.hidden <= 1.0:
            raise ValueError(f"keep_hidden: found {self.hidden!r}, allowed is a share in (0, 1], or null for all")


def parse_amounts(text: str) -> Amounts:
    """Read the published short form: `1l_10t_0.1h` is 1 layer, 10 tokens, a tenth of the width.

    Raises:
        ValueError: any other form (the released code reads `1e-2h` and `.1h` as other numbers without a word).
    """
    found = _WRITTEN.fullmatch(text)
    if found is None:
        raise ValueError(
            f"amounts: found {text!r}, allowed is the form 1l_10t_0.1h: layers, tokens, share of the width"
        )
    layers, tokens, hidden = found.groups()
    return Amounts(layers=int(layers), tokens=int(tokens), hidden=float(hidden))


def amounts_of(text: str | None, separate: Amounts, share: float | None) -> Amounts:
    """The amounts that were given, in the short form or one by one.

    Args:
        text: the short form, or None.
        separate: the amounts one by one.
        share: the normalised share, from which the width is to follow, or None.

    Raises:
        ValueError: an amount is given twice.
    """
    if text is not None and separate != Amounts():
        raise ValueError(f"amounts: found {text!r} beside keep_layers, keep_tokens or keep_hidden; allowed is one form")
    if share is not None and (text is not None or separate.hidden is not None):
        other = "amounts" if text is not None else "keep_hidden"
        raise ValueError(f"hsk_share: found {share!r} beside {other}; allowed is one of them, for the share decides it")
    if share is not None and not 0.0 < share <= 1.0:
        raise ValueError(f"hsk_share: found {share!r}, allowed is a share in (0, 1]")
    return separate if text is None else parse_amounts(text)


def normalised_share(*, layers: int, tokens: int, hidden: float, states: int, length: int) -> float:
    """A^HSK over that of the uncompressed knowledge, of `states` states and `length` tokens."""
    return layers * tokens * hidden / (states * length)


def width_of_share(share: float, *, layers: int, tokens: int, states: int, length: int) -> float:
    """The share of the width with which `layers` and `tokens` make the normalised share `share`.

    Raises:
        ValueError: it is above 1: so few layers and tokens do not hold that much.
    """
    width = share * states * length / (layers * tokens)
    most = normalised_share(layers=layers, tokens=tokens, hidden=1.0, states=states, length=length)
    if width > 1.0 + 1e-9:
        raise ValueError(
            f"hsk_share: found {share!r}, allowed is at most {most:.4g} with {layers} layers and {tokens} tokens"
        )
    return min(width, 1.0)


def check_width(selection: Selection, width: int, length: int) -> None:
    """Refuse a selection whose share of the coordinates is none at all.

    Args:
        selection: what is kept.
        width: D, the teacher's hidden width.
        length: tokens of a row, for a selection of all of them.

    Raises:
        ValueError: of the coordinates that are ranked together not one is kept.
    """
    together = selection.width_scheme == "importance" and selection.threshold != "token"
    count = width * (selection.tokens or length) if together else width
    if int(selection.width * count) < 1:
        raise ValueError(f"keep_hidden: found {selection.width:.4g}, allowed is at least {1 / count:.4g}, 1 of {count}")


def paired_states(
    depths: tuple[int, int],
    top: int,
    keep: int | None,
    teacher_states: Sequence[int] = (),
    student_states: Sequence[int] = (),
) -> tuple[States, States]:
    """Pair teacher and student states by rule, or as listed; a list replaces its half of the rule's pairs.

    Args:
        depths: layers of the teacher and of the student.
        top: the teacher layer of the student's last, for the rule.
        keep: pairs kept, from the top; None keeps all.
        teacher_states: a list in place of the rule's teacher states.
        student_states: a list in place of the rule's student states.

    Raises:
        ValueError: a state does not exist, a list is not ascending, or the halves have not the same length.
    """
    theirs, mine = tuple(teacher_states), tuple(student_states)
    if not (theirs and mine):
        if not theirs and not depths[1] <= top <= depths[0]:
            raise ValueError(
                f"top: found {top}, allowed are {depths[1]} to {depths[0]}: at least the student's layers, at most the "
                "teacher's"
            )
        rule = state_pairs(depths[1], max(top, depths[1]), keep)
        theirs, mine = theirs or rule[0], mine or rule[1]
    for name, states, depth in (("teacher_states", theirs, depths[0]), ("student_states", mine, depths[1])):
        if list(states) != sorted(set(states)) or not 0 <= states[0] <= states[-1] <= depth:
            raise ValueError(f"{name}: found {list(states)}, allowed are ascending numbers from 0 to {depth}")
    if len({len(theirs), len(mine), keep or len(mine)}) > 1:
        counts = f"{len(theirs)} teacher states, {len(mine)} student states, keep_layers {keep}"
        raise ValueError(f"teacher_states: found {counts}; allowed are equal numbers")
    return theirs, mine


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """The hyper-parameters that choose the knowledge: depth, then length, then width; the defaults keep all of it."""

    top: int = 8
    """Teacher layer that the student's last learns, from the student's layers to the teacher's; the rest follows."""
    keep_layers: int | None = None
    """Pairs of states learnt, from the top; null is all of them, the embedding output included."""
    teacher_states: tuple[int, ...] = ()
    """States to learn in place of those that follow from `top`; 0 is the embedding output."""
    student_states: tuple[int, ...] = ()
    """States that learn them in place of the top ones."""
    token_scheme: Literal["left_first", "right_first", "cls", "attention", "attention_no_sep"] = "attention_no_sep"
    """Which tokens are kept: first ones, last ones, [CLS] alone, those that [CLS] attends to most; or these with [SEP]
    behind all others."""
    keep_tokens: int | None = None
    """Tokens kept of each state; null is all (with `cls` the one)."""
    ranking: Literal["top12", "own"] = "top12"
    """Layer whose attention ranks tokens: at the student state's relative depth, or the one that made the teacher's."""
    width_scheme: Literal["random", "random_dynamic", "uniform", "importance"] = "importance"
    """Which coordinates are kept: a fixed draw, a draw for each batch, evenly spaced ones, the largest magnitudes."""
    keep_hidden: float | None = None
    """Share of the coordinates kept, (0, 1]; null is all."""
    threshold: Literal["example", "token"] = "example"
    """Over what magnitudes are ranked: all kept tokens of an example, or each token."""
    mask_seed: int = 0
    """Of the fixed draw, the same for all trials so that they share what is stored."""
    amounts: str | None = None
    """The three amounts at once, such as `1l_10t_0.1h`, in place of the three `keep_...`."""
    hsk_share: float | None = None
    """Layers x tokens x width kept, as a share of all there is; the width then follows from the other two."""
    hsk_length: int = 64
    """The task's max_length, the N of that share."""
    dtype: Literal["float32", "float16"] = "float32"
    """Of the teacher's kept states."""

    @property
    def kept(self) -> Amounts:
        """The amounts that were given; a width that is to follow from the share is None.

        Raises:
            ValueError: an amount is out of range or given twice.
        """
        if self.hsk_length < 1:
            raise ValueError(f"hsk_length: found {self.hsk_length!r}, allowed is at least 1")
        separate = Amounts(layers=self.keep_layers, tokens=self.keep_tokens, hidden=self.keep_hidden)
        return amounts_of(self.amounts, separate, self.hsk_share)

    def check_length(self, max_length: int) -> None:
        """Refuse amounts that do not fit rows of at most `max_length` tokens.

        Raises:
            ValueError: more tokens are kept than there are, or a share is one of another length.
        """
        if (self.kept.tokens or 1) > max_length:
            raise ValueError(f"keep_tokens: found {self.kept.tokens}, allowed is at most max_length, {max_length}")
        if self.hsk_share is not None and self.hsk_length != max_length:
            raise ValueError(f"hsk_length: found {self.hsk_length}, allowed is the task's max_length, {max_length}")

    def select(self, teacher: Layout, layers: int, *, batch_threshold: bool = False) -> tuple[Selection, States]:
        """What of the teacher's states is learnt, and the student states that learn it.

        Args:
            teacher: the teacher's layout.
            layers: of the student.
            batch_threshold: rank magnitudes over a whole batch, as published.

        Raises:
            ValueError: teacher or student does not hold what is to be kept.
        """
        kept, depths = self.kept, (len(teacher.layers), layers)
        theirs, mine = paired_states(depths, self.top, kept.layers, self.teacher_states, self.student_states)
        tokens = 1 if self.token_scheme == "cls" and kept.tokens is None else kept.tokens
        ranked: States = ()
        if tokens is not None and self.token_scheme.startswith("attention"):
            ranked = attention_layers(self.ranking, theirs, mine, teacher_layers=depths[0], student_layers=depths[1])
        width = self._width(kept, len(mine), tokens, layers + 1)
        selection = Selection(
            logits=False,
            states=theirs,
            token_scheme="all" if tokens is None else self.token_scheme,
            tokens=tokens,
            attention=ranked,
            width_scheme="all" if width == 1.0 else self.width_scheme,
            width=width,
            threshold="batch" if batch_threshold else self.threshold,
            seed=self.mask_seed,
            dtype=self.dtype,
        )
        check_width(selection, teacher.hidden, self.hsk_length)
        return selection, mine

    def _width(self, kept: Amounts, layers: int, tokens: int | None, states: int) -> float:
        """The share of the coordinates, given or from the normalised share."""
        if self.hsk_share is None:
            return 1.0 if kept.hidden is None else kept.hidden
        held = min(tokens or self.hsk_length, self.hsk_length)
        return width_of_share(self.hsk_share, layers=layers, tokens=held, states=states, length=self.hsk_length)
