"""The demo task: sentence acceptability (minimal pairs of English), generated from a small grammar without a download.

Each pair differs in one word, which breaks one phenomenon of English syntax. The nouns, verbs and adjectives of the validation
split never occur in training, in any form, so it measures whether the rule was learnt, not the words; only closed-class words
(determiners, auxiliaries, prepositions, pronouns) are shared. Labels are balanced: a constant answer has a Matthews correlation
of 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

SIZES = {"train": 12000, "validation": 800}


@dataclass(frozen=True)
class Lexicon:
    """Open-class words with regular forms: nouns take -s; verbs take -s, -ed and -ing without a change of spelling.

    `plural` is the share of plural subjects. It is lower in training than in validation, so that a model that only learnt
    word frequencies scores badly.
    """

    people: list[str]
    things: list[str]
    intransitive: list[str]
    transitive: list[str]
    adjectives: list[str]
    plural: float


LEXICA = {
    "train": Lexicon(
        people="actor admiral artist baker banker barber boy brother butler cadet chemist cook cousin critic dealer "
        "doctor driver duke emperor expert farmer gardener girl guard guest hunter inventor king lawyer leader lover "
        "manager merchant miner minister neighbor owner painter pilot player plumber poet porter president priest prince "
        "printer prophet queen ranger reporter sailor senator servant shepherd singer sister soldier speaker stranger "
        "student surgeon tailor teacher tenant tourist trader traveler tutor uncle vendor visitor waiter winner worker "
        "writer".split(),
        things="apple arrow balloon basket bed bell blanket book boot bottle bowl bucket cabinet camera canal carpet cart "
        "castle chain chair chart clock comb cork crown cup curtain dollar door drawer drum farm flag flower fork fountain "
        "garden gate glove hammer harbor helmet island jacket kettle key ladder lamp letter map medal mirror nail "
        "needle novel oven paper pen pencil picture pillow pipe plate pond pot ribbon ring river rocket roof rug saddle sail "
        "shirt spear sofa spoon statue stone string table tent ticket tool towel tower trumpet tunnel umbrella wagon wall "
        "well wheel window".split(),
        intransitive="blink boast bow cough crawl drown faint float gasp jump kneel laugh limp pray rest roar "
        "scream shout snarl sprint sweat talk twirl wait walk work yawn".split(),
        transitive="alert attack avoid beckon collect comfort confront consult contact correct count deliver direct discover "
        "enjoy escort expect fix follow gather greet guess help hinder inspect insult kick lift mention obey offend open pack "
        "paint pick polish prevent protect pull push question repair shield spoil subject surround suspect "
        "threaten touch warn wash watch".split(),
        adjectives="absent ancient blue bright broad brown careful cheap clever dark dusty famous fast gentle golden green "
        "grumpy hard harmless heavy honest huge jolly long loud narrow old pink proud purple quiet red rich rough round sharp "
        "short silver small soft sour sweet tall tender thin tough warm wet white wooden yellow young".split(),
        plural=0.25,
    ),
    "validation": Lexicon(
        people="author builder captain cleaner clerk dancer drummer editor fisher juror knight mayor mentor monk nun orphan "
        "pirate rider robber runner".split(),
        things="anchor barrel button candle cannon coin desk engine feather guitar hat jar kite magnet marble napkin parcel "
        "poster shovel violin".split(),
        intransitive="complain frown groan grunt linger moan mutter perform shiver stagger wander whisper yell".split(),
        transitive="attach defend destroy detect honor launch obtain punish reject remember reward scratch select stretch "
        "support visit".split(),
        adjectives="bold calm deep eager grand kind modern neat plain rare slow smooth strict weak".split(),
        plural=0.5,
    ),
}
PREPOSITIONS = ("near", "behind", "beside", "above", "with", "by")

Pair = tuple[str, str]


def _subject(random: Random, words: list[str], plural: bool) -> str:
    return random.choice(words) + ("s" if plural else "")


def _attractor(random: Random, lexicon: Lexicon, plural: bool) -> str:
    """With probability 1/2 a phrase between subject and verb, usually of the opposite number."""
    if random.random() < 0.5:
        return ""
    attractor_plural = not plural if random.random() < 0.7 else plural
    return f"{random.choice(PREPOSITIONS)} the {_subject(random, lexicon.things, attractor_plural)} "


def agreement(random: Random, lexicon: Lexicon) -> Pair:
    """The key near the cabinets is/*are golden."""
    plural = random.random() < lexicon.plural
    start = f"the {_subject(random, lexicon.people + lexicon.things, plural)} {_attractor(random, lexicon, plural)}"
    verb = random.choice((("is", "are"), ("was", "were"), ("has been", "have been")))
    end = random.choice(lexicon.adjectives)
    return f"{start}{verb[plural]} {end}", f"{start}{verb[not plural]} {end}"


def verb_agreement(random: Random, lexicon: Lexicon) -> Pair:
    """The pilots near the table jump/*jumps."""
    plural, verb = random.random() < lexicon.plural, random.choice(lexicon.intransitive)
    start = f"the {_subject(random, lexicon.people, plural)} {_attractor(random, lexicon, plural)}"
    forms = (verb + "s", verb)
    return start + forms[plural], start + forms[not plural]


def determiner(random: Random, lexicon: Lexicon) -> Pair:
    """These/*this keys were found ...: the determiner agrees with its noun."""
    plural, noun = random.random() < lexicon.plural, random.choice(lexicon.people + lexicon.things)
    words = random.choice((("this", "these"), ("that", "those"), ("a single", "several"), ("every", "many")))
    good, bad = (noun, noun + "s") if not plural else (noun + "s", noun)
    verb = f"the {random.choice(lexicon.people)} {random.choice(lexicon.transitive)}ed {words[plural]}"
    return f"{verb} {good}", f"{verb} {bad}"


def reflexive(random: Random, lexicon: Lexicon) -> Pair:
    """The bakers beside the lamp watched themselves/*herself."""
    plural = random.random() < lexicon.plural
    start = f"the {_subject(random, lexicon.people, plural)} {_attractor(random, lexicon, plural)}"
    start += f"{random.choice(lexicon.transitive)}ed"
    singular = random.choice(("himself", "herself"))
    return f"{start} {(singular, 'themselves')[plural]}", f"{start} {(singular, 'themselves')[not plural]}"


def auxiliary(random: Random, lexicon: Lexicon) -> Pair:
    """The sailor has jumped/*jumping: an auxiliary selects the form of its verb."""
    subject, verb = random.choice(lexicon.people), random.choice(lexicon.intransitive)
    word, right = random.choice((("will", ""), ("can", ""), ("has", "ed"), ("is", "ing"), ("was", "ing")))
    wrong = random.choice([ending for ending in ("", "ed", "ing") if ending != right])
    return f"the {subject} {word} {verb}{right}", f"the {subject} {word} {verb}{wrong}"


def argument_structure(random: Random, lexicon: Lexicon) -> Pair:
    """The lamp was lifted by/*lifted the baker; the baker was lifting/*lifted the lamp: a passive takes no object."""
    person, thing, verb = (random.choice(w) for w in (lexicon.people, lexicon.things, lexicon.transitive))
    if random.random() < 0.5:
        return f"the {thing} was {verb}ed by the {person}", f"the {thing} was {verb}ed the {person}"
    return f"the {person} was {verb}ing the {thing}", f"the {person} was {verb}ed the {thing}"


PHENOMENA: tuple[Callable[[Random, Lexicon], Pair], ...] = (
    agreement,
    verb_agreement,
    determiner,
    reflexive,
    auxiliary,
    argument_structure,
)


def rows(split: str) -> Iterator[dict[str, Any]]:
    """The rows of `train` or `validation`: `sentence`, `label` (1: acceptable), `phenomenon`, `idx`.

    The corpus is always the same; the run's seed only decides order and subset.
    """
    random = Random(f"mat_ds demo {split}")
    seen: set[str] = set()
    items: list[dict[str, Any]] = []
    while len(items) < SIZES[split]:
        phenomenon = random.choice(PHENOMENA)
        pair = phenomenon(random, LEXICA[split])
        if seen.isdisjoint(pair):
            seen.update(pair)
            for sentence, label in zip(pair, (1, 0), strict=True):
                items.append({"sentence": f"{sentence}.", "label": label, "phenomenon": phenomenon.__name__})
    random.shuffle(items)
    yield from ({**item, "idx": i} for i, item in enumerate(items))
