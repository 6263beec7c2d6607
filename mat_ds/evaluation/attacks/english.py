"""What attacks on words know of English in order to keep a label: lists and rules of endings, no tagger and no thesaurus.

They are the limit of these attacks: a word that changes the meaning and stands in no list gets through. In other languages the
lists have no effect.
"""

from __future__ import annotations

import re
from functools import cache

# Words that are kept: of closed classes, with negations and what weakens or strengthens like one.
KEPT = frozenset(
    """a about above across after again against ago ain all almost along already also although always am among an and another
    any anybody anyone anything anywhere are aren around as at away be became because become becomes been before behind being
    below beneath beside besides between beyond both but by can cannot could couldn did didn do does doesn doing don done down
    during each either else enough especially even ever every everybody everyone everything everywhere except few fewer for
    from further had hadn half hardly has hasn have haven having he hence her here hers herself him himself his how however i
    if in indeed instead into is isn it its itself just lack lacked lacking lacks least less lest let ll may maybe me mere
    merely might mine more moreover most mostly much must my myself near nearly neither never nevertheless no nobody none nor
    not nothing nowhere of off often on once one ones only onto or other others otherwise ought our ours ourselves out over
    own per perhaps plus quite rather re really same seldom several shall she should since so some somebody somehow someone
    something sometimes somewhere soon still such than that the their theirs them themselves then there therefore these they
    this those though through throughout thus till to together too toward towards under unless unlike until unto up upon us ve
    very via was wasn we well were weren what whatever when whenever where whereas whether which while who whoever whole whom
    whose
    why will with within without won would wouldn yes yet you your yours yourself yourselves barely scarcely rarely
    anymore""".split()
)
NEGATIONS = frozenset(
    """ain aren barely cannot couldn didn doesn don hadn hardly hasn haven isn lack lacked lacking lacks least less merely
    neither never no nobody none nor not nothing nowhere rarely scarcely seldom unless unlike wasn weren without won wouldn
    instead except but however""".split()
)

# Words on different sides of a group never replace one another: opposites, and those of which only one can be true. They are
# what is nearest to each other in word embeddings, as their neighbours in texts are the same.
OPPOSITES = """
good great fine nice excellent better best wonderful fantastic terrific superb awesome amazing brilliant marvelous
  fabulous splendid delightful lovely magnificent outstanding perfect enjoyable pleasant positive decent impressive
  strong beautiful gorgeous | bad poor terrible awful horrible worse worst dreadful horrific hideous lousy mediocre
  wretched miserable inferior flawed unpleasant negative shitty evil nasty ugly pathetic disastrous weak wrong;
beautifully wonderfully brilliantly nicely | badly poorly horribly terribly awfully;
exciting interesting entertaining fascinating compelling engaging fun thrilling lively gripping fresh original
  intriguing surprising | boring dull bland tedious
  mundane stale tiresome bored dreary forgettable annoying disappointing frustrating;
funny hilarious amusing humorous comic comical comedic | serious sad tragic grim;
smart intelligent clever wise bright genius brilliant | stupid dumb foolish silly idiotic idiot moronic;
love loves loved loving like likes liked liking enjoy enjoys enjoyed adore admire admired appreciate | hate hates hated
  hating dislike dislikes disliked despise despised loathe hatred fear;
happy glad joyful cheerful pleased satisfied proud | sad unhappy miserable angry upset disappointed ashamed;
joy pleasure delight happiness | sorrow pain grief misery sadness;
success successes win wins won winning succeed succeeds succeeded successful victory triumph | failure failures lose
  loses losing lost fail fails failed failing defeat defeated loss disaster flop;
hope hopeful optimistic optimism | despair hopeless pessimistic pessimism;
right correct true accurate real genuine honest | wrong incorrect false inaccurate fake dishonest untrue;
fast quick quickly rapidly swiftly faster rapid quicker | slow slowly slower;
high higher highest highly tall | low lower lowest short;
large larger largest big bigger biggest huge great giant | small smaller smallest little tiny;
long longer longest | short shorter shortest brief;
old older oldest elderly ancient | young younger youngest new newer newest modern recent;
early earlier | late later;
hot hotter warm warmer | cold colder cool cooler;
rich wealthy richer | poor poorer;
easy easily easier simple | difficult hard harder complex complicated;
safe safely | dangerous unsafe risky;
open opens opened opening | close closes closed closing shut;
begin begins began beginning start starts started starting | end ends ended ending finish finishes finished stop stops
  stopped;
buy buys bought buying purchase | sell sells sold selling sale;
increase increases increased increasing rise rises rose rising grow grew gain gains gained up more | decrease decreases
  decreased decreasing decline declines declined declining fall falls fell falling drop drops dropped;
accept accepts accepted agree agrees agreed approve approved | reject rejects rejected refuse refuses refused deny
  denied disagree disagreed;
allow allows allowed permit permitted legal | ban bans banned prevent prevents prevented prohibit prohibited
  forbid forbidden illegal;
include includes included | exclude excludes excluded;
remember remembers remembered | forget forgets forgot forgotten;
protect protects protected defend defended defense | attack attacks attacked assault offense;
support supports supported | oppose opposes opposed;
arrive arrives arrived come comes came enter entered | leave leaves left depart departed go goes went exit;
give gives gave given send sent | take takes took taken receive received;
first | last final;
same similar identical | different various;
full | empty;
clean cleaner | dirty;
light lighter bright | dark darker heavy;
wide broad | narrow;
thick | thin;
deep | shallow;
loud louder | quiet silent;
major main | minor;
maximum | minimum;
many | few;
public | private;
natural | artificial;
alive living live lives lived life born | dead dying die dies died death killed;
war | peace;
friend friends ally | enemy enemies foe;
guilty | innocent;
winner winners | loser losers;
hero heroes | villain villains;
day daytime | night nighttime;
morning | afternoon | evening;
north northern | south southern | east eastern | west western;
positively | negatively;
dream dreams | nightmare nightmares;
liberal leftist | conservative;
courage brave fearless | coward cowardly cowardice;
fortunately luckily thankfully | unfortunately sadly regrettably;
democratic democrat democrats | republican republicans;
left | right;
inside inner | outside outer;
man men male males | woman women female females;
boy boys | girl girls;
father dad | mother mom | son sons | daughter daughters;
brother brothers | sister sisters;
husband husbands | wife wives;
king kings | queen queens;
prince princes | princess princesses;
actor actors | actress actresses;
uncle | aunt;
gentleman gentlemen | lady ladies;
parent parents adult adults | child children kid kids;
teacher teachers | student students;
spring | summer | autumn | winter;
yesterday | today | tomorrow;
past | present | future
"""
# Groups in which each word is a side of its own.
EXCLUSIVE = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
  nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million billion;
