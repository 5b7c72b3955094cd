"""Right targets pass the sanity check, wrong ones do not: answers are simulated, with shadow models beside them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import fisher_exact, spearmanr

from mia_lightning.metrics.sanity.answers import Answers, Array, Peers, Repair, Sanity
from mia_lightning.metrics.sanity.check import check_target
from mia_lightning.metrics.sanity.likelihood import output_order
from mia_lightning.metrics.sanity.ranks import gain, stratified_correlation

LIMIT = 21  # the 99.9 % binomial limit of 1 % of 1,000


class Simulated:
    """Models that share what records look like, differ by noise, and know their members better by `memory`.

    Args:
        prior_C: of the classes, as models know them.
        skill: what the own class's logit gains on every record.
        weight_C: further logits of the classes, as class weights in training give them.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        n: int,
        prior_C: Array,
        *,
        skill: float = 2.0,
        memory: float = 1.0,
        noise: float = 0.6,
        weight_C: Array | None = None,
        label_N: Array | None = None,
    ) -> None:
        C = len(prior_C)
        self.rng, self.n, self.memory, self.noise = rng, n, memory, noise
        self.label_N = rng.choice(C, n, p=prior_C) if label_N is None else label_N
        self.member_N = rng.permutation(n) < 0.4 * n
        base_NC = rng.normal(size=(n, C)) + np.log(prior_C) + (0 if weight_C is None else weight_C)
        base_NC[np.arange(n), self.label_N] += skill
        self.base_NC = base_NC

    def log_NC(self, member_N: Array, noise: float | None = None) -> Array:
        z_NC = self.base_NC + (self.noise if noise is None else noise) * self.rng.normal(size=self.base_NC.shape)
        z_NC[np.arange(self.n), self.label_N] += self.memory * member_N
        return z_NC - np.logaddexp.reduce(z_NC, axis=1, keepdims=True)

    def peers(self, K: int = 8) -> Peers:
        """Complementary pairs."""
        signal, is_right, out = [], [], []
        for _ in range(K // 2):
            half_N = self.rng.permutation(self.n) < self.n // 2
            for member_N in (half_N, ~half_N):
                log_NC = self.log_NC(member_N)
                signal.append(log_NC[np.arange(self.n), self.label_N])
                is_right.append(log_NC.argmax(1) == self.label_N)
                out.append(~member_N)
        return Peers(signal_KN=np.array(signal), is_right_KN=np.array(is_right), out_KN=np.array(out))

    def check(self, log_NC: Array, *, member_N: Array | None = None, **options: Any) -> Sanity:
        """With the rows and the members one up and one down, and the members exchanged, as repairs."""
        member_N = self.member_N if member_N is None else member_N
        answers = Answers(
            predicted_N=log_NC.argmax(1),
            signal_N=log_NC[np.arange(self.n), self.label_N],
            label_N=self.label_N,
            member_N=member_N,
            nonmember_N=~member_N,
            asked_N=np.ones(self.n, bool),
            class_names=tuple(f"c{c}" for c in range(log_NC.shape[1])),
        )
        others = replace(answers, member_N=~member_N, nonmember_N=member_N)
        everywhere_N = np.ones(self.n, bool)
        repairs = [
            Repair(cause="members exchanged", mend="", answers=others, kind="members", judged_N=everywhere_N),
        ]
        for step in (-1, 1):
            inside_N = np.ones(self.n, bool)
            inside_N[-1 if step < 0 else 0] = False
            rolled_NC, rolled_N = np.roll(log_NC, step, axis=0), np.roll(member_N, step)
            rows = replace(
                answers,
                predicted_N=rolled_NC.argmax(1),
                signal_N=rolled_NC[np.arange(self.n), self.label_N],
            )
            members = replace(answers, member_N=rolled_N, nonmember_N=~rolled_N)
            repairs += [
                Repair(cause=f"rows {step}", mend="", answers=rows, kind="order", judged_N=inside_N),
                Repair(cause=f"members {step}", mend="", answers=members, kind="members", judged_N=inside_N),
            ]
        options = {"peers": self.peers(), "draw": 99, **options}
        return check_target(answers, repairs=repairs, **options)


EVEN = np.full(5, 0.2)
RARE = np.array([0.99, 0.01])


def right_target(kind: str, rng: np.random.Generator) -> Sanity:
    n = 30 if kind == "n = 30" else int(rng.choice([60, 200, 600]))
    C = int(rng.choice([2, 3, 10]))
    prior_C = RARE if kind in ("99 : 1", "class weights") or rng.random() < 0.1 else np.full(C, 1 / C)
    made = Simulated(
        rng,
        n,
        prior_C,
        skill=0.0 if kind == "random labels" else rng.uniform(0.5, 3),
        memory=0.05 if kind == "tiny gap" else rng.uniform(0, 3),
        noise=rng.uniform(0.3, 1),
        weight_C=-np.log(prior_C) * rng.uniform(0.7, 1.3) if kind == "class weights" else None,
        label_N=np.sort(rng.choice(len(prior_C), n, p=prior_C)) if kind == "sorted by class" else None,
    )
    noise = float(rng.uniform(1, 3)) if kind == "DP-SGD" else None
    return made.check(made.log_NC(made.member_N, noise), draw=int(rng.integers(2**31)))


RIGHT = ("n = 30", "99 : 1", "random labels", "DP-SGD", "class weights", "tiny gap", "sorted by class", "plain")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_at_most_21_of_1000_right_targets_are_void(seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = [right_target(RIGHT[i % len(RIGHT)], rng) for i in range(1000)]
    assert sum(each.verdict == "void" for each in found) <= LIMIT


@pytest.mark.costly
@pytest.mark.parametrize("kind", RIGHT)
def test_right_targets_of_each_kind_are_not_void(kind: str) -> None:
    rng = np.random.default_rng(5)
    assert sum(right_target(kind, rng).verdict == "void" for _ in range(10)) == 0


def test_a_plain_right_target_is_sound() -> None:
    rng = np.random.default_rng(1)
    made = Simulated(rng, 500, EVEN)
    found = made.check(made.log_NC(made.member_N))
    assert (found.verdict, found.reasons, found.cause, found.mend) == ("sound", (), None, None)
    assert found.correlation is not None
    assert found.correlation > 0.5


def permuted(made: Simulated, log_NC: Array) -> Array:
    return log_NC[:, [1, 2, 3, 4, 0]]


def swapped(made: Simulated, log_NC: Array) -> Array:
    return log_NC[:, [1, 0, 2, 3, 4]]


def later(made: Simulated, log_NC: Array) -> Array:
    return np.roll(log_NC, 1, axis=0)


def earlier(made: Simulated, log_NC: Array) -> Array:
    return np.roll(log_NC, -1, axis=0)


def shuffled(made: Simulated, log_NC: Array) -> Array:
    return log_NC[made.rng.permutation(made.n)]


WRONG: dict[Callable[[Simulated, Array], Array], str] = {
    permuted: "classes",
    swapped: "classes",
    later: "rows -1",
    earlier: "rows 1",
    shuffled: "order",
}


@pytest.mark.costly
@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.__name__)
@pytest.mark.parametrize("is_sorted", [False, True], ids=["mixed", "sorted"])
def test_a_wrong_target_is_void_and_its_cause_is_named(wrong: Callable[..., Array], is_sorted: bool) -> None:
    rng = np.random.default_rng(2)
    label_N = np.sort(rng.integers(5, size=600)) if is_sorted else None
    made = Simulated(rng, 600, EVEN, label_N=label_N)
    found = made.check(wrong(made, made.log_NC(made.member_N)))
    assert found.verdict == "void"
    assert found.cause is not None
    assert WRONG[wrong] in found.cause


def test_of_a_target_that_never_learnt_another_order_of_classes_is_not_called_the_cause_alone() -> None:
    """What it answers has little to do with the classes, so that some order of them fits it better than its own."""
    rng = np.random.default_rng(7)
    made, never = Simulated(rng, 2000, EVEN, skill=4.0), rng.normal(size=(2000, 5))
    never[np.arange(2000), (made.label_N + 1) % 5] += 0.5
    found = made.check(never - np.logaddexp.reduce(never, axis=1, keepdims=True), class_mend=lambda order: "reorder")
    assert (found.verdict, found.mend) == ("void", "see that it is the one that was trained; if it is, reorder")
    assert found.cause is not None
    assert "not the trained model" in found.cause
    assert "classes" in found.cause


@pytest.mark.costly
@pytest.mark.parametrize("step", [-1, 1])
def test_members_that_are_counted_otherwise_are_void(step: int) -> None:
    """Every third record: then exchanged members would fit better, too, whatever the answer to the one record is of
    which the moved members say nothing."""
    for seed in range(8):
        made = Simulated(np.random.default_rng(seed), 600, EVEN, memory=2.0)
        made.member_N = np.arange(600) % 3 == 0
        found = made.check(made.log_NC(made.member_N), member_N=np.roll(made.member_N, step))
        assert (found.verdict, found.cause) == ("void", f"members {-step}")


def test_members_that_are_exchanged_are_void() -> None:
    made = Simulated(np.random.default_rng(3), 600, EVEN, memory=2.0)
    found = made.check(made.log_NC(made.member_N), member_N=~made.member_N)
    assert (found.verdict, found.cause) == ("void", "members exchanged")


def test_the_class_order_is_that_of_the_outputs() -> None:
    made = Simulated(np.random.default_rng(4), 600, EVEN)
    orders = []
    made.check(permuted(made, made.log_NC(made.member_N)), class_mend=lambda order: orders.append(list(order)) or "")
    assert orders == [[1, 2, 3, 4, 0]]  # output 0 stands for class 1


@pytest.mark.costly
@pytest.mark.parametrize("n", [100, 200])
def test_shuffled_answers_of_few_records_are_no_sound_target(n: int) -> None:
    for seed in range(10):
        made = Simulated(np.random.default_rng(seed), n, EVEN)
        assert made.check(shuffled(made, made.log_NC(made.member_N))).verdict != "sound"


def test_members_worse_than_others_by_fishers_test() -> None:
    made = Simulated(np.random.default_rng(6), 400, EVEN, memory=0.0)
    log_NC = made.log_NC(made.member_N)
    for worse in (0, 8, 16, 24, 60):
        spoilt_NC = log_NC.copy()
        hit_N = (made.member_N & (log_NC.argmax(1) == made.label_N)).nonzero()[0][:worse]
        spoilt_NC[hit_N] = np.roll(spoilt_NC[hit_N], 1, axis=1)
        right_N = spoilt_NC.argmax(1) == made.label_N
        table = [
            [int((right_N[of] == value).sum()) for value in (True, False)] for of in (made.member_N, ~made.member_N)
        ]
        p = fisher_exact(table, alternative="less").pvalue
        found = made.check(spoilt_NC, peers=None)
        assert any("of its members" in reason for reason in found.reasons) == (p < 0.001), (worse, p)


@pytest.mark.parametrize(("difference", "is_void"), [(0.0, False), (-0.1, True), (0.1, True)])
def test_the_expected_accuracy(difference: float, is_void: bool) -> None:
    made = Simulated(np.random.default_rng(7), 1500, EVEN)
    log_NC = made.log_NC(made.member_N)
    seen = float((log_NC.argmax(1) == made.label_N)[~made.member_N].mean())
    found = made.check(log_NC, expected_accuracy=round(seen + difference, 3))
    assert (found.verdict == "void") == is_void
    assert any("target.expected_accuracy" in each for each in found.reasons) == is_void


def test_a_met_expected_accuracy_lifts_what_is_unconfirmed_and_nothing_void() -> None:
    rng = np.random.default_rng(8)
    made = Simulated(rng, 600, RARE)  # 99 : 1, so that no accuracy says much
    log_NC = made.log_NC(made.member_N)
    seen = float((log_NC.argmax(1) == made.label_N)[~made.member_N].mean())
    assert made.check(log_NC).verdict == "unconfirmed"
    assert made.check(log_NC, expected_accuracy=seen).verdict == "sound"
    made = Simulated(rng, 900, EVEN)
    moved_NC = shuffled(made, made.log_NC(made.member_N))
    seen = float((moved_NC.argmax(1) == made.label_N)[~made.member_N].mean())
    assert made.check(moved_NC, expected_accuracy=seen).verdict == "void"


def test_far_below_the_shadow_models_is_unconfirmed() -> None:
    made = Simulated(np.random.default_rng(9), 600, EVEN)
    found = made.check(made.log_NC(made.member_N, noise=4.0))
    assert found.verdict == "unconfirmed"
    assert any("shadow models reach" in reason for reason in found.reasons)


def test_without_shadow_models_the_check_against_them_is_said_not_to_have_run() -> None:
    made = Simulated(np.random.default_rng(10), 600, EVEN)
    found = made.check(made.log_NC(made.member_N), peers=None)
    assert (found.verdict, found.correlation) == ("sound", None)
    assert any("not tested against shadow models" in note for note in found.notes)


def test_the_correlation_within_one_stratum_is_spearmans() -> None:
    rng = np.random.default_rng(11)
    first, second = rng.integers(20, size=200), rng.normal(size=200)  # with ties
    found = stratified_correlation(first, second + first, np.zeros(200, int))
    assert found is not None
    assert found.rho == pytest.approx(spearmanr(first, second + first).statistic, abs=1e-12)
    assert found.z == pytest.approx(found.rho * 199**0.5)  # the exact variance of Spearman's is 1 / (n - 1)
    assert stratified_correlation(np.ones(50), second[:50], np.zeros(50, int)) is None


def test_the_correlation_ignores_differences_between_strata() -> None:
    rng = np.random.default_rng(12)
    stratum = rng.integers(4, size=2000)
    found = stratified_correlation(rng.normal(size=2000) + 9 * stratum, rng.normal(size=2000) + 9 * stratum, stratum)
    assert found is not None
    assert abs(found.z) < 4


def test_the_gain_holds_its_level_and_predicting_one_class_more_often_is_none() -> None:
    rng = np.random.default_rng(13)
    p = [gain(rng.integers(3, size=80), rng.integers(3, size=80), rng.integers(3, size=80)) for _ in range(2000)]
    for level in (0.05, 0.01):
        assert np.mean(np.array(p) < level) <= level + 4 * (level / 2000) ** 0.5
    label = (rng.random(400) < 0.01).astype(int)
    assert gain((rng.random(400) < 0.6).astype(int), np.zeros(400, int), label) > 0.001
    mended = label.copy()
    assert gain(1 - label, mended, label) < 1e-3 / 20


def test_members_of_another_training_are_unconfirmed() -> None:
    """Half of those that are listed are its members, and half of the others."""
    rng = np.random.default_rng(13)
    made = Simulated(rng, 800, EVEN, memory=2.0)
    log_NC, listed_N = made.log_NC(made.member_N), rng.permutation(made.member_N)
    found = made.check(log_NC, member_N=listed_N)
    assert found.verdict == "unconfirmed"
    assert any("its members no better than the others" in reason for reason in found.reasons)
    assert "`membership`" in str(found.mend)
    none_N = np.zeros(800, bool)
    assert made.check(made.log_NC(none_N), member_N=listed_N).verdict == "unconfirmed"
    assert made.check(log_NC).verdict == "sound"


@pytest.mark.slow
@pytest.mark.parametrize("memory", [0.0, 0.3, 1.0, 2.0])
def test_right_members_are_hardly_ever_doubted(memory: float) -> None:
    """Neither where they are known by heart nor where nothing is remembered, by the target or by the shadow models."""
    doubted = 0
    for seed in range(40):
        made = Simulated(np.random.default_rng(seed), 400, EVEN, memory=memory)
        doubted += made.check(made.log_NC(made.member_N)).verdict != "sound"
    assert doubted <= 1


def test_one_answer_for_all_records_is_unconfirmed_whatever_its_accuracy() -> None:
    rng = np.random.default_rng(14)
    made = Simulated(rng, 600, np.array([0.9, 0.1]))
    same_NC = np.log(np.tile([0.9, 0.1], (600, 1)))
    seen = float((made.label_N == 0)[~made.member_N].mean())
    found = made.check(same_NC, expected_accuracy=seen)
    assert found.verdict == "unconfirmed"
    assert any("the same for all records" in reason for reason in found.reasons)


def test_the_order_of_outputs_is_the_one_in_which_they_resemble_the_labels() -> None:
    rng = np.random.default_rng(15)
    label_NC = rng.random((200, 4)) < 0.4
    answer_NC = label_NC + 0.8 * rng.normal(size=(200, 4))
    assert output_order(answer_NC, label_NC) is None
    order = [2, 0, 1, 3]
    assert output_order(answer_NC[:, order] * [1, 9, 1, 1] - 5, label_NC) == order  # output 0 stands for label 2
    constant_NC = np.zeros((200, 4))
    assert output_order(constant_NC, label_NC) is None
    assert output_order(answer_NC[:1], label_NC[:1]) is None
