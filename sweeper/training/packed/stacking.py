"""Which models can be trained as one: the same modules, differing in weights and rates alone."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.module import register_module_forward_pre_hook

from sweeper.training.device import is_out_of_memory
from sweeper.training.dropout import Draws, SharedDropout, share_draws
from sweeper.training.layout import Layout, Named, layout_of
from sweeper.training.packed.chain import Link, chain_of

# Rows on which a stacked model is tried against itself alone.
_TRIED_ROWS: Final = 4
# In relative norm, in float32: their sums run in another order.
_TOLERANCE: Final = 1e-3
_CONVOLUTIONS: Final = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Unstackable(Exception):
    """A model has to be trained alone; the text names the module and the reason."""


@dataclass(frozen=True, eq=False)
class Architecture:
    """Models that differ in weights, buffers and dropout rates alone; `model` is one of them.

    Parameters of `layout` are trained; those that get no gradient stay as they are, like buffers.
    """

    model: nn.Module
    draws: Draws
    skeleton: Any
    layout: Layout

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        """The names of all parameters, in the order of torch's optimisers."""
        return tuple(name for name, _ in self.model.named_parameters())

    @cached_property
    def stored(self) -> dict[str, str]:
        """Each name in a model's state, and the first name of the tensor that it is of."""
        first = {id(of): name for name, of in reversed([*_tensors(self.model)])}
        state = self.model.state_dict(keep_vars=True)
        return {name: first[id(of)] for name, of in state.items() if id(of) in first}

    @cached_property
    def _chain(self) -> tuple[Link, ...] | None:
        return chain_of(self.model)

    def taken(self, model: nn.Module) -> tuple[Tensor, Named]:
        """Return copies of a model's trained weights, as a row, and of its other tensors."""
        tensors = {name: of.detach().clone() for name, of in _tensors(model)}
        first = tensors[self.layout.names[0]]
        weights = first.new_zeros(self.layout.width)
        for name, part in self.layout.parts(weights).items():
            part.copy_(tensors.pop(name))
        return weights, tensors

    def drops(self, buffers: Named) -> bool:
        """Return whether any of stacked models has a dropout rate above 0."""
        named = self.model.named_modules()
        rates = [f"{name}.p".lstrip(".") for name, of in named if isinstance(of, SharedDropout)]
        return any(bool((buffers[rate] > 0).any()) for rate in rates)

    def forward(self, parameters: Named, buffers: Named, inputs: Tensor) -> Tensor:
        """Return the logits (T, N, K) of stacked models for their inputs (T, N, ...)."""
        if self._chain is not None:
            tensors = {**buffers, **parameters}
            for link in self._chain:
                inputs = link(inputs, tensors)
            return inputs
        with sdpa_kernel(SDPBackend.MATH):  # the others have no rule for stacked inputs
            logits: Tensor = vmap(self._one)(parameters, buffers, inputs)
        return logits

    def _one(self, parameters: Named, buffers: Named, inputs: Tensor) -> Any:
        return functional_call(self.model, (parameters, buffers), (inputs,))

    @contextmanager
    def mode(self, *, training: bool, dropping: bool) -> Iterator[None]:
        """Train or evaluate in the block; `dropping` says whether any rate is above 0."""
        for module in self.model.modules():
            if isinstance(module, SharedDropout):
                module.acts = dropping
        self.model.train(training)
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)  # it has no rule for stacked inputs
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)


def architecture_of(fresh: Callable[[], nn.Module], inputs: Tensor) -> Architecture:
    """Return how models like the one that `fresh` makes are stacked.

    Raises `Unstackable`, with the module and the reason, where they cannot be: what stacked
    models give for a few of the inputs, and their gradients, are compared with one alone.
    """
    model, alone = fresh(), fresh()
    draws, own = share_draws(model), share_draws(alone)
    with _failing_module(alone, stacked=False):
        logits, gradients = _tried_alone(alone, own, inputs[:_TRIED_ROWS])
    _check_types(model, gradients)
    layout = layout_of({n: p for n, p in model.named_parameters() if n in gradients})
    found = Architecture(model, draws, skeleton(model), layout)
    loop_convolutions(model)
    with _failing_module(model, stacked=True):
        _check_same(found, inputs[:_TRIED_ROWS], logits, gradients)
    return found


def skeleton(model: nn.Module) -> list[tuple[Any, ...]]:
    """Return all of a model but its weights and buffers: equal for models that are stacked.

    Raises `Unstackable` for weights that have no shape yet.
    """
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise Unstackable(f"{name} has no shape before the first batch")
    return [
        (name, type(module), _settings(module), _shapes(module))
        for name, module in model.named_modules()
    ]


