import pytest

from cococli.training.schedule import warmup_cosine


@pytest.mark.parametrize(
    ("step", "rate"),
    [(0, 0.25), (1, 0.5), (3, 1.0), (4, 1.0), (5, 0.9755282581475768), (9, 0.5), (13, 0.02447174185242323)],
)
def test_the_rate_rises_to_its_peak_and_falls_along_half_a_cosine(step, rate):
    assert warmup_cosine(step, steps=14, warmup=4, peak=2.0) == pytest.approx(2 * rate)


def test_a_run_without_warmup_starts_at_its_peak():
    assert warmup_cosine(0, steps=10, warmup=0, peak=1e-5) == 1e-5
