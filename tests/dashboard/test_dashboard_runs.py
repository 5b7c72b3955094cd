"""What the dashboard finds beneath folders, and what it reads of it."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dashboard_runs import many_reports, normal_scores, report_of, write_run
from sklearn.metrics import roc_curve

from mia_lightning.dashboard.content import Shown, page_content
from mia_lightning.dashboard.curves import GRID_F, largest_tpr, read_curves, thinned_roc
from mia_lightning.dashboard.finding import find_runs
from mia_lightning.dashboard.reader import Reader
from mia_lightning.dashboard.settings import LONGEST, differing_settings
from mia_lightning.errors import InputError
from mia_lightning.reports.rows import ACCURACIES
from mia_lightning.reports.schema import AuditReport


def never(sentence: str) -> None:
    raise AssertionError(sentence)


def test_the_synthetic_reports_are_reports() -> None:
    for content in [report_of(defense="top 3 classes"), *many_reports(3)]:
        AuditReport.model_validate_json(json.dumps(content))


class TestFinding:
    def test_runs_of_single_jobs_sweeps_and_experiments(self, tmp_path: Path) -> None:
        root = tmp_path / "outputs"
        for name in ("2026/b", "2026/a", "sweep/0", "sweep/1", "paper/none", "paper/top 1", "sweep/0/.hidden/x"):
            write_run(root / name)
        (root / "sweep" / "multirun.yaml").write_text("")
        (root / "paper" / "comparison.json").write_text("{}")

        found = find_runs([root], never)

        assert [place.name for place in found] == [
            "outputs/2026/a",
            "outputs/2026/b",
            "outputs/paper/none",
            "outputs/paper/top 1",
            "outputs/sweep/0",
            "outputs/sweep/1",
        ]
        assert [place.group for place in found] == [None, None, *["outputs/paper"] * 2, *["outputs/sweep"] * 2]
        comparison = root / "paper" / "comparison.json"
        assert [place.comparison for place in found] == [None, None, comparison, comparison, None, None]
        assert {place.root for place in found} == {"outputs"}

    def test_the_innermost_group_and_the_folder_itself(self, tmp_path: Path) -> None:
        write_run(tmp_path / "sweep" / "0" / "variant")
        (tmp_path / "sweep" / "multirun.yaml").write_text("")
        (tmp_path / "sweep" / "0" / "comparison.json").write_text("{}")

        assert [place.group for place in find_runs([tmp_path / "sweep"], never)] == ["sweep/0"]
        assert [place.name for place in find_runs([tmp_path / "sweep" / "0" / "variant"], never)] == ["variant"]

    def test_each_run_once_where_folders_overlap(self, tmp_path: Path) -> None:
        write_run(tmp_path / "outputs" / "day" / "a")
        (tmp_path / "link").symlink_to(tmp_path / "outputs" / "day")

        found = find_runs([tmp_path / "outputs", tmp_path / "outputs" / "day", tmp_path / "link"], never)

        assert [place.name for place in found] == ["outputs/day/a"]

    def test_the_current_folder_has_a_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_run(tmp_path / "outputs" / "a")
        monkeypatch.chdir(tmp_path / "outputs")

        assert [place.name for place in find_runs([Path(".")], never)] == ["outputs/a"]

    def test_what_is_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="nowhere is not a folder; give folders"):
            find_runs([tmp_path / "nowhere"], never)

    def test_a_folder_that_cannot_be_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_run(tmp_path / "a")
        write_run(tmp_path / "closed" / "b")
        scandir = os.scandir

        def refuse(path: Any) -> Any:
            if Path(path).name == "closed":
                raise PermissionError(13, "Permission denied", str(path))
            return scandir(path)

        monkeypatch.setattr(os, "scandir", refuse)
        said: list[str] = []

        assert [place.folder.name for place in find_runs([tmp_path], said.append)] == ["a"]
        assert len(said) == 1
        assert "closed cannot be read (Permission denied)" in said[0]


class TestReading:
    def test_reads_again_only_what_changed(self, tmp_path: Path) -> None:
        write_run(tmp_path / "good")
        bad = write_run(tmp_path / "bad")
        (bad / "report.json").write_text("{")
        said: list[str] = []
        reader = Reader(said.append)

        first = [reader.read(place) for place in find_runs([tmp_path], never)]
        again = [reader.read(place) for place in find_runs([tmp_path], never)]
        write_run(tmp_path / "good", report_of(dataset="another"))
        changed = [reader.read(place) for place in find_runs([tmp_path], never)]

        assert first[0] is None
        assert first[1] is again[1]
        assert len(said) == 1
        assert changed[1] is not None
        assert changed[1].run.dataset == "another"


class TestCurves:
    @pytest.mark.parametrize("seed", range(5))
    def test_equal_those_of_scikit_learn(self, seed: int) -> None:
        draw = np.random.default_rng(seed)
        is_member = draw.random(700) < 0.4
        score = np.round(draw.normal(size=700) + is_member, seed % 3)
        score[:3] = np.inf, -np.inf, np.inf
        finite = np.clip(score, -100, 100)  # in the same order, for scikit-learn
        fpr, tpr, _ = roc_curve(is_member, finite, drop_intermediate=False)
        asked = np.concatenate([[0.0, 0.01, 0.5, 1.0], draw.random(20), fpr])

        found = largest_tpr(score, is_member, asked)

        np.testing.assert_allclose(found, [tpr[fpr <= most * (1 + 1e-12)].max() for most in asked])

    def test_begin_below_one_false_positive(self) -> None:
        scores = normal_scores({"a": 1.0}, count=1000)
        start, rates = thinned_roc(scores["score"], scores["is_member"]) or (0, [])

        assert GRID_F[start] < 1 / 1000 <= GRID_F[start + 1] * (1 + 1e-12)
        assert len(rates) == len(GRID_F) - start
        assert rates[-1] == 1
        exact = largest_tpr(scores["score"], scores["is_member"], GRID_F[start:])
        np.testing.assert_allclose(rates, exact, rtol=5e-3)
        best = scores["score"][~scores["is_member"]].max()
        assert rates[0] == pytest.approx((scores["score"][scores["is_member"]] > best).mean(), rel=5e-3)

    def test_of_one_kind_of_records_alone(self) -> None:
        assert thinned_roc(np.arange(3.0), np.ones(3, dtype=bool)) is None
        assert thinned_roc(np.arange(3.0), np.zeros(3, dtype=bool)) is None

    def test_of_a_run(self, tmp_path: Path) -> None:
        scores = normal_scores({"a": 2.0, "b": 0.0}, count=50)
        write_run(tmp_path, scores={**scores, "target": np.zeros(200, dtype=int)})
        dictionary = pa.array(scores["attack"]).dictionary_encode()
        pq.write_table(pa.table({**scores, "attack": dictionary}), tmp_path / "scores.parquet")

        curves = read_curves(tmp_path, never)

        assert curves == {
            name: thinned_roc(scores["score"][rows], scores["is_member"][rows])
            for name, rows in {"a": slice(0, 100), "b": slice(100, 200)}.items()
        }

    def test_without_scores(self, tmp_path: Path) -> None:
        assert read_curves(write_run(tmp_path), never) == {}

    def test_of_scores_that_cannot_be_read(self, tmp_path: Path) -> None:
        path, said = tmp_path / "scores.parquet", []
        path.write_bytes(b"PAR1 nothing")
        assert read_curves(tmp_path, said.append) == {}
        pq.write_table(pa.table({"attack": ["a"], "score": [1.0]}), path)
        assert read_curves(tmp_path, said.append) == {}
        pq.write_table(pa.table({"attack": ["a", "a"], "score": [1.0, np.nan], "is_member": [True, False]}), path)
        assert read_curves(tmp_path, said.append) == {}

        assert len(said) == 3
        assert all("scores.parquet" in sentence and "without curves" in sentence for sentence in said)
        assert not any("\n" in sentence for sentence in said)
        assert "NaN" in said[2]

    def test_of_an_error_without_words(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*arguments: object, **named: object) -> None:
            raise OSError

        (tmp_path / "scores.parquet").touch()
        monkeypatch.setattr(pq, "read_table", refuse)
        said: list[str] = []
        assert read_curves(tmp_path, said.append) == {}
        assert said == [f"{tmp_path}/scores.parquet cannot be read (OSError); its run is shown without curves."]


class TestSettings:
    def test_only_what_differs(self) -> None:
        configs = [
            {"seed": 0, "model": {"hidden": [128], "name": "a"}, "empty": {}},
            {"seed": 0, "model": {"hidden": [64, 64], "name": "a"}, "empty": {}},
            {"seed": 0, "model": {"name": "a"}, "empty": {}, "long": "x" * 300},
        ]

        found = differing_settings(configs)

        assert found == [
            {"name": "long", "values": ["x" * (LONGEST - 1) + "…"], "of": [-1, -1, 0]},
            {"name": "model.hidden", "values": ["[128]", "[64, 64]"], "of": [0, 1, -1]},
        ]

    def test_of_one_run_or_none(self) -> None:
        assert differing_settings([]) == []
        assert differing_settings([{"seed": 1}]) == []


class TestContent:
    def content(self, root: Path, beside: Path) -> dict[str, Any]:
        reader = Reader(never)
        shown = [reader.read(place) for place in find_runs([root], never)]
        return page_content([each for each in shown if isinstance(each, Shown)], beside=beside)

    def test_runs_are_named_by_the_settings_in_which_they_differ(self, tmp_path: Path) -> None:
        root = tmp_path / "runs"
        for name, typed in {"s/0": ["model=mlp", "seed=0", "a=1"], "s/1": ["model=cnn", "seed=0", "a=1"],
                            "t/0": ["seed=0"], "t/1": ["seed=1"], "u": ["seed=0", "b=2"], "v": []}.items():  # fmt: skip
            folder = write_run(root / name)
            if typed:
                (folder / "run.json").write_text(json.dumps({"digest": "d", "overrides": typed}))
        for sweep in ("s", "t"):
            (root / sweep / "multirun.yaml").write_text("")
        write_run(root / "paper" / "no_defence")
        (root / "paper" / "comparison.json").write_text("{}")
        runs = self.content(root, tmp_path)["runs"]
        assert {run["path"]: run["name"] for run in runs} == {
            "runs/s/0": "model=mlp",
            "runs/s/1": "model=cnn",
            "runs/t/0": "seed=0",
            "runs/t/1": "seed=1",
            "runs/u": "seed=0 b=2",
            "runs/v": "runs/v",
            "runs/paper/no_defence": "no_defence",
        }
        (root / "s" / "0" / "run.json").write_text(json.dumps({"digest": "d", "overrides": ["seed=0", "model=mlp"]}))
        (root / "s" / "1" / "run.json").write_text(json.dumps({"digest": "d", "overrides": ["seed=1", "model=mlp"]}))
        names = [run["name"] for run in self.content(root, tmp_path)["runs"]]
        assert {"seed=0 (runs/s/0)", "seed=0 (runs/t/0)"} < set(names)
        assert len(set(names)) == len(names)

    @pytest.mark.parametrize(
        ("content", "doubt"),
        [
            ({}, None),
            ({"warnings": ["Some are equal."]}, None),
            ({"trust": {"verdict": "sound"}}, None),
            ({"trust": {"verdict": "not checked"}}, None),
            ({"warnings": ["It has learnt nothing."], "broken": ["It has learnt nothing."]}, "understated"),
            ({"trust": {"verdict": "sound", "understated": "Trees."}}, "understated"),
            ({"trust": {"verdict": "void", "understated": "Trees."}}, "trusted"),
            ({"trust": {"verdict": "unconfirmed"}}, "confirmed"),
        ],
    )
    def test_runs_whose_low_figures_are_no_evidence_are_marked(
        self, content: dict[str, Any], doubt: str | None, tmp_path: Path
    ) -> None:
        write_run(tmp_path / "runs" / "a", {**report_of(), **content})
        (run,) = self.content(tmp_path / "runs", tmp_path)["runs"]
        assert run["doubt"] is None if doubt is None else run["doubt"].endswith(doubt)

    def test_figures_curves_and_names(self, tmp_path: Path) -> None:
        attacks = {
            "loss": {"auc": (0.7, 0.6, 0.8), "0.01": (0.1, 0.05, None), "advantage": (0.25, None, None)},
            "gap": {"auc": (None, None, None)},
        }
        report = report_of(attacks=attacks, train=0.9, test=0.6, config={"logger": {"project": "nightly"}}, shadows=4)
        write_run(tmp_path / "runs" / "a", report, scores=normal_scores({"loss": 1.0}, count=20))
        write_run(tmp_path / "runs" / "b", report_of(config={"logger": {"project": 3}}))

        found = self.content(tmp_path / "runs", tmp_path)
        first, second = found["runs"]

        assert found["attacks"] == ["gap", "loss"]
        assert [figure["key"] for figure in found["figures"]] == [
            "auc",
            "tpr_at_fpr_0.01",
            "tpr_at_fpr_0.001",
            "advantage",
        ]
        loss, gap = first["attacks"]
        assert (loss["attack"], gap["attack"]) == (1, 0)
        assert loss["figures"] == [[0.7, 0.6, 0.8], [0.1, 0.05, None], None, [0.25, None, None]]
        assert gap["figures"] == [None] * 4
        assert (loss["roc"] is not None, gap["roc"]) == (True, None)
        assert tuple(first[name] for name in (*ACCURACIES, "num_shadows")) == (0.9, 0.6, 0.3, 4)
        assert (first["project"], second["project"]) == ("nightly", "runs")
        assert (first["defense"], first["group"]) == ("none", None)
        assert found["settings"] == [{"name": "logger.project", "values": ["nightly", "3"], "of": [0, 1]}]

    def test_utility_has_the_name_of_the_task_or_none_where_tasks_differ(self, tmp_path: Path) -> None:
        for name, utility in {"a": "R²", "b": "R²"}.items():
            write_run(tmp_path / "runs" / name, report_of(utility=utility))
        found = self.content(tmp_path / "runs", tmp_path)
        assert (found["utility"], [run["utility"] for run in found["runs"]]) == ("R²", ["R²", "R²"])
        write_run(tmp_path / "runs" / "c", report_of())
        found = self.content(tmp_path / "runs", tmp_path)
        assert (found["utility"], [run["utility"] for run in found["runs"]]) == ("utility", ["R²", "R²", "accuracy"])

    def test_links_are_relative_and_quoted(self, tmp_path: Path) -> None:
        write_run(tmp_path / "runs" / "a b#?%" / "c:d")
        (write_run(tmp_path / "runs" / "z") / "report.html").unlink()

        assert [run["href"] for run in self.content(tmp_path / "runs", tmp_path)["runs"]] == [
            "./runs/a%20b%23%3F%25/c%3Ad/report.html",
            None,
        ]
        pages = tmp_path / "pages" / "deep"
        assert self.content(tmp_path / "runs", pages)["runs"][0]["href"].startswith("../../runs/")

    def test_experiments_are_named_by_their_title(self, tmp_path: Path) -> None:
        for name in ("good", "damaged", "odd"):
            write_run(tmp_path / "runs" / name / "variant")
        (tmp_path / "runs" / "good" / "comparison.json").write_text('{"title": "Defences"}')
        (tmp_path / "runs" / "damaged" / "comparison.json").write_text("{")
        (tmp_path / "runs" / "odd" / "comparison.json").write_text('{"title": 3}')

        groups = [run["group"] for run in self.content(tmp_path / "runs", tmp_path)["runs"]]

        assert groups == ["runs/damaged", "Defences (runs/good)", "runs/odd"]
