"""Which words augmentation may replace, and which it never does.

The list is the published code's: the 179 English stop words of NLTK without what, which, who, whom, when, where, why
and how, with the contractions 's and 're; 173 in all, of which 145 are plain letters and can match.

References:
    Jiao et al., TinyBERT: Distilling BERT for Natural Language Understanding, 2020, https://arxiv.org/abs/1909.10351
    Bird, Klein, Loper: Natural Language Processing with Python, 2009, https://www.nltk.org
"""

import re

_LISTED = """
i me my myself we our ours ourselves you you're you've you'll you'd your yours yourself yourselves he him his himself
she she's her hers herself it it's its itself they them their theirs themselves this that that'll these those am is are
was were be been being have has had having do does did doing a an the and but if or because as until while of at by for
with about against between into through during before after above below to from up down in out on off over under again
further then once here there all any both each few more most other some such no nor not only own same so than too very
s t can will just don don't should should've now d ll m o re ve y ain aren aren't couldn couldn't didn didn't doesn
doesn't hadn hadn't hasn hasn't haven haven't isn isn't ma mightn mightn't mustn mustn't needn needn't shan shan't
shouldn shouldn't wasn wasn't weren weren't won won't wouldn wouldn't
's 're
"""
STOP_WORDS = frozenset(_LISTED.split())
"""Words that stay as they are."""

_LETTERS = re.compile(r"[a-z]+")


def replaceable(word: str) -> bool:
    """Whether a word may be replaced: only a to z, and no stop word."""
    return _LETTERS.fullmatch(word) is not None and word not in STOP_WORDS
