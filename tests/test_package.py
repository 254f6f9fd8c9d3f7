"""The package as users install it."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = [link.name for link in (ROOT / "src" / "flyball").iterdir() if link.is_symlink()]


def run(*command: str, **settings: str) -> str:
    env = {**os.environ, **settings}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_package_in_the_tree_is_listed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {"flyball"}
    for folder in FOLDERS:
        for init in (ROOT / folder).rglob("__init__.py"):
            found.add(".".join(["flyball", *init.parent.relative_to(ROOT).parts]))
    assert found == set(listed)


def test_import_loads_neither_torch_nor_a_host() -> None:
    heavy = "{'torch', 'transformers', 'vllm', 'pydantic', 'yaml', 'pyarrow', 'prometheus_client'}"
    run(sys.executable, "-c", f"import flyball, sys; assert not {heavy} & set(sys.modules)")


def test_kernels_need_no_pydantic_and_load_no_triton() -> None:
    names = sorted(f"flyball.kernels.{path.stem}" for path in (ROOT / "kernels").glob("*.py"))
    modules = ", ".join(name for name in names if not name.endswith("__init__"))
    code = (
        f"import sys; sys.modules['pydantic'] = None; import {modules}; "
        "assert 'triton' not in sys.modules"
    )
    run(sys.executable, "-c", code)


def test_the_wheel_carries_everything(tmp_path: Path) -> None:
    run(
        sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir",
        str(tmp_path / "dist"), str(ROOT),
    )  # fmt: skip
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    site = tmp_path / "site"
    run(
        sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site),
        str(wheel),
    )  # fmt: skip
    code = (
        "import flyball.integrations.hf, flyball.commands.main as m, flyball.demo.loader as d; "
        f"assert m.__file__.startswith({str(site)!r}), m.__file__; "
        "assert len(d.load_demo().prompts) == 3; "
        "import flyball.controller.cost_table as c; assert len(c.published()) == 3"
    )
    run(sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(site)!r}); {code}")
