"""A small English: sentences that are right, and for each the single changes that make it wrong.

Every change keeps the number of words and the words' sorts, and whether a sentence is changed is decided apart from
everything else about it. So neither its length, nor a word in it, nor (beyond short-range slips) a pair of neighbours
tells right from wrong: a model must find the word that another word depends on, past nouns that would mislead it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

PHENOMENA = {"main": 4.0, "relative": 2.0, "reflexive": 1.5, "determiner": 1.5, "order": 1.0, "ever": 0.5, "tense": 0.5}
"""What may be wrong and how often: the main verb's number, a relative clause's verb's number, a reflexive's gender,
the number of a determiner, adjective before determiner, `ever` without its `no`, tense against `yesterday`."""

_MALE = ("boy", "king", "uncle", "father", "brother", "son", "nephew", "monk")
_FEMALE = ("girl", "queen", "aunt", "mother", "sister", "daughter", "niece", "nun")
_PEOPLE = (*_MALE, *_FEMALE, "teacher", "doctor", "artist", "singer")
_THINGS = (
    "table",
    "lamp",
    "book",
    "chair",
    "door",
    "bottle",
    "picture",
    "window",
    "cup",
    "clock",
    "car",
    "wall",
    "gate",
)
_TRANSITIVE = (
    "like", "see", "help", "know", "follow", "visit", "praise", "blame", "admire", "call", "hear", "trust", "avoid",
    "remember",
)  # fmt: skip
_INTRANSITIVE = (
    "sleep", "run", "laugh", "sing", "dance", "wait", "smile", "work", "swim", "walk", "arrive", "speak", "rest",
    "shout",
)  # fmt: skip
_ADJECTIVES = (
    "tall", "old", "young", "small", "happy", "quiet", "busy", "famous", "clever", "kind", "strange", "proud", "lazy",
    "gentle", "brave", "polite",
)  # fmt: skip
_PREPOSITIONS = ("near", "behind", "beside", "with", "above", "under", "by", "against", "before", "around")
_DETERMINERS = ("the", "my", "your")
_MARKED = (("this", "these"), ("that", "those"))
_FRONT = ("often", "sometimes", "usually", "today", "now", "indeed")
_LAST = ("quickly", "again", "here", "alone")
_TENSES = {"yesterday": "did", "tomorrow": "will"}
_REFLEXIVES = ("himself", "herself")
_COPULAS = ("is", "are")
_SMALL = ("no", "ever", "who", "which")

Edit = tuple[tuple[int, str], ...]
"""One violation: the positions it changes and the words it puts there."""


@dataclass(slots=True)
class Draft:
    """A right sentence in the making, and the violations that fit it."""

    words: list[str] = field(default_factory=list)
    edits: dict[str, list[Edit]] = field(default_factory=lambda: {name: [] for name in PHENOMENA})
    free: list[int] = field(default_factory=list)
    """Positions of determiners that any other determiner could replace."""

    def add(self, word: str) -> int:
        """Append a word and tell its position."""
        self.words.append(word)
        return len(self.words) - 1

    def verb(self, base: str, plural: bool, phenomenon: str) -> None:
        """Append a verb in the number of its subject; the other number is a violation."""
        forms = _COPULAS if base == "be" else (base + "s", base)
        position = self.add(forms[plural])
        self.edits[phenomenon].append(((position, forms[not plural]),))

    def broken(self, edit: Edit) -> list[str]:
        """The words with a violation put in."""
        words = list(self.words)
        for position, word in edit:
            words[position] = word
        return words


def lexicon() -> tuple[str, ...]:
    """Every word that a sentence may hold, sorted."""
    nouns = [form for noun in (*_PEOPLE, *_THINGS) for form in (noun, noun + "s")]
    verbs = [form for verb in (*_TRANSITIVE, *_INTRANSITIVE) for form in (verb, verb + "s")]
    marked = [form for forms in _MARKED for form in forms]
    rest = (*_ADJECTIVES, *_PREPOSITIONS, *_DETERMINERS, *marked, *_FRONT, *_LAST, *_REFLEXIVES, *_COPULAS, *_SMALL)
    return tuple(sorted({*nouns, *verbs, *rest, *_TENSES, *_TENSES.values()}))


def draw_phenomenon(draw: Random) -> str:
    """Choose what a sentence is about, by weight."""
    return draw.choices(list(PHENOMENA), weights=list(PHENOMENA.values()))[0]


def compose(draw: Random, phenomenon: str) -> Draft:
    """Compose a right sentence that the phenomenon can break."""
    while True:
        draft = _sentence(draw, phenomenon)
        if draft.edits[phenomenon]:
            return draft


def _sentence(draw: Random, phenomenon: str) -> Draft:
    """Compose [front adverb] subject [modifier] predicate, shaped for a phenomenon but maybe without its word."""
    draft = Draft()
    tense = ""
    if phenomenon == "tense":
        tense = draw.choice(list(_TENSES))
        draft.add(tense)
    elif draw.random() < 0.25:
        draft.add(draw.choice(_FRONT))
    plural = phenomenon != "reflexive" and draw.random() < 0.5
    noun = draw.choice(_PEOPLE[:16] if phenomenon == "reflexive" else _PEOPLE + _THINGS)
    _noun_phrase(draw, draft, noun, plural, "no" if phenomenon == "ever" else None)
    start = len(draft.words)
    if phenomenon in ("relative", "ever") or draw.random() < 0.75:
        _modifier(draw, draft, noun, plural, relative=phenomenon == "relative" or draw.random() < 0.5)
    if phenomenon == "ever":
        _license(draft, start)
    if phenomenon == "tense":
        _past_or_future(draw, draft, tense)
    elif phenomenon == "reflexive":
        _reflexive(draw, draft, noun)
    else:
        _predicate(draw, draft, plural, "main")
    return draft


def _noun_phrase(draw: Random, draft: Draft, noun: str, plural: bool, determiner: str | None = None) -> None:
    """Append determiner, perhaps an adjective, and the noun."""
    chance = draw.random()
    if determiner is None and chance < 0.25:
        pair = draw.choice(_MARKED)
        position = draft.add(pair[plural])
        draft.edits["determiner"].append(((position, pair[not plural]),))
    elif determiner is None and chance < 0.31:  # right sentences hold `no` too, or it would give `ever` away
        position = draft.add("no")
    else:
        position = draft.add(determiner or draw.choice(_DETERMINERS))
        draft.free.append(position)
    if draw.random() < 0.3:
        adjective = draw.choice(_ADJECTIVES)
        draft.edits["order"].append(((position, adjective), (position + 1, draft.words[position])))
        draft.add(adjective)
    draft.add(noun + "s" if plural else noun)


def _any_noun_phrase(draw: Random, draft: Draft) -> bool:
    """Append a noun phrase of any number, and tell whether it is plural."""
    plural = draw.random() < 0.5
    _noun_phrase(draw, draft, draw.choice(_PEOPLE + _THINGS), plural)
    return plural


def _modifier(draw: Random, draft: Draft, noun: str, plural: bool, *, relative: bool) -> None:
    """Append a prepositional phrase or a relative clause; its nouns are the ones that mislead."""
    if relative:
        _relative(draw, draft, "which" if noun in _THINGS else "who", plural)
    else:
        draft.add(draw.choice(_PREPOSITIONS))
        _any_noun_phrase(draw, draft)
    if draw.random() < 0.25:
        draft.add(draw.choice(_PREPOSITIONS))
        _any_noun_phrase(draw, draft)


def _relative(draw: Random, draft: Draft, pronoun: str, plural: bool) -> None:
    """Append a relative clause whose verb agrees with the noun before it, or with the clause's own subject."""
    draft.add(pronoun)
    if draw.random() < 0.35:
        own = _any_noun_phrase(draw, draft)
        draft.verb(draw.choice(_TRANSITIVE), own, "relative")
    else:
        _predicate(draw, draft, plural, "relative")


