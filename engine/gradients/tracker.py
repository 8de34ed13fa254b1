"""Follows parameters through a forward pass: every torch function called with one is seen here.

A TorchFunctionMode sees functions, not modules, so the packed in_proj_weight of nn.MultiheadAttention, a bare
`x @ text_projection` or `x + positional_embedding` is met like any nn.Linear. Parameters are replaced by
stand-ins. A function of parameters alone (a cast, a slice, a concatenation of biases) runs under autograd and
gives a *derived* tensor; where a parameter or derived tensor meets the batch, a rule (rules.py) runs the
function on its plain value and registers a hook on the result. Anything else is recorded as uncovered.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name

from traklens.engine.gradients.contract import RowsSink, Sink, sample_blocks, widen
from traklens.stores.errors import ModelError

# (number of the call, of the question in it) -> shape; question OUTPUT is what the call returned
Shapes = dict[tuple[int, int], tuple[int, ...]]
OUTPUT = -1


class Known(NamedTuple):
    """What a pass of another number of examples showed: shapes, how many examples and how many calls it had."""

    shapes: Shapes
    batch: int
    calls: int


# (gradient of the output [b, ...], input [b, ...] or None) -> gradient of the parameter [b, *shape]
Formula = Callable[[Tensor, Any], Tensor]
Rule = Callable[..., Any]


class TableFormula:
    """The formula of a table [V, d] of which a sample reads few rows, x their ids; row `pad` has no gradient."""

    def __init__(self, size: int, pad: int | None) -> None:
        self.size, self.pad = size, pad

    def rows(self, g: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of the rows read, [b, L, d], and their ids [b, L]."""
        ids = x.reshape(len(x), -1)
        values = g.reshape(*ids.shape, -1)
        return (values if self.pad is None else values * (ids != self.pad)[..., None]), ids

    def __call__(self, g: Tensor, x: Any) -> Tensor:
        """The gradient of the whole table, [b, V, d]."""
        values, ids = self.rows(g, x)
        samples, width = len(values), values.shape[-1]
        gradients = g.new_zeros(samples * self.size, width)
        offset = torch.arange(samples, device=g.device)[:, None] * self.size
        gradients.index_add_(0, (ids + offset).flatten(), values.reshape(-1, width))
        return gradients.view(samples, self.size, width)


# The second argument gives only a type or a shape.
SHAPED_LIKE = frozenset({torch.Tensor.to, torch.Tensor.type_as, torch.Tensor.view_as, torch.Tensor.reshape_as})


class NoRuleError(Exception):
    """Internal: a rule does not hold for this call. Becomes an entry in Tracker.uncovered."""


class AmbiguousBatchError(Exception):
    """Internal: more than one dimension has the size of the batch, and no shapes of one example are known."""


