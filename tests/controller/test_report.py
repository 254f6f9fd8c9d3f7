from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from replay_texts import COSTS, make_corpus, make_uneven_corpus, policy

from flyball.controller import report_data
from flyball.controller.corpus import Corpus
from flyball.controller.html_page import render
from flyball.controller.replay import replay
from flyball.controller.replayed import Replayed
from flyball.controller.report import sections

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return make_corpus(1, 40)


@pytest.fixture(scope="module")
def found(corpus: Corpus) -> dict[str, Replayed]:
    files = {
        "short": policy(policy="static", draft_len=1),
        "long": policy(policy="static", draft_len=8),
        "goodput": policy(policy="goodput"),
    }
    return {name: replay(corpus, file, COSTS, batch_size=2) for name, file in files.items()}


def test_intervals_hold_the_rate(corpus: Corpus, found: dict[str, Replayed]) -> None:
    for one in found.values():
        rate = report_data.rate(corpus, one)
        tokens = one.kept.sum() + len(corpus.texts)
        assert rate.value == pytest.approx(tokens / one.step_s.sum())
        assert rate.low < rate.value < rate.high


def test_nobody_regrets_the_best_in_the_end(found: dict[str, Replayed]) -> None:
    curves = report_data.regret(found)
    last = {name: float(lost_s[-1]) for name, (_, lost_s) in curves.items()}
    assert min(last.values()) == pytest.approx(0.0, abs=1e-9)
    assert max(last.values()) > 0.0
    best = min(last, key=lambda name: last[name])
    np.testing.assert_allclose(curves[best][1], 0.0, atol=1e-9)


def test_beliefs_are_compared_wherever_the_text_says() -> None:
    # Requests differ in how easy they are for the draft, which is what beliefs are about.
    corpus = make_uneven_corpus(1, 40)
    one = replay(corpus, policy(policy="goodput"), COSTS, batch_size=2)
    believed, observed, count = report_data.calibration(corpus, one)
    assert len(believed) == len(observed) == len(count) == 10
    many = count > 200
    assert many.sum() >= 8
    assert np.abs(believed - observed)[many].max() < 0.06
    left = corpus.end[one.text] - corpus.first[one.text] - one.position
    assert int(count.sum()) == np.minimum(left, 8).sum()


def test_waste_adds_up(found: dict[str, Replayed]) -> None:
    for one in found.values():
        accepted, wasted = report_data.waste(one)
        assert accepted.sum() == one.accepted.sum()
        assert wasted.sum() == one.proposed.sum() - one.accepted.sum()
        assert (wasted >= 0).all()


@pytest.fixture(scope="module")
def page(corpus: Corpus, found: dict[str, Replayed], tmp_path_factory: Any) -> Path:
    rows = [{"policy": name, "rounds": len(one.text)} for name, one in found.items()]
    path: Path = tmp_path_factory.mktemp("report") / "report.html"
    text = render("A <report>", "On policies & more.", rows, sections(corpus, found, COSTS))
    path.write_text(text, encoding="utf-8")
    return path


def test_the_page_asks_nobody_for_anything(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    own = text[: text.index("<script>/*")] if "<script>/*" in text else text
    assert not re.search(r'(src|href)="', own)
    assert "A &lt;report&gt;" in text and "policies &amp; more" in text
    figures = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.DOTALL)
    assert len(figures) == 6
    for figure in figures:
        assert json.loads(figure)["data"]


# A browser cannot be had from a package index; what the page holds is checked above without one.
@pytest.mark.skipif(CHROMIUM is None, reason="expected Chromium; install it to see the page drawn")
@pytest.mark.parametrize(("width", "dark"), [(1100, False), (500, True)])
def test_the_page_is_drawn(page: Path, tmp_path: Path, width: int, dark: bool) -> None:
    shot = tmp_path / "page.png"
    subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},3200",
            "--virtual-time-budget=8000", "--hide-scrollbars",
            *(["--force-dark-mode", "--blink-settings=preferredColorScheme=0"] if dark else []),
            f"--screenshot={shot}", page.as_uri(),
        ],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    pixels = np.asarray(Image.open(shot).convert("RGB")).astype(int)
    spread = pixels.max(axis=2) - pixels.min(axis=2)
    # Coloured ink in the upper, middle and lower part: the plots are there.
    for part in np.array_split(spread, 3):
        assert (part > 60).mean() > 0.002
    assert (pixels[:20].mean() < 100) == dark
