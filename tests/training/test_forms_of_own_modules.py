"""A user's own LightningModule that takes records by name: its step, its Trainer, and an audit of what it trained."""

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from formed import texts
from own_training import own_job, trained
from torch import Tensor, nn

import mia_lightning as mia
from mia_lightning.datasets.population import Population, make_population
from mia_lightning.errors import InputError
from mia_lightning.seeds import derive, isolated


class Hugging(pl.LightningModule):
    """A module in the style of Hugging Face: it gives a loss where it is given labels, and takes a batch by name."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(30, 6), nn.Linear(6, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        real = attention_mask.to(self.head.weight.dtype)[..., None]
        logits = self.head((self.embedding(input_ids) * real).sum(-2) / real.sum(-2).clamp(min=1))
        loss = {} if labels is None else {"loss": nn.functional.cross_entropy(logits, labels)}
        return {**loss, "logits": logits}

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        assert batch["input_ids"].dtype == torch.int64
        return self(**batch)["loss"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.02)


def hugging_population() -> Population:
    kinds = {"input_ids": {"kind": "tokens", "padding": 0, "mask": "attention_mask", "sizes": (30,)}}
    return make_population({"input_ids": texts(66)}, torch.arange(66) % 3, kinds=kinds)


@pytest.mark.costly
@pytest.mark.parametrize("execution", ["stack", "loop"])
def test_a_module_that_takes_batches_by_name_is_trained_by_its_own_step(execution: str) -> None:
    population = hugging_population()
    job = own_job(Hugging, population, execution=execution)
    together = trained(job)
    assert together.execution == execution
    k, index = 1, job.records_K[1]
    with isolated(7, "shadow", k, "initialisation"):
        network = job.make_network().double()
    optimizer = network.configure_optimizers()  # type: ignore[operator]
    batches = job.recipe.batches(
        [index], torch.tensor([derive(7, "shadow", job.models[k], "order")]), torch.device("cpu")
    )
    ids = texts(66)
    for epoch in range(job.recipe.epochs):
        batches.set_epoch(epoch)
        for index_KB, _ in batches:
            own = ids[index_KB[0]]
            batch = {"input_ids": own, "attention_mask": (own != 0).long(), "labels": population.label_N[index_KB[0]]}
            optimizer.zero_grad()
            network.training_step(batch, 0).backward()  # type: ignore[operator]
            optimizer.step()
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(together.stack.networks.state_dict()[name][k], tensor, rtol=1e-8, atol=1e-8)


class OfPairs(Hugging):
    """Takes (records, labels), which named tensors are not given as."""

    def training_step(self, batch: Any, batch_index: int) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self(x, (x != 0).long())["logits"], y)


def test_a_step_that_unpacks_a_pair_is_told_of_the_dict() -> None:
    with pytest.raises(InputError, match="OfPairs") as caught:
        own_job(OfPairs, hugging_population())
    for part in ("dict", "'input_ids'", "'attention_mask'", "'labels'"):
        assert part in str(caught.value)


class Validated(Hugging):
    """`Hugging`, with a step of validation."""

    def validation_step(self, batch: dict[str, Tensor], batch_index: int) -> None:
        self.log("loss", self(**batch)["loss"])


class NamedItems(torch.utils.data.Dataset[dict[str, Any]]):
    """Items as a tokenizer of Hugging Face gives them, with labels."""

    def __init__(self, ids: Tensor) -> None:
        self.ids = ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"input_ids": self.ids[i], "attention_mask": (self.ids[i] != 0).long(), "labels": i % 3}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_a_trainer_has_fitted_on_named_tensors_is_monitored_and_audited() -> None:
    monitor = mia.LeakageMonitor()
    trainer = pl.Trainer(
        **{"max_epochs": 2, "callbacks": [monitor], "accelerator": "cpu", "logger": False},
        **{"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False},
    )
    ids = texts(90)
    with isolated(0, "fit"):
        trainer.fit(
            Validated(),
            torch.utils.data.DataLoader(NamedItems(ids[:60]), 20, shuffle=True),
            torch.utils.data.DataLoader(NamedItems(ids[60:]), 20),
        )
    report = mia.audit(trainer=trainer, shadow=mia.Real(count=2), attacks=[mia.Loss()])
    assert report.membership.plan == "given"
    assert report.dataset.form is not None
    assert [field.name for field in report.dataset.form] == ["input_ids"]
    assert monitor.trace[-1].auc == pytest.approx(report.attacks[0].overall.auc.value)
