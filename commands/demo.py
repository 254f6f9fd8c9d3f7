"""`flyball demo`: real models, a stream that changes domain, every decoding mode side by side."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from flyball.controller.errors import DemoError

if TYPE_CHECKING:
    from flyball.demo.loader import DemoModels
    from flyball.integrations.hf import GovernedGenerate
    from flyball.integrations.hf.stats import RoundStats

STATIC_LENGTHS = (0, 2, 3, 4, 6, 8, 12, 16)
SEGMENT = 2  # texts of one domain before the stream turns to the next
ORDER = ("code", "tables", "prose")
PLAIN, GOVERNED = "plain generate", "flyball governor"


@dataclass
class Trail:
    """The governor's rounds in order.

    Attributes:
        domain: of each round's text.
        drafted: tokens drafted.
        accepted: of them accepted.
    """

    domain: list[str] = field(default_factory=list)
    drafted: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)

    def note(self, stats: RoundStats) -> None:
        """Take in a round."""
        self.drafted.append(int(stats.draft_len[0]))
        self.accepted.append(int(stats.num_accepted[0]))


@dataclass
class Tally:
    """Tokens and seconds of one decoding mode, by domain."""

    tokens: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ORDER, 0))
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(ORDER, 0.0))
    texts: list[list[int]] = field(default_factory=list)

    def rate(self, domain: str | None = None) -> float:
        """Tokens per second, of one domain or of the whole stream."""
        domains = ORDER if domain is None else (domain,)
        return sum(self.tokens[d] for d in domains) / sum(self.seconds[d] for d in domains)


Mode = Callable[[Any], Any]


def demo(
    texts: Annotated[int, typer.Option(min=1, help="Texts of each domain.")] = 4,
    new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to generate a text.")] = 160,
    picture: Annotated[Path, typer.Option(help="Where to write the picture.")] = Path("demo.png"),
    trace: Annotated[Path, typer.Option(help="Folder for the governor's trace.")] = Path(
        "demo-trace"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Decode a stream that changes domain in every mode, and compare tokens per second."""
    from transformers.utils import logging

    from flyball.commands.demo_picture import draw
    from flyball.demo.loader import load_demo
    from flyball.integrations.hf import govern

    if not picture.absolute().parent.is_dir() or picture.suffix not in (".png", ".pdf", ".svg"):
        raise DemoError(
            f"{picture}: expected a file in an existing folder that ends in .png, .pdf or .svg"
        )
    console = Console(stderr=as_json)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with console.status("loading the demo models"):
        models = load_demo()
    trail = Trail()
    policy = {"version": 1, "trace": {"dir": str(trace)}}
    with govern(
        models.target, [models.draft, "prompt_lookup"], policy=policy, on_round=trail.note
    ) as gov:
        modes = _modes(models, gov)
        tallies = run_stream(models, modes, trail, texts, new_tokens, console)
    if as_json:
        print(json.dumps(_summary(tallies, trail)))
    else:
        console.print(_table(tallies, trail))
        _conclude(console, tallies)
    draw(picture, tallies, trail)
    console.print(f"Draft length and acceptance over time: {picture}")
    console.print(f"The governor's rounds are recorded: flyball trace info {trace}")


def _modes(models: DemoModels, gov: GovernedGenerate) -> dict[str, Mode]:
    """Every decoding mode as a function of the prompt's inputs, to which it adds its own."""
    from flyball.integrations.hf import govern

    target, draft = models.target, models.draft

    def stock(**settings: Any) -> Mode:
        config = copy.deepcopy(draft.generation_config)
        config.update(**settings)

        def run(inputs: Any) -> Any:
            draft.generation_config = config
            return target.generate(**inputs, assistant_model=draft)

        return run

    def static(length: int) -> Mode:
        section = {"policy": "static", "draft_len": length}
        gov = govern(target, [draft], policy={"version": 1, "length": section})
        return lambda inputs: gov.generate(**inputs)

    modes: dict[str, Mode] = {
        PLAIN: lambda inputs: target.generate(**inputs),
        "stock assisted": stock(),
        "stock assisted, heuristic": stock(num_assistant_tokens_schedule="heuristic"),
        "stock prompt lookup": lambda inputs: target.generate(
            **inputs, prompt_lookup_num_tokens=10
        ),
    }
    for length in STATIC_LENGTHS:
        modes[f"static length {length}"] = static(length)
    modes[GOVERNED] = lambda inputs: gov.generate(**inputs)
    return modes


