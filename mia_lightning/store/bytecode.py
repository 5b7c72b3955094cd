"""A function's bytecode: a digest that comments and line numbers do not change, and the names that the code uses."""

import dis
import hashlib
from collections.abc import Iterator
from types import CodeType

_GLOBAL = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")


def digest_of_code(code: CodeType) -> str:
    """A digest of the code, the same in every process of one version of Python."""
    return hashlib.blake2b(repr(_parts(code)).encode(), digest_size=20).hexdigest()


def attributes(code: CodeType) -> set[str]:
    """The names that the code, and code nested in it, may look up in a module; other names are among them."""
    return {name for each in _codes(code) for name in each.co_names}


def global_names(code: CodeType) -> set[str]:
    """The names that the code, and code nested in it, may look up in its own module."""
    return {each.argval for inner in _codes(code) for each in dis.get_instructions(inner) if each.opname in _GLOBAL}


def imports(code: CodeType) -> set[str]:
    """The modules that the code imports when it runs; a relative import has a dot for each level before its name."""
    found = set()
    for inner in _codes(code):
        instructions = list(dis.get_instructions(inner))
        for level, _, each in zip(instructions, instructions[1:], instructions[2:], strict=False):
            if each.opname == "IMPORT_NAME":
                found.add("." * level.argval + each.argval)
    return found


def _codes(code: CodeType) -> Iterator[CodeType]:
    """The code, and all code nested in it."""
    yield code
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from _codes(each)


def _parts(code: CodeType) -> list[object]:
    shape = [code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags]
    constants = [_parts(each) if isinstance(each, CodeType) else _constant(each) for each in code.co_consts]
    return [code.co_code.hex(), shape, constants, code.co_names, code.co_varnames, code.co_freevars]


def _constant(value: object) -> str:
    """A constant as text, the same in every process, unlike the order of a set."""
    return f"set {sorted(map(repr, value))}" if isinstance(value, frozenset) else repr(value)
