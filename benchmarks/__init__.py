"""One script a claim: prints a table, writes JSON."""
