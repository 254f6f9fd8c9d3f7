"""Which drafts to mix, with which weights."""
