"""Variants of `benchmarks.vllm_serving` take turns at the same requests."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import Progress

from benchmarks.report import progress
from benchmarks.vllm_load import LOADS, Phase, Prompts, mixed_phase, phases
from benchmarks.vllm_quiet import Side, Watch
from benchmarks.vllm_server import Server
from benchmarks.vllm_summary import PHASED, Log, Measured, best_lengths, fastest, stream_of
from benchmarks.vllm_variants import (
    GOVERNOR,
    LENGTHS,
    MODE_VARIABLE,
    OFF,
    POLICY,
    QUICK_LENGTHS,
    TABLE,
    Variant,
    best_table,
    mode_file,
    speculative_config,
    static_name,
    variants,
    write_mode,
)

IDLE_S = 10.0  # after which a server finds its caches cold and some of its pages gone


@dataclass(frozen=True)
class Stage:
    """A part of the search for the constant length that is fastest in hindsight.

    Measured for as long as all others, the best of nine lengths would owe much to luck where the
    machine is not steady. So fewer and fewer of them are measured more and more often (sequential
    halving, Karnin et al. 2013), and everything else in every repetition.

    Attributes:
        contenders: constant lengths that are measured, at most; the fastest so far.
        repetitions: each draws requests of its own.
    """

    contenders: int
    repetitions: int


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        methods: of drafting.
        quick: few lengths and small requests.
        stages: of every load.
        phased_stages: of the phased run.
        seed: chooses requests, phases and orders.
    """

    methods: tuple[str, ...]
    quick: bool
    stages: tuple[Stage, ...]
    phased_stages: tuple[Stage, ...]
    seed: int


