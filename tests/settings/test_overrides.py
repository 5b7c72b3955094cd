"""Overrides as they are typed: through a shell and Hydra's grammar a text comes back as it was."""

import shlex
import subprocess

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from mia_lightning.settings.overrides import for_shell, override, with_plain_paths

NAMES = [
    *("epoch=9-step=20.ckpt", "data (1).csv", "a,b.csv", "data[1].csv", "data{1}.csv", "it's.csv", 'say "x".csv', "#1"),
    *("a&b", "a;b", "a|b", "x*y?", "C:\\data\\x.csv", "folder\\", 'it\'s "both"', "~home", "$HOME/x", "${x}.csv"),
    *("1", "007", "1.0", "2024.10", "1e3", "1_000", "true", "null", "nan", "", "sepal length (cm)", "x!y", "`ls`"),
    *("Unnamed: 0", " lead", "trail ", "choice(a,b)", "range(3)", "k,'q'", "é.csv", "\\${x}", "a\\'b", "--x", "-1"),
]


def read(argument: str) -> object:
    """What a configuration holds after the argument."""
    value = OverridesParser.create().parse_override(argument).value()
    return OmegaConf.to_container(OmegaConf.create({"key": value}), resolve=True)["key"]  # type: ignore[index,call-overload]


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12))
@example("\\${a}\\")
@example("\\")  # in a list it would escape what ends it
def test_any_text_comes_back(text: str) -> None:
    (argument,) = shlex.split(override("key", text))
    assert read(argument) == text
    (listed,) = shlex.split(override("key", ["a", text]))
    assert read(listed) == ["a", text]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_people_have_come_back_through_bash(name: str) -> None:
    script = f"printf %s {override('key', name)}"
    argument = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout
    assert read(argument) == name


def test_what_needs_no_quotes_has_none() -> None:
    assert override("target.path", "runs/model-1.ckpt") == "target.path=runs/model-1.ckpt"
    assert override("target.path", "epoch=9.ckpt") == """"target.path='epoch=9.ckpt'\""""
    assert override("dataset.drop_columns", ["id"]) == "'dataset.drop_columns=[id]'"  # zsh has its own use for brackets


def test_on_windows_both_shells_take_double_quotes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.name", "nt")
    assert for_shell("path='a b'") == """"path='a b'\""""
    assert for_shell('path="a"') == subprocess.list2cmdline(['path="a"'])


def test_paths_with_equals_signs_need_no_quotes() -> None:
    typed = ["target.path=a b/epoch=11-step=156.ckpt", "target.path='x=1'", "seed=1,2", "model.a={b=1}", "--multirun"]
    plain = with_plain_paths(typed, ["target.path"])
    assert plain[1:] == typed[1:]
    parsed = OverridesParser.create().parse_override(plain[0])
    assert parsed.value() == "a b/epoch=11-step=156.ckpt"
    assert with_plain_paths(["target.path=a=1.ckpt,b=2.ckpt"], ["target.path"]) == ["target.path=a=1.ckpt,b=2.ckpt"]
