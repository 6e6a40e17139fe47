"""Make data for other tasks out of AG News and SST-2: any number of labels, a label for every word, raw sentences.

    python tools/make_task_data.py topics --ag-news DIR/ag_news --sst2 DIR/sst2 --out data/topics
    python tools/make_task_data.py names --ag-news DIR/ag_news --out data/names
    python tools/make_task_data.py sentences --ag-news DIR/ag_news --sst2 DIR/sst2 --out data/sentences

`topics`: what a text is about, none, one or two of AG News' four topics: a film review of SST-2, the first 30 words of
one news text, or those of two, one after the other (6,000, 1,000 and 1,500 rows).

`names`: which words of a lower-cased news sentence make up a name (B-NAME, I-NAME, O): the runs of words that were
capitalised where a sentence does not begin; its first word where the corpus mostly capitalises that word elsewhere too.
Only what follows an agency's dash is read, since headlines capitalise words that are no names.

`sentences`: the different texts of three words and more of both train splits, in one file.

Test rows come from AG News' test split, all others from its train split.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Row = dict[str, Any]
TOPICS = ("world", "sports", "business", "technology")
WORDS = 30
AGENCY = re.compile(r"(?:\bAP|\bAFP|\bReuters|\)) --? ")
SENTENCE = re.compile(r"(?<=[a-z0-9][.?!]) (?=[A-Z])")
MARKUP = re.compile(r"[\\<>&;#=]|https?:")
WORD = re.compile(r"[A-Za-z]+(?:[.'][A-Za-z]+)*|\d+(?:[.,]\d+)*|[^\sA-Za-z\d]")


def read(folder: Path, split: str, seed: int) -> list[Row]:
    """Return the rows of a split in a random order."""
    table = pa.concat_tables(pq.read_table(file) for file in sorted(folder.rglob(f"{split}*.parquet")))
    order = np.random.default_rng(seed).permutation(len(table))
    return table.take(order).to_pylist()


def beginning(text: str) -> str:
    """Return the first words of a text."""
    return " ".join(text.split()[:WORDS])


def topics(news: Sequence[Row], reviews: Sequence[Row], count: int, seed: int) -> list[Row]:
    """Return `count` rows of a text and its topics."""
    rng, rows = np.random.default_rng(seed), []
    for index in range(count):
        share = rng.random()
        about = news[2 * index : 2 * index + (0 if share < 0.1 else 1 if share < 0.5 else 2)]
        text = " ".join(beginning(row["text"]) for row in about) or reviews[index % len(reviews)]["sentence"]
        rows.append({"text": text, "labels": sorted({TOPICS[row["label"]] for row in about})})
    return rows


def sentences(news: Iterable[Row]) -> list[list[str]]:
    """Return the words of all sentences of 6 to 40 words that follow an agency's dash."""
    found = []
    for row in news:
        _, *bodies = AGENCY.split(re.sub(r" ?#39;", "'", row["text"]), maxsplit=1)
        for part in (part for body in bodies for part in SENTENCE.split(body)):
            if 6 <= len(words := WORD.findall(part)) <= 40 and not MARKUP.search(part):
                found.append(words)
    return found


def often_capitalised(found: Iterable[Sequence[str]]) -> set[str]:
    """Return the words, in lower case, that are mostly capitalised where a sentence does not begin."""
    capital, lower = Counter[str](), Counter[str]()
    for words in found:
        for word in words[1:]:
            (capital if word[0].isupper() else lower)[word.lower()] += 1
    return {word for word, times in capital.items() if times > lower[word]}


def tagged(words: Sequence[str], names: set[str]) -> Row:
    """Return the words in lower case, and which of them begin or continue a name."""
    tags: list[str] = []
    for index, word in enumerate(words):
        name = word[0].isupper() and (index > 0 or word.lower() in names)
        tags.append("O" if not name else "I-NAME" if tags and tags[-1] != "O" else "B-NAME")
    return {"tokens": [word.lower() for word in words], "ner_tags": tags}


def save(folder: Path, **splits: Sequence[Row]) -> None:
    """Write a Parquet file for every split."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        pq.write_table(pa.Table.from_pylist(list(rows)), folder / f"{split}.parquet")
        print(f"{folder / split}.parquet: {len(rows)} rows, such as {rows[0]}")


def main() -> None:
    """Write one of the sets."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("set", choices=["topics", "names", "sentences"])
    parser.add_argument("--ag-news", type=Path, required=True, help="folder with train*.parquet and test*.parquet")
    parser.add_argument("--sst2", type=Path, help="folder with train*.parquet and validation*.parquet")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    train, test = (read(options.ag_news, split, seed) for split, seed in (("train", 1), ("test", 2)))
    if options.sst2 is None and options.set != "names":
        parser.error(f"{options.set} needs --sst2 too")
    if options.set == "sentences":
        found = [row["text"] for row in train] + [row["sentence"] for row in read(options.sst2, "train", 3)]
        different = dict.fromkeys(text.strip() for text in found if len(text.split()) > 2)
        save(options.out, train=[{"text": text} for text in different])
    elif options.set == "topics":
        kept = topics(train, read(options.sst2, "train", 3), 7000, 4)
        held = topics(test, read(options.sst2, "validation", 5), 1500, 6)
        save(options.out, train=kept[:6000], validation=kept[6000:], test=held)
    else:
        split, held_out = sentences(train), sentences(test)
        names = often_capitalised(split)
        rows = [tagged(words, names) for words in split]
        save(options.out, train=rows[1000:], validation=rows[:1000], test=[tagged(words, names) for words in held_out])


if __name__ == "__main__":
    main()