class Bench:
    """All servers of a run; use it inside `async with`, which stops them."""

    def __init__(self, plan: Plan, prompts: Prompts, models: tuple[Path, Path], folder: Path):
        self.log = Log()
        self._plan = plan
        self._prompts = prompts
        self._target, self._draft = models
        self._folder = folder
        self._servers: dict[str, Server] = {}
        self._used_s: dict[str, float] = {}  # when each was last asked for something
        self._stack = AsyncExitStack()
        self._cores = os.sched_getaffinity(0)
        self._variants = variants(plan.methods, QUICK_LENGTHS if plan.quick else LENGTHS)

    async def __aenter__(self) -> Bench:
        """Start one server for all that can share it, and wait until every one answers."""
        policy = self._folder / "policy.yaml"
        policy.write_text(POLICY, encoding="utf-8")
        try:
            for variant in self._variants:
                if variant.server not in self._servers:
                    server = await self._stack.enter_async_context(self._start(variant, policy))
                    self._servers[variant.server] = server
            await asyncio.gather(*(server.ready() for server in self._servers.values()))
        except BaseException:
            await self._stack.aclose()
            raise
        os.sched_setaffinity(0, self._servers[OFF].host_cores)
        self._sides = self._own()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop the servers and take back their core."""
        os.sched_setaffinity(0, self._cores)
        await self._stack.aclose()

    def _own(self) -> tuple[Side, Side]:
        servers = self._servers.values()
        engines = tuple(process for server in servers for process in server.engine_processes)
        hosts = tuple(process for server in servers for process in server.api_processes)
        off = self._servers[OFF]
        return (
            Side((off.engine_core,), engines),
            Side(tuple(off.host_cores), (os.getpid(), *hosts)),
        )

    def _start(self, variant: Variant, policy: Path) -> Server:
        flags = ["--model", str(self._target)]
        environment = {}
        if variant.method:
            config = speculative_config(variant.method, self._draft)
            flags += ["--speculative-config", json.dumps(config)]
            flags += ["--scheduler-cls", "benchmarks.vllm_modes.SwitchedScheduler"]
            file = mode_file(variant.server, self._folder)
            write_mode(None, file)  # governed, it warms up at every length
            environment = {MODE_VARIABLE: str(file), "FLYBALL_POLICY": str(policy)}
        return Server(variant.server, flags, environment, self._folder)

    async def run(self) -> None:
        """Warm up, measure every load, choose the tables, measure the phased run."""
        plan = self._plan
        with progress() as bar:
            total = len(LOADS) * self._num_runs(plan.stages, 0)
            total += self._num_runs(plan.phased_stages, 1)
            self._task = bar.add_task("warming up", total=total)
            await self._warm_up()
            await self._run_stages(bar, plan.stages, {stream_of(load): load for load in LOADS})
            for method in plan.methods:
                self.log.tables[method] = best_table(best_lengths(self.log, method))
            await self._run_stages(bar, plan.phased_stages, {PHASED: None})

    async def _run_stages(
        self, bar: Progress, stages: Sequence[Stage], streams: Mapping[str, int | None]
    ) -> None:
        """Measure the streams, each at a load or, with None, through all phases."""
        plan, rep = self._plan, 0
        for stage in stages:
            chosen = {stream: self._contenders(stream, stage.contenders) for stream in streams}
            for _ in range(stage.repetitions):
                for stream, load in streams.items():
                    if load is None:
                        todo = phases(self._prompts, plan.quick, [plan.seed, rep])
                    else:
                        todo = [mixed_phase(self._prompts, load, plan.quick, [plan.seed, rep])]
                    for variant in self._shuffled(chosen[stream], rep, load or 0):
                        what = f"{stream}: {variant.method} {variant.name}, repetition {rep}"
                        bar.update(self._task, description=what)
                        await self._measure(variant, stream, rep, todo)
                        bar.advance(self._task)
                rep += 1

    def _num_runs(self, stages: Sequence[Stage], num_tables: int) -> int:
        """Of a stream: the engine alone, and for each method lengths, governor and tables."""
        methods = self._plan.methods
        num_lengths = sum(v.table is not None for v in self._variants) // len(methods)
        return sum(
            stage.repetitions
            * (1 + len(methods) * (min(stage.contenders, num_lengths) + 1 + num_tables))
            for stage in stages
        )

    def _contenders(self, stream: str, count: int) -> list[Variant]:
        """Everything but the constant lengths that fell out."""
        found = [variant for variant in self._variants if variant.name in (OFF, GOVERNOR)]
        for method in self._plan.methods:
            constants = {v.name: v for v in self._variants if v.method == method}
            measured = any((method, name, stream) in self.log.runs for name in constants)
            lengths = fastest(self.log, method, stream, count) if measured else LENGTHS
            names = [static_name(k) for k in lengths]
            found += [constants[name] for name in names if name in constants]
            if stream == PHASED:
                found.append(Variant(method, TABLE, self.log.tables[method]))
        return found

    async def _warm_up(self) -> None:
        for server in self._servers.values():
            for load in (16,) if self._plan.quick else LOADS:
                await server.run(mixed_phase(self._prompts, load, True, [self._plan.seed, 1000]))

    def _shuffled(self, of: Sequence[Variant], rep: int, load: int) -> list[Variant]:
        order = np.random.default_rng([self._plan.seed, rep, load, 1]).permutation(len(of))
        return [of[i] for i in order]

    async def _measure(
        self, variant: Variant, stream: str, rep: int, chosen: Sequence[Phase]
    ) -> None:
        server = self._servers[variant.server]
        if variant.method:
            write_mode(variant.table, mode_file(variant.server, self._folder))
        if time.monotonic() - self._used_s.get(variant.server, 0.0) > IDLE_S:
            load = chosen[0].load
            await server.run(mixed_phase(self._prompts, load, True, [self._plan.seed, 1001]))
        before = await server.counters()
        for number, phase in enumerate(chosen):
            watch = Watch(self._sides)
            answers = await server.run(phase)
            disturbed = watch.disturbed()
            after = await server.counters()
            tokens, seconds = answers.whole() if stream == PHASED else answers.steady()
            texts = tuple(done.tokens for done in answers.done)
            unit = (rep, number)
            run = Measured(unit, phase.load, phase.domain, tokens, seconds, texts, disturbed)
            self.log.add(variant, stream, run, before, after)
            before = after
        self._used_s[variant.server] = time.monotonic()
