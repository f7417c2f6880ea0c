"""What PromQL expressions name: every metric, with the labels that it is asked for or summed by."""

import re
from collections.abc import Iterator
from typing import Any

import promql_parser as promql

_SERIES = re.compile(r"^(\w+)\{(.*)\} \S+$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def names(expression: str) -> dict[str, set[str]]:
    """Return the metrics of an expression, each with the labels of its own selector and of the sums around it."""
    found: dict[str, set[str]] = {}
    for metric, labels in _named(promql.parse(expression), frozenset(), frozenset()):
        found.setdefault(metric, set()).update(labels)
    return found


def _named(node: Any, asked: frozenset[str], made: frozenset[str]) -> Iterator[tuple[str, set[str]]]:
    """Walk down; `asked` are the labels that sums above keep, `made` those that label_replace makes on the way."""
    match node:
        case promql.VectorSelector():
            own = {one.name for one in node.matchers.matchers}
            yield node.name, own | (asked - made)
        case promql.MatrixSelector():
            yield from _named(node.vector_selector, asked, made)
        case promql.AggregateExpr():
            kept = frozenset(node.modifier.labels) if node.modifier else frozenset()
            yield from _named(node.expr, kept, frozenset())  # what is above it sees only what it keeps
            if (missing := asked - kept - made) and kept:
                raise AssertionError(f"{node.prettify()} keeps {set(kept)}, and {set(missing)} is asked of it")
        case promql.Call():
            if node.func.name == "label_replace":
                made = made | {node.args[1].val}
            for argument in node.args:
                yield from _named(argument, asked, made)
        case promql.BinaryExpr():
            on = node.modifier.matching if node.modifier else None
            joined = asked | frozenset(on.labels if on else ())
            yield from _named(node.lhs, joined, made)
            yield from _named(node.rhs, joined, made)
        case promql.ParenExpr() | promql.UnaryExpr():
            yield from _named(node.expr, asked, made)


def exported(scrape: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Return the series of a scrape: of each metric its labels and value."""
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for line in scrape.splitlines():
        if match := _SERIES.match(line):
            series = (dict(_LABEL.findall(match[2])), float(line.rsplit(" ", 1)[1]))
            found.setdefault(match[1], []).append(series)
    return found