second third fourth fifth sixth seventh eighth ninth tenth;
red blue green yellow black white brown purple pink orange grey;
monday tuesday wednesday thursday friday saturday sunday;
january february march april june july august september october november december;
century decade year month week day hour minute;
seconds minutes hours days weeks months years decades centuries;
american british english french german italian spanish russian chinese japanese indian korean irish scottish canadian
  australian european african asian mexican turkish greek polish swedish dutch;
america britain england france germany italy spain russia china japan india korea ireland scotland canada australia europe
  africa asia mexico turkey greece poland sweden;
dog cat horse bird fish cow
"""
GROUPS = [[set(side.split()) for side in group.split("|")] for group in OPPOSITES.split(";")]
GROUPS += [[{word} for word in group.split()] for group in EXCLUSIVE.split(";")]
OPPOSED = frozenset(word for sides in GROUPS for side in sides for word in side)
NEGATING = ("un", "in", "im", "ir", "il", "dis", "non", "mis", "anti")

# Endings that say what form a word has, and what part of speech, for words so long that they are not a part of the stem.
FORMS = (("ly", 5), ("ing", 6), ("ed", 5), ("est", 6), ("s", 4))
NOT_PLURAL = ("ss", "us", "is")
PARTS = {
    "noun": ("ness", "tion", "sion", "ment", "ity", "ance", "ence", "ism", "ship", "hood"),
    "adjective": ("ous", "ful", "less", "able", "ible", "ive", "ish", "ical", "ial"),
}
IRREGULAR = {
    "ed": """hung said made went took gave saw came found thought told became left felt kept began brought wrote stood heard met
    ran paid sat spoke led grew lost fell sent built understood drew broke spent won held knew got bought caught taught
    chose rose wore forgot hid drove flew sang sold threw lay laid shot fought sought meant dealt slept swept bent
    lent hidden given taken seen known written spoken broken chosen driven drawn sank sunk struck dug swam grown shown
    thrown worn forgotten fallen gone done begun sung""",
    "s": "men women children people feet teeth mice persons lives wives knives wolves media",
    "er": """better worse bigger larger smaller higher lower richer poorer smarter faster slower older younger newer longer
    shorter stronger weaker easier harder happier sadder funnier deeper wider greater lesser closer darker brighter lighter
    heavier warmer cooler hotter colder nicer finer earlier later simpler smoother tighter louder quieter sharper thicker""",
    "est": "best worst",
    "ing": "going doing being seeing saying dying lying",
}
FORM_OF = {word: form for form, words in IRREGULAR.items() for word in words.split()}


@cache
def form_of(word: str) -> str:
    """The inflection that a word has, by its ending or the list of irregular ones; "" if none is known."""
    found = next((ending for ending, length in FORMS if len(word) >= length and word.endswith(ending)), "")
    return FORM_OF.get(word, "" if found == "s" and word.endswith(NOT_PLURAL) else found)


@cache
def part_of(word: str) -> str:
    """The part of speech that an ending tells, "noun" or "adjective"; "" if none does."""
    return next((part for part, endings in PARTS.items() if len(word) >= 6 and word.endswith(endings)), "")


@cache
def sides_of(word: str) -> dict[int, frozenset[int]]:
    """The sides that a word stands on, by the number of the group."""
    found = {i: frozenset(n for n, side in enumerate(sides) if word in side) for i, sides in enumerate(GROUPS)}
    return {i: sides for i, sides in found.items() if sides}


def opposed(one: str, other: str) -> bool:
    """Whether two words are known as opposites, or as such that only one of them can be true; or one negates the other."""
    mine, theirs = sides_of(one), sides_of(other)
    if any(theirs[group] - sides for group, sides in mine.items() if group in theirs):
        return True
    short, long = sorted((one, other), key=len)
    if any(long == prefix + short for prefix in NEGATING):
        return True
    return one != other and re.sub("(less|ful)$", "", one) == re.sub("(less|ful)$", "", other)


def akin(one: str, other: str) -> bool:
    """Whether two words seem to be of one stem: forms of one word, or its noun and its adjective."""
    short = min(len(one), len(other))
    common = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), short)
    return common >= max(3, 0.7 * short)


def may_replace(old: str, new: str) -> bool:
    """Whether a word may replace another as far as the lists and endings tell; both in lower case."""
    if new in KEPT or form_of(new) != form_of(old) or akin(old, new) or opposed(old, new):
        return False
    return not (part_of(old) and part_of(new)) or part_of(old) == part_of(new)
