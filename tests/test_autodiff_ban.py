"""Reads the source of the package: one module calls `torch.func`, and no derivative is composed wrongly.

The rule, from what is measured in `test_autodiff.py`: the only derivative that may be differentiated again is
one in reverse mode that is not under a vmap. So jvp of grad is right; grad of jvp, jacfwd of jacfwd, jvp or
jacrev of jacrev (which is vmap of vjp) and jvp of per-sample gradients are wrong on LayerNorm.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import deltatheory

PACKAGE = Path(deltatheory.__file__).parent
OWNER = "autodiff.py"

REVERSE = {"grad", "grad_and_value", "value_and_grad", "vjp"}
FINAL = {"jvp", "jacfwd", "jacrev", "hvp", "gauss_newton_product", "jacobian_rows"}
OPERATORS = REVERSE | FINAL
BATCHED = "vmap of a reverse-mode derivative"
BANNED_NAMES = {"hessian", "linearize"}
BANNED_MODULES = ("torch.func", "functorch", "torch._functorch", "torch.autograd.functional")
BANNED_MODULES += ("torch.autograd.forward_ad",)


def dotted(node: ast.AST) -> str:
    """Return `a.b.c` for a chain of names, "" for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (left := dotted(node.value)):
        return f"{left}.{node.attr}"
    return ""


def banned_module(name: str) -> bool:
    return any(name == module or name.startswith(module + ".") for module in BANNED_MODULES)


