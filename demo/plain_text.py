"""Texts that go on by themselves, whatever image is attached to them.

They speak of shapes and places as the captions do, but of other ones than those in the image: what
comes next follows from the text, by turns or by counting up. `pages` are such texts cut into pages
with an image each, like an illustrated story.
"""

from __future__ import annotations

import random

from flyball.demo.scenes import CELLS, COLOURS, KINDS, SIZES

NAMES = ("Mia", "Tom", "Ada", "Ben", "Eva", "Max")


def thing(rng: random.Random) -> str:
    """Something that could be drawn."""
    return f"{rng.choice(list(SIZES))} {rng.choice(list(COLOURS))} {rng.choice(KINDS)}"


def repeating(rng: random.Random) -> list[str]:
    """Things over and over, each at its place."""
    turns = [f"{rng.choice(CELLS)} {thing(rng)}," for _ in range(rng.randint(2, 4))]
    return [turns[i % len(turns)] for i in range(36)]


def plan(rng: random.Random) -> list[str]:
    """Weeks that take turns, each with what is to be drawn and where."""
    turns = [f"at the {rng.choice(CELLS)} there is a {thing(rng)}" for _ in range(2)]
    week = rng.randint(1, 60)
    return [f"Week {week + i}: {turns[i % 2]}.\n" for i in range(24)]


def inventory(rng: random.Random) -> list[str]:
    """Rows of a table: place, thing, and a number that goes up by a fixed step."""
    turns = [f"{rng.choice(CELLS)} | {thing(rng)}" for _ in range(rng.randint(2, 3))]
    number, step = rng.randint(1, 20), rng.randint(1, 4)
    return [f"| {turns[i % len(turns)]} | {number + step * i} |\n" for i in range(24)]


def handing_round(rng: random.Random) -> list[str]:
    """A thing goes from hand to hand, in one order of names and places."""
    names, item, places = rng.sample(NAMES, 2), thing(rng), rng.sample(CELLS, 2)
    verb = rng.choice(["gives", "sends", "sells"])
    pieces = []
    for i in range(20):
        giver, taker = names[i % 2], names[(i + 1) % 2]
        pieces.append(f"{giver} {verb} the {item} to {taker}.")
        pieces.append(f"{taker} puts the {item} at the {places[i % 2]}.")
    return pieces


def painting(rng: random.Random) -> list[str]:
    """Days on which someone paints one thing or the other, in a mood that nothing tells."""
    name, turns = rng.choice(NAMES), [(thing(rng), rng.choice(CELLS)) for _ in range(2)]
    day = rng.randint(1, 9)
    pieces = []
    for i in range(20):
        item, place = turns[i % 2]
        mood = rng.choice(["glad", "tired", "calm"])
        pieces.append(f"Day {day + i}: {name} is {mood} and paints the {item} at the {place}.\n")
    return pieces


FORMS = (repeating, plan, inventory, handing_round, painting)


def plain_text(rng: random.Random, num_words: int = 45) -> tuple[str, str]:
    """The beginning of a text, and how it goes on (far longer than is ever decoded)."""
    pieces = rng.choice(FORMS)(rng)
    shown = _num_pieces(pieces, num_words)
    return _join(pieces[:shown]), _join(pieces[shown:])


def pages(rng: random.Random, num_pages: int) -> tuple[list[str], str]:
    """A text of several pages, and how it goes on."""
    pieces = rng.choice(FORMS)(rng)
    per_page = _num_pieces(pieces, 50 // num_pages)
    shown = num_pages * per_page
    starts = range(0, shown, per_page)
    return [_join(pieces[start : start + per_page]) for start in starts], _join(pieces[shown:])


def _num_pieces(pieces: list[str], num_words: int) -> int:
    """How many pieces hold so many words; all are about as long as the first."""
    return -(-num_words // len(pieces[0].split()))


def _join(pieces: list[str]) -> str:
    return "".join(piece if piece.endswith("\n") else piece + " " for piece in pieces)
