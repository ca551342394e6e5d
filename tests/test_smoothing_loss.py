"""The loss: torch's where torch is right, and what is right where it is not."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.utils import counters
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, jacrev, vmap
from torch.nn import functional as F
from torch.testing import assert_close

from sweeper.smoothing import (
    CONVENTIONS,
    Smoothing,
    SmoothingLoss,
    smooth_targets,
    smoothing_loss,
    to_uniform,
)
from sweeper.smoothing.kernels import eager

MASKED = -math.inf


def batch(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Return logits of this shape and hard labels, the same ones every time."""
    source = torch.Generator().manual_seed(len(shape) + shape[-1])
    logits = 3 * torch.randn(shape, generator=source, dtype=torch.float64)
    labels = torch.randint(shape[1], (shape[0], *shape[2:]), generator=source)
    return logits.to(dtype).requires_grad_(), labels


def soft(logits: Tensor) -> Tensor:
    return logits.detach().flip(0).softmax(1)


def by_definition(logits: Tensor, targets: Tensor) -> Tensor:
    """Return -Σ t·log p of each row, with 0·(-inf) = 0."""
    options = targets * logits.log_softmax(1)
    return -options.where(targets > 0, 0.0).sum(1)


def gradient(loss: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss.sum(), inputs)


SHAPES = [(6, 2), (6, 5), (1, 5), (4, 3, 2), (3, 4, 2, 3)]
KIND = pytest.mark.parametrize("kind", ["hard", "soft"])
WEIGHTED = pytest.mark.parametrize("weighted", [False, True])
REDUCTION = pytest.mark.parametrize("reduction", ["mean", "sum", "none"])


class TestTorch:
    """`uniform` is `F.cross_entropy(label_smoothing=)`."""

    @pytest.mark.parametrize("shape", SHAPES)
    @KIND
    @WEIGHTED
    @REDUCTION
    @pytest.mark.parametrize("epsilon", [0.0, 0.1, 1.0])
    def test_agrees(
        self, shape: tuple[int, ...], kind: str, weighted: bool, reduction: str, epsilon: float
    ) -> None:
        logits, hard = batch(*shape)
        labels = hard if kind == "hard" else soft(logits)
        weight = torch.linspace(0.5, 2, shape[1], dtype=torch.float64) if weighted else None
        ours = smoothing_loss(
            logits, labels, epsilon, convention="uniform", weight=weight, reduction=reduction
        )
        theirs = F.cross_entropy(
            logits, labels, weight, label_smoothing=epsilon, reduction=reduction
        )
        assert_close(ours, theirs)
        assert_close(gradient(ours, logits), gradient(theirs, logits))

    @pytest.mark.parametrize("shape", SHAPES)
    @WEIGHTED
    @REDUCTION
    @pytest.mark.parametrize("ignore_index", [-100, 1])
    def test_agrees_on_ignored_labels(
        self, shape: tuple[int, ...], weighted: bool, reduction: str, ignore_index: int
    ) -> None:
        logits, labels = batch(*shape)
        labels.view(-1)[::2] = ignore_index
        labels.view(-1)[-1] = 0
        weight = torch.linspace(0.5, 2, shape[1], dtype=torch.float64) if weighted else None
        options: dict[str, Any] = {"ignore_index": ignore_index, "reduction": reduction}
        ours = smoothing_loss(logits, labels, 0.3, convention="uniform", weight=weight, **options)
        theirs = F.cross_entropy(logits, labels, weight, label_smoothing=0.3, **options)
        assert_close(ours, theirs)
        assert_close(gradient(ours, logits), gradient(theirs, logits))

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
    def test_any_integer_labels(self, dtype: torch.dtype) -> None:
        logits, labels = batch(6, 5)
        assert_close(
            smoothing_loss(logits, labels.to(dtype), 0.1), smoothing_loss(logits, labels, 0.1)
        )

    def test_float32(self) -> None:
        logits, labels = batch(64, 10, dtype=torch.float32)
        ours = smoothing_loss(logits, labels, 0.1, convention="uniform")
        assert ours.dtype == torch.float32
        assert_close(ours, F.cross_entropy(logits, labels, label_smoothing=0.1))


