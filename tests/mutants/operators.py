"""The small mistakes that are put into the code, one at a time."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from types import CodeType

COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
ARITHMETIC = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip
PAIRS = ("min max", "any all", "amin amax", "argmin argmax", "floor ceil", "lower upper", "startswith endswith",
         "lstrip rstrip", "zeros_like ones_like", "zeros ones", "find rfind")  # fmt: skip
STABLE = "stable"  # a keyword that is left alone: on a CPU every sort is stable, and only a GPU would show it
NAMES = {a: b for pair in PAIRS for a, b in (pair.split(), reversed(pair.split()))}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
PASSED_OVER = ("lru_cache", "TypeVar", "add")  # calls; `add` is a parser's add_argument where a command has it so
READERS = ("jit",)  # decorators that read a function's source text, and never run its code


@dataclass(frozen=True)
class Mutant:
    """One mistake.

    `function` is (name, first line) of the outermost function around it; None outside of functions, and in those of
    whose code nothing is run, because a decorator reads their source. `number` counts those that would be called the
    same, from 1; 0 where there is no other.
    """

    path: str
    where: str
    line: int
    statement: tuple[int, int]
    function: tuple[str, int] | None
    before: str
    after: str
    tree: ast.Module
    node: ast.AST
    wrong: ast.AST
    number: int = 0

    def __str__(self) -> str:
        return f"{self.path}:{self.line} {self.label}"

    @property
    def label(self) -> str:
        return f"{self.where}: {self.before} -> {self.after}" + f" #{self.number}" * bool(self.number)

    @property
    def name(self) -> str:
        """What it is known by in the list of equivalents: no line numbers, which move."""
        return f"{self.path} {self.label}"

    def code(self) -> CodeType:
        """The mistaken module, compiled; every line has the number it had."""
        with self.mistaken() as tree:
            return compile(tree, self.path, "exec", dont_inherit=True)

    def source(self) -> str:
        """The mistaken module as text."""
        with self.mistaken() as tree:
            return ast.unparse(tree)

    @contextmanager
    def mistaken(self) -> Iterator[ast.Module]:
        kind, right = type(self.node), vars(self.node).copy()
        place = {key: value for key, value in right.items() if key.endswith(("lineno", "offset"))}
        wrong = vars(self.wrong).copy()
        try:
            become(self.node, type(self.wrong), wrong | place)
            yield ast.fix_missing_locations(self.tree)
        finally:
            become(self.node, kind, right)


def become(node: ast.AST, kind: type[ast.AST], fields: dict[str, object]) -> None:
    node.__class__ = kind  # type: ignore[assignment]
    vars(node).clear()
    vars(node).update(fields)


def mutants(path: str, source: str) -> list[Mutant]:
    """All mutants of a module, in the order of its lines."""
    tree = ast.parse(source)
    finder = Finder(path, tree)
    finder.visit(tree)
    found = sorted(finder.found, key=lambda mutant: mutant.line)
    several, counted = Counter(mutant.name for mutant in found), Counter[str]()
    for place, mutant in enumerate(found):
        if several[mutant.name] > 1:
            counted[mutant.name] += 1
            found[place] = replace(mutant, number=counted[mutant.name])
    return found


def listed(line: str) -> list[tuple[str, str]]:
    """The mistakes that a line of equivalent.txt names, each with the reason; ` #1,3` names two of the same name."""
    names, _, why = line.rpartition(" | ")
    name, _, numbers = names.rpartition(" #")
    if name and re.fullmatch(r"\d+(,\d+)*", numbers):
        return [(f"{name} #{number}", why) for number in numbers.split(",")]
    return [(names, why)]


def lacking(tree: ast.Module) -> str:
    """A package that loading the module takes and that is not installed; empty: there is none."""
    names = [alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in tree.body if isinstance(node, ast.ImportFrom) and node.module and not node.level]
    roots = (name.partition(".")[0] for name in names)
    return next((root for root in roots if find_spec(root) is None), "")


class Finder(ast.NodeVisitor):
    def __init__(self, path: str, tree: ast.Module) -> None:
        self.path, self.tree = path, tree
        self.found: list[Mutant] = []
        self.names: list[str] = []
        self.function: tuple[str, int] | None = None
        self.statement: ast.AST = tree.body[0]

    # -- what is looked at ---------------------------------------------------------------------------------------------

    def visit(self, node: ast.AST) -> None:
        if isinstance(node, FUNCTIONS):
            self.in_function(node)
            return
        if isinstance(node, ast.ClassDef):
            self.statement = node
            self.names.append(node.name)
            self.each([*node.decorator_list, *node.body])
            self.names.pop()
            return
        outer = self.statement
        if isinstance(node, ast.stmt | ast.excepthandler):
            self.statement = node
        if not self.passed_over(node):
            for wrong in changes(node):
                self.add(node, wrong)
            for name, value in ast.iter_fields(node):
                if name in ("annotation", "returns", "format_spec", "exc"):  # types and messages
                    continue
                if negative(node):  # one number
                    continue
                self.each(value if isinstance(value, list) else [value])
        self.statement = outer

    def each(self, nodes: list[object]) -> None:
        for node in nodes:
            if isinstance(node, ast.AST):
                self.visit(node)

    def in_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self.statement = node
        # Defaults and decorators are evaluated when the function is made, not when it is called.
        self.each([*node.decorator_list, *node.args.defaults, *node.args.kw_defaults])
        outer = self.function
        first = node.decorator_list[0].lineno if node.decorator_list else node.lineno
        self.names.append(node.name)
        if outer is None and not any(read(decorator) for decorator in node.decorator_list):
            self.function = (node.name, first)
        self.each(list(node.body))
        self.names.pop()
        self.function = outer

    @staticmethod
    def passed_over(node: ast.AST) -> bool:
        """Docstrings, imports, assertions, what only mypy reads, how much a cache holds, help of the command line."""
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return True
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("add_argument", "add_argument_group")
        ):
            return True
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in PASSED_OVER:
            return True
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return True
        if isinstance(node, ast.keyword) and node.arg == STABLE:
            return True
        return isinstance(node, ast.Import | ast.ImportFrom | ast.Assert | ast.JoinedStr)

    # -- what is changed -----------------------------------------------------------------------------------------------

    def add(self, node: ast.AST, wrong: ast.AST) -> None:
        shown = [ast.unparse(part).split("\n")[0][:150] for part in (node, wrong)]
        line = node.lineno if hasattr(node, "lineno") else self.statement.lineno  # type: ignore[attr-defined]
        ends = (min(line, self.statement.lineno), last_line(self.statement))  # type: ignore[attr-defined]
        where = ".".join(self.names) or "module"
        self.found.append(Mutant(self.path, where, line, ends, self.function, *shown, self.tree, node, wrong))


def read(decorator: ast.expr) -> bool:
    """Whether a decorator is one of READERS, called or not."""
    named = decorator.func if isinstance(decorator, ast.Call) else decorator
    return ast.unparse(named).rpartition(".")[2] in READERS


def last_line(statement: ast.AST) -> int:
    """The last line of a statement's own part: of `if` and `for` the head, not the body."""
    body = getattr(statement, "body", None)
    if isinstance(body, list) and body:
        return max(statement.lineno, body[0].lineno - 1)  # type: ignore[attr-defined]
    return statement.end_lineno  # type: ignore[attr-defined, no-any-return]


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """Every way in which this node alone can be wrong."""
    match node:
        case ast.Compare():
            for i, op in enumerate(node.ops):
                if type(op) in COMPARISONS:
                    ops = [*node.ops[:i], COMPARISONS[type(op)](), *node.ops[i + 1 :]]
                    yield ast.Compare(node.left, ops, node.comparators)
        case ast.BoolOp():
            yield ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=value)) if negative(node):
            yield ast.Constant(1 - value)  # type: ignore[operator]
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.Invert()):
            yield node.operand
        case ast.BinOp() if type(node.op) in ARITHMETIC:
            yield ast.BinOp(node.left, ARITHMETIC[type(node.op)](), node.right)
        case ast.AugAssign() if type(node.op) in ARITHMETIC:
            yield ast.AugAssign(node.target, ARITHMETIC[type(node.op)](), node.value)
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value) | float(value)):
            yield ast.Constant(value + 1)
        case ast.Constant(value=str(value)):
            yield ast.Constant(f"XX{value}XX")
        case ast.Name() if node.id in NAMES:
            yield ast.Name(NAMES[node.id], node.ctx)
        case ast.Attribute() if node.attr in NAMES:
            yield ast.Attribute(node.value, NAMES[node.attr], node.ctx)
        case ast.If(test=test) if plain(test):
            yield ast.If(negated(test), node.body, node.orelse)
        case ast.While(test=test) if plain(test):
            yield ast.While(negated(test), node.body, node.orelse)
        case ast.IfExp(test=test) if plain(test):
            yield ast.IfExp(negated(test), node.body, node.orelse)
        case ast.comprehension(ifs=[_, *_]):
            for i, test in enumerate(node.ifs):
                if plain(test):
                    ifs = [*node.ifs[:i], negated(test), *node.ifs[i + 1 :]]
                    yield ast.comprehension(node.target, node.iter, ifs, node.is_async)
        case ast.Return(value=ast.expr() as value) if not (isinstance(value, ast.Constant) and value.value is None):
            yield ast.Return(ast.Constant(None))
        case ast.Raise() | ast.Expr(value=ast.Call()) | ast.Delete():
            yield ast.Pass()
        case ast.Break():
            yield ast.Continue()
        case ast.Continue():
            yield ast.Break()
        case ast.Call(keywords=[_, *_]):
            for i, keyword in enumerate(node.keywords):
                if keyword.arg and keyword.arg != STABLE:
                    yield ast.Call(node.func, node.args, [*node.keywords[:i], *node.keywords[i + 1 :]])


def negative(node: ast.AST) -> bool:
    """A number with its minus: of a last axis, say, which is axis 1 where there are two."""
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant)


def plain(test: ast.expr) -> bool:
    """A condition that no other change turns round."""
    return not isinstance(test, ast.Compare | ast.BoolOp | ast.UnaryOp)


def negated(test: ast.expr) -> ast.expr:
    return ast.UnaryOp(ast.Not(), test)
