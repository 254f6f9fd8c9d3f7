"""Flyball: an adaptive-decoding governor for LLM engines.

Importing this package imports neither torch nor any host engine; hosts live in
`flyball.integrations`, the governor in `flyball.controller`.
"""

__version__ = "0.1.0"
