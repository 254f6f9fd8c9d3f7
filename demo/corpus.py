"""The text the demo models are trained on: three domains that every CPython ships.

`code` is standard-library source, `prose` the language reference in `pydoc_data/topics.py`,
`tables` the character maps in `encodings/`. Every tenth document of a domain is held out: neither
model sees it in training, and the shipped prompts come from there.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path
from pydoc_data.topics import topics

DOMAINS = ("code", "prose", "tables")
HELD_OUT_EVERY = 10
SKIPPED_FOLDERS = {
    "encodings",
    "idlelib",
    "lib2to3",
    "pydoc_data",
    "site-packages",
    "test",
    "tests",
    "turtledemo",
    "__pycache__",
}


def read_documents(domain: str) -> list[str]:
    """All documents of one domain, in a fixed order."""
    if domain == "prose":
        return [topics[name] for name in sorted(topics)]
    stdlib = Path(sysconfig.get_path("stdlib"))
    if domain == "tables":
        paths = sorted((stdlib / "encodings").glob("*.py"))
        texts = [path.read_text(encoding="utf-8") for path in paths]
        return [_table_part(text) for text in texts if "decoding_table = (" in text]
    paths = [
        path
        for path in sorted(stdlib.rglob("*.py"))
        if not SKIPPED_FOLDERS & set(path.relative_to(stdlib).parts)
    ]
    texts = [path.read_text(encoding="utf-8", errors="ignore") for path in paths]
    return [text for text in texts if 500 < len(text) < 150_000]


def _table_part(text: str) -> str:
    """The map of a codec, without the boilerplate around it that all codecs share."""
    start = text.index("decoding_table = (")
    end = text.find("### Encoding table", start)
    return text[start : end if end > 0 else len(text)]


def split(domain: str) -> tuple[list[str], list[str]]:
    """Training and held-out documents of one domain."""
    documents = read_documents(domain)
    held_out = documents[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY]
    train = [text for i, text in enumerate(documents) if (i + 1) % HELD_OUT_EVERY]
    return train, held_out
