import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
BROKEN = "version: 1\nlength: {policy: goodptu}\n"


def run(code: str, tmp_path: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs `code` in a process of its own after `register` is imported; leaves no traces here."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("FLYBALL_", "PROMETHEUS_"))
    }
    return subprocess.run(
        [sys.executable, "-c", f"from flyball.integrations.vllm.plugin import register\n{code}"],
        env={**clean, "PYTHONPATH": str(ROOT / "src"), "TMPDIR": str(tmp_path), **env},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_entry_point_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, name = project["entry-points"]["vllm.general_plugins"]["flyball"].split(":")
    code = f"import {module} as plugin; print(plugin.{name} is register)"
    assert run(code, ROOT).stdout == "True\n"


def test_it_is_light(tmp_path: Path) -> None:
    code = (
        "import sys; register()\n"
        "print({'torch', 'vllm', 'transformers', 'numpy', 'pydantic'} & set(sys.modules))"
    )
    assert run(code, tmp_path).stdout == "set()\n"


@pytest.mark.parametrize("content", [BROKEN, None], ids=["broken", "missing"])
def test_a_policy_that_cannot_be_used_stops_the_server(
    content: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "policy.yaml"
    if content is not None:
        path.write_text(content)
    done = run("register()", tmp_path, FLYBALL_POLICY=str(path))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        f"flyball.controller.errors.PolicyFileError: {path}: "
    )
    assert done.stderr.count("Traceback") == 1


def test_a_good_policy_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("version: 1\n")
    done = run("register()", tmp_path, FLYBALL_POLICY=str(path))
    assert (done.returncode, done.stderr) == (0, "")


def test_twice_is_harmless(tmp_path: Path) -> None:
    code = (
        "import os, prometheus_client\n"
        "register(); first = os.environ['FLYBALL_METRICS_DIR']\n"
        "register(); print(first == os.environ['FLYBALL_METRICS_DIR'], os.path.isdir(first))\n"
        "print(sum('FileCollector' in repr(found)\n"
        "          for found in prometheus_client.REGISTRY._collector_to_names))"
    )
    done = run(code, tmp_path)
    assert (done.stdout, done.stderr) == ("True True\n1\n", "")


def test_an_engine_core_that_inherits_the_environment_is_scraped_in_the_first_process(
    tmp_path: Path,
) -> None:
    engine = (
        "from flyball.integrations.vllm.plugin import register; register()\n"
        "from flyball.controller.metrics import Status\n"
        "from flyball.integrations.vllm.metrics import Publisher\n"
        "publisher = Publisher('0')\n"
        "publisher.publish(Status('off', 'static/1', 0.0, 1.0, 42, 0, 0, 0, 0.0, {}))\n"
        "publisher.close(); print('published', flush=True); input()\n"
    )
    code = (
        "import os, subprocess, sys, prometheus_client\n"
        "register()\n"
        f"engine = subprocess.Popen([sys.executable, '-c', {engine!r}],\n"
        "    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)\n"
        "engine.stdout.readline()\n"
        "print('flyball_rounds_total{engine=\"0\"} 42.0' in\n"
        "      prometheus_client.generate_latest().decode())\n"
        "engine.communicate('done\\n')\n"
        "print(os.path.isdir(os.environ['FLYBALL_METRICS_DIR']))\n"
    )
    done = run(code, tmp_path)
    assert (done.stdout, done.stderr) == ("True\nTrue\n", "")
    assert list(tmp_path.iterdir()) == []  # only the first process's exit removes the folder


def test_a_forked_process_leaves_the_folder_alone(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "register()\n"
        "child = os.fork()\n"
        "if child == 0: sys.exit(0)\n"
        "os.waitpid(child, 0)\n"
        "print(os.path.isdir(os.environ['FLYBALL_METRICS_DIR']))"
    )
    assert run(code, tmp_path).stdout == "True\n"


def test_a_folder_of_the_user_is_made_and_kept(tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "metrics"
    done = run("register()", tmp_path, FLYBALL_METRICS_DIR=str(directory))
    assert (done.returncode, done.stderr) == (0, "")
    assert directory.is_dir()


def test_a_folder_that_cannot_be_made_costs_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run("register()", tmp_path, FLYBALL_METRICS_DIR=str(tmp_path / "file" / "metrics"))
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert line.startswith("no flyball metrics: ")
