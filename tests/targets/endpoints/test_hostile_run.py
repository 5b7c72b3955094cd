"""A run of the command against a server that answers with secrets and with what terminals obey."""

import json
from collections.abc import Iterable
from pathlib import Path

import pytest
from command_line import Call
from raw_server import RawServer, http
from strange_answers import SECRET, is_one_sentence

WORDS = f"\x1b[2J\x1b]0;{SECRET}\x07\u202e\r\nX-Token: {SECRET}"
KNOWN = json.dumps({"error": {"message": WORDS}}).encode()
ANSWERS = {
    "refused": http(KNOWN, f"403 {SECRET}"),
    "busy": http(KNOWN, f"503 {SECRET}"),
    "no answer": http(KNOWN, f"200 {SECRET}"),
    "no JSON": http(WORDS.encode()),
    "no HTTP": WORDS.encode(),
    "a label": http(json.dumps({"predictions": [WORDS] * 16}).encode()),
    "elsewhere": http(b"", "302 Found", Location=f"http://elsewhere/{SECRET}?{SECRET}"),
    "huge numbers": http(b'{"predictions": [' + b",".join([b"9" * 5000] * 16) + b"]}"),
    "deep": http(b'{"predictions": ' + b"[" * 50_000),
}


@pytest.mark.slow
@pytest.mark.parametrize("answer", ANSWERS)
def test_the_run_ends_with_one_sentence_that_may_be_shown_and_kept(
    answer: str, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIA_TOKEN", SECRET)
    monkeypatch.setenv("WANDB_MODE", "disabled")

    def pieces(_: bytes) -> Iterable[bytes]:
        return [ANSWERS[answer]]

    with RawServer(pieces) as server:
        asking = ["target.asking.retries=0", "target.asking.batch_size=16", "target.asking.concurrency=1"]
        target = ["target=predict_v1", f"target.url={server.url}", "target.model=m", *asking]
        others = ["logger=none", "attack=loss", "shadow.count=2", "training.epochs=1", "trainer.accelerator=cpu"]
        given = ["membership=given", f"membership.member_N=[{','.join(map(str, range(16)))}]"]
        ended = call(*target, *others, *given, "hydra.run.dir=here")
    assert ended.returncode == 2
    outcome = json.loads((tmp_path / "here" / "outcome.json").read_text())
    assert outcome["exit_code"] == 2
    assert is_one_sentence(outcome["reason"])
    assert outcome["reason"] in ended.stderr
    shown = ended.stdout + ended.stderr
    assert "Traceback" not in shown
    assert not set("\x1b\x07\r\u202e\x9b") & set(shown)
    for text in (
        shown,
        *(path.read_bytes().decode(errors="replace") for path in tmp_path.rglob("*") if path.is_file()),
    ):
        assert SECRET[:8] not in text
