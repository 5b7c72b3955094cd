"""Whatever a setting is given that it cannot take, one sentence names the setting, the value and the mend."""

import re
import shutil
from typing import Any

import numpy as np
import pytest
from every_setting import Checked, all_checked, is_checked, is_settings, outside, parts_of

from mia_lightning.errors import InputError, SettingError
from mia_lightning.settings.words import in_words


class Nothing:
    """An object of no kind that any setting takes."""


CHECKED = all_checked()
SETTINGS = [(each, name) for each in CHECKED for name in each.parameters]


def of(pair: tuple[Checked, str]) -> str:
    return f"{pair[0].name}.{pair[1]}"


def refused(checked: Checked, **given: Any) -> str:
    with pytest.raises(InputError) as caught:
        checked.make(**{**checked.required(), **given})
    sentence = str(caught.value)
    assert sentence.count("\n") == 0
    assert sentence.endswith(".")
    return sentence


def test_all_kinds_of_settings_are_among_them() -> None:
    sections = {each.section.partition(".")[0] for each in CHECKED}
    assert sections >= {
        *("membership", "target", "shadow", "attack", "defense", "training", "trainer", "guess", "canary"),
        *("dataset", "model", "store", "gate", "logger", "hydra"),
    }
    assert len(SETTINGS) > 200


@pytest.mark.parametrize("pair", [(each, name) for each, name in SETTINGS if is_checked(each.hints[name])], ids=of)
def test_another_type_is_refused(pair: tuple[Checked, str]) -> None:
    checked, name = pair
    sentence = refused(checked, **{name: Nothing()})
    assert f"`{checked.place(name)}`" in sentence
    if not re.search("address|token", in_words(checked.hints[name])):  # which may hold a secret, and are not repeated
        assert "Nothing" in sentence
        assert in_words(checked.hints[name]) in sentence


@pytest.mark.parametrize(
    ("pair", "value"),
    [((each, name), value) for each, name in SETTINGS for value in outside(each.hints[name])],
    ids=lambda value: of(value) if isinstance(value, tuple) else repr(value),
)
def test_a_value_out_of_range_is_refused(pair: tuple[Checked, str], value: object) -> None:
    checked, name = pair
    sentence = refused(checked, **{name: value})
    assert f"`{checked.place(name)}` is {value!r}" in sentence
    assert in_words(checked.hints[name]) in sentence


@pytest.mark.parametrize("checked", [each for each in CHECKED if each.without_default], ids=lambda each: each.name)
def test_what_is_missing_is_named(checked: Checked) -> None:
    for name in checked.without_default:
        given = {other: value for other, value in checked.required().items() if other != name}
        with pytest.raises(SettingError, match=re.escape(f"`{checked.place(name)}` is not set")):
            checked.make(**given)


@pytest.mark.parametrize("checked", CHECKED, ids=lambda each: each.name)
def test_an_unknown_setting_is_refused(checked: Checked) -> None:
    with pytest.raises(SettingError, match="no_such_setting` is no setting"):
        checked.make(**checked.required(), no_such_setting=1)


NUMBERS = [
    (each, name)
    for each, name in SETTINGS
    if parts_of(each.hints[name])[0] in (int, float) and isinstance(each.make, type)
    if type(each.parameters[name].default) in (int, float)
    if each.name != "sweep.slurm.Slurm" or shutil.which("sbatch")  # which it looks for
]


@pytest.mark.parametrize("pair", NUMBERS, ids=of)
@pytest.mark.usefixtures("global_generators")  # of networks
def test_scalars_of_numpy_are_numbers(pair: tuple[Checked, str]) -> None:
    checked, name = pair
    default = checked.parameters[name].default
    scalar = np.int64(default) if type(default) is int else np.float64(default)
    made, plain = (checked.make(**{**checked.required(), name: value}) for value in (scalar, default))
    if is_settings(checked.make):
        assert type(getattr(made, name)) is type(getattr(plain, name))