def _predicate(draw: Random, draft: Draft, plural: bool, phenomenon: str) -> None:
    """Append copula and adjective, a verb with perhaps an adverb, or a verb and its object."""
    chance = draw.random()
    if draft.words[-1] == "ever":
        chance = 0.3 + 0.7 * chance
    if chance < 0.3:
        draft.verb("be", plural, phenomenon)
        draft.add(draw.choice(_ADJECTIVES))
    elif chance < 0.6:
        draft.verb(draw.choice(_INTRANSITIVE), plural, phenomenon)
        if draw.random() < 0.4:
            draft.add(draw.choice(_LAST))
    else:
        draft.verb(draw.choice(_TRANSITIVE), plural, phenomenon)
        _any_noun_phrase(draw, draft)


def _license(draft: Draft, start: int) -> None:
    """Append `ever`; it is wrong once `no` has gone into the modifier, which begins at `start`."""
    subject = draft.words.index("no")
    for position in draft.free:
        if position >= start:
            draft.edits["ever"].append(((subject, draft.words[position]), (position, "no")))
    draft.add("ever")


def _past_or_future(draw: Random, draft: Draft, adverb: str) -> None:
    """Append the auxiliary that fits the adverb, and a verb without number."""
    right = _TENSES[adverb]
    position = draft.add(right)
    draft.edits["tense"].append(((position, "will" if right == "did" else "did"),))
    if draw.random() < 0.5:
        draft.add(draw.choice(_INTRANSITIVE))
    else:
        draft.add(draw.choice(_TRANSITIVE))
        _any_noun_phrase(draw, draft)


def _reflexive(draw: Random, draft: Draft, noun: str) -> None:
    """Append a verb and the reflexive of a singular subject's gender; only the gender is ever wrong."""
    draft.add(draw.choice(_TRANSITIVE) + "s")
    female = noun in _FEMALE
    position = draft.add(_REFLEXIVES[female])
    draft.edits["reflexive"].append(((position, _REFLEXIVES[not female]),))
