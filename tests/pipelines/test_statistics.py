"""Intervals as published, power as simulated, and the gate's promises over thousands of nights."""

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from pipelines.statistics.drift import by_day, divergence, stability_index
from pipelines.statistics.paired import holm, interval, mcnemar, worse_by
from pipelines.statistics.power import least_gain, pass_chance


@pytest.mark.parametrize(
    ("b", "c", "n", "low", "high"),
    [
        # Fagerland, Lydersen and Laake 2014, table of 21 children: Tango's 95 % interval of 1/21 - 7/21
        (7, 1, 21, -0.517, -0.026),
        # b = c = 0: the bounds are those of Wilson's interval of 0 in n (Tango 1998)
        (0, 0, 40, -0.0876, 0.0876),
    ],
)
def test_the_paired_interval_is_the_published_one(b: int, c: int, n: int, low: float, high: float) -> None:
    assert interval(b, c, n, 0.025) == pytest.approx((low, high), abs=6e-4)


def test_the_paired_interval_of_many_rows_is_the_textbook_one() -> None:
    b, c, n = 800, 1000, 10_000
    half = 1.6449 * (b + c - (c - b) ** 2 / n) ** 0.5 / n
    assert interval(b, c, n, 0.05) == pytest.approx((0.02 - half, 0.02 + half), abs=2e-4)


@pytest.mark.parametrize(
    ("b", "c", "p"),
    [
        (1, 7, 0.0391),  # Fagerland, Lydersen and Laake 2013: the mid-p of that table
        (7, 1, 0.0391),
        (59, 6, 2.2e-12),
        (0, 0, 1.0),
        (450, 450, 1.0),
    ],
)
def test_mcnemars_test_is_the_exact_one_with_mid_p(b: int, c: int, p: float) -> None:
    assert mcnemar(b, c) == pytest.approx(p, rel=0.02)
    few, n = min(b, c), b + c
    if b != c:
        exact = binomtest(few, n).pvalue - binom.pmf(few, n, 0.5)
        assert mcnemar(b, c) == pytest.approx(exact, rel=1e-9)


def test_swapping_the_models_mirrors_the_interval() -> None:
    low, high = interval(30, 50, 400, 0.05)
    assert interval(50, 30, 400, 0.05) == pytest.approx((-high, -low))


@pytest.mark.parametrize(("b", "c"), [(60, 20), (35, 30), (10, 40)])
def test_the_p_value_and_the_interval_say_the_same(b: int, c: int) -> None:
    for margin in (0.0, 0.02, 0.05, 0.1):
        _, high = interval(b, c, 400, 0.05)
        assert (worse_by(b, c, 400, margin) < 0.05) == (high < -margin)


def test_holm_rejects_in_steps() -> None:
    # 0.01 <= 0.05/4, 0.013 <= 0.05/3, 0.03 > 0.05/2: the last two stay, although 0.04 alone is below 0.05
    assert holm([0.04, 0.01, 0.03, 0.013], 0.05) == [False, True, False, True]
    assert holm([], 0.05) == []


@pytest.mark.parametrize(("rows", "disagreement"), [(10_000, 0.18), (1_000, 0.10), (300, 0.06)])
def test_a_model_worse_by_the_margin_is_above_it_no_oftener_than_the_level(rows: int, disagreement: float) -> None:
    rng = np.random.default_rng(0)
    b, c = disagreement / 2 + 0.01, disagreement / 2 - 0.01  # truly 2 points worse
    nights = rng.multinomial(rows, [b, c, 1 - b - c], 1500)
    passed = np.mean([interval(int(b), int(c), rows, 0.05)[0] > -0.02 for b, c, _ in nights])
    assert 0.02 < passed < 0.05 + 3 * (0.05 * 0.95 / 1500) ** 0.5


@pytest.mark.parametrize("gain", [0.0, 0.01, 0.015, 0.03])
@pytest.mark.parametrize(("test", "confirm"), [(5000, 5000), (4000, 4000), (400, 200)])
def test_the_chance_to_pass_is_what_simulated_nights_show(gain: float, test: int, confirm: int) -> None:
    rng = np.random.default_rng(1)
    d, n = 0.18, 20_000
    shares = [(d - gain) / 2, (d + gain) / 2, 1 - d]
    looks = [rng.multinomial(rows, shares, n) for rows in (test, confirm)]

    def z(counts: np.ndarray, rows: int) -> np.ndarray:
        b, c = counts[:, 0], counts[:, 1]
        return (c - b) / np.sqrt(np.maximum(b + c - (c - b) ** 2 / rows, 1e-9))

    passed = (z(looks[0], test) > 1.0364) & (z(looks[0] + looks[1], test + confirm) > 2.5758)
    expected = pass_chance(gain, d, test, confirm, 0.15, 0.005)
    assert passed.mean() == pytest.approx(expected, abs=0.012)


def test_without_confirm_rows_the_verdict_is_on_the_test_rows() -> None:
    assert pass_chance(0.0, 0.18, 5000, 0, 0.15, 0.05) == pytest.approx(0.05, abs=1e-6)


def test_the_least_gain_has_the_power_it_says() -> None:
    gain = least_gain(0.18, 5000, 5000, 0.15, 0.005)
    assert pass_chance(gain, 0.18, 5000, 5000, 0.15, 0.005) == pytest.approx(0.8, abs=0.01)
    assert least_gain(0.18, 20, 0, 0.15, 1e-9) == 1.0


