from pathlib import Path

import numpy as np
import pytest
from policy_sections import ensemble_section, length_section, rejection_section

from flyball.controller.errors import PolicyFileError
from flyball.controller.policy_file import dump_policy, load_policy, policy_schema
from flyball.policies.registry import (
    ENSEMBLE_POLICIES,
    LENGTH_POLICIES,
    REJECTION_POLICIES,
    THROTTLE_POLICIES,
)
from flyball.policies.throttle.base import Goal
from flyball.policies.throttle.space import Knob, Space


def write(folder: Path, text: str, name: str = "policy.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_yaml_and_toml_say_the_same(tmp_path: Path) -> None:
    yaml = write(tmp_path, "version: 1\nlength: {policy: static, draft_len: 4}\n")
    toml = write(
        tmp_path, 'version = 1\n[length]\npolicy = "static"\ndraft_len = 4\n', "policy.toml"
    )
    assert load_policy(yaml) == load_policy(toml)


def test_length_defaults_to_goodput() -> None:
    assert load_policy(None).length.policy == "goodput"
    assert load_policy({"version": 1}).length.policy == "goodput"


@pytest.mark.parametrize("name", LENGTH_POLICIES)
def test_every_registered_policy_can_be_named(name: str) -> None:
    section = length_section(name)
    policy = load_policy({"version": 1, "length": section}).make_length_policy()
    assert type(policy) is LENGTH_POLICIES[name]


@pytest.mark.parametrize("name", ENSEMBLE_POLICIES)
def test_every_ensemble_policy_can_be_named_dumped_and_made(tmp_path: Path, name: str) -> None:
    policy = load_policy({"version": 1, "ensemble": ensemble_section(name, 3)})
    text = dump_policy(policy)
    assert load_policy(write(tmp_path, text)) == policy
    assert all(key in text for key in ENSEMBLE_POLICIES[name].Settings.model_fields)
    made = policy.make_ensemble_policy(3, np.random.default_rng(0))
    assert type(made) is ENSEMBLE_POLICIES[name]
    assert made.num_members == 3


@pytest.mark.parametrize("name", THROTTLE_POLICIES)
def test_every_throttle_policy_can_be_named_dumped_and_made(tmp_path: Path, name: str) -> None:
    policy = load_policy({"version": 1, "throttle": {"policy": name}})
    text = dump_policy(policy)
    assert load_policy(write(tmp_path, text)) == policy
    assert all(key in text for key in THROTTLE_POLICIES[name].Settings.model_fields)
    space = Space((Knob("graphics_clock_mhz", (600.0, 900.0), "clock", default=1, safe=1),))
    made = policy.make_throttle_policy(space, Goal(), np.random.default_rng(0))
    assert type(made) is THROTTLE_POLICIES[name]


def test_without_its_section_nothing_is_throttled() -> None:
    assert load_policy(None).throttle is None


@pytest.mark.parametrize("name", REJECTION_POLICIES)
def test_every_rejection_policy_can_be_named_dumped_and_made(tmp_path: Path, name: str) -> None:
    policy = load_policy({"version": 1, "rejection": rejection_section(name)})
    text = dump_policy(policy)
    assert load_policy(write(tmp_path, text)) == policy
    assert all(key in text for key in REJECTION_POLICIES[name].Settings.model_fields)
    made = policy.make_rejection_policy(np.random.default_rng(0))
    assert type(made) is REJECTION_POLICIES[name]


def test_nobody_is_stopped_unless_a_policy_is_named() -> None:
    assert load_policy(None).rejection is None
    assert load_policy(None).make_rejection_policy(np.random.default_rng(0)) is None


def test_drafts_are_not_mixed_unless_a_policy_is_named() -> None:
    assert load_policy(None).ensemble is None
    assert load_policy(None).make_ensemble_policy(2, np.random.default_rng(0)) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "version: 1\nlenght: {policy: goodput}\n",
            "unknown key 'lenght', did you mean 'length'?",
        ),
        (
            "version: 1\nlength: {policy: static, draft_length: 3, draft_len: 3}\n",
            "unknown key 'length.draft_length', did you mean 'draft_len'?",
        ),
        ("version: 1\nlength: {policy: godput}\n", "unknown policy 'godput'"),
        ("version: 1\nlength: {policy: godput}\n", "did you mean 'goodput'?"),
        ("version: 1\nlength: {max_draft_len: 3}\n", "expected a key 'policy'"),
        ("version: 1\nlength: {policy: static}\n", "missing key 'length.draft_len'"),
        (
            "version: 1\nlength: {policy: static, draft_len: four}\n",
            "length.draft_len: input should be a valid integer, but got 'four'",
        ),
        (
            "version: 1\nlength: {policy: static, draft_len: -1}\n",
            "length.draft_len: input should be greater than or equal to 0, but got -1",
        ),
        ("version: 1\nlength: {policy: static, draft_len: 40}\n", "raise max_draft_len"),
        ("version: 1\nlength: 4\n", "length: expected keys such as 'policy', but got 4"),
        ("version: 1\nlength: {policy: goodput, static: 4}\n", "unknown key 'length.static'"),
        ("version: 1\ntrace: {dri: x}\n", "unknown key 'trace.dri', did you mean 'dir'?"),
        ("version: 1\ntrace: {goodput: x}\n", "unknown key 'trace.goodput'; known are dir"),
        ("version: 1\ntrace: {}\n", "missing key 'trace.dir'"),
        ("version: 1\ntrace: {dir: 3}\n", "trace.dir: input should be a valid string, but got 3"),
        ("version: 1\ntrace: {dir: ''}\n", "trace.dir: string should have at least 1 character"),
        ("version: 1\ntrace: traces/\n", "expected keys such as 'dir', but got 'traces/'"),
        ("version: 1\nensemble: {policy: acept}\n", "did you mean 'accept_ascent'?"),
        ("version: 1\nensemble: {}\n", "ensemble: expected a key 'policy', one of accept_ascent"),
        ("version: 1\nensemble: equal\n", "expected keys such as 'policy', but got 'equal'"),
        ("version: 1\nensemble: {policy: equal, equal: 1}\n", "unknown key 'ensemble.equal'"),
        ("version: 1\nensamble: {policy: equal}\n", "did you mean 'ensemble'?"),
        ("version: 1\nrejection: {policy: conformel}\n", "did you mean 'conformal'?"),
        ("version: 1\nrejection: {}\n", "rejection: expected a key 'policy', one of conformal"),
        ("version: 1\nrejection: conformal\n", "keys such as 'policy', but got 'conformal'"),
        (
            "version: 1\nrejection: {policy: conformal, rsik: 0.1}\n",
            "unknown key 'rejection.rsik', did you mean 'risk'?",
        ),
        ("version: 1\nrejection: {policy: conformal, risk: 0.9}\n", "rejection.risk: input"),
        ("version: 1\nrejection: {policy: hopeless}\n", "missing key 'rejection.worth'"),
        (
            "version: 1\nrejection: {policy: conformal, check_at_tokens: [8, 8]}\n",
            "rejection.check_at_tokens: expected numbers of tokens in ascending order",
        ),
        ("version: 1\nrejecton: {policy: conformal}\n", "did you mean 'rejection'?"),
        ("version: 1\nthrottle: {policy: linucp}\n", "did you mean 'linucb'?"),
        ("version: 1\nthrottle: {policy: sweep, slowdwn: 2.0}\n", "mean 'slowdown'?"),
        ("version: 1\n3: 4\n", "keys should be strings"),
        ("version: 7\n", "version: input should be 1, but got 7"),
        ("length: {policy: goodput}\n", "missing key 'version'"),
        ("- 1\n", "but got list"),
        ("", "but got NoneType"),
        ("version: [1\n", "not valid YAML"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_do(
    tmp_path: Path, text: str, expected: str
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(PolicyFileError) as caught:
        load_policy(path)
    message = str(caught.value)
    assert expected in message
    assert str(path) in message
    assert "\n" not in message


def test_nothing_is_traced_unless_a_folder_is_named() -> None:
    assert load_policy(None).trace is None
    assert load_policy({"version": 1, "trace": None}).trace is None
    trace = load_policy({"version": 1, "trace": {"dir": "traces/"}}).trace
    assert trace is not None
    assert trace.dir == "traces/"


@pytest.mark.parametrize("name", LENGTH_POLICIES)
@pytest.mark.parametrize("folder", [None, "traces/", "ö: #'\""])
def test_a_dumped_policy_names_every_setting_and_loads_as_itself(
    tmp_path: Path, name: str, folder: str | None
) -> None:
    section = length_section(name)
    policy = load_policy({"version": 1, "length": section, "trace": folder and {"dir": folder}})
    text = dump_policy(policy)
    assert load_policy(write(tmp_path, text)) == policy
    assert all(key in text for key in LENGTH_POLICIES[name].Settings.model_fields)


def test_the_schema_names_every_policy_and_section() -> None:
    schema = policy_schema()
    sections = {"version", "length", "ensemble", "rejection", "throttle"}
    sections |= {"governor", "trace", "reload", "objective", "slo"}
    assert set(schema["properties"]) == sections
    assert set(schema["properties"]["length"]["discriminator"]["mapping"]) == set(LENGTH_POLICIES)
    for section, policies in (
        ("ensemble", ENSEMBLE_POLICIES),
        ("rejection", REJECTION_POLICIES),
        ("throttle", THROTTLE_POLICIES),
    ):
        chosen = schema["properties"][section]["anyOf"][0]
        assert set(chosen["discriminator"]["mapping"]) == set(policies)
    assert schema["additionalProperties"] is False


def test_missing_and_odd_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(PolicyFileError, match="none.yaml: cannot read .*No such file"):
        load_policy(tmp_path / "none.yaml")
    with pytest.raises(PolicyFileError, match="ends in .yaml, .yml or .toml"):
        load_policy(write(tmp_path, "{}", "policy.json"))
    binary = tmp_path / "policy.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PolicyFileError, match="not UTF-8"):
        load_policy(binary)


def test_shadows_are_policies_that_exist() -> None:
    for names in (["goodputt"], ["batch_table"]):
        with pytest.raises(PolicyFileError) as error:
            load_policy({"version": 1, "governor": {"follow": "shadows", "shadows": names}})
        assert names[0] in str(error.value)
        assert "\n" not in str(error.value)


def test_shadows_are_made_where_they_are_followed() -> None:
    assert list(load_policy(None).make_shadows())[0] == "goodput"
    assert load_policy({"version": 1, "governor": {"follow": "length"}}).make_shadows() == {}
    short = {"policy": "goodput", "max_draft_len": 3}
    found = load_policy({"version": 1, "length": short}).make_shadows()
    assert {"static_0", "static_1", "static_2", "heuristic"} <= set(found)
    assert "static_4" not in found
    assert all(policy.settings.max_draft_len <= 3 for policy in found.values())
