from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flyball.controller.errors import SpaceError
from flyball.controller.space import load_space

CONTENT: dict[str, Any] = {
    "version": 1,
    "policy": {"version": 1, "length": {"policy": "threshold", "max_draft_len": 12}},
    "parameters": {
        "length.policy": {"choices": ["threshold", "static"]},
        "length.draft_len": {"low": 0, "high": 12, "integer": True},
        "length.min_confidence": {"low": 0.01, "high": 0.9, "log": True},
    },
}


def test_points_have_the_settings_of_their_policy_alone() -> None:
    space = load_space(CONTENT)
    rng = np.random.default_rng(0)
    seen: set[str] = set()
    for unit in rng.random((200, space.width)):
        point = space.decode(unit)
        seen.add(str(point["length.policy"]))
        own = {"threshold": "length.min_confidence", "static": "length.draft_len"}
        assert set(point) == {"length.policy", own[str(point["length.policy"])]}
        policy = space.policy_at(point)
        assert policy.length.policy == point["length.policy"]
        assert policy.length.max_draft_len == 12
    assert seen == {"threshold", "static"}


def test_a_place_that_a_point_stands_at_is_the_point() -> None:
    space = load_space(CONTENT)
    points = [space.decode(unit) for unit in np.random.default_rng(1).random((200, space.width))]
    places = space.encode(points)
    assert ((places >= 0.0) & (places <= 1.0)).all()
    assert [space.decode(place) for place in places] == points


def test_bounds_are_reached_and_kept() -> None:
    space = load_space(CONTENT)
    for unit, confidence, length in ((0.0, 0.01, 0), (1.0, 0.9, 12)):
        place = np.full(space.width, unit)
        first = space.decode(place)
        assert first["length.min_confidence"] == confidence
        names = list(space.parameters)
        assert names[0] == "length.policy"
        place[:2] = 0.0, 1.0  # static
        assert space.decode(place)["length.draft_len"] == length


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parameters": {"length.min_confidenc": {"low": 0, "high": 1}}}, "min_confidence'\\?"),
        ({"parameters": {"lenght.policy": {"choices": ["static"]}}}, "did you mean 'length'"),
        ({"parameters": {"length.min_confidence": {"low": 1, "high": 0}}}, "low < high"),
        ({"parameters": {"length.min_confidence": {"low": 0, "high": 1, "log": True}}}, "above 0"),
        ({"parameters": {"length.min_confidence": {"low": 0.5, "high": 3}}}, "narrow the bounds"),
        ({"parameters": {"length.policy": {"choices": ["static", "threshold"]}}}, "draft_len"),
        ({"parameters": {"length.policy": {"choices": ["statick"]}}}, "statick"),
        ({"parameters": {"length.draft_len": {"low": 2.2, "high": 2.8, "integer": True}}}, "none"),
        (
            {
                "parameters": {
                    "length.draft_len": {"low": 1, "high": 8, "integer": True, "log": True}
                }
            },
            "no whole numbers",
        ),
        ({"parameters": {"reload": {"choices": [True]}}}, "unknown parameter 'reload'"),
        ({"parameters": {"ensemble.policy": {"choices": ["equal"]}}}, "known are length"),
        ({"parameters": {"version.x": {"choices": [1]}}}, "unknown parameter 'version.x'"),
        ({"policy": {"version": 1, "length": "static"}}, "space's policy"),
        ({"policy": {"version": 1, "length": None}}, "space's policy"),
        ({"parameters": {}}, "parameters"),
        ({"version": 3}, "version"),
        ({"space": 1}, "space"),
        ({"policy": {"version": 1, "length": {"policy": "goodputt"}}}, "goodputt"),
    ],
)
def test_what_cannot_be_searched_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message) as caught:
        load_space({**CONTENT, **change})
    assert "\n" not in str(caught.value)


def test_a_file_is_read_or_named(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    with pytest.raises(SpaceError, match="No such file"):
        load_space(path)
    path.write_text("version: [1")
    with pytest.raises(SpaceError, match="space.yaml: cannot read"):
        load_space(path)
    path.write_text(
        "version: 1\nparameters: {length.max_draft_len: {low: 1, high: 8, integer: true}}"
    )
    assert load_space(path).width == 1