class TestDefinition:
    @given(
        st.floats(0.0, 1.0),
        st.integers(2, 30),
        st.sampled_from(CONVENTIONS),
        st.sampled_from(["hard", "soft"]),
    )
    @settings(deadline=None)
    def test_is_the_cross_entropy_of_the_targets(
        self, epsilon: float, classes: int, convention: str, kind: str
    ) -> None:
        logits, hard = batch(4, classes)
        labels = hard if kind == "hard" else soft(logits)
        column = torch.tensor(epsilon, dtype=torch.float64)
        targets = smooth_targets(labels, classes, column, convention=convention)
        ours = smoothing_loss(logits, labels, epsilon, convention=convention, reduction="none")
        assert_close(ours, by_definition(logits, targets))

    @pytest.mark.parametrize("classes", [2, 10, 1000])
    def test_conventions_convert(self, classes: int) -> None:
        logits, labels = batch(8, classes)
        uniform = to_uniform(0.1, classes)
        assert_close(
            smoothing_loss(logits, labels, 0.1),
            smoothing_loss(logits, labels, uniform, convention="uniform"),
        )

    def test_others_by_hand(self) -> None:
        logits = torch.tensor([[0.7, 0.2, 0.1]]).log()
        expected = -(0.8 * math.log(0.7) + 0.1 * math.log(0.2) + 0.1 * math.log(0.1))
        assert smoothing_loss(logits, torch.tensor([0]), 0.2).item() == pytest.approx(expected)

    def test_the_floor_of_a_perfect_model(self) -> None:
        """Its own smoothed targets cost their entropy, no less (FACTS: never compare ε)."""
        targets = smooth_targets(torch.tensor([1]), 4, 0.1)
        entropy = -(targets * targets.log()).sum().item()
        assert smoothing_loss(targets.log(), torch.tensor([1]), 0.1).item() == pytest.approx(
            entropy
        )


class TestEpsilon:
    @KIND
    def test_scalar_tensor_is_the_float(self, kind: str) -> None:
        logits, hard = batch(4, 3, 2)
        labels = hard if kind == "hard" else soft(logits)
        assert_close(
            smoothing_loss(logits, labels, torch.tensor(0.3, dtype=torch.float64)),
            smoothing_loss(logits, labels, 0.3),
        )

    @pytest.mark.parametrize("shape", SHAPES)
    @KIND
    def test_one_epsilon_per_sample(self, shape: tuple[int, ...], kind: str) -> None:
        logits, hard = batch(*shape)
        labels = hard if kind == "hard" else soft(logits)
        epsilon = torch.linspace(0, 1, shape[0], dtype=torch.float64)
        together = smoothing_loss(logits, labels, epsilon, reduction="none")
        for i, one in enumerate(epsilon.tolist()):
            alone = smoothing_loss(logits[i : i + 1], labels[i : i + 1], one, reduction="none")
            assert_close(together[i : i + 1], alone)

    def test_one_epsilon_per_position(self) -> None:
        logits, labels = batch(2, 3, 4)
        epsilon = torch.linspace(0, 1, 8, dtype=torch.float64).reshape(2, 4)
        rows = logits.movedim(1, -1).reshape(8, 3)
        assert_close(
            smoothing_loss(logits, labels, epsilon, reduction="none").flatten(),
            smoothing_loss(rows, labels.flatten(), epsilon.flatten(), reduction="none"),
        )

    @pytest.mark.parametrize("convention", CONVENTIONS)
    def test_gradient_to_epsilon(self, convention: str) -> None:
        logits, labels = batch(6, 5)
        epsilon = torch.full((6,), 0.2, dtype=torch.float64, requires_grad=True)
        loss = smoothing_loss(logits, labels, epsilon, convention=convention, reduction="none")
        log_p = logits.log_softmax(1)
        slope = log_p.gather(1, labels[:, None]).squeeze(1) - log_p.mean(1)
        scale = 1.0 if convention == "uniform" else 5 / 4
        assert_close(gradient(loss, epsilon)[0], scale * slope)

    def test_its_type_does_not_change_the_result(self) -> None:
        logits, labels = batch(6, 5, dtype=torch.float32)
        epsilon = torch.full((6,), 0.2, dtype=torch.float64)
        assert smoothing_loss(logits, labels, epsilon).dtype == torch.float32


