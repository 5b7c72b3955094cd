"""The settings in which runs differ, as columns; settings that are the same everywhere are left out."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

LONGEST = 120  # characters of a value that are shown
ABSENT = -1


def differing_settings(configs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each setting that is not the same in all of `configs`, in the order of their names.

    `{"name": "shadow.count", "values": ["8", "16"], "of": [0, 0, 1]}`: `of` has the place in `values` for each
    configuration, -1 where it has no such setting.
    """
    flat = [dict(_flat(config)) for config in configs]
    names = sorted({name for each in flat for name in each})
    columns = [_column(name, [each.get(name) for each in flat]) for name in names]
    return [column for column in columns if len(set(column["of"])) > 1]


def _column(name: str, texts: Sequence[str | None]) -> dict[str, Any]:
    places: dict[str, int] = {}
    of = [ABSENT if text is None else places.setdefault(text, len(places)) for text in texts]
    return {"name": name, "values": [_short(text) for text in places], "of": of}


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    elif name:
        yield name, value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
