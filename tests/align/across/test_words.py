"""Words that translate each other, against loops over dictionaries."""

import random
from collections import defaultdict

from align.across.words import linked_words

ENGLISH = ["red dog", "Blue dog", "red cat", "cat", "the cat sleeps here", ""]
GERMAN = ["rot Hund", "blau Hund", "Katze rot", "Katze", "", "nichts"]


def by_loops(sources, targets, passes):
    """IBM Model 1 as it is written in books: (n, i, j) of target words' best ones."""
    pairs = [
        (["", *s.lower().split()], t.lower().split())
        for s, t in zip(sources, targets, strict=True)
    ]
    likely = defaultdict(lambda: 1.0)
    for _ in range(passes):
        counts, totals = defaultdict(float), defaultdict(float)
        for source, target in pairs:
            for word in target:
                whole = sum(likely[e, word] for e in source)
                for e in source:
                    counts[e, word] += likely[e, word] / whole
                    totals[e] += likely[e, word] / whole
        likely = {key: count / totals[key[0]] for key, count in counts.items()}
    best = set()
    for n, (source, target) in enumerate(pairs):
        for j, word in enumerate(target):
            i = max(range(len(source)), key=lambda i: likely[source[i], word])
            best |= {(n, i - 1, j)} if i else set()
    return best


def test_links_are_where_both_directions_agree():
    draw = random.Random(0)
    sources = [
        " ".join(draw.choices("abcdef", k=draw.randint(1, 5))) for _ in range(40)
    ]
    targets = [
        " ".join(w.upper() * 2 for w in draw.sample(s.split(), len(s.split())))
        for s in sources
    ]
    forward = by_loops(sources, targets, 4)
    backward = by_loops(targets, sources, 4)
    wanted = forward & {(n, i, j) for n, j, i in backward}
    links = linked_words(sources, targets, 4)
    assert {(n, *link) for n, of in enumerate(links) for link in of} == wanted
    assert len(wanted) > 60


def test_words_find_their_translations_and_empty_sides_have_none():
    links = linked_words(ENGLISH, GERMAN, passes=8)
    assert links[:4] == [[(0, 0), (1, 1)], [(0, 0), (1, 1)], [(0, 1), (1, 0)], [(0, 0)]]
    assert links[4] == links[5] == [] and linked_words([], []) == []