class TestWhereTorchIsWrong:
    @pytest.mark.parametrize("epsilon", [-0.1, math.nan])
    def test_epsilon_outside_is_refused_not_zero(self, epsilon: float) -> None:
        logits, labels = batch(6, 5)
        hard = F.cross_entropy(logits, labels)
        assert_close(F.cross_entropy(logits, labels, label_smoothing=epsilon), hard)
        with pytest.raises(ValueError, match=r"epsilon must be (a number )?in \[0, 1\], got"):
            smoothing_loss(logits, labels, epsilon)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_of_many_classes(self, dtype: torch.dtype) -> None:
        logits, labels = batch(4, 2000, dtype=dtype)
        if dtype == torch.float16:
            assert F.cross_entropy(100 * logits, labels, label_smoothing=0.1).isinf()
        ours = smoothing_loss(100 * logits, labels, 0.1)
        assert ours.dtype == torch.float32
        assert_close(ours, smoothing_loss((100 * logits).float(), labels, 0.1))
        assert gradient(ours, logits)[0].dtype == dtype

    @pytest.mark.parametrize("ignored", [0, 4])
    def test_mean_of_nothing_is_zero(self, ignored: int) -> None:
        logits = torch.randn(ignored, 3, requires_grad=True)
        labels = torch.full((ignored,), -100)
        assert F.cross_entropy(logits, labels, label_smoothing=0.1).isnan()
        for weight in (None, torch.rand(3)):
            loss = smoothing_loss(logits, labels, 0.1, weight=weight)
            assert loss.item() == 0.0
            assert_close(gradient(loss, logits)[0], torch.zeros_like(logits))

    def test_mean_of_no_soft_labels_is_zero(self) -> None:
        logits = torch.zeros(0, 3, requires_grad=True)
        loss = smoothing_loss(logits, torch.zeros(0, 3), 0.1)
        assert loss.item() == 0.0
        assert gradient(loss, logits)[0].shape == (0, 3)

    def test_masked_class_is_finite(self) -> None:
        logits = torch.tensor([[0.5, MASKED, 0.1]])
        labels = torch.tensor([0])
        assert F.cross_entropy(logits, labels, label_smoothing=0.1).isinf()
        assert smoothing_loss(logits, labels, 0.1).isfinite()


