"""Questions about a scene with their answers, and second turns after a caption.

A second turn retells what the first answer said, so that its text depends on the dialogue more
than on the pixels.
"""

from __future__ import annotations

import random

from flyball.demo.scene_text import NUMBERS, counted, listed, one, plural, relation, sizes
from flyball.demo.scenes import CELLS, SIZES, Scene


def question(scene: Scene, rng: random.Random) -> tuple[str, str]:
    """A question about the image and an answer that goes through its shapes one by one."""
    about, value, noun = _asked(scene, rng)
    steps: list[str] = []
    number = 0
    for shape in scene.shapes:
        hit = getattr(shape, about) == value
        number += hit
        verdict = f"so that makes {NUMBERS[number]}" if hit else f"which is no {noun}"
        look = rng.choice(["At", "Look at"])
        steps.append(f"{look} the {shape.place}: {one(shape.name)}, {verdict}.")
    lead = rng.choice(["Let me count.", "I go from top to bottom.", "One by one."])
    total = rng.choice(
        [f"The answer is {NUMBERS[number]}.", f"So I count {counted(number, noun)}."]
    )
    return f"How many {plural(noun)} are there?", " ".join([lead, *steps, total, sizes(scene)])


def _asked(scene: Scene, rng: random.Random) -> tuple[str, str, str]:
    """An attribute, a value of it, and what has that value; there may be none of it."""
    about = rng.choice(["colour", "kind", "size"])
    if about == "size":
        value = rng.choice(list(SIZES))
    else:
        value = getattr(rng.choice(scene.shapes), about)
        if rng.random() < 0.3:
            value = rng.choice(["red", "blue"] if about == "colour" else ["circle", "square"])
    return about, value, value if about == "kind" else f"{value} shape"


def all_cells(scene: Scene, rng: random.Random) -> str:
    """What is in each of the nine cells, in random order."""
    names = dict.fromkeys(CELLS, "nothing") | {shape.place: shape.name for shape in scene.shapes}
    places = rng.sample(CELLS, len(CELLS))
    return " ".join(f"At the {place}: {names[place]}." for place in places)


def second_turn(scene: Scene, rng: random.Random) -> tuple[str, str]:
    """A second request and its answer, which the first answer's text almost decides."""
    asked, answer = rng.choice(
        [
            ("Now make a list of it.", _as_list),
            ("Say that again from the end.", _from_the_end),
            ("Now tell it as a story.", _as_story),
        ]
    )
    return asked, answer(scene, rng)


def _as_list(scene: Scene, rng: random.Random) -> str:
    lines = [
        f"{i}. {shape.name}, {rng.choice(['at', 'placed', 'drawn at'])} {shape.place}"
        f" on {scene.background}, {shape.size} and {shape.colour}"
        for i, shape in enumerate(scene.shapes, 1)
    ]
    return "\n".join(["Here is the list:", *lines, sizes(scene)])


def _from_the_end(scene: Scene, rng: random.Random) -> str:
    backwards = scene.shapes[::-1]
    sentences = [f"Last came {one(backwards[0].name)} at the {backwards[0].place}."]
    for after, shape in zip(backwards, backwards[1:], strict=False):
        lead = rng.choice(["Before that", "And before"])
        sentences.append(f"{lead} came {one(shape.name)} at the {shape.place}.")
        sentences.append(f"It is {relation(shape, after)} the {after.short_name}.")
    return " ".join([*sentences, sizes(scene)])


def _as_story(scene: Scene, rng: random.Random) -> str:
    shapes = scene.shapes
    sentences = [f"Once upon a time {one(shapes[0].name)} lived at the {shapes[0].place}."]
    for before, shape in zip(shapes, shapes[1:], strict=False):
        verb = rng.choice(["went to meet", "called", "waited for"])
        sentences.append(f"The {before.short_name} {verb} the {shape.name} at the {shape.place}.")
        sentences.append(f"The {shape.short_name} was {rng.choice(['happy', 'tired', 'shy'])}.")
    sentences.append(f"In the end the {listed([s.short_name for s in shapes])} slept well.")
    return " ".join(sentences)
