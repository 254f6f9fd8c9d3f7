from pathlib import Path

from flyball.demo.loader import MODELS, load_demo
from flyball.demo.measure import greedy_matches


def test_acceptance_differs_between_domains_as_documented() -> None:
    models = load_demo()
    rates = {
        domain: float(greedy_matches(models, domain, 8).float().mean())
        for domain in models.prompts
    }
    assert all(0.4 < rate < 0.95 for rate in rates.values()), rates
    assert max(rates.values()) - min(rates.values()) > 0.3, rates


def test_weights_are_small_enough_to_ship() -> None:
    size = sum(path.stat().st_size for path in Path(MODELS).rglob("*") if path.is_file())
    assert size < 17e6
    assert load_demo().target.num_parameters() <= 4_000_000
