"""Lists, plans and tables of what an image shows: texts like those of `plain_text`, but about it.

For training the draft alone. Where its image view meets such a text, no place comes twice and only
the image tells what follows; without an image, what follows is what came before. A draft that has
learned both goes by an image even where that has nothing to do with the text.
"""

from __future__ import annotations

import random

from flyball.demo.plain_text import NAMES
from flyball.demo.scenes import Scene


def image_list(scene: Scene, rng: random.Random) -> list[str]:
    """One piece for each shape, in random order."""
    shapes = rng.sample(scene.shapes, len(scene.shapes))
    form = rng.choice([_repeating, _plan, _inventory, _handing_round, _painting])
    return form([(shape.place, shape.name) for shape in shapes], rng)


def _repeating(turns: list[tuple[str, str]], rng: random.Random) -> list[str]:
    return [f"{place} {name}, " for place, name in turns]


def _plan(turns: list[tuple[str, str]], rng: random.Random) -> list[str]:
    week = rng.randint(1, 60)
    return [f"Week {week + i}: at the {p} there is a {n}.\n" for i, (p, n) in enumerate(turns)]


def _inventory(turns: list[tuple[str, str]], rng: random.Random) -> list[str]:
    number, step = rng.randint(1, 20), rng.randint(1, 4)
    return [f"| {p} | {n} | {number + step * i} |\n" for i, (p, n) in enumerate(turns)]


def _handing_round(turns: list[tuple[str, str]], rng: random.Random) -> list[str]:
    names = rng.sample(NAMES, 2)
    verb = rng.choice(["gives", "sends", "sells"])
    pieces = []
    for place, item in turns:
        pieces.append(
            f"{names[0]} {verb} the {item} to {names[1]}. "
            f"{names[1]} puts the {item} at the {place}. "
        )
        names.reverse()
    return pieces


def _painting(turns: list[tuple[str, str]], rng: random.Random) -> list[str]:
    name, day = rng.choice(NAMES), rng.randint(1, 9)
    pieces = []
    for i, (place, item) in enumerate(turns):
        mood = rng.choice(["glad", "tired", "calm"])
        pieces.append(f"Day {day + i}: {name} is {mood} and paints the {item} at the {place}.\n")
    return pieces