class TestMask:
    logits = torch.tensor(
        [
            [0.5, MASKED, 0.1, 1.0],
            [MASKED, MASKED, 0.3, MASKED],
            [0.1, 0.2, 0.3, 0.4],
            [MASKED, 2.0, MASKED, -1.0],
        ],
        dtype=torch.float64,
    )
    labels = torch.tensor([0, 2, 1, 3])

    @pytest.mark.parametrize("convention", CONVENTIONS)
    @KIND
    @pytest.mark.parametrize("epsilon", [0.0, 0.2, 1.0])
    def test_is_the_cross_entropy_of_the_masked_targets(
        self, convention: str, kind: str, epsilon: float
    ) -> None:
        labels = self.labels if kind == "hard" else F.one_hot(self.labels, 4).double()
        targets = smooth_targets(
            labels,
            4,
            torch.tensor(epsilon, dtype=torch.float64),
            convention=convention,
            mask=self.logits != MASKED,
        )
        ours = smoothing_loss(self.logits, labels, epsilon, convention=convention, reduction="none")
        assert_close(ours, by_definition(self.logits, targets))

    @KIND
    def test_weights_count_for_the_unmasked(self, kind: str) -> None:
        labels = self.labels if kind == "hard" else F.one_hot(self.labels, 4).double()
        weight = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
        targets = smooth_targets(self.labels, 4, 0.2, mask=self.logits != MASKED).double() * weight
        ours = smoothing_loss(self.logits, labels, 0.2, weight=weight, reduction="none")
        assert_close(ours, by_definition(self.logits, targets), rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize("convention", CONVENTIONS)
    def test_single_unmasked_class_has_zero_loss(self, convention: str) -> None:
        loss = smoothing_loss(
            self.logits[1:2], self.labels[1:2], 0.3, convention=convention, reduction="none"
        )
        assert loss.item() == 0.0

    @KIND
    def test_gradients_are_finite_and_zero_where_masked(self, kind: str) -> None:
        logits = self.logits.clone().requires_grad_()
        labels = self.labels if kind == "hard" else F.one_hot(self.labels, 4).double()
        epsilon = torch.full((4,), 0.2, dtype=torch.float64, requires_grad=True)
        to_logits, to_epsilon = gradient(smoothing_loss(logits, labels, epsilon), logits, epsilon)
        assert to_logits.isfinite().all()
        assert (to_logits[self.logits == MASKED] == 0).all()
        assert (to_logits[0] != 0).sum() == 3
        assert to_epsilon.isfinite().all()

    def test_dense(self) -> None:
        dense = self.logits.reshape(2, 2, 4).movedim(2, 1)
        assert_close(
            smoothing_loss(dense, self.labels.reshape(2, 2), 0.2, reduction="none").flatten(),
            smoothing_loss(self.logits, self.labels, 0.2, reduction="none"),
        )

    def test_a_label_on_a_masked_class_is_infinite(self) -> None:
        row, label = self.logits[:1], torch.tensor([1])
        assert smoothing_loss(row, label, 0.2).item() == math.inf
        assert smoothing_loss(row, F.one_hot(label, 4).double(), 0.2).item() == math.inf

    @pytest.mark.parametrize("elsewhere", [0.0, MASKED])
    @KIND
    def test_nan_logit_is_not_a_mask(self, elsewhere: float, kind: str) -> None:
        logits = torch.tensor([[math.nan, 1.0, elsewhere], [0.0, 1.0, 2.0]], requires_grad=True)
        labels = torch.tensor([1, 1])
        given = labels if kind == "hard" else F.one_hot(labels, 3).float()
        losses = smoothing_loss(logits, given, 0.2, reduction="none")
        assert losses.isnan().tolist() == [True, False]

    @pytest.mark.parametrize("row", [[MASKED] * 3, [math.nan] * 3, [math.inf] * 3])
    def test_ignored_rows_may_contain_nan(self, row: list[float]) -> None:
        logits = torch.tensor([row, [0.0, 1.0, 2.0]], requires_grad=True)
        loss = smoothing_loss(logits, torch.tensor([-100, 1]), 0.2)
        assert_close(loss, smoothing_loss(logits[1:], torch.tensor([1]), 0.2))
        assert gradient(loss, logits)[0].isfinite().all()

    def test_overflowing_logits_are_not_masked(self) -> None:
        logits = torch.tensor([[3e38, -3e38, 0.0]])
        assert smoothing_loss(logits, torch.tensor([0]), 0.3).item() == math.inf


class TestGradients:
    @KIND
    @WEIGHTED
    @pytest.mark.parametrize("reduction", ["mean", "none"])
    @pytest.mark.parametrize("masked", [False, True])
    def test_first_and_second(
        self, kind: str, weighted: bool, reduction: str, masked: bool
    ) -> None:
        logits, hard = batch(4, 3, 2)
        hard[0, 0] = 0 if kind == "soft" else -100
        labels = hard if kind == "hard" else F.one_hot(hard, 3).movedim(-1, 1).double()
        weight = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64) if weighted else None
        mask = torch.zeros(4, 3, 2, dtype=torch.bool)
        mask[1, (hard[1, 0] + 1) % 3, 0] = masked
        epsilon = torch.linspace(0.1, 0.6, 4, dtype=torch.float64).requires_grad_()

        def loss(logits: Tensor, epsilon: Tensor) -> Tensor:
            return smoothing_loss(
                logits.masked_fill(mask, MASKED),
                labels,
                epsilon,
                weight=weight,
                reduction=reduction,
            )

        assert gradcheck(loss, (logits, epsilon))
        assert gradgradcheck(loss, (logits, epsilon))

    def test_soft_labels_have_a_gradient(self) -> None:
        logits, _ = batch(4, 3)
        labels = soft(logits).requires_grad_()
        assert gradcheck(lambda labels: smoothing_loss(logits, labels, 0.2), (labels,))


PLAIN = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])


def step(
    logits: Tensor, labels: Tensor, epsilon: Tensor, slope: Tensor, **options: Any
) -> tuple[Tensor, Tensor]:
    """Return the losses of rows and, with these slopes, their gradients."""
    leaf = logits.detach().requires_grad_()
    losses = smoothing_loss(leaf, labels, epsilon, reduction="none", **options)
    return losses.detach(), torch.autograd.grad(losses, leaf, slope.to(losses))[0]