def imports(tree: ast.AST) -> Iterator[str]:
    """Yield every banned module that is imported, reached as an attribute, or named to an import function."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Attribute):
            names = [dotted(node)]
        elif isinstance(node, ast.Call) and dotted(node.func).split(".")[-1] in (
            "import_module",
            "__import__",
        ):
            names = [str(arg.value) for arg in node.args if isinstance(arg, ast.Constant)]
        elif isinstance(node, ast.Call) and dotted(node.func) == "getattr" and len(node.args) > 1:
            names = [f"{dotted(node.args[0])}.{getattr(node.args[1], 'value', '')}"]
        yield from (f"line {node.lineno}: {name}" for name in names if banned_module(name))


class Compositions:
    """Which derivatives a function takes, through lambdas, local functions, aliases and factories."""

    def __init__(self, tree: ast.AST) -> None:
        self.tree = tree
        self.alias: dict[str, str] = {}
        self.bodies: dict[str, list[ast.AST]] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                self.alias |= {a.asname or a.name: a.name for a in node.names}
            elif isinstance(node, ast.FunctionDef):
                self.bodies.setdefault(node.name, []).extend(node.body)
            elif isinstance(node, ast.Assign):
                for target in node.targets:
                    self._assign(target, node.value)

    def _assign(self, target: ast.AST, value: ast.AST) -> None:
        for name in (n.id for n in ast.walk(target) if isinstance(n, ast.Name)):
            if isinstance(value, ast.Name | ast.Attribute):
                self.alias.setdefault(name, dotted(value).split(".")[-1])
            elif isinstance(value, ast.Lambda) or (
                isinstance(value, ast.Call) and self._returns_function(value)
            ):
                self.bodies.setdefault(name, []).append(value)

    def _returns_function(self, call: ast.Call) -> bool:
        name = self.name(call.func)  # f(x, pullback) = vjp(...), g = grad(f), h = partial(f), b = vmap(f)
        return name in ("vjp", "vmap", "partial") or (name in OPERATORS and len(call.args) == 1)

    def name(self, node: ast.AST) -> str:
        """Return the last part of a name, through aliases; autograd's own `grad` is not an operator."""
        chain = dotted(node)
        last = chain.split(".")[-1]
        if "autograd." in chain:
            return ""
        seen: set[str] = set()
        while last in self.alias and last not in OPERATORS and last not in seen:
            seen.add(last)
            last = self.alias[last]
        return last

    def kinds(self, node: ast.AST, seen: frozenset[str] = frozenset()) -> set[str]:
        """Return the derivatives taken when this expression or statement runs."""
        found: set[str] = set()
        for part in ast.walk(node):
            if isinstance(part, ast.Call):
                name = self.name(part.func)
                if name in OPERATORS:
                    found.add(name)
                if name == "vmap" and part.args and self.kinds(part.args[0], seen) & (REVERSE | {BATCHED}):
                    found.add(BATCHED)
            if isinstance(part, ast.Name | ast.Attribute) and isinstance(part.ctx, ast.Load):
                name = self.name(part)
                # A method may be called as an operator is (`problem.jvp`): its body is looked at by itself.
                if name in self.bodies and name not in OPERATORS and name not in seen:
                    for body in self.bodies[name]:
                        found |= self.kinds(body, seen | {name})
        return found

    def banned_names(self) -> Iterator[str]:
        """Yield every use of a torch.func operator that is wrong or fails by itself."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Name | ast.Attribute) and self.name(node) in BANNED_NAMES:
                yield f"line {node.lineno}: {self.name(node)}"

    def violations(self) -> Iterator[str]:
        """Yield every derivative of a derivative that may not be differentiated again."""
        for node in ast.walk(self.tree):
            if not (isinstance(node, ast.Call) and self.name(node.func) in OPERATORS):
                continue
            outer = self.name(node.func)
            functions = [*node.args[:1], *(k.value for k in node.keywords if k.arg in ("f", "func"))]
            for function in functions:
                # A value, such as jvp(...)[1] or grad(f, x), is no function: nothing is composed.
                value = isinstance(function, ast.Subscript) or (
                    isinstance(function, ast.Call)
                    and self.name(function.func) in OPERATORS
                    and len(function.args) > 1
                )
                inner = set() if value else self.kinds(function) & (FINAL | {BATCHED})
                if inner:
                    yield f"line {node.lineno}: {outer} of {', '.join(sorted(inner))}"


def complaints(source: str, owner: bool) -> list[str]:
    """Return what is wrong with the source of one module; `owner` may import torch.func."""
    tree = ast.parse(source)
    compositions = Compositions(tree)
    return [*(compositions.banned_names() if owner else imports(tree)), *compositions.violations()]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_package(path):
    assert complaints(path.read_text(encoding="utf-8"), owner=path == PACKAGE / OWNER) == []


@pytest.mark.parametrize(
    "source",
    [
        "import torch.func",
        "import torch.func as tf",
        "from torch.func import grad",
        "from torch import func",
        "import functorch",
        "from functorch import vmap",
        "from torch._functorch.apis import vmap",
        "import torch\ny = torch.func.vmap(f)(x)",
        "from torch.autograd import functional",
        "from torch.autograd.functional import hvp",
        "import torch.autograd.forward_ad as fwAD",
        "from torch.autograd import forward_ad",
        "import torch\nh = torch.autograd.functional.hessian(f, x)",
        "import importlib\ntf = importlib.import_module('torch.func')",
        "tf = __import__('functorch')",
        "import torch\ntf = getattr(torch, 'func')",
    ],
)
def test_mutants_that_reach_torch_func_are_rejected(source):
    assert complaints(source, owner=False)


FUNC = "import torch.func as tf\n"
WRONG = {
    "hessian": "y = tf.hessian(f)(x)",
    "hessian imported": "from torch.func import hessian as curvature\ny = curvature(f)(x)",
    "linearize": "y, push = tf.linearize(f, x)",
    "grad of jvp": "y = tf.grad(lambda x: tf.jvp(f, (x,), (v,))[1])(x)",
    "vjp of jvp": "y = tf.vjp(lambda x: tf.jvp(f, (x,), (v,))[1], x)",
    "jacfwd of jacfwd": "y = tf.jacfwd(tf.jacfwd(f))(x)",
    "jvp of jvp": "y = tf.jvp(lambda x: tf.jvp(f, (x,), (v,))[1], (x,), (v,))",
    "jvp of jacrev": "y = tf.jvp(tf.jacrev(f), (x,), (v,))",
    "jacfwd of jacrev": "y = tf.jacfwd(tf.jacrev(f))(x)",
    "jacrev of jacrev": "y = tf.jacrev(tf.jacrev(f))(x)",
    "keyword": "y = tf.grad(func=tf.jacfwd(f))(x)",
    "from-import with alias": "from torch.func import grad as g, jvp as d\n"
    "y = g(lambda x: d(f, (x,), (v,))[1])",
    "assigned alias": "d = tf.jvp\ny = tf.grad(lambda x: d(f, (x,), (v,))[1])(x)",
    "local function": "def s(x):\n    return tf.jvp(f, (x,), (v,))[1]\ny = tf.grad(s)(x)",
    "two functions deep": "def s(x):\n    return tf.jvp(f, (x,), (v,))[1]\ndef t(x):\n    return s(x) ** 2\n"
    "y = tf.grad(t)(x)",
    "assigned lambda": "s = lambda x: tf.jvp(f, (x,), (v,))[1]\ny = tf.grad(s)(x)",
    "assigned operator": "j = tf.jacrev(f)\ny = tf.jvp(j, (x,), (v,))",
    "factory": "def make(f):\n    def s(x):\n        return tf.jvp(f, (x,), (v,))[1]\n    return s\n"
    "y = tf.grad(make(f))(x)",
    "partial": "from functools import partial\n"
    "y = tf.grad(partial(lambda v, x: tf.jvp(f, (x,), (v,))[1], v))(x)",
    "method": "class P:\n    def slope(self, x):\n        return tf.jvp(f, (x,), (v,))[1]\n"
    "    def curve(self, x):\n        return tf.grad(self.slope)(x)",
    "per-sample gradients": "y = tf.jvp(lambda x: tf.vmap(tf.grad(f), (None, 0))(x, data), (x,), (v,))",
    "vmap of a pullback": "def rows(x):\n    y, back = tf.vjp(f, x)\n    return tf.vmap(back)(e)\n"
    "y = tf.jvp(rows, (x,), (v,))",
}


@pytest.mark.parametrize("name", WRONG)
def test_mutants_with_a_wrong_composition_are_rejected(name):
    assert complaints(FUNC + WRONG[name], owner=True)


@pytest.mark.parametrize(
    "source",
    [
        "from deltatheory import autodiff\ny = autodiff.grad(lambda x: autodiff.jvp(f, x, v)[1], x)",
        "from deltatheory.autodiff import grad, hvp\ny = grad(lambda x: v @ hvp(f, x, v), x)",
        "from deltatheory.autodiff import hvp, jvp\ny = hvp(lambda x: jvp(f, x, v)[1].sum(), x, v)",
        "from deltatheory import autodiff\n"
        "y = autodiff.jvp(lambda x: next(autodiff.jacobian_rows(f, x)), x, v)",
        "class P:\n    def energy(self, d):\n        return self.problem.jvp(d, v)[1].sum()\n"
        "    def slope(self, d):\n        return grad(self.energy, d)",
    ],
)
def test_mutants_that_compose_this_module_are_rejected(source):
    assert complaints(source, owner=False)


@pytest.mark.parametrize(
    "source",
    [
        "y = tf.jvp(tf.grad(f), (x,), (v,))[1]",
        "y = tf.vmap(lambda v: tf.jvp(tf.grad(f), (x,), (v,))[1])(vs)",
        "y = tf.jacrev(tf.grad(f))(x)",
        "y = tf.jvp(tf.grad(lambda x: tf.vmap(f)(x).sum()), (x,), (v,))",
        "y, back = tf.vjp(f, x)\nrows = tf.vmap(back)(e)",
        "p.grad.zero_()\ny = tf.grad(f)(x)",
        "y = torch.autograd.grad(tf.jvp(f, (x,), (v,))[1], x)",
    ],
)
def test_right_compositions_are_accepted(source):
    assert complaints(FUNC + source, owner=True) == []


@pytest.mark.parametrize(
    "source",
    [
        "from deltatheory import autodiff\ny = autodiff.jvp(f, x, autodiff.grad(g, x))",
        "y = problem.vjp(problem.jvp(d, v)[1])",
        "y = system.hessian(x)",
        "import torch.nn.functional as F\nfrom torch import nn",
    ],
)
def test_ordinary_code_is_accepted(source):
    assert complaints(source, owner=False) == []
