"""What is wrong with a file, in one line."""

from __future__ import annotations

import difflib

from pydantic import ValidationError


def first_problem(error: ValidationError) -> str:
    """Where the first problem is, and what was expected there."""
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def nearest(name: str, known: list[str]) -> str:
    """What else the name may have meant, to end a message with."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    if close:
        return f", did you mean '{close[0]}'?"
    return f"; known are {', '.join(known)}"
