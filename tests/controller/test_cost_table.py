from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flyball.controller.contract import Cost
from flyball.controller.cost_table import CostTable, dump_costs, load_costs, published
from flyball.controller.errors import CostTableError

CONTENT = {
    "version": 1,
    "target": "big",
    "draft": "small",
    "machine": "a laptop",
    "source": "measured by hand",
    "batch_sizes": [1, 4],
    "verify_lens": [1, 3],
    "verify_s": [[1.0, 2.0], [2.0, 5.0]],
    "draft_step_s": [0.25, 0.5],
    "host_s": [0.0, 0.125],
    "prompt_token_s": 0.0625,
}


def test_lines_go_through_what_was_measured_and_on() -> None:
    table = CostTable.model_validate(CONTENT)
    lens = np.array([1.0, 2.0, 3.0, 4.0])
    np.testing.assert_allclose(table.verify_seconds(1, lens), [1.0, 1.5, 2.0, 2.5])
    np.testing.assert_allclose(table.verify_seconds(4, lens), [2.0, 3.5, 5.0, 6.5])
    np.testing.assert_allclose(table.verify_seconds(2, lens[::2]), [4 / 3, 3.0])
    np.testing.assert_allclose(table.verify_seconds(7, lens[::2]), [3.0, 8.0])
    assert table.draft_step_seconds(7) == pytest.approx(0.75)


def test_a_step_costs_the_sum_of_its_parts() -> None:
    table = CostTable.model_validate(CONTENT)
    cost = table.cost(9, 4, 3.0, 2, num_prompt=16)
    assert (cost.step_id, cost.batch_size, cost.num_draft_steps) == (9, 4, 2)
    assert (cost.verify_s, cost.draft_s) == (5.0, 1.0)
    assert cost.step_s == pytest.approx(5.0 + 1.0 + 0.125 + 1.0)
    measured = Cost(9, 77.0, 4, 3.0, 2, num_prefill=16, draft=0)
    assert table.priced(measured) == cost
    steps = table.step_seconds(4, np.array([3.0, 1.0]), np.array([2, 0]))
    np.testing.assert_allclose(steps, [6.125, 2.125])


POWER = {"verify_w": 300.0, "draft_w": 200.0, "host_w": 100.0}


def test_power_makes_joules_of_seconds() -> None:
    table = CostTable.model_validate({**CONTENT, "power": POWER})
    parts = table.step_parts(4, np.array([3.0, 1.0]), np.array([2, 0]))
    np.testing.assert_allclose(parts, [[5.0, 1.0, 0.125], [2.0, 0.0, 0.125]])
    joules = table.joules(parts)
    assert joules is not None
    np.testing.assert_allclose(joules, [1712.5, 612.5])
    assert CostTable.model_validate(CONTENT).joules(parts) is None


def test_drafting_at_all_may_cost_something() -> None:
    table = CostTable.model_validate({**CONTENT, "draft_start_s": [0.5, 1.0]})
    assert table.cost(0, 1, 3.0, 2).draft_s == 1.0
    assert table.cost(0, 1, 1.0, 0).draft_s == 0.0
    parts = table.step_parts(4, np.array([3.0, 1.0]), np.array([2, 0]))
    np.testing.assert_allclose(parts, [[5.0, 2.0, 0.125], [2.0, 0.0, 0.125]])
    assert table.draft_step_seconds(1) == 0.25


def test_questions_in_mid_draft_take_their_time() -> None:
    table = CostTable.model_validate({**CONTENT, "ask_s": [0.25, 0.125]})
    assert table.cost(0, 1, 3.0, 2).draft_s == 0.5
    asked = table.cost(0, 1, 3.0, 2, asks=True)
    assert asked.draft_s == 1.0
    assert asked.step_s - table.cost(0, 1, 3.0, 2).step_s == 0.5
    parts = table.step_parts(4, np.array([3.0, 1.0]), np.array([2, 0]), asks=True)
    np.testing.assert_allclose(parts, [[5.0, 1.25, 0.125], [2.0, 0.0, 0.125]])
    assert table.draft_step_seconds(1) == 0.25


@pytest.mark.parametrize(
    "more", [{}, {"power": POWER}, {"draft_start_s": [0.5, 1.0]}, {"ask_s": [0.5, 1.0]}]
)
def test_it_is_read_back_as_it_was_written(tmp_path: Path, more: dict[str, object]) -> None:
    table = CostTable.model_validate({**CONTENT, **more})
    path = tmp_path / "costs.json"
    path.write_text(dump_costs(table))
    assert load_costs(path) == table
    assert load_costs(table) is table


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version"),
        ({"batch_sizes": [4, 1]}, "ascending batch_sizes"),
        ({"draft_step_s": [0.1]}, "2 values of draft_step_s"),
        ({"draft_start_s": [0.1]}, "2 values of draft_start_s"),
        ({"ask_s": [0.1]}, "2 values of ask_s"),
        ({"verify_s": [[1.0], [2.0]]}, "rows of 2"),
        ({"verify_s": [[1.0, 0.0], [2.0, 5.0]]}, "greater than 0"),
        ({"machina": "x"}, "machina"),
        ({"host_s": None}, "host_s"),
        ({"power": {"verify_w": 300.0}}, "power.draft_w"),
        ({"power": {**POWER, "host_w": 0.0}}, "power.host_w"),
    ],
)
def test_what_is_no_table_is_refused(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = tmp_path / "costs.json"
    with_change = {**CONTENT, **change}
    path.write_text(str(with_change).replace("'", '"').replace("None", "null"))
    with pytest.raises(CostTableError, match=message) as caught:
        load_costs(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CostTableError, match="No such file.*--measure"):
        load_costs(tmp_path / "none.json")


@pytest.mark.parametrize("name", published())
def test_published_tables_can_be_had_by_name(name: str) -> None:
    table = load_costs(name)
    assert "not measured" in table.source and table.power is None
    table.check_covers(table.batch_sizes[0], 33)
    with pytest.raises(CostTableError, match=f"published one:.*{name}"):
        load_costs(name + "-none")


def test_what_falls_goes_on_level() -> None:
    content = {**CONTENT, "verify_s": [[3.0, 2.0], [2.0, 1.0]], "host_s": [0.5, 0.25]}
    table = CostTable.model_validate(content)
    np.testing.assert_allclose(table.verify_seconds(1, np.array([3.0, 5.0, 99.0])), 2.0)
    np.testing.assert_allclose(table.verify_seconds(64, np.array([1.0, 3.0])), [2.0, 1.0])
    assert table.cost(0, 64, 1.0, 0).step_s == pytest.approx(2.25)


def test_steps_far_beyond_what_was_measured_are_refused() -> None:
    table = CostTable.model_validate(CONTENT)
    table.check_covers(8, 6)
    with pytest.raises(CostTableError, match="9 requests at a time.*1, 4"):
        table.check_covers(9, 1)
    larger = CostTable.model_validate({**CONTENT, "batch_sizes": [3, 4]})
    with pytest.raises(CostTableError, match="2 requests at a time.*from 3 on"):
        larger.check_covers(2, 1)
    with pytest.raises(CostTableError, match="7 verified tokens"):
        table.check_covers(1, 7)
    one = {**CONTENT, "batch_sizes": [4], "verify_s": [[1.0, 2.0]], "draft_step_s": [0.25]}
    alone = CostTable.model_validate({**one, "host_s": [0.0]})
    alone.check_covers(4, 6)
    with pytest.raises(CostTableError, match="measured at 4"):
        alone.check_covers(5, 1)
