"""Membership inference from end to end in plain PyTorch, and what mia_lightning does with the same target.

    python examples/by_hand.py

A target is trained on half of 600 handwritten digits. Which half? Two attacks look at its answers: a threshold on the
loss (Yeom et al. 2018), and LiRA, the likelihood ratio of Carlini et al. (2022), with shadow models. It takes seconds.
"""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import mia_lightning as mia

N, NUM_SHADOWS, EPOCHS, BATCH = 600, 16, 60, 50


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def trained(x: Tensor, label: Tensor, seed: int) -> nn.Module:
    """A network trained on these records."""
    torch.manual_seed(seed)
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            cross_entropy(net(x[batch]), label[batch]).backward()
            optimizer.step()
    return net


@torch.no_grad()
def log_probabilities(net: nn.Module, x: Tensor) -> Tensor:
    """What anybody sees who asks the network about every record, [N, C]."""
    return net(x).log_softmax(-1).double()


def scaled_logit(log_p: Tensor, label: Tensor) -> Tensor:
    """log p_y - log (sum of the other p), which is near normal over models."""
    truth = log_p.gather(1, label[:, None])
    others = log_p.scatter(1, label[:, None], -torch.inf).logsumexp(1)
    return truth[:, 0] - others


def auc(score: Tensor, is_member: Tensor) -> float:
    """The probability that a member scores above a non-member, ties counted half."""
    difference = score[is_member][:, None] - score[~is_member][None, :]
    return float(((difference > 0).double() + (difference == 0).double() / 2).mean())


def halves(seed: int) -> Tensor:
    """A random half of the records and the other half, as masks [2, N]."""
    first = torch.zeros(N, dtype=torch.bool)
    first[torch.randperm(N, generator=torch.Generator().manual_seed(seed))[: N // 2]] = True
    return torch.stack([first, ~first])


def by_hand(x: Tensor, label: Tensor, is_member: Tensor, target: nn.Module) -> dict[str, float]:
    """AUC of both attacks."""
    answer = log_probabilities(target, x)
    loss = -answer.gather(1, label[:, None])[:, 0]

    # Shadow models in complementary pairs: each record is in one of either pair, so that it has as many in-models as
    # out-models, whether the target trained on it or not.
    member_KN = torch.cat([halves(1 + pair) for pair in range(NUM_SHADOWS // 2)])
    shadows = [trained(x[member], label[member], seed=1 + k) for k, member in enumerate(member_KN)]
    phi_KN = torch.stack([scaled_logit(log_probabilities(shadow, x), label) for shadow in shadows])

    # Of each record two normal distributions, of in-models and out-models. With so few models the variance is pooled.
    log_density = {}
    for side, side_KN in (("in", member_KN), ("out", ~member_KN)):
        count_N = side_KN.sum(0)
        mean_N = (phi_KN * side_KN).sum(0) / count_N
        variance = float((((phi_KN - mean_N) ** 2) * side_KN).sum() / (count_N - 1).sum())
        normal = torch.distributions.Normal(mean_N, variance**0.5)
        log_density[side] = normal.log_prob(scaled_logit(answer, label))
    return {"loss": auc(-loss, is_member), "lira_online": auc(log_density["in"] - log_density["out"], is_member)}


def by_package(x: Tensor, label: Tensor, is_member: Tensor, target: nn.Module) -> dict[str, float]:
    """The same of the same target, whose shadow models the package trains itself, as one stack."""
    report = mia.audit(
        x,
        label,
        model=network,
        target=target,
        membership=mia.Given(member_N=is_member),
        shadow=mia.Real(count=NUM_SHADOWS),
        attacks=[mia.Loss(), mia.Lira(online=True)],
        training=mia.Recipe(epochs=EPOCHS, batch_size=BATCH, optimizer=lambda p: torch.optim.Adam(p, lr=5e-3)),
    )
    return {attack.name: attack.overall.auc.value or 0.0 for attack in report.attacks}


def compared() -> dict[str, tuple[float, float]]:
    """By attack: its AUC by hand, and by the package."""
    images, classes = load_digits(return_X_y=True)
    x, label = torch.tensor(images[:N] / 16).float(), torch.tensor(classes[:N])
    is_member = halves(0)[0]
    target = trained(x[is_member], label[is_member], seed=0)
    first, second = (measure(x, label, is_member, target) for measure in (by_hand, by_package))
    return {name: (first[name], second[name]) for name in first}


if __name__ == "__main__":
    for name, (hand, package) in compared().items():
        print(f"{name:12} AUC by hand {hand:.3f}, by mia_lightning {package:.3f}")
