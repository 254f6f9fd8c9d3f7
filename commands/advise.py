"""`flyball advise`: what pays on this machine."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flyball.commands.models import DEMO, Models, load_models
from flyball.commands.options import AsJson, DraftFolder, ModelFolder
from flyball.commands.progress import progress
from flyball.commands.prompts import read_prompts
from flyball.controller.errors import CostTableError, HostError

if TYPE_CHECKING:
    from flyball.controller.advice import Prediction
    from flyball.controller.cost_table import CostTable
    from flyball.controller.match_text import MatchText

_CHECK_PROMPTS, _CHECK_TOKENS = 6, 96  # of the short real run


def advise(
    trace: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Exact trace, for what is accepted.")
    ] = None,
    costs: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Cost table of a draft in the trace; give several."),
    ] = None,
    measure: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Measure a cost table into this file.")
    ] = None,
    model: ModelFolder = DEMO,
    draft: DraftFolder = None,
    prompts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="To measure with; as for record.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Run it for real for a moment, beside the prediction.")
    ] = False,
    parameters: Annotated[
        int | None,
        typer.Option(min=1000, help="Depths and widths of a new draft of so many parameters."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say which draft and length pays here, from what was accepted and what steps cost."""
    if trace is None and measure is None and parameters is None:
        raise HostError("expected something to say; pass --trace with --costs, or --measure FILE")
    from flyball.controller.cost_table import dump_costs, load_costs

    tables = {table.draft: table for table in map(load_costs, costs or [])}
    if trace is None and (check or costs):
        raise HostError("expected --trace beside --costs and --check; pass it, or leave them out")
    if measure is not None:
        measure.touch()  # what cannot be written is known before minutes have passed
    models = None
    if measure is not None or check or parameters is not None:
        models = load_models(model, [] if draft is None else [draft])
    result: dict[str, Any] = {}
    if measure is not None and models is not None:
        table = _measure(models, model, prompts)
        measure.write_text(dump_costs(table), encoding="utf-8")
        tables[table.draft] = table
        result["measured"] = str(measure)
    best: tuple[Prediction, CostTable] | None = None
    if trace is not None:
        found = _predict(trace, tables)
        best = max(
            (
                (max(own, key=lambda p: p.tokens_per_s), tables[name])
                for name, own in found.items()
            ),
            key=lambda pair: pair[0].tokens_per_s,
        )
        result["drafts"] = {name: [vars(p) for p in own] for name, own in found.items()}
        result["best"] = {"draft": best[1].draft, **vars(best[0])}
        if check and models is not None:
            result["check"] = _check(models, best, found[best[1].draft], prompts)
    if parameters is not None and models is not None:
        result["shapes"] = _shapes(models, parameters, best)
    if as_json:
        print(json.dumps(result))
    else:
        _print(result)


def _measure(models: Models, name: str, prompts: Path | None) -> CostTable:
    from flyball.integrations.hf.measure import CostMeasurement, Grid

    if len(models.drafts) != 1:
        raise HostError("expected a draft model to measure; pass --draft DIR")
    ((draft_name, draft),) = models.drafts.items()
    texts = [prompt.tokens for prompt in read_prompts(prompts, models)]
    grid = Grid()
    measurement = CostMeasurement(models.target, draft, texts, grid, (name, draft_name))
    with progress() as bar:
        for _ in bar.track(measurement.runs(), total=grid.num_runs, description="measuring"):
            pass
    return measurement.table()


def _predict(trace: Path, tables: dict[str, CostTable]) -> dict[str, list[Prediction]]:
    """Predictions by draft, for every draft of the trace that has a cost table."""
    import numpy as np

    from flyball.controller.advice import predict
    from flyball.controller.corpus import Corpus
    from flyball.controller.match_trace import read_matches

    by_draft: dict[str, list[MatchText]] = {}
    for text in read_matches(trace):
        by_draft.setdefault(text.draft, []).append(text)
    known = sorted(by_draft.keys() & tables.keys())
    if not known:
        raise CostTableError(
            f"expected a cost table of a draft in {trace}, which has {', '.join(sorted(by_draft))}"
            f", but got {', '.join(sorted(tables)) or 'none'}; pass --costs or --measure FILE"
        )
    return {
        name: predict(Corpus(by_draft[name], np.random.default_rng(0)), tables[name])
        for name in known
    }


def _check(
    models: Models,
    best: tuple[Prediction, CostTable],
    predictions: list[Prediction],
    prompts: Path | None,
) -> list[dict[str, Any]]:
    """Real runs without a draft and with the best one, prompt by prompt in turn."""
    from flyball.controller.policy_file import static_policy
    from flyball.integrations.hf import govern

    draft = models.drafts.get(best[1].draft)
    if draft is None:
        raise HostError(
            f"expected --draft with the folder of {best[1].draft} for --check, but got "
            f"{', '.join(models.drafts) or 'none'}"
        )
    texts = [prompt.tokens for prompt in read_prompts(prompts, models)]
    chosen = texts[:: max(1, len(texts) // _CHECK_PROMPTS)][:_CHECK_PROMPTS]
    by_length = {p.draft_len: p for p in predictions}
    lengths = sorted({0, best[0].draft_len})
    seconds, tokens = dict.fromkeys(lengths, 0.0), dict.fromkeys(lengths, 0)
    govs = {
        length: govern(
            models.target,
            [draft],
            policy=static_policy(length),
        )
        for length in lengths
    }
    for number, text in enumerate([chosen[0], *chosen]):
        for length, gov in govs.items():
            start = time.perf_counter()
            (out,) = gov.generate_many([text], max_new_tokens=_CHECK_TOKENS, do_sample=False)
            if number > 0:  # the first is for allocations and caches
                seconds[length] += time.perf_counter() - start
                tokens[length] += len(out) - len(text)
    return [
        {
            "draft_len": length,
            "predicted_tokens_per_s": by_length[length].tokens_per_s,
            "measured_tokens_per_s": tokens[length] / seconds[length],
        }
        for length in lengths
    ]


def _shapes(
    models: Models, parameters: int, best: tuple[Prediction, CostTable] | None
) -> list[dict[str, Any]]:
    from flyball.controller.advice import rate_of_step
    from flyball.integrations.hf.shapes import measure_shapes

    return [
        {
            **vars(shape),
            "tokens_per_s": None if best is None else rate_of_step(*best, shape.step_s),
        }
        for shape in measure_shapes(models.target, parameters)
    ]


def _print(result: dict[str, Any]) -> None:
    console = Console()
    if "measured" in result:
        console.print(Text(f"Measured costs are in {result['measured']}."))
    for name, predictions in result.get("drafts", {}).items():
        _table(console, Text(f"{name}: predicted, one request at a time"), predictions)
    if "best" in result:
        best = result["best"]
        what = (
            "No draft"
            if best["draft_len"] == 0
            else f"{best['draft']}, {best['draft_len']} tokens"
        )
        console.print(Text(f"Pays most: {what}, {best['tokens_per_s']:.1f} tokens/s."))
    if "check" in result:
        _table(console, Text("predicted and measured"), result["check"])
    if "shapes" in result:
        _table(console, Text("new drafts, if as much is accepted of them"), result["shapes"])


def _table(console: Console, title: Text, rows: list[dict[str, Any]]) -> None:
    table = Table(title=title)
    for name in rows[0]:
        table.add_column(name.replace("_", " "), justify="right")
    for row in rows:
        table.add_row(*("" if v is None else f"{v:,.4g}" for v in row.values()))
    console.print(table)