def _settings(module: nn.Module) -> dict[str, Any]:
    shared = ("acts", "draws") if isinstance(module, SharedDropout) else ()
    kept = ("_forward_hooks", "_forward_pre_hooks")
    return {
        key: value
        for key, value in vars(module).items()
        if key in kept or not (key.startswith("_") or key in ("training", *shared))
    }


def _shapes(module: nn.Module) -> dict[str, Any]:
    own = {**module._parameters, **module._buffers}
    return {key: None if of is None else (of.shape, of.dtype) for key, of in own.items()}


def loop_convolutions(model: nn.Module) -> None:
    """Let stacked convolutions on the CPU be computed model by model.

    As one grouped convolution their last bits would depend on how many are stacked, and they
    are no quicker.
    """
    for module in model.modules():
        if type(module) in _CONVOLUTIONS:
            original: Any = module._conv_forward
            setattr(module, "_conv_forward", partial(_Each.apply, original))  # noqa: B010


class _Each(torch.autograd.Function):
    """A function applied to stacked tensors model by model; `vmap` sees them all at once."""

    @staticmethod
    def forward(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        raise NotImplementedError("only stacked models come here")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        raise NotImplementedError("only stacked models come here")

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, function: Callable[..., Tensor], *tensors: Tensor | None
    ) -> tuple[Tensor, int]:
        if any(t is not None and t.is_cuda for t in tensors):
            return vmap(function, in_dims[1:])(*tensors), 0
        each = [
            None if t is None else (t.unbind(d) if d is not None else [t] * info.batch_size)
            for t, d in zip(tensors, in_dims[1:], strict=True)
        ]
        return torch.stack(
            [
                function(*(None if of is None else of[number] for of in each))
                for number in range(info.batch_size)
            ]
        ), 0


def _tried_alone(model: nn.Module, draws: Draws, inputs: Tensor) -> tuple[Tensor, Named]:
    draws.begin([1])
    logits = model.train()(inputs)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(_tried_loss(logits), list(trained.values()), allow_unused=True)
    return logits.detach(), {
        name: gradient
        for name, gradient in zip(trained, found, strict=True)
        if gradient is not None
    }


def _tried_loss(logits: Tensor) -> Tensor:
    return logits.float().log_softmax(-1).square().mean((-1, -2)).sum()


def _check_types(model: nn.Module, trained: Mapping[str, Any]) -> None:
    kinds = {str(p.dtype) for name, p in model.named_parameters() if name in trained}
    if len(kinds) != 1:
        raise Unstackable(f"its trained parameters are of {len(kinds)} types, not of one")


def _check_same(found: Architecture, inputs: Tensor, logits: Tensor, gradients: Named) -> None:
    """Raise `Unstackable` unless two stacked copies do what the model does alone."""
    weights, others = found.taken(found.model)
    twice = torch.stack([weights, weights])
    parameters = {name: p.requires_grad_() for name, p in found.layout.parts(twice).items()}
    buffers = {name: torch.stack([of, of]) for name, of in others.items()}
    found.draws.begin([1, 1])
    both = inputs.expand(2, *inputs.shape)
    with found.mode(training=True, dropping=found.drops(buffers)):
        given = found.forward(parameters, buffers, both)
    of_both = torch.autograd.grad(_tried_loss(given), list(parameters.values()))
    # Of all gradients together: that of a bias before a normalisation is nothing but rounding.
    scale = torch.stack([gradient.float().norm() for gradient in gradients.values()]).norm()
    for place in (0, 1):
        _check_near("its outputs", given[place], logits, logits.float().norm())
        for name, one in zip(gradients, of_both, strict=True):
            _check_near(f"the gradient of {name}", one[place], gradients[name], scale)
    with torch.inference_mode(), found.mode(training=False, dropping=False):
        found.forward(parameters, buffers, both)


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield every parameter and buffer of a model, once each, by its first name."""
    yield from model.named_parameters()
    yield from model.named_buffers()


def _check_near(what: str, stacked: Tensor, alone: Tensor, scale: Tensor) -> None:
    difference = (stacked.detach().float() - alone.float()).norm()
    if not difference <= _TOLERANCE * scale:
        raise Unstackable(f"{what} are others when it is stacked")


@contextmanager
def _failing_module(model: nn.Module, *, stacked: bool) -> Iterator[None]:
    """Make what a module raises when it is stacked an `Unstackable` that names the module."""
    names = {module: name for name, module in model.named_modules()}
    entered = ""

    def enter(module: nn.Module, _: Any) -> None:
        nonlocal entered
        if module in names:
            entered = f"{names[module] or 'the model'} ({type(module).__name__})"

    with ExitStack() as stack:
        stack.callback(register_module_forward_pre_hook(enter).remove)
        try:
            yield
        except Exception as error:
            if not stacked or isinstance(error, Unstackable) or is_out_of_memory(error):
                raise
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise Unstackable(f"{entered}: {reason}") from error
