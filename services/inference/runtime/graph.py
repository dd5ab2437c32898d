"""Checks the graph of an exported program, part by part, before anything of torch reads it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

from services.inference.errors import InvalidArchive

__all__ = ["clean_program", "clean_weights"]

_LONGEST_EXPRESSION: Final = 1000
_OPERATOR: Final = re.compile(
    r"(torch\.ops\.(aten|prims)\.(?!__)\w+\.(?!__)\w+"
    r"|torch\.ops\.aten\.__(and|or|xor|lshift|rshift)__\.(Scalar|Tensor)"
    r"|torch\.ops\.higher_order\.(cond|while_loop|scan|map_impl|associative_scan"
    r"|wrap_with_set_grad_enabled|wrap_with_autocast)"
    r"|_operator\.(add|sub|mul|truediv|floordiv|mod|pow|neg|pos|eq|ne|lt|le|gt|ge|getitem"
    r"|and_|or_|xor|not_)"
    r"|math\.(ceil|floor|trunc|sqrt|log2|exp)"
    r"|torch\.sym_(int|float|not|max|min|sqrt|ite|sum))\Z",
    re.ASCII,
)
_FORBIDDEN_OPERATORS: Final = frozenset(
    {"from_file", "save", "load", "_print", "_test_parallel_materialize"}
)
_SYMBOLIC: Final = frozenset(
    {
        *("FloorDiv", "ModularIndexing", "Where", "PythonMod", "Mod", "CleanDiv", "CeilToInt"),
        *("FloorToInt", "CeilDiv", "PowByNatural", "FloatPow", "FloatTrueDiv", "IntTrueDiv"),
        *("IsNonOverlappingAndDenseIndicator", "TruncToFloat", "TruncToInt", "RoundToInt"),
        *("RoundDecimal", "ToFloat", "Identity", "Max", "Min", "floor", "ceiling", "Abs"),
        *("Eq", "Ne", "Lt", "Le", "Gt", "Ge", "And", "Or", "Not", "oo", "int_oo", "zoo"),
        *("Integer", "Rational", "Add", "Mul", "Pow", "Equality", "Unequality"),
        *("LessThan", "StrictLessThan", "GreaterThan", "StrictGreaterThan", "true", "false"),
        *("True", "False"),
    }
)
_EXPRESSION: Final = re.compile(r"[A-Za-z0-9_+\-*/%(), .<>=!&|~]*\Z", re.ASCII)
_WORD: Final = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_SYMBOL: Final = re.compile(r"(s|u|z|zf|zuf|f|v)\d+\Z")
# How torch writes a symbol with what it knows of it, and a floating point number.
_SYMBOL_CALL: Final = re.compile(
    r"Symbol\('((?:s|u|z|zf|zuf|f|v)\d+)'(?:, \w+=(?:True|False|None))*\)", re.ASCII
)
_FLOAT_CALL: Final = re.compile(r"Float\('(-?[0-9.]{1,40}(?:e[+-]?\d{1,3})?)', precision=\d{1,4}\)")
# Attribute access, and powers whose value would fill the memory.
_SUSPICIOUS: Final = re.compile(
    r"\.\s*[A-Za-z_]|[A-Za-z_)]\s*\.|\*\*\s*\(|\*\*\s*\d{3}|\*\*.*\*\*|Pow\(.*Pow\(|Pow\(.*\d{4}"
)
_TREE_TYPES: Final = frozenset({"builtins.tuple", "builtins.list", "builtins.dict", None})
_TREE_KEYS: Final = frozenset({"type", "context", "children_spec"})

Check = Callable[[Any], Any]


def clean_program(text: str) -> bytes:
    """The program `models/model.json` without what is only for people, checked for the rest.

    Raises:
        InvalidArchive: It names an operator, shape expression or type that is not known to be safe.
    """
    program = _parse("models/model.json", text)
    if not isinstance(program, dict) or not isinstance(program.get("graph_module"), dict):
        raise InvalidArchive("models/model.json is no exported program")
    # Python source that torch would compile; the runtime checks inputs by the signature instead.
    program["guards_code"] = []
    for key, holder in _members(program):
        check = _CHECKS.get(key)
        if check is not None:
            holder[key] = check(holder[key])
    return json.dumps(program, separators=(",", ":")).encode()


def clean_weights(text: str, prefix: str) -> bytes:
    """A weights or constants index whose entries are raw bytes in files named `<prefix><number>`.

    Raises:
        InvalidArchive: An entry is pickled, an object of a native class, or out of place.
    """
    index = _parse("the index of weights", text)
    entries = index.get("config") if isinstance(index, dict) else None
    if not isinstance(entries, dict):
        raise InvalidArchive("the index of weights is not valid")
    for name, entry in entries.items():
        path = entry.get("path_name") if isinstance(entry, dict) else None
        if not isinstance(path, str) or re.match(rf"{prefix}\d+\Z", path) is None:
            raise InvalidArchive(f"{name[:100]!r} is no tensor of the archive")
        if entry.get("use_pickle") is not False or not isinstance(entry.get("tensor_meta"), dict):
            raise InvalidArchive(f"{name[:100]!r} is pickled; pickled objects are not loaded")
        for key, holder in _members(entry):
            if key == "expr_str":
                _check_expression(holder[key])
    return json.dumps({"config": entries}, separators=(",", ":")).encode()


def _parse(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidArchive(f"{name} is not valid JSON") from None


def _members(root: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every key of every object below `root`, with the object."""
    stack = [root]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            for key in list(value):
                yield key, value
            stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)


