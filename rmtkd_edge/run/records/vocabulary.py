"""Part of compress/result.json: the tokens that a student's tokenizer has left."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SplitTokens:
    """What a smaller vocabulary changes of the rows of a split.

    Attributes:
        rows_changed: share of the rows that are split otherwise than before.
        tokens_before, tokens_after: of all rows.
        unknown_before, unknown_after: those of them that are the unknown token.
    """

    rows_changed: float
    tokens_before: int
    tokens_after: int
    unknown_before: int
    unknown_after: int


@dataclass(frozen=True)
class VocabularyRecord:
    """How many tokens the original and the student have.

    Attributes:
        least: how often the training rows use a token that stays for that alone.
        splits: what it changes by split.
    """

    before: int
    after: int
    least: int
    splits: dict[str, SplitTokens]

    def describe(self) -> str:
        """Return a sentence on it."""
        told = [f"the vocabulary has {self.after:,} of {self.before:,} tokens"]
        for name, split in self.splits.items():
            more = split.tokens_after / split.tokens_before - 1
            told.append(
                f"{split.rows_changed:.1%} of the {name} rows are split otherwise ({more:+.1%} tokens, "
                f"{split.unknown_after} unknown where {split.unknown_before} were)"
            )
        return "; ".join(told)