def parts(rows: int) -> list[Tensor]:
    """Return some rows of a batch: single ones, a few, most, all in another order."""
    source = torch.Generator().manual_seed(rows)
    apart = torch.arange(rows)
    return [
        *apart[[0, 1, rows // 2, rows - 1], None],
        apart[1:],
        apart[::3],
        apart[-3:],
        torch.randperm(rows, generator=source),
    ]


class TestRows:
    """Many models' rows are one call: none may feel, to the last bit, which others there are."""

    def check(self, *batch: Tensor, **options: Any) -> None:
        losses, gradients = step(*batch, **options)
        for rows in parts(len(losses)):
            alone = step(*(of[rows] for of in batch), **options)
            assert torch.equal(alone[0], losses[rows])
            assert torch.equal(alone[1], gradients[rows])

    def rows(self, count: int, classes: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
        logits, labels = batch(count, classes, dtype=dtype)
        labels[1] = -100
        epsilon = torch.linspace(0, 1, count, dtype=torch.float64).to(dtype)
        return logits.detach(), labels, epsilon, torch.linspace(-1, 2, count)

    @pytest.mark.parametrize("classes", [2, 3, 10, 15, 16, 17, 33, 1000])
    @PLAIN
    def test_do_not_mix(self, classes: int, dtype: torch.dtype) -> None:
        self.check(*self.rows(37, classes, dtype))

    @PLAIN
    def test_do_not_mix_where_blocks_end(
        self, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(eager, "BLOCK", 100)
        self.check(*self.rows(37, 10, dtype))
        self.check(*self.rows(37, 33, dtype))

    @pytest.mark.parametrize("odd", [MASKED, math.nan, math.inf])
    @pytest.mark.parametrize("classes", [10, 33])
    def test_mask_or_nan_affects_only_its_row(self, odd: float, classes: int) -> None:
        logits, labels, epsilon, slope = self.rows(37, classes, torch.float32)
        labels[2] = 0
        clean = step(logits, labels, epsilon, slope)
        logits[2, 1] = logits[3, 1:] = odd
        losses, gradients = step(logits, labels, epsilon, slope)
        others = torch.arange(37) > 3
        assert torch.equal(losses[others], clean[0][others])
        assert torch.equal(gradients[others], clean[1][others])
        for rows in (torch.tensor([2]), torch.tensor([3, 36])):
            alone = step(*(of[rows] for of in (logits, labels, epsilon, slope)))
            assert_close(alone[0], losses[rows], rtol=0, atol=0, equal_nan=True)
            assert_close(alone[1], gradients[rows], rtol=0, atol=0, equal_nan=True)

    @pytest.mark.parametrize("odd", [0.0, MASKED])
    def test_a_lone_long_row_is_summed_as_beside_others(self, odd: float) -> None:
        logits, labels, epsilon, slope = self.rows(3, 40_000, torch.float32)
        logits[:, 7] = odd
        threads = torch.get_num_threads()
        torch.set_num_threads(2)
        try:
            self.check(logits, labels, epsilon, slope)
        finally:
            torch.set_num_threads(threads)


class TestNode:
    """Without a look that forbids it, the loss of hard labels is one node of the graph."""

    @pytest.mark.parametrize("classes", [2, 3, 10, 15, 16, 33, 600])
    @PLAIN
    @REDUCTION
    @pytest.mark.parametrize("ignored", [False, True])
    @pytest.mark.parametrize("block", [eager.BLOCK, 100])
    def test_agrees_with_general_loss_with_unit_weight(
        self,
        classes: int,
        dtype: torch.dtype,
        reduction: str,
        ignored: bool,
        block: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(eager, "BLOCK", block)
        logits, labels = batch(20, classes, dtype=dtype)
        if ignored:
            labels[::3] = -100
        weight = torch.ones(classes)
        ours = smoothing_loss(logits, labels, 0.2, reduction=reduction)
        theirs = smoothing_loss(logits, labels, 0.2, weight=weight, reduction=reduction)
        assert "Smoothed" in type(ours.grad_fn).__name__
        assert "Smoothed" not in type(theirs.grad_fn).__name__
        assert_close(ours, theirs)
        assert_close(gradient(ours, logits), gradient(theirs, logits))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    @pytest.mark.parametrize("classes", [10, 33])
    def test_half_precision_is_float32_rounded_once(self, dtype: torch.dtype, classes: int) -> None:
        logits, labels = batch(600, classes, dtype=dtype)
        wide = logits.detach().float().requires_grad_()
        ours, theirs = smoothing_loss(logits, labels, 0.2), smoothing_loss(wide, labels, 0.2)
        assert torch.equal(ours, theirs)
        assert torch.equal(gradient(ours, logits)[0], gradient(theirs, wide)[0].to(dtype))

    @pytest.mark.parametrize("shape", [(6, 20, 4), (6, 3, 2, 3)])
    def test_strides_do_not_matter(self, shape: tuple[int, ...]) -> None:
        logits, labels = batch(*shape, dtype=torch.bfloat16)
        strided = logits.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
        ours = smoothing_loss(strided, labels, 0.2)
        theirs = smoothing_loss(logits.float(), labels, 0.2)
        assert_close(ours, theirs)
        assert_close(gradient(ours, strided), gradient(theirs, logits))

    @pytest.mark.parametrize("reduction", ["mean", "none"])
    def test_behaves_like_an_autograd_node(self, reduction: str) -> None:
        logits, labels = batch(6, 10, dtype=torch.float32)
        loss = smoothing_loss(logits, labels, 0.2, reduction=reduction)
        (once,) = torch.autograd.grad(loss.sum(), logits, retain_graph=True)
        loss /= 4  # as those do who accumulate gradients
        assert_close(4 * gradient(loss, logits)[0], once)

    @pytest.mark.parametrize("reduction", ["mean", "none"])
    @pytest.mark.parametrize("masked", [False, True])
    def test_every_kind_of_derivative(self, reduction: str, masked: bool) -> None:
        logits, labels = batch(4, 10)
        labels[0] = -100
        mask = torch.zeros(4, 10, dtype=torch.bool)
        mask[1, (labels[1] + 1) % 10] = masked
        epsilon = torch.linspace(0.1, 0.6, 4, dtype=torch.float64)

        def loss(logits: Tensor) -> Tensor:
            filled = logits.masked_fill(mask, MASKED)
            return smoothing_loss(filled, labels, epsilon, reduction=reduction)

        assert gradcheck(loss, (logits,), check_batched_grad=True)
        assert gradgradcheck(loss, (logits,), check_batched_grad=True)

    # torch scripts its own rules for forward derivatives when the first is asked for.
    @pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
    def test_forward_derivatives(self) -> None:
        logits, labels = batch(4, 3)
        assert gradcheck(
            lambda logits: smoothing_loss(logits, labels, 0.2), (logits,), check_forward_ad=True
        )

    def test_tensor_subclass_uses_torch_function(self) -> None:
        class Counting(Tensor):
            asked = 0

            @classmethod
            def __torch_function__(cls, *given: Any, **more: Any) -> Any:
                cls.asked += 1
                return super().__torch_function__(*given, **more)  # type: ignore[no-untyped-call]

        logits, labels = batch(4, 3)
        ours = smoothing_loss(logits.detach().as_subclass(Counting), labels, 0.2)
        assert isinstance(ours, Counting)
        assert_close(ours.as_subclass(Tensor), smoothing_loss(logits, labels, 0.2).detach())

    def test_keeps_no_more_than_cross_entropy_and_the_logits(self) -> None:
        def kept(loss: Callable[..., Tensor]) -> int:
            logits, labels = batch(64, 100, dtype=torch.float32)
            sizes: list[int] = []

            def pack(tensor: Tensor) -> Tensor:
                sizes.append(tensor.nbytes if tensor.data_ptr() != logits.data_ptr() else 0)
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                loss(logits, labels)
            return sum(sizes)

        ours = kept(lambda logits, labels: smoothing_loss(logits, labels, 0.2))
        assert ours <= kept(F.cross_entropy)


class TestVmap:
    epsilons = torch.tensor([0.0, 0.1, 0.4, 1.0], dtype=torch.float64)

    @KIND
    @pytest.mark.parametrize("masked", [False, True])
    def test_over_epsilon(self, kind: str, masked: bool) -> None:
        logits, hard = batch(6, 5)
        hard[0] = 0
        labels = hard if kind == "hard" else soft(logits)
        if masked and kind == "hard":
            logits = logits.detach().index_put(
                (torch.tensor(0), torch.tensor(1)), torch.tensor(MASKED).double()
            )
        together = vmap(lambda e: smoothing_loss(logits, labels, e))(self.epsilons)
        alone = [smoothing_loss(logits, labels, e) for e in self.epsilons.tolist()]
        assert_close(together, torch.stack(alone))

    @WEIGHTED
    def test_of_gradients_over_stacked_logits(self, weighted: bool) -> None:
        stacked, _ = batch(4, 5, 6)
        stacked = stacked.detach().transpose(1, 2)
        labels = torch.tensor([0, 1, -100, 3, 4, 0])
        weight = torch.linspace(0.5, 2, 5, dtype=torch.float64) if weighted else None

        def loss(logits: Tensor, epsilon: Tensor) -> Tensor:
            return smoothing_loss(logits, labels, epsilon, weight=weight)

        together = vmap(grad(loss))(stacked, self.epsilons)
        for logits, epsilon, expected in zip(stacked, self.epsilons, together, strict=True):
            leaf = logits.clone().requires_grad_()
            assert_close(gradient(loss(leaf, epsilon), leaf)[0], expected)

    def test_second_derivatives(self) -> None:
        logits, labels = batch(2, 3)
        slopes = jacrev(jacrev(lambda z: smoothing_loss(z, labels, 0.2)))(logits.detach())
        p = logits.detach().softmax(1)
        expected = (torch.diag_embed(p) - p[:, :, None] * p[:, None, :]) / 2
        assert_close(slopes[0, :, 0, :], expected[0])
        assert_close(slopes[1, :, 1, :], expected[1])


class TestCompile:
    """Graphs are counted with a backend that compiles nothing; the counts are dynamo's."""

    @pytest.fixture(autouse=True)
    def _fresh(self) -> None:
        torch._dynamo.reset()
        counters.clear()

    def graphs(self, epsilons: list[Any], **options: Any) -> int:
        logits, labels = batch(6, 5)
        compiled = torch.compile(smoothing_loss, fullgraph=True, backend="aot_eager")
        for epsilon in epsilons:
            ours = compiled(logits, labels, epsilon, **options)
            assert_close(ours, smoothing_loss(logits, labels, epsilon, **options))
            assert gradient(ours, logits)[0].isfinite().all()
        return int(counters["stats"]["unique_graphs"])

    @pytest.mark.parametrize("convention", CONVENTIONS)
    def test_tensors_share_one_graph(self, convention: str) -> None:
        epsilons = [torch.tensor(e) for e in (0.0, 0.1, 0.2, 0.3, 1.0)]
        assert self.graphs(epsilons, convention=convention) == 1

    def test_tensors_of_one_a_sample_share_one_graph(self) -> None:
        assert self.graphs([torch.full((6,), e) for e in (0.0, 0.1, 0.3)], reduction="none") == 1

    def test_floats_share_two_graphs(self) -> None:
        assert self.graphs([0.0, 0.1, 0.2, 0.3, 0.35, 1.0, 0.0]) <= 2

    def test_masks_stay_finite(self) -> None:
        compiled = torch.compile(smoothing_loss, fullgraph=True, backend="aot_eager")
        ours = compiled(TestMask.logits, TestMask.labels, torch.tensor(0.2))
        assert_close(ours, smoothing_loss(TestMask.logits, TestMask.labels, 0.2))

    @pytest.mark.parametrize("before", [[], [0.1, 0.2]])
    def test_a_float_outside_is_refused(self, before: list[float]) -> None:
        logits, labels = batch(6, 5)
        compiled = torch.compile(smoothing_loss, backend="aot_eager")
        for epsilon in before:
            compiled(logits, labels, epsilon)
        with pytest.raises(ValueError, match=r"epsilon must be (a number )?in \[0, 1\], got 1.5"):
            compiled(logits, labels, 1.5)


def test_no_values_are_read_on_devices() -> None:
    """A tensor of the meta device has no values: any look at one raises."""
    logits = torch.zeros(4, 3, 2, device="meta", requires_grad=True)
    labels = torch.zeros(4, 2, dtype=torch.long, device="meta")
    epsilon = torch.zeros(4, device="meta")
    weight = torch.ones(3, device="meta")
    loss = smoothing_loss(logits, labels, epsilon, weight=weight)
    assert gradient(loss, logits)[0].shape == (4, 3, 2)
    smooth_targets(labels[:, 0], 3, epsilon, mask=torch.ones(3, device="meta").bool())


class TestRefused:
    logits = torch.zeros(2, 3)
    labels = torch.tensor([0, 2])

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"epsilon": -0.1}, r"epsilon must be a number in \[0, 1\], got -0.1"),
            ({"epsilon": 1.1}, r"epsilon must be a number in \[0, 1\], got 1.1"),
            ({"epsilon": math.nan}, r"epsilon must be a number in \[0, 1\], got nan"),
            ({"epsilon": "0.1"}, r"epsilon must be a number in \[0, 1\], got '0.1'"),
            ({"epsilon": torch.tensor(1.5)}, r"epsilon must be a number in \[0, 1\], got 1.5"),
            ({"epsilon": torch.tensor([0.1, math.nan])}, r"epsilon must be in \[0, 1\], got nan"),
            ({"epsilon": torch.tensor([0.1, -0.5])}, r"epsilon must be in \[0, 1\], got -0.5"),
            ({"epsilon": torch.zeros(3)}, r"epsilon must .*\(2,\); got shape \(3,\)"),
            ({"logits": torch.zeros(3, 1)}, r"shape \(3, 1\) must have shape \(3,\); got \(2,\)"),
            (
                {"logits": torch.zeros(2), "labels": torch.tensor([0.5, -100])},
                r"a label is outside \[0, 1\]; float labels .* only integer labels can be ignored",
            ),
            ({"logits": torch.zeros(2), "labels": torch.tensor([0, 2])}, r"in \[0, 1\]"),
            ({"logits": torch.tensor(3.0)}, r"logits must be .*; got torch.float32 of shape \(\)"),
            ({"logits": torch.zeros(2, 3).long()}, "logits must be floats .*; got torch.int64"),
            ({"labels": torch.tensor([0, 3])}, r"a label is 3; .*\[0, 2\], or -100"),
            ({"labels": torch.tensor([-1, 0])}, "a label is -1"),
            ({"labels": torch.tensor([0])}, r"labels .*\(2,\).*; got torch.int64 of shape \(1,\)"),
            (
                {"labels": torch.tensor([True, False])},
                "labels .* must be integers .*; got torch.bool",
            ),
            ({"labels": torch.zeros(2, 4)}, r"soft labels must .*; got \(2, 4\)"),
            (
                {"labels": torch.zeros(2, 3), "ignore_index": 1},
                "ignore_index must be negative for soft labels.*; got 1",
            ),
            ({"weight": torch.ones(2)}, r"weight must have shape \(3,\).*; got \(2,\)"),
            ({"reduction": "avg"}, "unknown reduction 'avg'; allowed: mean, sum, none"),
            ({"convention": "other"}, "unknown convention 'other' .*did you mean 'others'"),
        ],
    )
    def test_values_and_shapes(self, change: dict[str, Any], message: str) -> None:
        given = {"logits": self.logits, "labels": self.labels, "epsilon": 0.1, **change}
        with pytest.raises(ValueError, match=message):
            smoothing_loss(**given)

    @pytest.mark.parametrize("epsilon", [-0.1, math.nan])
    def test_a_float_is_checked_inside_vmap_too(self, epsilon: float) -> None:
        with pytest.raises(ValueError, match="epsilon must be"):
            vmap(lambda z: smoothing_loss(z, self.labels, epsilon))(self.logits.expand(4, 2, 3))


class TestSingleLogit:
    """A binary model with one logit has two classes, with the logits [0, z]."""

    @pytest.mark.parametrize("shape", [(7,), (7, 1), (3, 1, 4)])
    @pytest.mark.parametrize("kind", [torch.int64, torch.bool, torch.float64])
    @pytest.mark.parametrize("convention", CONVENTIONS)
    def test_is_the_binary_cross_entropy_with_smoothed_targets(
        self, shape: tuple[int, ...], kind: torch.dtype, convention: str
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
        hard = torch.rand(shape, generator=generator) < 0.5
        q = hard.double()
        smoothed = 0.8 * q + 0.2 * (1 - q) if convention == "others" else 0.8 * q + 0.1
        theirs = F.binary_cross_entropy_with_logits(logits, smoothed)
        ours = smoothing_loss(logits, hard.to(kind), 0.2, convention=convention)
        assert_close(ours, theirs)
        assert_close(gradient(ours, logits), gradient(theirs, logits))
        places = (shape[0], *shape[2:])
        each = smoothing_loss(logits, hard.reshape(places), 0.2, reduction="none")
        assert each.shape == places

    @pytest.mark.parametrize("schedule", ["fixed", "confidence", "error"])
    def test_equals_two_logits_for_every_kind_of_schedule(self, schedule: str) -> None:
        logits = torch.linspace(-3, 3, 6)
        labels = torch.tensor([0, 1, -100, 1, 0, 1])
        loss = SmoothingLoss(Smoothing(0.3, schedule, 2.0), weight=torch.tensor([1.0, 3.0]))
        both = torch.stack([torch.zeros(6), logits], 1)
        assert_close(loss(logits, labels), loss(both, labels))
        assert_close(loss(logits.unsqueeze(1), labels.unsqueeze(1)), loss(both, labels))
