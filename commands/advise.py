"""`flyball advise`: what pays on this machine."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
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


@dataclass(frozen=True)
class _Option:
    """A draft, and what constant lengths of it bring."""

    draft: str
    steps: bool
    costs: CostTable
    foreign: bool  # whether the costs are another machine's
    predictions: list[Prediction]

    @property
    def best(self) -> Prediction:
        return max(self.predictions, key=lambda prediction: prediction.tokens_per_s)


def advise(
    trace: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Exact trace, for what is accepted.")
    ] = None,
    costs: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="Cost table of a draft in the trace, or a published one; give several.",
        ),
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
    options: list[_Option] = []
    if trace is not None:
        options = _predict(trace, tables)
        best = max(options, key=lambda option: option.best.tokens_per_s)
        result["drafts"] = {o.draft: [vars(p) for p in o.predictions] for o in options}
        result["best"] = {"draft": best.draft, **vars(best.best)}
        result["costs"] = {o.draft: o.costs.machine for o in options}
        if check and models is not None:
            result["check"] = _check(models, best, prompts)
    if parameters is not None and models is not None:
        result["shapes"] = _shapes(models, parameters, [o for o in options if o.steps])
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


def _predict(trace: Path, tables: dict[str, CostTable]) -> list[_Option]:
    """What every draft of the trace brings that has a cost table."""
    import numpy as np

    from flyball.controller.advice import predict
    from flyball.controller.corpus import Corpus
    from flyball.controller.match_trace import read_matches

    by_draft: dict[str, list[MatchText]] = {}
    for text in read_matches(trace):
        by_draft.setdefault(text.draft, []).append(text)
    steps = {name: texts[0].steps for name, texts in by_draft.items()}
    known = {name: table for name, table in tables.items() if name in steps}
    targets = {text.target for texts in by_draft.values() for text in texts}
    if not known and len(tables) == sum(steps.values()) == 1:
        (table,) = tables.values()
        if table.target not in targets:  # another machine has names of its own
            known = {name: table for name in steps if steps[name]}
    if not known:
        raise CostTableError(
            f"expected a cost table of a draft in {trace}, which has {', '.join(sorted(by_draft))}"
            f", but got {', '.join(sorted(tables)) or 'none'}; pass --costs or --measure FILE"
        )
    # An offer costs its verification alone.
    usual = next(iter(known.values()))
    known.update({name: usual for name in steps if not steps[name] and name not in known})
    with progress() as bar:
        return [
            _Option(
                name,
                steps[name],
                costs,
                costs.draft not in steps,
                predict(Corpus(by_draft[name], np.random.default_rng(0)), costs),
            )
            for name, costs in bar.track(known.items(), description="predicting")
        ]


def _check(models: Models, option: _Option, prompts: Path | None) -> list[dict[str, Any]]:
    """Real runs without a draft and with this one, prompt by prompt in turn."""
    from flyball.controller.policy_file import static_policy
    from flyball.integrations.hf import govern

    draft = models.drafts.get(option.draft) if option.steps else option.draft
    if draft is None:
        raise HostError(
            f"expected --draft with the folder of {option.draft} for --check, but got "
            f"{', '.join(models.drafts) or 'none'}"
        )
    if option.foreign:
        raise HostError(
            f"expected this machine's costs for --check, but got those of {option.costs.machine}; "
            "measure them with --measure FILE"
        )
    texts = [prompt.tokens for prompt in read_prompts(prompts, models)]
    chosen = texts[:: max(1, len(texts) // _CHECK_PROMPTS)][:_CHECK_PROMPTS]
    by_length = {p.draft_len: p for p in option.predictions}
    lengths = sorted({0, option.best.draft_len})
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


def _shapes(models: Models, parameters: int, options: list[_Option]) -> list[dict[str, Any]]:
    from flyball.controller.advice import rate_of_step
    from flyball.integrations.hf.shapes import measure_shapes

    best = max(options, key=lambda option: option.best.tokens_per_s, default=None)
    return [
        {
            **vars(shape),
            "tokens_per_s": best and rate_of_step(best.best, best.costs, shape.step_s),
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
        machine = result["costs"][best["draft"]]
        rate = f"{best['tokens_per_s']:.1f} tokens/s on {machine}"
        console.print(Text(f"Pays most: {what}, {rate}."))
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
