"""The built-in tasks, and custom tasks from a file of the study."""

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sweeper.errors import SweeperError
from sweeper.smoothing import Smoothing
from sweeper.tasks import BUILT_IN_TASKS
from sweeper.tasks.digits import augment, digits, replace_labels
from sweeper.tasks.importing import StudyModules
from sweeper.tasks.loading import LoadedTask, load_function, load_task
from sweeper.training import Evaluation, Task, TrainingRun, derive_seed, train
from tests.support.studies import copy_task

STUDIES = Path(__file__).parent.parent / "studies"
OF_OPTIMIZER = {"optimizer", "lr", "weight_decay", "l1", "momentum", "beta1", "beta2"}
ACCEPTED = {*OF_OPTIMIZER, "dropout", "width", "shift", "noise"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    copy_task(tmp_path, "own.py")
    copy_task(tmp_path, "loop.py")
    return tmp_path


pytestmark = pytest.mark.usefixtures("one_thread")


def make_run(seed: int = 0, **changes: Any) -> TrainingRun:
    return TrainingRun(Smoothing(0.1), seed=seed, data_seed=0, **changes)


def last(loaded: LoadedTask, run: TrainingRun) -> Evaluation:
    *_, evaluation = loaded.trainer(run)
    return evaluation


# ---- digits --------------------------------------------------------------------------------


def parts(task: Task, data_seed: int = 0) -> dict[str, tuple[Tensor, Tensor]]:
    splits = task.data(data_seed)
    return {"train": splits.train, "valid": splits.valid, "test": splits.test}


def counts(labels: Tensor) -> Tensor:
    return torch.bincount(labels, minlength=10)


def test_digits_are_split_class_by_class_without_loss_or_overlap() -> None:
    found = parts(digits())
    assert [len(labels) for _, labels in found.values()] == [1078, 360, 359]
    total = sum(counts(labels) for _, labels in found.values())
    for (_, labels), share in zip(found.values(), (0.6, 0.2, 0.2), strict=True):
        assert ((counts(labels) - share * total).abs() <= 1).all()
    images = torch.cat([inputs for inputs, _ in found.values()])
    assert len(torch.unique(images, dim=0)) == len(images) == 1797
    assert images.min() == 0
    assert images.max() == 1


def test_digits_are_split_by_the_data_seed_alone() -> None:
    one, same, other = digits().data(1), digits().data(1), digits().data(2)
    assert torch.equal(one.train[0], same.train[0])
    assert not torch.equal(one.train[0], other.train[0])


def test_label_noise_replaces_the_given_share_of_training_labels_only() -> None:
    clean, noisy = parts(digits()), parts(digits(label_noise=0.3))
    for split in clean:
        assert torch.equal(clean[split][0], noisy[split][0])
    changed = clean["train"][1] != noisy["train"][1]
    assert int(changed.sum()) == round(0.3 * 1078)
    assert torch.equal(clean["valid"][1], noisy["valid"][1])
    assert torch.equal(clean["test"][1], noisy["test"][1])


def test_label_noise_is_uniform_over_the_other_classes() -> None:
    clean, noisy = digits().data(0).train[1], digits(label_noise=1.0).data(0).train[1]
    shifts = counts((noisy - clean) % 10)
    assert shifts[0] == 0
    expected = 1078 / 9
    assert ((shifts[1:] - expected).abs() < 4 * expected**0.5).all()


def test_label_noise_depends_on_the_data_seed() -> None:
    task = digits(label_noise=0.3)
    assert torch.equal(task.data(1).train[1], task.data(1).train[1])
    changed = [
        (digits().data(seed).train[1] != task.data(seed).train[1]).tolist() for seed in (1, 2)
    ]
    assert changed[0] != changed[1]


def test_valid_noise_replaces_validation_labels_independently() -> None:
    clean, noisy = parts(digits()), parts(digits(valid_noise=0.3))
    both = parts(digits(label_noise=0.3, valid_noise=0.3))
    changed = {split: clean[split][1] != noisy[split][1] for split in clean}
    assert {split: int(of.sum()) for split, of in changed.items()} == {
        "train": 0,
        "valid": round(0.3 * 360),
        "test": 0,
    }
    assert torch.equal(both["train"][1], parts(digits(label_noise=0.3))["train"][1])
    assert torch.equal(both["valid"][1], noisy["valid"][1])
    drawn_as_training = replace_labels(clean["valid"][1].numpy(), 0.3, derive_seed(0, "noise"))
    assert noisy["valid"][1].tolist() != drawn_as_training.tolist()
    assert torch.equal(clean["test"][1], both["test"][1])


def test_label_source_says_where_the_labels_come_from() -> None:
    clean = "as in the data set"
    assert digits().label_source == {"train": clean, "valid": clean, "test": clean}
    noisy = digits(label_noise=0.2).label_source
    assert noisy["train"] == "20% of labels replaced by a random other class"
    assert noisy["valid"] == noisy["test"] == clean
    both = digits(label_noise=0.2, valid_noise=0.1).label_source
    assert [both[split][:3] for split in ("train", "valid", "test")] == ["20%", "10%", clean[:3]]


@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.5, 0.999])
def test_train_fraction_keeps_a_share_of_each_class_and_only_of_training(fraction: float) -> None:
    whole, part = digits().data(0), digits(train_fraction=fraction).data(0)
    expected = (fraction * counts(whole.train[1])).clamp(min=1)
    assert ((counts(part.train[1]) - expected).abs() <= 0.5).all()
    assert torch.equal(part.valid[0], whole.valid[0])
    assert torch.equal(part.test[0], whole.test[0])


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_digits_learn(model: Any) -> None:
    task = replace(digits(model=model), epochs=12)
    *_, evaluation = train(
        task, make_run(hparams={"dropout": 0.1, "width": 64 if model == "mlp" else 8})
    )
    accuracy = (evaluation.logits.argmax(1) == evaluation.labels).float().mean()
    assert accuracy > 0.9
    assert task.accepts() == ACCEPTED


