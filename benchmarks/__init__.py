"""Benchmarks, one script a claim; run from the project root, no part of the installed package."""
