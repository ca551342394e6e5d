"""Stack models with the same modules that differ only in weights, buffers and dropout rates."""

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
from sweeper.training.dropout import DropoutDraws, SharedDropout, share_draws
from sweeper.training.layout import Layout, Named, layout_of
from sweeper.training.packed.chain import Link, chain_of
from sweeper.training.precision import FLOAT32, autocast, wide

# Number of rows on which a stacked model is compared with an unstacked one.
_COMPARED_ROWS: Final = 4
# Relative norm of the difference by precision; it is not 0, because sums run in another order.
_TOLERANCES: Final = {"float32": 1e-3, "bf16": 5e-2}
_CONVOLUTIONS: Final = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Unstackable(Exception):
    """A model cannot be stacked and must be trained alone; the text says why."""


@dataclass(frozen=True, eq=False)
class Architecture:
    """A set of models that differ only in weights, buffers and dropout rates.

    `model` is one of them. `layout` contains the trained parameters. Parameters that get no
    gradient are not trained and are treated like buffers.
    """

    model: nn.Module
    draws: DropoutDraws
    skeleton: Any
    layout: Layout
    precision: str = FLOAT32

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        """The names of all parameters, in the order of `named_parameters`."""
        return tuple(name for name, _ in self.model.named_parameters())

    @cached_property
    def stored(self) -> dict[str, str]:
        """Map each name in the state dict to the first name of the same tensor."""
        first = {id(tensor): name for name, tensor in reversed([*_tensors(self.model)])}
        state = self.model.state_dict(keep_vars=True)
        return {name: first[id(tensor)] for name, tensor in state.items() if id(tensor) in first}

    @cached_property
    def _chain(self) -> tuple[Link, ...] | None:
        return chain_of(self.model)

    def tensors_of(self, model: nn.Module) -> tuple[Tensor, Named]:
        """Return copies of a model's trained weights, as a row (width,), and of other tensors."""
        tensors = {name: tensor.detach().clone() for name, tensor in _tensors(model)}
        first = tensors[self.layout.names[0]]
        weights = first.new_zeros(self.layout.width)
        for name, part in self.layout.parts(weights).items():
            part.copy_(tensors.pop(name))
        return weights, tensors

    def drops(self, buffers: Named) -> bool:
        """Return whether any of the stacked models has a dropout rate above 0."""
        rates = [
            f"{name}.p".lstrip(".")
            for name, module in self.model.named_modules()
            if isinstance(module, SharedDropout)
        ]
        return any(bool((buffers[rate] > 0).any()) for rate in rates)

    def forward(self, parameters: Named, buffers: Named, inputs: Tensor) -> Tensor:
        """Return the logits (T, N, K) of stacked models for their inputs (T, N, ...)."""
        with autocast(self.precision, inputs.device):
            return wide(self.precision, self._forward(parameters, buffers, inputs))

    def _forward(self, parameters: Named, buffers: Named, inputs: Tensor) -> Tensor:
        if self._chain is not None:
            tensors = {**buffers, **parameters}
            for link in self._chain:
                inputs = link(inputs, tensors)
            return inputs
        with sdpa_kernel(SDPBackend.MATH):  # the other backends do not support vmap
            logits: Tensor = vmap(self._forward_one)(parameters, buffers, inputs)
        return logits

    def _forward_one(self, parameters: Named, buffers: Named, inputs: Tensor) -> Any:
        return functional_call(self.model, (parameters, buffers), (inputs,))

    @contextmanager
    def mode(self, *, training: bool, dropping: bool) -> Iterator[None]:
        """Set training or evaluation mode in the block; `dropping` enables dropout."""
        for module in self.model.modules():
            if isinstance(module, SharedDropout):
                module.acts = dropping
        self.model.train(training)
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)  # it does not support vmap
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)


def architecture_of(
    fresh: Callable[[], nn.Module], inputs: Tensor, precision: str = FLOAT32
) -> Architecture:
    """Return the architecture of the models that `fresh` returns.

    Outputs and gradients of a stacked model for a few of the inputs are compared with those of an
    unstacked one. Raises `Unstackable`, with the module and the reason, if they differ or if
    stacking fails.
    """
    model, single = fresh(), fresh()
    draws, single_draws = share_draws(model), share_draws(single)
    with _failing_module(single, stacked=False), autocast(precision, inputs.device):
        logits, gradients = _single_outputs(single, single_draws, inputs[:_COMPARED_ROWS])
    _check_types(model, gradients)
    layout = layout_of({n: p for n, p in model.named_parameters() if n in gradients})
    architecture = Architecture(model, draws, skeleton(model), layout, precision)
    loop_convolutions(model)
    if precision != FLOAT32:
        _normalize_in_float32(model)
    with _failing_module(model, stacked=True):
        _check_same(architecture, inputs[:_COMPARED_ROWS], logits, gradients)
    return architecture