class Tracker(TorchFunctionMode):
    """One forward pass. `uncovered`: "name in function (reason)"; `starts`: where the graph of f begins."""

    def __init__(
        self,
        module: nn.Module,
        parameters: Mapping[str, nn.Parameter],
        rules: Mapping[Any, Rule],
        batch: int,
        sink: Sink,
        known: Known | None,
        probing: bool = False,
        rows_sink: RowsSink | None = None,
    ) -> None:
        """known: a pass with another number of examples, whose shapes tell the batch from dimensions of its size.

        probing: this is that pass, of which only the shapes count.
        """
        super().__init__()
        self.rules, self.batch, self.sink, self.known = rules, batch, sink, known
        self.probing, self.rows_sink = probing, rows_sink
        self.shapes: Shapes = {}
        self.uncovered: list[str] = []
        self.starts: list[Tensor] = []
        self._leaves = {name: p.detach().requires_grad_() for name, p in parameters.items()}
        # id -> (tensor, names of the parameters it is made of); holding the tensor keeps its id its own
        self._tracked: dict[int, tuple[Tensor, tuple[str, ...]]] = {
            id(leaf): (leaf, (name,)) for name, leaf in self._leaves.items()
        }
        self._plain = {id(leaf): leaf.detach() for leaf in self._leaves.values()}
        self._stand_in = {id(p): p.detach() for p in module.parameters()}
        self._stand_in |= {id(p): self._leaves[name] for name, p in parameters.items()}
        self._constants = {id(t) for t in (*self._stand_in.values(), *module.buffers())}
        self._call = self._question = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._call += 1
        self._question = 0
        result = self.handle(func, args, kwargs or {})
        if isinstance(result, Tensor):
            self.shapes[self._call, OUTPUT] = tuple(result.shape)
        return result

    def handle(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Run func: as it is, on parameters alone, by its rule, or (recording that) as uncovered."""
        if not any(id(t) in self._stand_in or id(t) in self._tracked for t in _tensors((args, kwargs))):
            return func(*args, **kwargs)
        args, kwargs = self._replace(tuple(args)), self._replace(dict(kwargs))
        operands = list(_tensors(args[:1] if func in SHAPED_LIKE else (args, kwargs)))
        tracked = [t for t in operands if self.is_tracked(t)]
        if not tracked or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        rule, reason = self.rules.get(func), "no rule"
        alone = all(self.is_tracked(t) or id(t) in self._constants for t in operands)
        if alone and not getattr(rule, "meets_batch_alone", False):
            return self.derive(func, args, kwargs)
        if rule is not None:
            try:
                inspect.signature(rule).bind(self, *args, **kwargs)
                return rule(self, *args, **kwargs)
            except NoRuleError as why:
                reason = str(why)
            except TypeError as why:
                reason = f"call not understood: {why}"
        names = sorted({name for t in tracked for name in self._tracked[id(t)][1]})
        self.uncovered += [f"{name} in {resolve_name(func) or func} ({reason})" for name in names]
        return func(*self._replace(args, plain=True), **self._replace(kwargs, plain=True))

    def derive(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Run func on parameters alone; autograd keeps the way back from its results to the parameters."""
        result = func(*args, **kwargs)
        names = {n for t in _tensors((args, kwargs)) if self.is_tracked(t) for n in self._tracked[id(t)][1]}
        for tensor in _tensors((result,)):
            if tensor.requires_grad and not self.is_tracked(tensor):
                self._tracked[id(tensor)] = (tensor, tuple(sorted(names)))
        return result

    @property
    def calls(self) -> int:
        """How many functions were called."""
        return self._call

    def is_tracked(self, tensor: Any) -> bool:
        return id(tensor) in self._tracked

    def plain(self, value: Any) -> Any:
        """The value of a tracked tensor without its graph; everything else as it is."""
        if not self.is_tracked(value):
            return value
        known = self._plain.get(id(value))
        return value.detach() if known is None else known

    def batch_dim(self, shape: Sequence[int], allowed: Iterable[int], *, of_output: bool = False) -> int:
        """Which of the allowed dimensions is the batch; `of_output`: of what the call returns.

        Raises NoRuleError if none can be, and AmbiguousBatchError if several can be and the shapes of a single example are
        not known. (With a single example a dimension of size one that never changes passes for the batch; what is made of
        it is then met by other calls than with several, and known by its output alone.)
        """
        key = (self._call, self._question)
        self._question += 1
        self.shapes[key] = tuple(shape)
        found = [d for d in allowed if shape[d] == self.batch]
        if self.known is not None:
            shapes = self.known.shapes
            other = shapes.get(key, shapes.get((self._call, OUTPUT), ()) if of_output else ())
            found = [d for d in found if len(other) == len(shape) and other[d] == self.known.batch]
        if not found or (len(found) > 1 and self.known is not None):
            raise NoRuleError(f"no batch dimension in shape {tuple(shape)}")
        if len(found) > 1 and self.batch > 1 and not self.probing:
            raise AmbiguousBatchError
        return found[0]

    def folded(self, shape: Sequence[int]) -> int:
        """How many rows each sample has in a dimension 0 that holds the samples one after another.

        Raises NoRuleError where it holds something else, AmbiguousBatchError while the shapes of one example are not known.
        """
        key = (self._call, self._question)
        self._question += 1
        self.shapes[key] = tuple(shape)
        length, rest = divmod(shape[0], self.batch)
        if self.batch == 1 or (self.probing and not rest):
            return length
        if self.known is None and not self.probing:
            raise AmbiguousBatchError
        if rest or self.known is None or self.known.shapes.get(key, (0,))[0] != length * self.known.batch:
            raise NoRuleError(f"no batch in {shape[0]} rows")
        return length

    def watch(
        self, output: Tensor, batch_dim: int, saved: Tensor | None, formulas: Sequence[tuple[Any, Formula]]
    ) -> Tensor:
        """Hand the per-sample gradients of tracked tensors in `formulas` to the sink in the backward pass.

        saved: the function's input, with the batch in the same dimension as in the output.
        Returns the output, part of the graph of f even where neither input nor parameter requires grad.
        """
        if not output.requires_grad:
            self.starts.append(output.requires_grad_())
            output = output.clone()  # a leaf could not be modified in place by what follows
        kept = None if saved is None else saved.detach()
        version = None if saved is None else saved._version

        def hook(gradient: Tensor) -> None:
            nonlocal kept
            value, kept = kept, None  # freed as soon as it is used, like autograd's own saved tensors
            if value is not None and value._version != version:
                raise ModelError(
                    "per-sample gradients by hooks",
                    f"an input of shape {tuple(value.shape)} changed in place after its layer used it",
                    "inputs that stay as they were until the backward pass",
                    "Use the strategy 'single' for this model.",
                )
            with torch.no_grad():
                g = widen(gradient).movedim(batch_dim, 0)
                x = None if value is None else widen(value).movedim(batch_dim, 0)
                for tensor, formula in formulas:
                    if self.is_tracked(tensor):
                        self._hand_over(tensor, formula, g, x)

        output.register_hook(hook)
        return output

    def _hand_over(self, tensor: Tensor, formula: Formula, g: Tensor, x: Tensor | None) -> None:
        names = self._tracked[id(tensor)][1]
        leaves = [self._leaves[name] for name in names]
        if isinstance(formula, TableFormula) and x is not None and tensor is leaves[0] and self.rows_sink is not None:
            self.rows_sink(names[0], *formula.rows(g, x), slice(0, self.batch))
            return
        largest = max(tensor.numel(), *(leaf.numel() for leaf in leaves))
        for rows in sample_blocks(self.batch, largest, g.device, g.element_size()):
            gradients = formula(g[rows], None if x is None else x[rows])
            if tensor is leaves[0]:
                self.sink(names[0], gradients.reshape(gradients.shape[0], -1), rows)
                continue
            back = torch.autograd.grad(
                tensor,
                leaves,
                gradients.to(tensor.dtype),
                retain_graph=True,
                allow_unused=True,
                is_grads_batched=True,
            )
            for name, part in zip(names, back, strict=True):
                if part is not None:
                    self.sink(name, widen(part).reshape(part.shape[0], -1), rows)

    def _replace(self, value: Any, plain: bool = False) -> Any:
        """Every parameter in nested arguments by its stand-in, or every tracked tensor by its plain value."""
        if isinstance(value, Tensor):
            return self.plain(value) if plain else self._stand_in.get(id(value), value)
        if type(value) in (tuple, list):
            return type(value)(self._replace(item, plain) for item in value)
        if type(value) is dict:
            return {key: self._replace(item, plain) for key, item in value.items()}
        return value


def _tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested tuples, lists and dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
