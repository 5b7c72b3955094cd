"""What a function does, by its code: a digest that lines and comments do not change, and the names that it takes."""

import dis
import hashlib
from collections.abc import Iterator
from types import CodeType

_GLOBAL = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")


def digest_of_code(code: CodeType) -> str:
    """The same in every process of one version of Python."""
    return hashlib.blake2b(repr(_parts(code)).encode(), digest_size=20).hexdigest()


def attributes(code: CodeType) -> set[str]:
    """Names that it, and code within it, may take from a module, among others."""
    return {name for each in _codes(code) for name in each.co_names}


def global_names(code: CodeType) -> set[str]:
    """Names that it, and code within it, may take from the module that it stands in."""
    return {each.argval for inner in _codes(code) for each in dis.get_instructions(inner) if each.opname in _GLOBAL}


def imports(code: CodeType) -> set[str]:
    """Modules that it imports when it runs, with a point before a name for each level of a relative import."""
    found = set()
    for inner in _codes(code):
        instructions = list(dis.get_instructions(inner))
        for level, _, each in zip(instructions, instructions[1:], instructions[2:], strict=False):
            if each.opname == "IMPORT_NAME":
                found.add("." * level.argval + each.argval)
    return found


def _codes(code: CodeType) -> Iterator[CodeType]:
    """It, and all code within it."""
    yield code
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from _codes(each)


def _parts(code: CodeType) -> list[object]:
    shape = [code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags]
    constants = [_parts(each) if isinstance(each, CodeType) else _constant(each) for each in code.co_consts]
    return [code.co_code.hex(), shape, constants, code.co_names, code.co_varnames, code.co_freevars]


def _constant(value: object) -> str:
    """The same in every process, unlike the order of a set."""
    return f"set {sorted(map(repr, value))}" if isinstance(value, frozenset) else repr(value)
