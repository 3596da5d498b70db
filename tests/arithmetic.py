"""An evaluator for the tests, built on Python's own parser: shares nothing with the one in rl/tasks/countdown.py."""

import ast
import operator
import re
from fractions import Fraction
from functools import cache

_OPS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


@cache
def value_of(expression: str) -> Fraction:
    """The exact value. Raises SyntaxError for all but whole numbers, + - * / and brackets."""
    return _value(_tree(expression))


@cache
def numbers_in(expression: str) -> tuple[int, ...]:
    """Its numbers, in no particular order. Raises as value_of does."""
    return [node.value for node in ast.walk(_tree(expression)) if isinstance(node, ast.Constant)]


def _tree(expression: str) -> ast.expr:
    """Python takes 00, 1_0 and 0x1f for numbers; countdown does not."""
    text = expression.strip(" ")
    if not re.fullmatch(r"[0-9+\-*/() ]+", text) or re.search(r"(?<![0-9])0[0-9]", text):
        raise SyntaxError(expression)
    tree = ast.parse(text, mode="eval").body
    for node in ast.walk(tree):
        if not isinstance(node, ast.BinOp | ast.Constant | ast.operator) or type(node) in (ast.Pow, ast.FloorDiv):
            raise SyntaxError(expression)
    return tree


def _value(node: ast.expr) -> Fraction:
    if isinstance(node, ast.BinOp):
        return _OPS[type(node.op)](_value(node.left), _value(node.right))
    return Fraction(node.value)
