"""What is said about a scene: long captions, and the short ones of a captioning model."""

from __future__ import annotations

import random

from flyball.demo.scenes import COLOURS, KINDS, SIZES, Scene, Shape

NUMBERS = ("no", "one", "two", "three", "four", "five", "six")


def listed(items: list[str]) -> str:
    """Items in one phrase: a, b and c."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def one(name: str) -> str:
    """A name with its article."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def plural(noun: str) -> str:
    """A noun in the plural."""
    return f"{noun}es" if noun.endswith("s") else f"{noun}s"


def counted(number: int, noun: str) -> str:
    """A number in words and its noun: one cross, two crosses."""
    return f"{NUMBERS[number]} {noun if number == 1 else plural(noun)}"


def caption(scene: Scene, rng: random.Random) -> str:
    """Several sentences: background, every shape, how they lie, what is common to them."""
    sentences = [_opening(scene, rng)]
    before: Shape | None = None
    for shape in scene.shapes:
        sentences.append(_placed(shape, before is None, rng))
        if before is not None and rng.random() < 0.5:
            sentences.append(f"It is {relation(shape, before)} the {before.short_name}.")
        before = shape
    sentences.append(sizes(scene))
    sentences.append(_closing(scene, rng))
    return " ".join(sentences)


def short_caption(scene: Scene, rng: random.Random) -> str:
    """What a captioning model would say: no sizes, no places, and one colour in ten is wrong."""
    names = [
        one(f"{rng.choice(list(COLOURS)) if rng.random() < 0.1 else shape.colour} {shape.kind}")
        for shape in scene.shapes
    ]
    return f"image: {listed(names)} on {scene.background}."


def _opening(scene: Scene, rng: random.Random) -> str:
    number = counted(len(scene.shapes), "shape")
    return rng.choice(
        [
            f"The image shows {number} on a {scene.background} background.",
            f"In this picture I see {number}. The background is {scene.background}.",
            f"We look at {number} that someone drew on {scene.background} paper.",
        ]
    )


def _placed(shape: Shape, first: bool, rng: random.Random) -> str:
    lead = "First" if first else rng.choice(["Then", "Next", "Also"])
    return rng.choice(
        [
            f"At the {shape.place} there is a {shape.name}.",
            f"{lead}, the {shape.place} holds a {shape.name}.",
            f"{lead}, at the {shape.place} one finds a {shape.name}.",
        ]
    )


def relation(shape: Shape, other: Shape) -> str:
    """Where a shape lies as seen from another one."""
    row, column = divmod(shape.cell, 3)
    other_row, other_column = divmod(other.cell, 3)
    if row == other_row:
        return "right of" if column > other_column else "left of"
    return "below" if row > other_row else "above"


def sizes(scene: Scene) -> str:
    """Which shapes are small and which are large."""
    by_size = {
        size: [shape.short_name for shape in scene.shapes if shape.size == size] for size in SIZES
    }
    phrases = [
        f"the {listed(names)} {_be(names)} {size}" for size, names in by_size.items() if names
    ]
    return f"So {' and '.join(phrases)}."


def _be(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _closing(scene: Scene, rng: random.Random) -> str:
    kinds = sorted({shape.kind for shape in scene.shapes}, key=KINDS.index)
    return rng.choice(
        [
            f"The picture looks {rng.choice(['calm', 'bright', 'plain', 'playful'])}.",
            f"The {scene.shapes[-1].short_name} is the last thing one sees.",
            f"A child may have drawn the {listed(kinds)} by hand.",
        ]
    )


CAPTION_REQUESTS = (
    "Describe the image.",
    "What do you see?",
    "Tell me what is in this picture.",
    "Please give a detailed caption.",
)


def caption_request(rng: random.Random) -> str:
    """How a user asks for a caption."""
    return rng.choice(CAPTION_REQUESTS)
