"""`dataset=text` by the command."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from command_line import Call


def write(path: Path, texts: list[str]) -> None:
    lines = [json.dumps({"text": text, "label": "ab"[i % 2], "key": f"k{i}"}) for i, text in enumerate(texts)]
    path.write_text("\n".join(lines))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "architecture"), [((), "TextCNN"), (("model=text_transformer", "model.depth=1"), "TextTransformer")]
)
def test_texts_are_audited(call: Call, tmp_path: Path, model: tuple[str, ...], architecture: str) -> None:
    """Where no model is chosen, too; records keep their names, and what was cut is said."""
    write(tmp_path / "texts.jsonl", [f"{'good' if i % 2 else 'bad'} word{i % 7} word{i}" for i in range(80)])
    ended = call(
        *("dataset=text", "dataset.path=texts.jsonl", "dataset.id_column=key", "dataset.max_tokens=2"),
        *("dataset.train_size=20", "shadow.count=2", "training.epochs=3", "attack=loss", "logger=none"),
        *("trainer.accelerator=cpu", "hydra.run.dir=run", *model),
    )
    assert ended.returncode == 0, ended.stderr
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["target"]["architecture"] == architecture
    names = pq.read_table(tmp_path / "run" / "scores.parquet")["record_name"].to_pylist()
    assert len(set(names)) == 40
    assert set(names) <= {f"k{i}" for i in range(80)}
    assert any("80 of 80 texts have more than 2 tokens" in warning for warning in report["warnings"])


def test_texts_that_cannot_be_read_end_the_command_before_anything_is_trained(call: Call, tmp_path: Path) -> None:
    write(tmp_path / "texts.jsonl", ["a", ""])
    ended = call("dataset=text", "dataset.path=texts.jsonl", "logger=none", "hydra.run.dir=run")
    assert ended.returncode == 2
    assert "dataset.empty=leave_out" in ended.stderr
