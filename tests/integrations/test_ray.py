from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
from replay_texts import COSTS, make_text

from flyball.controller.match_trace import write_matches
from flyball.controller.slices import Setting, Slices, processes
from flyball.controller.tune import Result
from flyball.integrations.ray import LOCAL, ray_tasks

POLICY = json.dumps({"version": 1, "length": {"policy": "static", "draft_len": 3}})


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    folder = tmp_path_factory.mktemp("ray")
    rng = np.random.default_rng(0)
    write_matches([make_text(rng, 40, 0) for _ in range(12)], folder / "0.parquet")
    yield Setting(str(folder), None, COSTS.model_dump_json(), num_slices=3, num_held_out=2)


def test_actors_and_processes_give_what_this_process_gives(setting: Setting) -> None:
    tasks = [(POLICY, number) for number in range(5)]
    slices = Slices(setting)
    expected: list[Result] = [slices.result(*task) for task in tasks]
    with ray_tasks(setting, 2, LOCAL) as evaluate:
        assert evaluate(tasks) == expected
        assert evaluate([]) == []
    with processes(setting, 2) as evaluate:
        assert evaluate(tasks) == expected