# ---- augmentation of digits ----------------------------------------------------------------

IMAGES = torch.rand(500, 64, generator=torch.Generator().manual_seed(0)) + 0.1


def augmented(seed: int = 0, images: Tensor = IMAGES, **strengths: Any) -> Tensor:
    torch.manual_seed(seed)
    return augment(images, {"shift": 0, "noise": 0.0, **strengths})


def moves(seed: int, **strengths: float) -> list[tuple[int, int]]:
    """Return how far down and to the right each image went, found by its brightest pixel."""
    dot = torch.zeros(500, 8, 8)
    dot[:, 4, 4] = 100.0
    places = augmented(seed, dot.flatten(1), **strengths).argmax(1).tolist()
    return [(place // 8 - 4, place % 8 - 4) for place in places]


@pytest.mark.parametrize("shift", [1, 2])
def test_shift_is_uniform_over_directions(shift: int) -> None:
    found = Counter(moves(0, shift=shift))
    ways = (2 * shift + 1) ** 2
    assert set(found) == {
        (y, x) for y in range(-shift, shift + 1) for x in range(-shift, shift + 1)
    }
    assert all(abs(count - 500 / ways) < 4 * (500 / ways) ** 0.5 for count in found.values())
    for image, moved, (down, right) in zip(
        IMAGES, augmented(shift=shift), moves(0, shift=shift), strict=True
    ):
        expected = torch.zeros(12, 12)
        expected[2 + down : 10 + down, 2 + right : 10 + right] = image.reshape(8, 8)
        assert torch.equal(moved, expected[2:10, 2:10].flatten())


def test_noise_has_its_standard_deviation_and_no_mean() -> None:
    noise = augmented(noise=0.3) - IMAGES
    assert abs(noise.std() - 0.3) < 0.01
    assert abs(noise.mean()) < 0.01
    assert len(torch.unique(noise)) > 0.9 * noise.numel()


def test_augmentations_draw_independently() -> None:
    assert moves(3, shift=2) == moves(3, shift=2, noise=0.1) != moves(4, shift=2)
    still = torch.zeros(500, 64)
    alone, beside = augmented(3, still, noise=0.1), augmented(3, still, noise=0.2, shift=2)
    torch.testing.assert_close(2 * alone, beside)


def test_no_augmentation_draws_no_random_numbers() -> None:
    state = torch.random.manual_seed(0).get_state()
    assert augmented() is IMAGES
    assert torch.equal(torch.get_rng_state(), state)


def test_augmentation_stays_on_the_device_of_the_inputs() -> None:
    # stands for a GPU: operations with what lies elsewhere are refused there too
    assert augmented(0, IMAGES.to("meta"), shift=2, noise=0.1).device.type == "meta"


@pytest.mark.parametrize(
    ("strengths", "message"),
    [
        ({"shift": 3}, "shift is 3; allowed: 0, 1, 2 (set integer = true in a range)"),
        ({"shift": 0.5}, "shift is 0.5; allowed: 0, 1, 2 (set integer = true in a range)"),
        ({"noise": -0.1}, "noise must be a finite number >= 0, got -0.1"),
        ({"noise": float("nan")}, "noise must be a finite number >= 0, got nan"),
    ],
)
def test_invalid_augmentation_is_rejected(strengths: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        augmented(**strengths)


@pytest.mark.parametrize("model", ["mlp", "cnn"])
@pytest.mark.parametrize("strength", [{"shift": 1}, {"noise": 0.2}, {"l1": 1e-4}])
def test_each_regularizer_changes_training(model: Any, strength: dict[str, Any]) -> None:
    task = replace(digits(model=model), epochs=1)
    small = {"width": 8}
    without = next(train(task, make_run(hparams=small)))
    with_it = next(train(task, make_run(hparams=small | strength)))
    assert not torch.equal(without.logits, with_it.logits)
    assert with_it.logits.isfinite().all()


def test_built_in_tasks_load_with_options() -> None:
    loaded = load_task("digits", {"label_noise": 0.5}, StudyModules(Path("/nowhere")))
    assert loaded.task is not None
    assert loaded.source is None
    assert set(loaded.accepts or ()) == ACCEPTED
    assert loaded.task.label_source["train"].startswith("50%")
    assert all(ready.factory() for ready in BUILT_IN_TASKS.values())


def test_naming_the_tasks_imports_neither_scikit_learn_nor_optuna() -> None:
    code = (
        "import sys, sweeper.tasks.loading\n"
        "print([m for m in ('sklearn', 'optuna', 'pandas') if m in sys.modules])"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


EXPECTED = 'expected "file.py:name" or "module:name"'


# ---- tasks in files ------------------------------------------------------------------------


def test_a_factory_in_a_file(folder: Path) -> None:
    loaded = load_task("own.py:make", {"width": 5}, StudyModules(folder))
    assert loaded.task is not None
    assert loaded.task.model({})[0].out_features == 5  # type: ignore[index]
    assert loaded.source == folder / "own.py"
    assert set(loaded.accepts or ()) == OF_OPTIMIZER
    assert last(loaded, make_run()).logits.shape == (60, 2)


@pytest.mark.parametrize(("use", "options"), [("fixed", {}), ("anything", {"width": 3, "x": 1})])
def test_task_object_and_factory_with_kwargs(
    folder: Path, use: str, options: dict[str, Any]
) -> None:
    assert isinstance(load_task(f"own.py:{use}", options, StudyModules(folder)).task, Task)


def test_a_loop_in_a_file_finds_its_options_in_the_run(folder: Path) -> None:
    options = {"weight": 2.0}
    loaded = load_task("loop.py:train", options, StudyModules(folder))
    assert loaded.task is None
    assert loaded.accepts is None
    assert loaded.source == folder / "loop.py"
    assert last(loaded, make_run(options=options)).extra == options


@pytest.mark.parametrize("future", ["", "from __future__ import annotations\n"])
def test_an_option_that_is_a_path_is_relative_to_the_study_file(
    folder: Path, future: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "paths.py").write_text(
        f"{future}from pathlib import Path\nimport sweeper\n"
        "def train(run, data: Path, more: list[Path], out: 'Path | None' = None, name: str = ''):\n"
        "    yield data, more, out, name\n"
        "def make(data: Path):\n    return data.read_text()\n"
    )
    monkeypatch.chdir(tmp_path)
    options = {"data": "a/x.csv", "more": ["b", "/c"], "name": "a/x.csv"}
    loaded = load_task("paths.py:train", options, StudyModules(folder))
    given: Any = next(iter(loaded.trainer(make_run())))
    assert given == (folder / "a/x.csv", [folder / "b", Path("/c")], None, "a/x.csv")
    with pytest.raises(SweeperError, match=r"task\.options\.data: ") as refusal:
        load_task("paths.py:make", {"data": "none.csv"}, StudyModules(folder))
    assert str(folder / "none.csv") in str(refusal.value)


def test_a_loop_is_given_the_options_that_its_signature_names(folder: Path) -> None:
    (folder / "named.py").write_text(
        "def some(run, kind='tag', *, size=1):\n    yield kind, size, dict(run.options)\n"
        "def every(run, kind='tag', **others):\n    yield kind, others\n"
    )

    def given(use: str, **options: Any) -> Any:
        loaded = load_task(f"named.py:{use}", options, StudyModules(folder))
        return next(iter(loaded.trainer(make_run(options=options))))

    assert given("some", kind="seg") == ("seg", 1, {"kind": "seg"})
    assert given("some") == ("tag", 1, {})
    assert given("every", kind="seg", size=2) == ("seg", {"size": 2})
    with pytest.raises(SweeperError) as caught:
        given("some", knd="seg")
    assert str(caught.value) == (
        "task.options.knd: named.py:some has no such option (did you mean 'kind'?); "
        "allowed: kind, size"
    )


def test_file_in_subfolder_with_helpers(tmp_path: Path) -> None:
    below = tmp_path / "below"
    below.mkdir()
    (below / "helper_of_test.py").write_text("VALUE = 1\n")
    (below / "late_of_test.py").write_text("VALUE = 2\n")
    code = "import helper_of_test as h\ndef f():\n    import late_of_test\n"
    (below / "own.py").write_text(f"{code}    return h.VALUE + late_of_test.VALUE\n")
    path_before = list(sys.path)
    modules = StudyModules(tmp_path)
    function = load_function("below/own.py:f", modules)
    imported = {"below/own.py", "below/helper_of_test.py"}
    assert set(modules.new_sources()) == imported
    assert function() == 3
    assert set(modules.new_sources()) == {"below/late_of_test.py"}
    assert set(modules.sources) == {*imported, "below/late_of_test.py"}
    assert sys.path == [*path_before, str(below)]


def test_helpers_of_the_same_name_in_two_folders_are_not_mixed_up(tmp_path: Path) -> None:
    found = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "namesake_of_test.py").write_text(f"VALUE = {number}\n")
        (folder / "own.py").write_text("from namesake_of_test import VALUE\ndef f(): return VALUE")
        found.append(load_function("own.py:f", StudyModules(folder)))
    assert [function() for function in found] == [1, 2]


def test_a_changed_file_is_read_again(folder: Path) -> None:
    (folder / "value.py").write_text("def f(): return 1")
    assert load_function("value.py:f", StudyModules(folder))() == 1
    (folder / "value.py").write_text("def f(): return 2")
    assert load_function("value.py:f", StudyModules(folder))() == 2


def test_dataclasses_with_postponed_annotations_import(folder: Path) -> None:
    (folder / "data.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "from typing import ClassVar\n@dataclass\nclass A:\n    x: ClassVar[int] = 1\n"
        "def f(): return A().x\n"
    )
    assert load_function("data.py:f", StudyModules(folder))() == 1


ALLOWED = (
    "allowed: a Task, a function that returns a Task, or a training function train(run), whose "
    "first parameter must be named run"
)


@pytest.mark.parametrize(
    ("use", "options", "message"),
    [
        (
            "digts",
            {},
            "task.use: unknown task 'digts' (did you mean 'digits'?); allowed: digits, or "
            '"file.py:name" or "module:name"',
        ),
        (
            "digits",
            {"label_nois": 0.1},
            "task.options.label_nois: digits has no such option (did you mean 'label_noise'?); "
            "allowed: label_noise, valid_noise, train_fraction, model",
        ),
        (
            "digits",
            {"label_noise": 1.5, "model": "mlp"},
            "task.options.label_noise: label_noise must be a number in [0, 1], got 1.5",
        ),
        (
            "digits",
            {"valid_noise": -0.1, "label_noise": 0.5},
            "task.options.valid_noise: valid_noise must be a number in [0, 1], got -0.1",
        ),
        (
            "digits",
            {"label_noise": "much"},
            "task.options.label_noise: label_noise must be a number in [0, 1], got 'much'",
        ),
        (
            "digits",
            {"label_noise": float("nan")},
            "task.options.label_noise: label_noise must be a number in [0, 1], got nan",
        ),
        (
            "digits",
            {"train_fraction": 0.0},
            "task.options.train_fraction: train_fraction must be a number in (0, 1], got 0.0",
        ),
        (
            "digits",
            {"model": "mpl"},
            "task.options.model: unknown model 'mpl' (did you mean 'mlp'?); allowed: mlp, cnn",
        ),
        ("own.py", {}, f"invalid reference 'own.py'; {EXPECTED}"),
        ("own.py:", {}, f"invalid reference 'own.py:'; {EXPECTED}"),
        ("o-n:make", {}, f"invalid reference 'o-n:make'; {EXPECTED}"),
        (
            "onw.py:make",
            {},
            "onw.py:make: file {folder}/onw.py does not exist (did you mean 'own.py'?)",
        ),
        (
            "own.py:mak",
            {},
            "own.py:mak: {folder}/own.py has no 'mak' (did you mean 'make'?)",
        ),
        ("own.py:number", {}, f"task.use: own.py:number is of type int; {ALLOWED}"),
        ("own.py:Task", {}, f"task.use: own.py:Task is the class Task; {ALLOWED}"),
        (
            "own.py:returns_none",
            {},
            f"task.use: own.py:returns_none returned NoneType; {ALLOWED}",
        ),
        (
            "own.py:make",
            {"widht": 4},
            "task.options.widht: own.py:make has no such option (did you mean 'width'?); "
            "allowed: width, depth",
        ),
        (
            "own.py:make",
            {"depth": 1, "width": 0},
            "task.options.width: width is 0; allowed: whole numbers from 1",
        ),
        (
            "own.py:needs",
            {"width": 2},
            "task.options: own.py:needs requires path; set every option without a default (if "
            "this is a training function, its first parameter must be run, or it must yield "
            "evaluations)",
        ),
        (
            "own.py:fixed",
            {"width": 2},
            "task.options.width: own.py:fixed is a Task and has no options; remove them, or use "
            "a function that takes them and returns a Task",
        ),
        (
            "own.py:broken",
            {},
            "task.options: {folder}/own.py:40: KeyError: 'no such key'",
        ),
        (
            "loop.py:train_two",
            {},
            "task.use: loop.py:train_two is a training function, but cannot be called as "
            "train(run): missing a required argument: 'other'; its parameters must be run (a "
            "TrainingRun) and options",
        ),
        (
            "loop.py:train_async",
            {},
            "task.use: loop.py:train_async is an async function; a training function must be a "
            "normal function",
        ),
    ],
)
def test_unloadable_task_is_a_one_line_error(
    folder: Path, use: str, options: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(SweeperError) as caught:
        load_task(use, options, StudyModules(folder))
    assert str(caught.value) == message.replace("{folder}", str(folder))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = 1\ndef f(:\n", "{file}:2: SyntaxError: invalid syntax"),
        (
            "\nimport no_such_module\n",
            "{file}:2: ModuleNotFoundError: No module named 'no_such_module'",
        ),
        ("x = 1\n\ny = z\n", "{file}:3: NameError: name 'z' is not defined"),
        ("raise RuntimeError('a\\nb')", "{file}:1: RuntimeError: a b"),
        (
            "import sys\nsys.exit(3)",
            "{file}:2: SystemExit: 3; the file exits when it is imported: move code that reads "
            'the command line under if __name__ == "__main__":',
        ),
        (
            "from sweeper.training import Optimizer\nOptimizer(lr=-1)",
            "{file}:2: lr must be a finite number > 0, got -1",
        ),
    ],
)
def test_import_error_of_task_file_is_one_line(tmp_path: Path, code: str, message: str) -> None:
    (tmp_path / "own.py").write_text(code)
    modules = set(sys.modules)
    with pytest.raises(SweeperError) as caught:
        load_function("own.py:f", StudyModules(tmp_path))
    assert str(caught.value) == message.replace("{file}", str(tmp_path / "own.py"))
    assert not [name for name in set(sys.modules) - modules if name.startswith("sweeper_file")]


def test_import_error_of_helper_names_the_helper(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("import broken_of_test")
    (tmp_path / "broken_of_test.py").write_text("\n\ndef f(:\n")
    message = f"{tmp_path / 'broken_of_test.py'}:3: SyntaxError: invalid syntax"
    with pytest.raises(SweeperError, match=f"^{re.escape(message)}$"):
        load_function("own.py:f", StudyModules(tmp_path))


def test_a_function_must_be_callable(folder: Path) -> None:
    with pytest.raises(SweeperError) as caught:
        load_function("own.py:number", StudyModules(folder))
    assert str(caught.value) == "own.py:number must be a function, got int"


# ---- the shipped example -------------------------------------------------------------------


def test_example_loop_trains_deterministically() -> None:
    loaded = load_task("own_loop.py:train", {}, StudyModules(STUDIES))
    first = list(loaded.trainer(make_run()))
    torch.manual_seed(9)
    second = []
    for evaluation in loaded.trainer(make_run()):
        torch.rand(3)
        second.append(evaluation)
    assert all(torch.equal(a.logits, b.logits) for a, b in zip(first, second, strict=True))
    assert first[-1].extra["auc"] > 0.97
    assert first[-1].progress == 1.0
    assert not torch.equal(first[-1].logits, last(loaded, make_run(seed=1)).logits)


def test_example_loop_uses_the_smoothing_of_the_run() -> None:
    loaded = load_task("own_loop.py:train", {}, StudyModules(STUDIES))
    plain = TrainingRun(Smoothing(0.0), seed=0, data_seed=0)
    annealed = TrainingRun(Smoothing(0.2, "linear", 1.0), seed=0, data_seed=0)
    fixed = TrainingRun(Smoothing(0.2), seed=0, data_seed=0)
    logits = [last(loaded, run).logits for run in (plain, annealed, fixed)]
    assert not torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[1], logits[2])


def test_splits_are_checked_in_a_users_file_too(tmp_path: Path) -> None:
    copy_task(tmp_path, "own.py")
    loaded = load_task("own.py:from_1", {}, StudyModules(tmp_path))
    with pytest.raises(SweeperError, match=r"^train: the label of row \d+ is 2; allowed: 0 to 1"):
        next(iter(loaded.trainer(make_run())))