def _check_operator(target: Any) -> Any:
    # `target` is also what a signature's outputs and mutations are called: these are plain names.
    if isinstance(target, dict):
        return target
    if not isinstance(target, str):
        raise InvalidArchive("an operator's name is not text")
    dotted = "." in target or target.startswith("#")
    if dotted and (
        _OPERATOR.match(target) is None or target.split(".")[-2] in _FORBIDDEN_OPERATORS
    ):
        raise InvalidArchive(f"the graph uses {target[:100]!r}, which is not served")
    return target


def _check_expression(expression: Any) -> Any:
    if not isinstance(expression, str) or len(expression) > _LONGEST_EXPRESSION:
        raise InvalidArchive("a shape expression is too long")
    plain = _FLOAT_CALL.sub("1", _SYMBOL_CALL.sub(r"\1", expression))
    known = all(word in _SYMBOLIC or _SYMBOL.match(word) for word in _WORD.findall(plain))
    if not known or not _EXPRESSION.match(plain) or _SUSPICIOUS.search(plain):
        raise InvalidArchive(f"the shape expression {expression[:100]!r} is not served")
    return expression


def _check_tree(spec: Any) -> Any:
    """A tree of arguments is JSON text: version and root node."""
    if not spec:
        return spec
    tree = _parse("a tree of arguments", spec if isinstance(spec, str) else "")
    nodes = [tree[1]] if isinstance(tree, list) and len(tree) == 2 else [None]
    while nodes:
        node = nodes.pop()
        if (
            not isinstance(node, dict)
            or not node.keys() <= _TREE_KEYS
            or node.get("type") not in _TREE_TYPES
            or "__enum__" in str(node.get("context"))
            or not isinstance(node.get("children_spec"), list)
        ):
            raise InvalidArchive("the model takes or returns something else than tensors")
        nodes.extend(node["children_spec"])
    return spec


def _refuse(what: str) -> Check:
    def check(value: Any) -> Any:
        if value:
            raise InvalidArchive(f"{what} are not served")
        return value

    return check


def _drop(_: Any) -> dict[str, Any]:
    return {}


_CHECKS: Final[dict[str, Check]] = {
    "target": _check_operator,
    "as_operator": _check_operator,
    "expr_str": _check_expression,
    "in_spec": _check_tree,
    "out_spec": _check_tree,
    "as_custom_obj": _refuse("objects of native classes"),
    "custom_obj": _refuse("objects of native classes"),
    "custom_obj_values": _refuse("objects of native classes"),
    "opaque_obj": _refuse("opaque objects"),
    "metadata": _drop,
    "treespec_namedtuple_fields": _drop,
}