def skeleton(model: nn.Module) -> list[tuple[Any, ...]]:
    """Return a description of a model without its weights; models with equal ones can be stacked.

    Raises `Unstackable` for lazy modules whose weights have no shape yet.
    """
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise Unstackable(f"{name} is a lazy parameter without a shape")
    return [
        (name, type(module), _settings(module), _shapes(module))
        for name, module in model.named_modules()
    ]


def _settings(module: nn.Module) -> dict[str, Any]:
    shared = ("acts", "draws") if isinstance(module, SharedDropout) else ()
    hooks = ("_forward_hooks", "_forward_pre_hooks")
    return {
        key: value
        for key, value in vars(module).items()
        if key in hooks or not (key.startswith("_") or key in ("training", *shared))
    }


def _shapes(module: nn.Module) -> dict[str, Any]:
    tensors = {**module._parameters, **module._buffers}
    return {
        key: None if tensor is None else (tensor.shape, tensor.dtype)
        for key, tensor in tensors.items()
    }


def loop_convolutions(model: nn.Module) -> None:
    """Compute stacked convolutions on the CPU model by model.

    As one grouped convolution, their last bits would depend on the number of stacked models. It
    would not be faster either.
    """
    for module in model.modules():
        if type(module) in _CONVOLUTIONS:
            original: Any = module._conv_forward
            setattr(module, "_conv_forward", partial(_PerModel.apply, original))  # noqa: B010


def _normalize_in_float32(model: nn.Module) -> None:
    """Convert the inputs of batch normalizations to float32, the only type that vmap supports."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            module.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))


class _PerModel(torch.autograd.Function):
    """A function whose `vmap` rule applies it model by model on the CPU."""

    @staticmethod
    def forward(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        raise NotImplementedError("can only be called under vmap")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        raise NotImplementedError("can only be called under vmap")

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, function: Callable[..., Tensor], *tensors: Tensor | None
    ) -> tuple[Tensor, int]:
        if any(t is not None and t.is_cuda for t in tensors):
            return vmap(function, in_dims[1:])(*tensors), 0
        by_model = [
            None if t is None else (t.unbind(d) if d is not None else [t] * info.batch_size)
            for t, d in zip(tensors, in_dims[1:], strict=True)
        ]
        return torch.stack(
            [
                function(*(None if rows is None else rows[number] for rows in by_model))
                for number in range(info.batch_size)
            ]
        ), 0


def _single_outputs(model: nn.Module, draws: DropoutDraws, inputs: Tensor) -> tuple[Tensor, Named]:
    draws.begin([1])
    logits = model.train()(inputs)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    loss = _comparison_loss(logits)
    gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    return logits.detach(), {
        name: gradient
        for name, gradient in zip(trained, gradients, strict=True)
        if gradient is not None
    }


def _comparison_loss(logits: Tensor) -> Tensor:
    return logits.float().log_softmax(-1).square().mean((-1, -2)).sum()


def _check_types(model: nn.Module, trained: Mapping[str, Any]) -> None:
    kinds = {str(p.dtype) for name, p in model.named_parameters() if name in trained}
    if len(kinds) != 1:
        raise Unstackable(f"its trained parameters have {len(kinds)} data types, not one")


def _check_same(
    architecture: Architecture, inputs: Tensor, logits: Tensor, gradients: Named
) -> None:
    """Raise `Unstackable` unless two stacked copies have the given logits and gradients."""
    weights, others = architecture.tensors_of(architecture.model)
    twice = torch.stack([weights, weights])
    parameters = {name: p.requires_grad_() for name, p in architecture.layout.parts(twice).items()}
    buffers = {name: torch.stack([tensor, tensor]) for name, tensor in others.items()}
    architecture.draws.begin([1, 1])
    inputs_twice = inputs.expand(2, *inputs.shape)
    with architecture.mode(training=True, dropping=architecture.drops(buffers)):
        stacked_logits = architecture.forward(parameters, buffers, inputs_twice)
    loss = _comparison_loss(stacked_logits)
    stacked_gradients = torch.autograd.grad(loss, list(parameters.values()))
    # The norm of all gradients together: that of a bias before a normalization is only rounding.
    scale = torch.stack([gradient.float().norm() for gradient in gradients.values()]).norm()
    most = _TOLERANCES[architecture.precision]
    for place in (0, 1):
        _check_near("its outputs", stacked_logits[place], logits, most * logits.float().norm())
        for name, rows in zip(gradients, stacked_gradients, strict=True):
            _check_near(f"the gradient of {name}", rows[place], gradients[name], most * scale)
    with torch.inference_mode(), architecture.mode(training=False, dropping=False):
        architecture.forward(parameters, buffers, inputs_twice)


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield each parameter and buffer of a model once, with its first name."""
    yield from model.named_parameters()
    yield from model.named_buffers()


def _check_near(what: str, stacked: Tensor, single: Tensor, most: Tensor) -> None:
    difference = (stacked.detach().float() - single.float()).norm()
    if not difference <= most:
        raise Unstackable(f"{what} changed when it was stacked")


@contextmanager
def _failing_module(model: nn.Module, *, stacked: bool) -> Iterator[None]:
    """Convert exceptions of a stacked model to `Unstackable`, naming the module that failed."""
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
