"""A learnt dictionary and its step size: the base of the sparse-coding layers.

Source of the order of measuring and normalising: Dai et al., NeurIPS 2022.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

# torch.compiler.disable, without importing the compiler (seconds) before it is used
from torch._compile import _disable_dynamo

from stillpoint.core.base.modes import exporting
from stillpoint.core.kernels.pool import plain_only
from stillpoint.core.layers import scripted_codes
from stillpoint.core.layers.linear_maps import LinearMap, Matrix, unit_atoms
from stillpoint.core.layers.proximal_gradient import check_options
from stillpoint.core.layers.step_operator import measured_step
from stillpoint.core.layers.step_size import POWER, address, largest_eigenvalue, step_for, underlying, unobserved


class Evaluated(NamedTuple):
    """A step, and what it was measured for: a dictionary at one version, and the shape of an image's code.

    The reference to the dictionary keeps its address from being reused.
    """

    weight: Tensor
    step: Tensor
    version: int
    shape: tuple[int, ...]

    def serves(self, weight: Tensor, shape: tuple[int, ...]) -> bool:
        same = self.weight.data_ptr() == address(weight) and self.weight._version == self.version
        return same and self.shape == shape


class LearntDictionary(nn.Module):
    """The atoms and their step size.

    In training the first forward on new weights measures the step on the dictionary as the optimiser left it, from the
    last eigenvector (one or two iterations), and then scales the atoms to unit norm in place: the authors' order. Every
    further forward on these weights changes nothing and uses the same step, so that the layer is a function under
    several forwards per loss, checkpointing and torch.func. Each image size has its own step, measured once. Foreign
    weights (functional_call, a parametrisation), and the layer's own under a transform, tracing or export, are used as
    in a first forward, but neither they nor the layer's state change. New weights are recognised by value, since fused
    optimisers do not increment the version counter.

    Evaluation changes nothing: the step is measured once per dictionary and image size, on the unit atoms, from a fixed
    start. So an evaluation is a function of weights and input, and does not affect training. (A change through
    ``weight.data`` in eval mode, or a replaced parameter while exporting, takes effect at the next ``eval()``.) With
    ``measure = False`` both modes use the stored `step_size`, and the caller calls `update_step_size`.

    The last eigenvector is a non-persistent buffer. Resuming training bitwise requires it and `between_steps`, which is
    empty unless a step left the atoms unchanged (a learning rate of 0).
    """

    weight: nn.Parameter
    step_size: Tensor
    eigenvector: Tensor | None
    __jit_ignored_attributes__ = ("_evaluated", "_seen", "_source", "_steps")

    def __init__(self, weight: Tensor, penalty: float, normalise: bool, recompute: bool, **options: Any) -> None:
        super().__init__()
        check_options(penalty=penalty, **{name: options[name] for name in ("iterations", "ridge", "scheme")})
        self.weight = nn.Parameter(nn.init.kaiming_uniform_(weight))
        self.register_buffer("step_size", torch.tensor(0.1, device=weight.device, dtype=weight.dtype))
        self.register_buffer("eigenvector", None, persistent=False)
        self.penalty, self.normalise, self.recompute, self.options = penalty, normalise, recompute, options
        self.measure = True
        # for TorchScript
        self.power, self.ridge = POWER, float(options["ridge"])
        self.settings = tuple(options[name] for name in ("iterations", "nonnegative", "squared", "scheme"))
        self._evaluated: Evaluated | None = None
        self._seen: tuple[Tensor, ...] = ()  # tuples, which torch does not search for parameters or constants
        # in training: the dictionary before and after scaling, converted along with `weight`, and steps by code shape
        self._source: tuple[Tensor, ...] = ()
        self._steps: dict[tuple[int, ...], Tensor] = {}

    def linear_map(self, weight: Tensor, x: Tensor) -> LinearMap:
        """The map A of a dictionary, for inputs shaped like `x`."""
        return Matrix(weight)

    def scripted_codes(self, x: Tensor, stride: int, padding: int, penalty: float) -> Tensor:
        """The layer's codes in evaluation, as TorchScript compiles them; the step is measured in every forward."""
        if self.training:
            raise RuntimeError("a scripted dictionary cannot be trained: script it in eval mode, and keep it there")
        atoms = scripted_codes.of_unit_norm(self.weight) if self.normalise else self.weight
        step = self.step_size
        if self.measure:
            step = scripted_codes.step(atoms.detach(), stride, padding, list(x.shape[2:]), self.power)
        iterations, nonnegative, squared, scheme = self.settings
        return scripted_codes.codes(
            x, atoms, step, stride, padding, iterations, penalty, self.ridge, nonnegative, squared, scheme
        )

    def dictionary(self) -> Tensor:
        """The atoms that codes refer to: `weight`, of unit norm unless ``normalise=False``."""
        if torch.compiler.is_dynamo_compiling() and not self.training:
            return unit_atoms(self.weight) if self.normalise else self.weight
        return self._dictionary()

    @_disable_dynamo
    def _dictionary(self) -> Tensor:
        if not self.training:
            atoms = unit_atoms(self.weight) if self.normalise else self.weight.view_as(self.weight)
            if atoms.requires_grad:
                # after a backward an optimiser may have moved the atoms; fused ones do not increment the version
                # counter
                atoms.register_hook(self._forget)
            return atoms
        if not self.normalise or self._may_change():
            return self.weight  # scaled in place by the forward
        # the same values and derivative: the scaling is not part of the graph
        return unit_atoms(self.weight.detach()) + (self.weight - self.weight.detach())

    def step(self, x: Tensor) -> Tensor:
        """The step (0-dim) for inputs shaped like `x`; in training it scales new atoms to unit norm."""
        if torch.compiler.is_dynamo_compiling() and not self.training and self.measure:
            return measured_step(self.linear_map(self.dictionary().detach(), x))
        return self._step(x)

    @_disable_dynamo
    def _step(self, x: Tensor) -> Tensor:
        if not self.training:
            return self._evaluation_step(x) if self.measure else self.step_size
        if not self._may_change():
            return self._unchanging_step(x) if self.measure else self.step_size
        a = self.linear_map(self.weight, x)
        # cached tensors outlive the block in which they are measured
        with torch.inference_mode(self.weight.is_inference()), torch.no_grad():
            if not self._known(self.weight):
                source = self.weight.detach().clone()
                atoms = unit_atoms(source) if self.normalise else source
                self._source, self._steps = (source, atoms), {}
                if self.normalise:
                    # through .data: any graph that holds these atoms was made with the same values
                    self.weight.data.copy_(atoms)
            if not self.measure:
                return self.step_size
            if a.code_shape not in self._steps:
                a.weight = self._source[0]
                self._measure(a)
                self._steps[a.code_shape] = self.step_size.clone()
            return self._steps[a.code_shape]

    def _may_change(self) -> bool:
        own = isinstance(self.weight, nn.Parameter) and address(self.weight) != 0
        return own and not plain_only()

    def _known(self, weight: Tensor) -> bool:
        """Whether the weights equal those left by the last training forward."""
        if not self._source:
            return False
        _, atoms = self._source
        same = (atoms.dtype, atoms.device, atoms.shape) == (weight.dtype, weight.device, weight.shape)
        return same and torch.equal(weight, atoms)

    def _start(self, a: LinearMap) -> Tensor | None:
        fits = self.eigenvector is not None and self.eigenvector.shape[1:] == a.code_shape
        return self.eigenvector if fits else None

    def _measure(self, a: LinearMap) -> None:
        largest, self.eigenvector = largest_eigenvalue(a, self._start(a))
        self.step_size = step_for(largest).to(self.step_size.dtype)

    @torch.no_grad()
    def _unchanging_step(self, x: Tensor) -> Tensor:
        """The step that a training forward would measure on these weights."""
        a, weight = self.linear_map(self.weight, x), underlying(self.weight)
        if address(weight) == 0:
            return step_for(largest_eigenvalue(a, self._start(a))[0])
        with unobserved():
            a.weight, held = weight, None
            if self._known(weight):
                a.weight, held = self._source[0], self._steps.get(a.code_shape)
            return step_for(largest_eigenvalue(a, self._start(a))[0]) if held is None else held

    def _evaluation_step(self, x: Tensor) -> Tensor:
        a, held = self.linear_map(self.weight, x), self._evaluated
        # an exporter replaces the dictionary by a tensor without data
        weight = self._seen[0] if self._seen and exporting() else underlying(self.weight)
        if held is not None and held.serves(weight, a.code_shape):
            return held.step
        readable = address(weight) != 0
        with torch.no_grad(), unobserved() if readable else nullcontext():
            source = weight if readable else self.weight
            a.weight = unit_atoms(source) if self.normalise else source
            step = step_for(largest_eigenvalue(a)[0])
        # atoms made in inference mode have no version counter: measured every time
        if readable and not weight.is_inference() and not exporting():
            self._evaluated = Evaluated(weight, step, weight._version, a.code_shape)
        return step

    def _forget(self, _: Tensor | None = None) -> None:
        self._evaluated = None

    def between_steps(self) -> dict[str, Any]:
        """The state that the next training forward reuses; empty if the atoms have changed since the last one."""
        if not self._known(self.weight):
            return {}
        return {"source": self._source[0], "steps": {shape: step.clone() for shape, step in self._steps.items()}}

    @torch.no_grad()
    def go_on(self, held: dict[str, Any]) -> None:
        """Restores the state returned by `between_steps`, for the same weights."""
        self._source = held["source"].to(self.weight.device), self.weight.detach().clone()
        self._steps = {tuple(shape): step.to(self.weight.device) for shape, step in held["steps"].items()}

    @torch.no_grad()
    def update_step_size(self, x: Tensor) -> None:
        """Measures `step_size` for the current `weight` and inputs shaped like `x`, from the last eigenvector."""
        a = self.linear_map(self.weight, x)
        self._measure(a)
        if self._known(self.weight):
            self._steps[a.code_shape] = self.step_size.clone()

    @torch.no_grad()
    def normalise_(self) -> None:
        """Scales every atom to unit norm in place without changing `step_size`; does nothing if a forward already
        did."""
        if not self._known(self.weight):
            self.weight.data.copy_(unit_atoms(self.weight))

    def train(self, mode: bool = True) -> Self:
        self._forget()
        self._seen = (self.weight.detach(),)
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **options: Any) -> Self:
        self._seen = ()
        self._source = tuple(fn(source) for source in self._source)
        self._steps = {shape: fn(step) for shape, step in self._steps.items()}
        return super()._apply(fn, *args, **options)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_evaluated": None, "_seen": ()}

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *args: Any) -> None:
        self._seen = ()
        super()._load_from_state_dict(state, prefix, *args)
        weight = state.get(f"{prefix}weight")
        if self.normalise and weight is not None:
            empty = (weight.flatten(1) == 0).all(dim=1).nonzero().flatten().tolist()
            if empty:
                said = f"atoms {empty} are zero, but every atom of a dictionary needs a direction"
                args[-1].append(f"{prefix}weight: {said}")
