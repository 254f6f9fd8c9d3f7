"""The `flyball` command."""

from __future__ import annotations

import logging
import sys

import typer

from flyball import __version__
from flyball.commands import policy, trace
from flyball.commands.advise import advise
from flyball.commands.demo import demo
from flyball.commands.generate import generate
from flyball.commands.record import record
from flyball.commands.replay import replay
from flyball.commands.report import report
from flyball.commands.throttle import throttle
from flyball.commands.tune import tune
from flyball.commands.vllm_args import vllm_args
from flyball.controller.errors import FlyballError

app = typer.Typer(
    help="Flyball decides how an LLM engine decodes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(advise)
app.command()(demo)
app.command()(generate)
app.command()(record)
app.command()(replay)
app.command()(report)
app.command()(throttle)
app.command()(tune)
app.command()(vllm_args)
app.add_typer(policy.app)
app.add_typer(trace.app)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"flyball {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_show_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Flyball decides how an LLM engine decodes."""


def main() -> None:
    """Run the command line; a user's mistake is one line on standard error and exit code 2."""
    logging.basicConfig(format="flyball: %(message)s", level=logging.WARNING)
    try:
        app()
    except FlyballError as error:
        print(f"flyball: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.filename is None:
            raise
        print(f"flyball: {error.filename}: {error.strerror}", file=sys.stderr)
        sys.exit(2)
