"""Folders of synthetic runs: a whole `report.json`, `report.html`, and scores where they are asked for."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Figure = tuple[float | None, float | None, float | None]

ARCHITECTURES = ("MLP", "CNN", "ResNet", "ViT")
DATASETS = ("location", "purchase", "cifar10")
DEFENSES = (None, "top 3 classes", "DP-SGD with epsilon 8, clipping norm 1")
NO_FIGURE: Figure = (None, None, None)


def report_of(
    *,
    dataset: str = "location",
    architecture: str = "MLP",
    defense: str | None = None,
    train: float = 1.0,
    test: float = 0.75,
    attacks: Mapping[str, Mapping[str, Figure]] | None = None,
    created: str = "2026-11-20T12:00:00+00:00",
    config: Mapping[str, Any] | None = None,
    seed: int = 0,
    shadows: int = 16,
    utility: str | None = None,
) -> dict[str, Any]:
    """The content of a report.json.

    Args:
        attacks: figures by name ("auc", "advantage", "0.01", "0.001") by attack.
        utility: of the task; None for a report that says nothing of its task.
    """
    attacks = {"loss": {"auc": (0.7, 0.65, 0.75)}} if attacks is None else attacks
    return {
        "schema": "mia_lightning.report/2",
        **({} if utility is None else {"task": {"utility": utility}}),
        "run": {
            "created": created,
            "seed": seed,
            "device": "cpu",
            "precision": "32",
            "versions": {},
            "seconds": {},
            "config": dict(config or {}),
        },
        "dataset": {
            "name": dataset,
            "num_records": 400,
            "num_classes": 1,
            "class_names": ["all"],
            "input_shape": [4],
            "fingerprint": "ab" * 32,
        },
        "membership": {
            "plan": "disjoint",
            "num_members": 100,
            "num_nonmembers": 100,
            "shadow_train_size": 100,
            "num_validation": 0,
            "duplicates_across_boundary": 0,
        },
        "target": {
            "architecture": architecture,
            "num_parameters": None,
            "num_targets": 1,
            "train_accuracy": train,
            "test_accuracy": test,
            "generalization_gap": train - test,
            "per_class": [],
        },
        "shadow": {
            "source": "real",
            "architecture": architecture,
            "count": shadows,
            "left_out": [],
            "train_accuracy": train,
            "test_accuracy": test,
        },
        "defense": None
        if defense is None
        else {"names": [defense.split()[0]], "description": defense, "adaptive": True},
        "attacks": [_attack(name, figures, defense) for name, figures in attacks.items()],
        "warnings": [],
    }


def _attack(name: str, figures: Mapping[str, Figure], defense: str | None) -> dict[str, Any]:
    def figure(key: str) -> dict[str, Any]:
        value, low, high = figures.get(key, NO_FIGURE)
        return {"value": value, "low": low, "high": high, "n": 200}

    names = ("precision", "precision_balanced", "recall", "accuracy", "balanced_accuracy", "advantage", "auc")
    return {
        "name": name,
        "description": f"A synthetic attack named {name}.",
        "defense": defense,
        "num_targets": 1,
        "overall": {
            "num_members": 100,
            "num_nonmembers": 100,
            "base_rate": 0.5,
            **{each: figure(each) for each in (*names, "average_precision")},
            "ppv": {},
            "tpr_at_fpr": {each: figure(each) for each in ("0.01", "0.001")},
            "precision_at_recall": {},
        },
        "per_class": [],
    }


def write_run(
    folder: Path, content: Mapping[str, Any] | None = None, *, scores: Mapping[str, Any] | None = None
) -> Path:
    """Write a run into `folder`; `scores` are the columns of scores.parquet."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(report_of() if content is None else content))
    (folder / "report.html").write_text(f"<!DOCTYPE html><title>the report of {len(folder.name)}</title>")
    if scores is not None:
        pq.write_table(pa.table(dict(scores)), folder / "scores.parquet")
    return folder


def normal_scores(shifts: Mapping[str, float], *, count: int = 2000, seed: int = 0) -> dict[str, Any]:
    """Scores N(shift, 1) of `count` members against N(0, 1) of as many non-members, with ties, for each attack."""
    draw = np.random.default_rng(seed)
    is_member = np.arange(2 * count) % 2 == 0
    score = [np.round(draw.normal(size=2 * count) + shift * is_member, 2) for shift in shifts.values()]
    return {
        "attack": np.repeat(list(shifts), 2 * count).tolist(),
        "is_member": np.tile(is_member, len(shifts)),
        "score": np.concatenate(score),
    }


def many_reports(count: int, *, attacks: Sequence[str] = ("shokri", "loss", "lira")) -> list[dict[str, Any]]:
    """Reports of runs whose leakage follows their gap, over architectures, data sets and defences."""
    draw = np.random.default_rng(7)
    return [_random_report(place, draw, attacks) for place in range(count)]


def _random_report(place: int, draw: np.random.Generator, attacks: Sequence[str]) -> dict[str, Any]:
    defense = DEFENSES[place // 12 % len(DEFENSES)]
    gap = float(draw.uniform(0, 0.4)) * (0.5 if defense else 1.0)
    middle = 0.5 + 0.9 * gap - 0.02 * np.arange(len(attacks))
    auc = np.clip(middle + draw.normal(0, 0.03, size=len(attacks)), 0.45, 0.99).tolist()
    figures = {
        name: {
            "auc": (value, value - 0.02, min(value + 0.02, 1.0)),
            "advantage": (max(2 * value - 1.1, 0.0), None, None),
            "0.01": (0.01 + gap * value * 0.4, 0.0, gap * 0.5 + 0.03),
            "0.001": NO_FIGURE if place % 5 == 0 else (0.001 + gap * 0.05, None, None),
        }
        for name, value in zip(attacks, auc, strict=True)
    }
    return report_of(
        dataset=DATASETS[place % len(DATASETS)],
        architecture=ARCHITECTURES[place // 3 % len(ARCHITECTURES)],
        defense=defense,
        test=round(0.97 - gap - float(draw.uniform(0, 0.1)), 4),
        attacks=figures,
        created=f"2026-{1 + place // 28 % 12:02d}-{1 + place % 28:02d}T{place % 24:02d}:30:00+00:00",
        config={
            "seed": place % 3,
            "training": {"epochs": 20 * (1 + place % 4), "batch_size": 100},
            "logger": {"project": ("leakage", "nightly")[place % 2]},
        },
        seed=place % 3,
    )
