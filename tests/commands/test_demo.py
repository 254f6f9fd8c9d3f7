import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image


def flyball(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = "from flyball.commands.main import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    folder = tmp_path_factory.mktemp("demo")
    picture = folder / "demo.png"
    done = flyball(
        "demo", "--texts", "1", "--new-tokens", "40", "--picture", str(picture),
        "--trace", str(folder / "trace"), "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), picture


def test_demo_compares_every_mode_and_changes_no_text(result: tuple[dict, Path]) -> None:
    summary = result[0]["summary"]
    assert summary["same_text_as_plain"] == summary["num_texts"] == 3
    modes = [row["mode"] for row in result[0]["rows"]]
    assert {"plain generate", "stock assisted", "flyball governor"} <= set(modes)
    assert sum(mode.startswith("static length") for mode in modes) >= 5
    assert all(row["tokens_per_s"] > 0 for row in result[0]["rows"])


def test_demo_draws_a_picture(result: tuple[dict, Path]) -> None:
    with Image.open(result[1]) as image:
        assert min(image.size) > 500
        assert len(image.convert("RGB").getcolors(maxcolors=2**24)) > 20


def test_demo_records_its_rounds(result: tuple[dict, Path]) -> None:
    done = flyball("trace", "info", str(result[1].parent / "trace"), "--json")
    assert done.returncode == 0, done.stderr
    info = json.loads(done.stdout)
    assert info["requests"] == 4  # a text of each domain, and the one that warms up


def test_mistakes_on_the_command_line_exit_with_2() -> None:
    done = flyball("demo", "--texts", "0")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