def run_stream(
    models: DemoModels,
    modes: dict[str, Mode],
    trail: Trail,
    num_texts: int,
    new_tokens: int,
    console: Console,
) -> dict[str, Tally]:
    """Decode the stream in all modes, text by text, so that a change of the machine hits all."""
    prompts = [
        (domain, text)
        for start in range(0, num_texts, SEGMENT)
        for domain in ORDER
        for text in models.prompts[domain][start : min(start + SEGMENT, num_texts)]
    ]
    tallies = {name: Tally() for name in modes}
    names = list(modes)
    for name in names:
        modes[name](_inputs(models, "import os\n", 24))  # allocations and caches, not counted
    trail.drafted.clear()
    trail.accepted.clear()
    columns = (TextColumn("{task.description:26}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("decoding", total=len(prompts) * len(names))
        for number, (domain, text) in enumerate(prompts):
            inputs = _inputs(models, text, new_tokens)
            shift = number % len(names)
            for name in names[shift:] + names[:shift]:
                progress.update(task, description=f"{domain}: {name}")
                start = time.perf_counter()
                out = modes[name](inputs)
                tallies[name].seconds[domain] += time.perf_counter() - start
                tallies[name].tokens[domain] += out.shape[1] - inputs["input_ids"].shape[1]
                tallies[name].texts.append(out[0].tolist())
                progress.advance(task)
            trail.domain += [domain] * (len(trail.drafted) - len(trail.domain))
    return tallies


def _inputs(models: DemoModels, text: str, new_tokens: int) -> dict[str, Any]:
    inputs = models.tokenizer(text, return_tensors="pt", return_token_type_ids=False)
    return {**inputs, "max_new_tokens": new_tokens, "do_sample": False}


def _acceptance(trail: Trail, domain: str) -> tuple[float, float]:
    """Mean draft length, and the share of observed drafted tokens that were accepted."""
    rounds = [
        (k, a)
        for d, k, a in zip(trail.domain, trail.drafted, trail.accepted, strict=True)
        if d == domain
    ]
    observed = sum(min(a + 1, k) for k, a in rounds)
    mean_len = sum(k for k, _ in rounds) / max(1, len(rounds))
    return mean_len, sum(a for _, a in rounds) / max(1, observed)


def _table(tallies: dict[str, Tally], trail: Trail) -> Table:
    table = Table(title="tokens per second, greedy decoding, one request at a time")
    table.add_column("mode")
    for heading in (*ORDER, "whole stream", "to plain"):
        table.add_column(heading, justify="right")
    best = max(tally.rate() for tally in tallies.values())
    plain = tallies[PLAIN].rate()
    for name, tally in tallies.items():
        cells = [f"{tally.rate(domain):.0f}" for domain in ORDER]
        cells += [f"{tally.rate():.0f}", f"{tally.rate() / plain:.2f}x"]
        table.add_row(name, *cells, style="bold green" if tally.rate() == best else "")
    table.add_section()
    stats = [_acceptance(trail, domain) for domain in ORDER]
    table.add_row("governor's mean draft length", *(f"{k:.1f}" for k, _ in stats), "", "")
    table.add_row("accepted per observed token", *(f"{a:.2f}" for _, a in stats), "", "")
    return table


def _best(tallies: dict[str, Tally], prefix: str) -> tuple[str, float]:
    rates = {name: t.rate() for name, t in tallies.items() if name.startswith(prefix)}
    name = max(rates, key=lambda n: rates[n])
    return name, rates[name]


def _conclude(console: Console, tallies: dict[str, Tally]) -> None:
    governor = tallies[GOVERNED].rate()
    for prefix in ("static", "stock"):
        name, rate = _best(tallies, prefix)
        console.print(
            f"The governor runs at {governor / rate:.2f} times the best of these: {name}."
        )
    same = sum(a == b for a, b in zip(tallies[GOVERNED].texts, tallies[PLAIN].texts, strict=True))
    total = len(tallies[PLAIN].texts)
    console.print(f"Its output equals plain generate's in {same} of {total} texts, every token.")


def _summary(tallies: dict[str, Tally], trail: Trail) -> dict[str, Any]:
    governor = tallies[GOVERNED]
    rows = [
        {"mode": name, "tokens_per_s": t.rate(), **{d: t.rate(d) for d in ORDER}}
        for name, t in tallies.items()
    ]
    return {
        "rows": rows,
        "summary": {
            "governed_vs_best_static": governor.rate() / _best(tallies, "static")[1],
            "governed_vs_best_stock": governor.rate() / _best(tallies, "stock")[1],
            "governed_vs_plain": governor.rate() / tallies[PLAIN].rate(),
            "same_text_as_plain": sum(
                a == b for a, b in zip(governor.texts, tallies[PLAIN].texts, strict=True)
            ),
            "num_texts": len(governor.texts),
            "mean_draft_len": {d: _acceptance(trail, d)[0] for d in ORDER},
            "acceptance": {d: _acceptance(trail, d)[1] for d in ORDER},
        },
    }
