"""Writes small data for kinds of tasks: sentences from templates about people, places and firms.

    python benchmarks/kinds.py FOLDER

Names of the validation split are not in the training split, except for half of the words of which they are made.
"""

import json
import random
import sys
from pathlib import Path

# For training, and for validation.
PEOPLE = (
    "Anna Smith, Ben Novak, Carla, David Okafor, Elena Lindqvist, Farid Tanaka, Greta, Hugo Rossi, Ines Dubois, Jonas",
    "Lena Smith, Maria Novak, Nils Okafor, Olga, Pedro Silva, Rosa Murphy, Sven Petrov, Tara, Yusuf Rossi",
)
PLACES = (
    "Oslo, New York, Lisbon, Buenos Aires, Cairo, Hanoi, San Jose, Vienna",
    "Cape Town, Lyon, Kyoto, Porto Alegre, New Delhi, San Diego",
)
FIRMS = (
    "Acme, Nordlicht AG, Blue River Foods, Hexa Systems, Delta Rail",
    "Kestrel, Mango Labs, Orion Steel Works, Blue Systems, Alpen AG",
)
JOBS = ("engineer", "teacher", "nurse", "pilot", "baker", "lawyer")
SENTENCES = (
    "{person} works for {firm} in {place} .",
    "{firm} opened an office in {place} last year .",
    "the {job} {person} moved from {place} .",
    "{person} and {person} met in {place} .",
    "shares of {firm} fell after {person} left .",
    "nobody in {place} knew {person} .",
    "{firm} hired {person} as a {job} .",
    "a {job} from {place} sued {firm} .",
    "it rained all day .",
    "may the {job} rest , said {person} .",
)
TAGS = {"person": "PER", "place": "LOC", "firm": "ORG"}


def sentence(draw, names):
    """Its words, their tags, and what it is about."""
    words, tags, topics = [], [], set()
    for piece in draw.choice(SENTENCES).split():
        kind = piece.strip("{}")
        if piece == kind:
            found = [piece]
        else:
            found = draw.choice(names[kind]).split()
            topics |= {kind} & TAGS.keys()
        words += found
        tags += [f"{'I' if i else 'B'}-{TAGS[kind]}" if kind in TAGS else "O" for i in range(len(found))]
    return words, tags, sorted(topics)


def write(folder, split, count, side):
    draw = random.Random(side)
    known = zip(TAGS, (PEOPLE, PLACES, FIRMS), strict=True)
    names = {"job": JOBS, **{kind: given[side].split(", ") for kind, given in known}}
    rows = [sentence(draw, names) for _ in range(count)]
    blocks = ["".join(f"{word} {tag}\n" for word, tag in zip(words, tags, strict=True)) for words, tags, _ in rows]
    (folder / "ner").mkdir(parents=True, exist_ok=True)
    (folder / "ner" / f"{split}.conll").write_text("\n".join(blocks))
    lines = [json.dumps({"text": " ".join(words), "about": topics}) + "\n" for words, _, topics in rows]
    (folder / "topics").mkdir(parents=True, exist_ok=True)
    (folder / "topics" / f"{split}.jsonl").write_text("".join(lines))


if __name__ == "__main__":
    for side, (split, count) in enumerate((("train", 600), ("validation", 200))):
        write(Path(sys.argv[1]), split, count, side)
