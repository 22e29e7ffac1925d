"""Tasks of EleutherAI's evaluation harness."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from align.errors import InputError, MissingPackageError
from student.evaluators.base import EvalContext, Measured, Metric


@dataclass(frozen=True, kw_only=True, slots=True)
class Harness:
    """What ``lm_eval.simple_evaluate`` says of a model (extra ``harness``).

    Tasks are the harness's own, some of which read data from a hub, or those of YAML
    files in ``include``. Each of a task's numbers is a part ``task/number``, under
    ``lm_eval`` where more is better, and under ``lm_eval_loss`` where less is.
    """

    metrics: ClassVar[Mapping[str, Metric]] = {
        "lm_eval": Metric("", "higher"),
        "lm_eval_loss": Metric("", "lower"),
    }
    of_teachers: ClassVar[bool] = False

    tasks: list[str] | None = None
    """Names of tasks; none measures nothing, and says so."""
    include: str | None = None
    """A folder with task files."""
    limit: int | None = None
    """Documents of a task that are read; None: all."""
    shots: int | None = None
    """Solved examples before each; None: as the task says."""
    batch_size: int = 8
    """Requests at once."""

    def __post_init__(self) -> None:
        """Check every option.

        Raises:
            InputError: a number that cannot be.
        """
        for name, least in (("limit", 1), ("shots", 0), ("batch_size", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name} is {value}; give {least} or more")

    def __call__(self, ctx: EvalContext) -> Measured:
        """Ask the harness."""
        if ctx.subject.writes_targets:
            return ctx.subject.not_asked("lm_eval")
        if not self.tasks:
            return Measured({}, ["lm_eval: name some tasks in its option tasks"])
        return Measured(parts_of(self.evaluated(ctx)))

    def evaluated(self, ctx: EvalContext) -> dict[str, Any]:
        """What the harness returns.

        Raises:
            MissingPackageError: it is not installed.
        """
        try:
            from lm_eval import simple_evaluate
            from lm_eval.models.huggingface import HFLM
            from lm_eval.tasks import TaskManager
        except ImportError as error:
            raise MissingPackageError(
                "the evaluator lm_eval takes the package lm-eval, which is not "
                f"installed whole ({error}); pip install 'mtkd[harness]'"
            ) from error
        subject = ctx.subject
        model = HFLM(
            pretrained=subject.model,
            tokenizer=subject.tokenizer,
            batch_size=self.batch_size,
            max_length=subject.max_tokens,
        )
        results: dict[str, Any] = simple_evaluate(
            model=model,
            tasks=list(self.tasks or ()),
            task_manager=TaskManager(include_path=self.include),
            limit=self.limit,
            num_fewshot=self.shots,
            bootstrap_iters=0,
            random_seed=ctx.seed,
            numpy_random_seed=ctx.seed,
            torch_random_seed=ctx.seed,
            fewshot_random_seed=ctx.seed,
        )
        return results


def parts_of(results: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The numbers of every task, by whether more or less is better."""
    values: dict[str, dict[str, float]] = {}
    for task, numbers in results["results"].items():
        higher = results.get("higher_is_better", {}).get(task, {})
        for key, value in numbers.items():
            name, _, way = key.partition(",")
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or name.endswith("_stderr") or not way:
                continue
            metric = "lm_eval" if higher.get(name, True) else "lm_eval_loss"
            part = f"{task}/{name}" if way == "none" else f"{task}/{name} ({way})"
            values.setdefault(metric, {})[part] = float(value)
    return values
