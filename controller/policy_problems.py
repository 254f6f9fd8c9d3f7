"""What is wrong with a policy file, with the remedy."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel

from flyball.controller.sections import POLICIES
from flyball.controller.validation import nearest


def explain(problem: dict[str, Any], file: type[BaseModel]) -> str:
    """One clause for one of pydantic's findings in a model of policy files."""
    loc = [str(part) for part in problem["loc"]]
    # The name of the chosen policy stands in the middle of pydantic's location.
    path = loc[:1] + loc[1 + _names_policy(loc) :]
    where, key = ".".join(path), path[-1]
    if problem["type"] == "extra_forbidden":
        return f"unknown key '{where}'{nearest(key, known_keys(file, loc[:-1]))}"
    if problem["type"] == "union_tag_invalid":
        name = str(problem["ctx"]["tag"])
        return f"unknown policy '{name}' for {where}{nearest(name, list(POLICIES[key]))}"
    if problem["type"] == "union_tag_not_found":
        return f"{where}: expected a key 'policy', one of {', '.join(POLICIES[key])}"
    if problem["type"] == "missing":
        return f"missing key '{where}'"
    if problem["type"] == "value_error":
        return f"{where}: {problem['ctx']['error']}"
    if problem["type"] in ("model_type", "model_attributes_type"):
        keys = ["policy"] if where in POLICIES else known_keys(file, loc)
        return f"{where}: expected keys such as '{keys[0]}', but got {problem['input']!r}"
    message = problem["msg"][0].lower() + problem["msg"][1:]
    return f"{where}: {message}, but got {problem['input']!r}"


def _names_policy(loc: list[str]) -> bool:
    return len(loc) > 1 and loc[1] in POLICIES.get(loc[0], {})


def known_keys(file: type[BaseModel], loc: list[str]) -> list[str]:
    """Keys of the section at pydantic's location; all of the file's where it is empty."""
    if _names_policy(loc):
        return list(POLICIES[loc[0]][loc[1]].Settings.model_fields)
    section: Any = file
    for part in loc:
        annotation = section.model_fields[part].annotation
        section = (*get_args(annotation), annotation)[0]  # an optional section's own type
    return list(section.model_fields)
