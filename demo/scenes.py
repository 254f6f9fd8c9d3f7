"""Pictures of a few coloured shapes on a grid of three by three cells.

A scene is data and an image is drawn from it: the same scene gives the same pixels everywhere, and
no image file ships. A cell is 16 pixels wide, two by two patches of the vision towers, and one
token of the features pooled two by two.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IMAGE_SIZE = 48  # pixels a side
CELL_SIZE = 16

Rgb = tuple[float, float, float]

COLOURS: dict[str, Rgb] = {
    "red": (0.85, 0.10, 0.10),
    "green": (0.10, 0.60, 0.15),
    "blue": (0.10, 0.20, 0.85),
    "yellow": (0.95, 0.90, 0.10),
    "purple": (0.50, 0.10, 0.60),
    "orange": (1.00, 0.50, 0.00),
    "white": (1.00, 1.00, 1.00),
    "black": (0.00, 0.00, 0.00),
}
BACKGROUNDS: dict[str, Rgb] = {
    "grey": (0.55, 0.55, 0.55),
    "pink": (1.00, 0.70, 0.80),
    "brown": (0.45, 0.30, 0.15),
    "cyan": (0.45, 0.90, 0.90),
}
KINDS = ("circle", "square", "triangle", "cross", "diamond", "ring")
SIZES = {"small": 4.0, "large": 7.0}  # radius in pixels
CELLS = (
    "top left",
    "top",
    "top right",
    "left",
    "centre",
    "right",
    "bottom left",
    "bottom",
    "bottom right",
)


@dataclass(frozen=True)
class Shape:
    """One shape of a scene.

    Attributes:
        size: key of SIZES.
        colour: key of COLOURS.
        kind: one of KINDS.
        cell: number of the cell, row by row.
        shift: of the shape from the middle of its cell, (x, y) in pixels.
    """

    size: str
    colour: str
    kind: str
    cell: int
    shift: tuple[int, int]

    @property
    def name(self) -> str:
        """Size, colour and kind in words."""
        return f"{self.size} {self.colour} {self.kind}"

    @property
    def short_name(self) -> str:
        """Colour and kind in words."""
        return f"{self.colour} {self.kind}"

    @property
    def place(self) -> str:
        """The cell in words."""
        return CELLS[self.cell]


@dataclass(frozen=True)
class Scene:
    """A background and the shapes on it, in the order of their cells."""

    background: str
    shapes: tuple[Shape, ...]


def draw_scene(rng: random.Random, num_shapes: int) -> Scene:
    """A random scene; no two of its shapes have the same colour and kind."""
    names = rng.sample([(c, k) for c in COLOURS for k in KINDS], num_shapes)
    cells = sorted(rng.sample(range(len(CELLS)), num_shapes))
    shapes = tuple(
        Shape(
            size=rng.choice(list(SIZES)),
            colour=colour,
            kind=kind,
            cell=cell,
            shift=(rng.randint(-1, 1), rng.randint(-1, 1)),
        )
        for (colour, kind), cell in zip(names, cells, strict=True)
    )
    return Scene(rng.choice(list(BACKGROUNDS)), shapes)


def inside(kind: str, x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which points belong to a shape of radius 1 around the origin; y points down."""
    across, along, distance = np.abs(x), np.abs(y), np.hypot(x, y)
    masks: dict[str, NDArray[np.bool_]] = {
        "circle": distance <= 1.0,
        "square": np.maximum(across, along) <= 0.85,
        "triangle": (across <= (y + 1.0) / 2.0) & (along <= 1.0),
        "cross": (np.minimum(across, along) <= 0.3) & (np.maximum(across, along) <= 1.0),
        "diamond": across + along <= 1.05,
        "ring": (distance <= 1.0) & (distance >= 0.55),
    }
    return masks[kind]


def render(scene: Scene) -> NDArray[np.float32]:
    """The image of a scene, (3, IMAGE_SIZE, IMAGE_SIZE), from -1 to 1."""
    image = np.empty((3, IMAGE_SIZE, IMAGE_SIZE), dtype=np.float32)
    image[:] = np.array(BACKGROUNDS[scene.background], dtype=np.float32)[:, None, None]
    pixels = np.arange(IMAGE_SIZE, dtype=np.float32) + 0.5
    for shape in scene.shapes:
        row, column = divmod(shape.cell, 3)
        centre_x = CELL_SIZE * (column + 0.5) + shape.shift[0]
        centre_y = CELL_SIZE * (row + 0.5) + shape.shift[1]
        x, y = np.meshgrid(pixels - centre_x, pixels - centre_y)
        covered = inside(shape.kind, x / SIZES[shape.size], y / SIZES[shape.size])
        image[:, covered] = np.array(COLOURS[shape.colour], dtype=np.float32)[:, None]
    return 2.0 * image - 1.0
