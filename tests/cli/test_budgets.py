"""Budgets: every one is complete, and a larger one never does less."""

import itertools
from typing import get_args

from ctm_fast import models
from ctm_fast.cli.budgets import BUDGETS, BudgetName


def test_every_name_has_a_budget() -> None:
    assert set(BUDGETS) == set(get_args(BudgetName))


def test_larger_budgets_do_not_do_less() -> None:
    order = [BUDGETS[name] for name in get_args(BudgetName)]
    for small, large in itertools.pairwise(order):
        assert small.teacher.steps <= large.teacher.steps
        assert small.student.steps < large.student.steps


def test_adversarial_term_has_as_many_steps_of_the_student() -> None:
    for budget in BUDGETS.values():
        gan, total = budget.gan_objective.gan, budget.gan_student.steps
        assert sum(gan.generates(step) for step in range(total)) == budget.student.steps
        assert not any(gan.judges(step) for step in range(budget.student.steps // 2))
        for name in ("num_scales", "levels", "distance", "density"):
            assert getattr(budget.gan_objective, name) == getattr(budget.objective, name)


def test_networks_exist_and_levels_fit_the_grid() -> None:
    for budget in BUDGETS.values():
        models.build(budget.net, **budget.net_options)
        budget.objective.levels.check(budget.objective.num_scales)