class Years:
    """Years of nights on the same frozen rows, simulated row by row.

    Each row has a difficulty, drawn so that two equally good models are 70 % right and disagree on 18 % of the rows.
    With ``days`` they are a window that moves on: each night the rows of its oldest day give way to fresh ones.
    """

    def __init__(self, years: int, nights: int, test: int, confirm: int, publish: int, *, naive: bool = False,
                 days: int | None = None):  # fmt: skip
        rng = np.random.default_rng(7)
        rows = test + confirm + publish
        self.promoted = np.zeros(years, int)
        self.published_error = np.zeros(years)
        for year in range(years):
            difficulty = rng.beta(0.525, 0.225, rows).astype(np.float32)
            champion = rng.random(rows, np.float32) < difficulty
            for night in range(nights):
                if days:
                    fresh = np.arange(rows) % days == night % days
                    difficulty[fresh] = rng.beta(0.525, 0.225, fresh.sum())
                    champion[fresh] = rng.random(fresh.sum(), np.float32) < difficulty[fresh]
                challenger = rng.random(rows, np.float32) < difficulty
                if self._passes(challenger, champion, test, confirm, naive):
                    champion = challenger
                    self.promoted[year] += 1
            quoted = champion[test + confirm :] if publish else champion
            self.published_error[year] = quoted.mean() - 0.7

    @staticmethod
    def _passes(challenger: np.ndarray, champion: np.ndarray, test: int, confirm: int, naive: bool) -> bool:
        change = challenger.astype(np.int8) - champion
        if naive:
            return bool(change.sum() > 0)
        first = change[:test]
        b, c = int((first < 0).sum()), int((first > 0).sum())
        if c <= b or interval(b, c, test, 0.15)[0] <= 0:
            return False
        both = change[: test + confirm]
        return interval(int((both < 0).sum()), int((both > 0).sum()), test + confirm, 0.005)[0] > 0


def test_thirty_nights_of_equal_models_seldom_promote_one_and_the_published_accuracy_is_true() -> None:
    years = Years(1000, 30, 5000, 5000, 5000)
    assert (years.promoted > 0).mean() <= 0.08
    assert abs(years.published_error.mean()) <= 0.002


def test_on_a_window_that_moves_an_equal_model_passes_no_oftener_than_the_level_says() -> None:
    years = Years(200, 30, 5000, 5000, 5000, days=7)
    often = 1 - (1 - 0.005) ** 30
    assert (years.promoted > 0).mean() <= often + 3 * (often * (1 - often) / 200) ** 0.5
    assert abs(years.published_error.mean()) <= 0.002


def test_new_beats_old_would_promote_one_almost_always_and_publish_too_much() -> None:
    years = Years(300, 30, 5000, 5000, 0, naive=True)
    assert (years.promoted > 0).mean() > 0.9
    assert years.published_error.mean() > 0.004


def test_a_true_gain_of_a_point_and_a_half_passes_four_nights_of_five() -> None:
    assert pass_chance(0.015, 0.18, 5000, 5000, 0.15, 0.005) >= 0.8


def test_the_stability_index_is_that_of_paper_and_pencil() -> None:
    (first, second, third) = by_day(np.array([[50, 50], [80, 20], [5, 5]]), 20)
    p, q = np.array([80.5, 20.5]) / 101, np.array([50.5, 50.5]) / 101
    assert second == pytest.approx(((p - q) * np.log(p / q)).sum(), abs=1e-4)
    assert np.isnan(first), "there is nothing before it"
    assert np.isnan(third), "too few rows to tell"


def test_the_divergence_is_nothing_between_the_same_shares_and_a_bit_between_strangers() -> None:
    assert divergence(np.array([10, 30]), np.array([100, 300])) == 0
    assert divergence(np.array([10, 0]), np.array([0, 7])) == 1
    by_hand = 0.5 * np.log2(0.5 / 0.625) + 0.5 * np.log2(0.5 / 0.375)
    other = 0.75 * np.log2(0.75 / 0.625) + 0.25 * np.log2(0.25 / 0.375)
    assert divergence(np.array([5, 5]), np.array([30, 10])) == pytest.approx((by_hand + other) / 2, abs=1e-4)


def test_what_drifts_a_little_every_night_is_far_from_the_champion_before_a_day_is_far_from_those_before_it() -> None:
    rng = np.random.default_rng(0)
    edges = np.arange(0, 257, 16)
    days = np.array([np.histogram(rng.normal(110 + 0.5 * night, 30, 2000), edges)[0] for night in range(61)])
    assert by_day(days, 300)[60] == pytest.approx(0.28, abs=0.05), "validation, day 60: warned, not stopped"
    assert stability_index(days[60], days[:11].sum(axis=0)) == pytest.approx(0.87, abs=0.1), "the gate stops it"


def test_samples_of_one_place_lie_as_far_apart_as_is_said() -> None:
    rng = np.random.default_rng(0)
    found = [stability_index(*(rng.multinomial(n, [1 / 16] * 16) for n in (300, 3000))) for _ in range(500)]
    assert np.mean(found) == pytest.approx(15 * (1 / 300 + 1 / 3000), rel=0.1)
    assert np.mean(np.array(found) > 0.1) < 0.05
