"""Sentences about users, and the tokens they are made of: words, values of attributes, users, codes of items.

P5 has five families of such templates; here are the two whose answer is an item. The sentences are our own.
Shapes: I sentences, T tokens of all of them, N items, L codes of each, A attributes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from ppr_dist.arrays import Int64Array
from ppr_dist.data.stream.instances import Instances
from ppr_dist.data.stream.padding import ragged_arange

FAMILIES: dict[str, tuple[str, ...]] = {
    "sequential": (
        "{user} clicked {history} and then",
        "after {history} the next click of {user} is",
        "clicks : {history} next :",
    ),
    "direct": (
        "{user} {profile} would like",
        "for {user} with {profile} we recommend",
    ),
}
"""By family. The answer follows; ``{user}`` is the word and the user's own token, where users have one."""
WORDS = sorted(
    {"user"} | {word for each in FAMILIES.values() for text in each for word in text.split() if word[0] != "{"}
)


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The number of each token."""

    attributes: tuple[int, ...]
    """Values of each attribute, [A]."""
    users: int
    """0: users have no tokens of their own."""
    sizes: tuple[int, ...]
    """Codes at each level, [L]. Those of different levels are different tokens: a token says where it stands."""

    @property
    def first_code(self) -> Int64Array:
        """Token of code 0 of each level, [L]; behind the last one there is none."""
        before = len(WORDS) + sum(self.attributes) + self.users
        starts: Int64Array = before + np.cumsum([0, *self.sizes[:-1]])
        return starts

    def __len__(self) -> int:
        return int(self.first_code[-1]) + self.sizes[-1]

    def of_word(self, word: str) -> int:
        return WORDS.index(word)

    def of_profiles(self, profile: Int64Array) -> Int64Array:
        """Tokens of value indices [A, I]: [I, A]."""
        starts = len(WORDS) + np.cumsum([0, *self.attributes])[:-1].astype(np.int64)
        tokens: Int64Array = profile.T + starts
        return tokens

    def of_users(self, index: Int64Array) -> Int64Array:
        return len(WORDS) + sum(self.attributes) + index

    def of_codes(self, codes: Int64Array) -> Int64Array:
        """Tokens of codes from the first level on, [..., l]."""
        tokens: Int64Array = codes + self.first_code[: codes.shape[-1]]
        return tokens

    def places(self) -> Int64Array:
        """Of each token: 1 … L where it is a code of that level, else 0."""
        return np.repeat(np.arange(len(self.sizes) + 1), [self.first_code[0], *self.sizes])


def render(
    template: str, instances: Instances, codes: Int64Array, vocabulary: Vocabulary, history: int, answer: Int64Array
) -> tuple[Int64Array, Int64Array]:
    """Tokens of a sentence for each instance, one after another [T], and the number of each [I].

    Args:
        codes: of items, [N, L]; history: most recent clicks that a sentence names; answer: the codes that follow, or
        the first of them, [I, l].
    """
    users, rows = instances.users, instances.user_rows
    tokens = vocabulary.of_codes(codes)
    everyone = np.ones(len(rows), np.int64)
    parts = []
    for word in template.split():
        if word == "{history}":
            counts = np.minimum(instances.context_lengths, history)
            row, nth = ragged_arange(counts)
            first = users.offsets[rows] + instances.context_lengths - counts
            parts.append((counts * codes.shape[1], tokens[users.items[first[row] + nth]].ravel()))
        elif word == "{profile}":
            values = vocabulary.of_profiles(users.attributes[:, rows])
            parts.append((everyone * values.shape[1], values.ravel()))
        elif word == "{user}":
            parts.append((everyone, np.full(len(rows), vocabulary.of_word("user"))))
            if vocabulary.users:
                parts.append((everyone, vocabulary.of_users(users.index[rows])))
        else:
            parts.append((everyone, np.full(len(rows), vocabulary.of_word(word))))
    parts.append((everyone * answer.shape[1], vocabulary.of_codes(answer).ravel()))
    return joined(parts)


def longest(families: Sequence[str], vocabulary: Vocabulary, history: int) -> int:
    """Tokens of the longest sentence that there can be, its answer included."""
    levels = len(vocabulary.sizes)
    of = {"{history}": history * levels, "{profile}": len(vocabulary.attributes), "{user}": 1 + bool(vocabulary.users)}
    texts = [text for family in families for text in FAMILIES[family]]
    return levels + max(sum(of.get(word, 1) for word in text.split()) for text in texts)


def joined(parts: list[tuple[Int64Array, Int64Array]]) -> tuple[Int64Array, Int64Array]:
    """Ragged rows side by side: (length of each row [I], values of all rows) of each part → (values, lengths)."""
    lengths: Int64Array = np.sum([counts for counts, _ in parts], axis=0)
    place = np.cumsum(lengths) - lengths
    out = np.empty(int(lengths.sum()), np.int64)
    for counts, values in parts:
        row, nth = ragged_arange(counts)
        out[place[row] + nth] = values
        place = place + counts
    return out, lengths
