"""Packing a plan's units into read tasks: every unit that is not done, once, a few seconds of work together."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from pipelines.tasks import TASK_BYTES, TASK_ROWS, TASKS_PER_CORE, Task, pack_tasks
from schemas.records import Plan

UNIT = st.tuples(st.integers(1, 256), st.integers(0, 16 << 20))
UNITS = st.lists(UNIT, max_size=60)


def plan(units: list[tuple[int, int]]) -> Plan:
    rows, sizes = [rows for rows, _ in units], [size for _, size in units]
    return Plan("c", "00001", "2024-05-01", "f", {}, "plan.parquet", sum(rows), sum(sizes), rows, sizes, [], "me")


def units_of(planned: Plan, task: Task) -> list[int]:
    """The units of a plan that a task does: as many consecutive ones as it has counts of rows, from its first row."""
    first = list(itertools.accumulate(planned.unit_rows, initial=0)).index(task.first)
    return list(range(first, first + len(task.rows)))


@st.composite
def plans_in_progress(draw) -> tuple[Plan, dict[int, frozenset[int]]]:
    units = draw(UNITS)
    done = {}
    for unit, (rows, _) in enumerate(units):
        how = draw(st.sampled_from(["untouched", "some", "all"]))
        if how == "some":
            done[unit] = frozenset(draw(st.sets(st.integers(0, rows - 1))))
        elif how == "all":
            done[unit] = frozenset(range(rows))
    return plan(units), done


@given(plans_in_progress(), st.sampled_from([0.5, 1, 2, 64, 1000]))
def test_every_unit_that_is_not_done_is_in_exactly_one_task(progress, cores):
    planned, done = progress
    tasks = pack_tasks(planned, done, cores)
    packed = [unit for task in tasks for unit in units_of(planned, task)]
    open_units = [unit for unit, rows in enumerate(planned.unit_rows) if len(done.get(unit, ())) < rows]
    assert packed == open_units  # in the plan's order, so that a task reads neighbours
    assert all(task.rows for task in tasks)


@given(plans_in_progress(), st.sampled_from([0.5, 1, 2, 64, 1000]))
def test_tasks_exceed_the_limits_by_less_than_their_largest_unit(progress, cores):
    planned, done = progress
    for task in pack_tasks(planned, done, cores):
        if len(task.rows) > 1:
            units = units_of(planned, task)
            sizes = [planned.unit_bytes[unit] for unit in units]
            assert sum(sizes) <= TASK_BYTES + max(sizes)
            assert sum(task.rows) <= TASK_ROWS + max(task.rows)


@given(plans_in_progress(), st.sampled_from([0.5, 1, 2, 64]))
def test_done_rows_are_passed_on_with_their_unit(progress, cores):
    planned, done = progress
    for task in pack_tasks(planned, done, cores):
        units = units_of(planned, task)
        assert [planned.unit_rows[unit] for unit in units] == list(task.rows)
        assert [done.get(unit, frozenset()) for unit in units] == list(task.done)


def test_a_plan_without_units_has_no_tasks():
    assert pack_tasks(plan([]), {}, 4) == []


def test_a_plan_that_is_done_has_no_tasks():
    assert pack_tasks(plan([(2, 10)]), {0: frozenset({0, 1})}, 4) == []


@given(st.integers(8, 600), st.sampled_from([1, 2, 4]))
def test_every_core_gets_as_many_tasks_and_about_as_much_work(n_units, cores):
    tasks = pack_tasks(plan([(1, 8 << 20)] * n_units), {}, cores)
    sizes = [len(task.rows) for task in tasks]
    assert len(tasks) % cores == 0
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= TASK_BYTES // (8 << 20) + 1


def test_small_units_are_gathered_up_to_the_limit_of_rows():
    tasks = pack_tasks(plan([(256, 1000)] * 400), {}, 4)
    assert max(len(task.rows) for task in tasks) == TASK_ROWS // 256


def test_a_small_plan_is_spread_over_the_cores():
    tasks = pack_tasks(plan([(1, 1 << 20)] * 64), {}, 4)
    assert len(tasks) == 4 * TASKS_PER_CORE


def test_a_plan_of_missing_objects_is_packed_too():
    tasks = pack_tasks(plan([(3, 0), (2, 0)]), {0: frozenset({1})}, 1)
    assert tasks == [Task(0, (3,), (frozenset({1}),)), Task(3, (2,), (frozenset(),))]
