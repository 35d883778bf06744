"""Makes a regression task of real sentences: how many words do two sentences share, from 0 (none) to 5 (all)?

Run as `python benchmarks/tasks/overlap.py SST2_FOLDER OUT [--train 3000] [--dev 600]`. GLUE's own regression task,
STS-B, is a download; this one has its form (two texts and a score) and needs none. Each first sentence is from SST-2;
the second is a random share of its words, in another order, filled up with another sentence's. The score is five times
the share of words that both have among those that either has. OUT gets train.csv and dev.csv, columns a, b and score.
"""

import argparse
import csv
import random
from pathlib import Path


def sentences(path: Path, longest: int = 16) -> list[str]:
    """The sentences of a GLUE file of 6 to `longest` words, each once."""
    lines = path.read_text(encoding="utf-8").splitlines()[1:]
    found = dict.fromkeys(line.split("\t")[0].strip() for line in lines)
    return [text for text in found if 6 <= len(text.split()) <= longest]


def pair(first: str, other: str, draw: random.Random) -> tuple[str, str, float]:
    """Two texts and their score."""
    words, filling = first.split(), other.split()
    kept = draw.sample(words, draw.randint(0, len(words)))
    second = kept + filling[: len(words) - len(kept)]
    draw.shuffle(second)
    both, either = set(words) & set(second), set(words) | set(second)
    return first, " ".join(second), 5 * len(both) / len(either)


def main() -> None:
    """Writes the two files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sst2", type=Path, help="GLUE's SST-2 folder")
    parser.add_argument("out", type=Path, help="the new folder")
    parser.add_argument("--train", type=int, default=3000)
    parser.add_argument("--dev", type=int, default=600)
    told = parser.parse_args()
    draw = random.Random(0)
    told.out.mkdir(parents=True)
    texts = sentences(told.sst2 / "train.tsv")
    draw.shuffle(texts)
    for split, start, rows in (("train", 0, told.train), ("dev", told.train, told.dev)):
        with (told.out / f"{split}.csv").open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(("a", "b", "score"))
            for number in range(start, start + rows):
                first, second, score = pair(texts[number], draw.choice(texts), draw)
                writer.writerow((first, second, f"{score:.3f}"))


if __name__ == "__main__":
    main()
