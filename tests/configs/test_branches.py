"""What a branch takes from its parent, and which branches are refused before anything runs."""

import dataclasses
import re

import pytest

from stepladder.configs.core.branches.check import check_branch, check_step
from stepladder.configs.core.branches.cooldown import cooldown, with_checkpoints
from stepladder.configs.core.branches.finetune import Tuning, finetune
from stepladder.configs.core.branches.kinds import BRANCHES
from stepladder.configs.core.branches.mixture import branch, specialise, windows_read
from stepladder.configs.core.build import rung
from stepladder.configs.core.errors import UserError
from stepladder.configs.core.load import checked
from stepladder.configs.core.spec import (
    EXAMPLES_A_BLOCK,
    ParentSpec,
    TaskSpec,
    from_dict,
    to_dict,
)
from tests.support import tiny
from tests.support.errors import assert_user_error

EVEN = {"digits": 0.5, "words": 0.5}


@pytest.fixture
def trunk(tmp_path):
    """60 steps, the last 12 of them decay; checkpoints at 24 and 48."""
    config = tiny.config(tmp_path / "text", run__duration="60 steps")
    return with_checkpoints(rung(config, role="trunk"), 24, 48)


def test_a_specialist_goes_on_with_everything_but_the_data(trunk):
    child = specialise(trunk, 24, 16, "words", decay_fraction=0.2)
    assert child.parent.reset == ("data",) and child.start_step == child.stream_start == 24
    assert (child.steps, child.hyper.total_steps, child.hyper.decay_start) == (40, 40, 32)
    assert child.hyper.warmup_steps == trunk.hyper.warmup_steps
    assert child.data.weights == (("words", 1.0),)
    assert child.data.evaluated == tuple((name, 0.5) for name, _ in trunk.data.evaluated)
    assert child.tag["branch"] == "specialise" and child.tag["own"] == "words"
    check_branch(child, trunk)


def test_a_decay_longer_than_the_branch_begins_with_it(trunk):
    assert specialise(trunk, 48, 2, "words", decay_fraction=0.2).hyper.decay_start == 48


def test_a_schedule_of_its_own_counts_from_zero(trunk):
    child = branch("continue", trunk, 60, 10, EVEN, warmup_steps=3, learning_rate=1e-4)
    assert child.parent.reset == ("step", "data") and child.start_step == 0
    assert (child.steps, child.hyper.warmup_steps, child.hyper.total_steps) == (10, 3, 10)
    assert child.hyper.learning_rate == 1e-4
    check_branch(child, trunk)


def test_what_a_branch_keeps_is_in_its_identity(trunk):
    children = [
        specialise(trunk, 24, 16, "words"),
        specialise(trunk, 24, 16, "words", decay_fraction=0.2),
        specialise(trunk, 24, 16, "words", reset=("data", "optimizer")),
        specialise(trunk, 24, 16, "words", weight_decay=0.3),
        specialise(trunk, 24, 16, "words", warmup_steps=2),
        specialise(trunk, 48, 16, "words"),
    ]
    assert len({child.hash for child in children}) == len(children)
    for child in children:
        assert from_dict(to_dict(child)) == child


def test_windows_read_bound_what_the_mixture_draws(trunk):
    """Whole blocks, and what a branch of a branch has behind it."""
    per_block = EXAMPLES_A_BLOCK // 2 + 1
    assert dict(windows_read(trunk, 24)) == {"digits": per_block, "words": per_block}
    assert windows_read(trunk, 0) == ()
    child = specialise(trunk, 24, 16, "words")
    assert dict(windows_read(child, 40)) == {
        "digits": per_block,
        "words": per_block + EXAMPLES_A_BLOCK + 1,
    }


def test_ids_of_runs_without_branches_are_unchanged(trunk):
    assert "seen" not in to_dict(trunk.data)
    assert "seen" in to_dict(specialise(trunk, 24, 16, "words").data)


@pytest.mark.parametrize("kind", [name for name, row in BRANCHES.items() if row.other_data])
def test_every_kind_with_other_data_makes_a_branch(trunk, kind):
    child = branch(kind, trunk, 24, 8, EVEN)
    check_branch(child, trunk)
    assert child.parent.reset == BRANCHES[kind].reset


REFUSED = {
    "no checkpoint there": (
        lambda trunk: specialise(trunk, 25, 8, "words"),
        ("parent.step", "25", "the nearest is 24"),
    ),
    "its schedule has ended": (
        lambda trunk: specialise(trunk, 60, 8, "words"),
        ("branch.step", "60", "warmup_steps"),
    ),
    "no step": (
        lambda trunk: specialise(trunk, 24, 0, "words"),
        ("branch.steps", "0", "use 1"),
    ),
    "an unknown kind": (
        lambda trunk: branch("specialize", trunk, 24, 8, EVEN),
        ("branch.kind", "specialize", "specialise"),
    ),
    "a kind that keeps the data": (
        lambda trunk: branch("cooldown", trunk, 24, 8, EVEN),
        ("branch.kind", "cooldown", "use cooldown()"),
    ),
    "weights that are none": (
        lambda trunk: branch("continue", trunk, 24, 8, {"words": 0.5}),
        ("branch.weights", None, "divide"),
    ),
    "a cosine trunk": (
        lambda trunk: specialise(
            dataclasses.replace(
                trunk, optimizer=dataclasses.replace(trunk.optimizer, schedule="cosine")
            ),
            24,
            8,
            "words",
        ),
        ("schedule.kind", "cosine", "warmup_steps"),
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_branch_that_cannot_be_made_is_refused(trunk, why):
    make, (field, value, remedy) = REFUSED[why]
    with pytest.raises(UserError) as raised:
        make(trunk)
    assert_user_error(raised, field=field, value=value, remedy=re.escape(remedy))


def changed(spec, part, **values):
    return dataclasses.replace(spec, **{part: dataclasses.replace(getattr(spec, part), **values)})


MISFITS = {
    "another shape": (
        lambda child: changed(child, "model", d_model=32),
        ("model.d_model", "32", "parent's shape"),
    ),
    "other moments": (
        lambda child: changed(child, "optimizer", name="sgd"),
        ("optimizer.name", "sgd", "parent.reset"),
    ),
    "nothing left to train": (
        lambda child: dataclasses.replace(child, steps=24),
        ("run.steps", "24", "train beyond"),
    ),
    "another tokenizer": (
        lambda child: changed(
            child,
            "data",
            corpus=dataclasses.replace(child.data.corpus, tokenizer="bpe:512"),
        ),
        ("data.tokenizer", "bpe:512", "parent's tokens"),
    ),
    "windows of another length": (
        lambda child: changed(child, "data", seq_len=16),
        ("data.seq_len", "16", "leave data.seen empty"),
    ),
}


@pytest.mark.parametrize("why", MISFITS)
def test_a_ladder_refuses_a_branch_that_does_not_fit_its_parent(trunk, why):
    change, (field, value, remedy) = MISFITS[why]
    child = specialise(trunk, 24, 16, "words")
    with pytest.raises(UserError) as raised:
        checked([trunk, change(child)])
    assert_user_error(raised, field=field, value=value, remedy=re.escape(remedy))


def test_a_trained_tokenizer_belongs_to_its_corpus(trunk):
    corpus = dataclasses.replace(trunk.data.corpus, tokenizer="bpe:512")
    parent = changed(trunk, "data", corpus=corpus)
    other = dataclasses.replace(corpus, name="other")
    child = changed(specialise(parent, 24, 16, "words"), "data", corpus=other)
    with pytest.raises(UserError) as raised:
        check_branch(child, parent)
    assert_user_error(raised, field="data.corpus", value="other", remedy="weight 0")


def test_arithmetic_and_masks_may_differ(trunk):
    child = changed(specialise(trunk, 24, 16, "words"), "model", document_end=256, window=8)
    assert checked([trunk, child]) == [trunk, child]


def test_cooldowns_are_branches_that_fit(trunk):
    assert check_branch(cooldown(trunk, 60, 0.2), trunk) is None
    with pytest.raises(UserError):
        check_step(trunk, 50)


TASK = TaskSpec("sums", "sums:2")


def test_fine_tuning_starts_anew_and_masks_its_examples(trunk):
    tuning = Tuning(trainable="lora", rank=4, replay=0.25, l2_to_start=0.1, batch_size=4)
    child = finetune(trunk, 60, 20, TASK, 3e-4, tuning, seed=5, arm="separate")
    check_branch(child, trunk)
    assert child.parent == ParentSpec(trunk.run_id, 60, ("step", "optimizer", "data"))
    assert child.model.marked and child.model.document_end == trunk.model.vocab_size - 1
    assert child.data.task == TASK and child.data.replay == 0.25
    assert child.data.seen == windows_read(trunk, 60), "replay reads on where the trunk stopped"
    assert child.optimizer.to_start and child.hyper.l2_to_start == 0.1
    assert (child.hyper.warmup_steps, child.hyper.total_steps, child.batch_size) == (2, 20, 4)
    assert child.tag["branch"] == "finetune" and child.tag["task"] == "sums"
    assert child.tag["arm"] == "separate"
    assert from_dict(to_dict(child)) == child


def test_rates_of_a_fine_tuning_share_an_executable(trunk):
    """And how strongly it is held to its start; what is trained does not."""
    one = finetune(trunk, 60, 20, TASK, 3e-4, Tuning(l2_to_start=0.1))
    two = finetune(trunk, 48, 20, TASK, 1e-3, Tuning(l2_to_start=1.0))
    assert one.program_key == two.program_key and one.hash != two.hash
    free = finetune(trunk, 60, 20, TASK, 3e-4)
    last = finetune(trunk, 60, 20, TASK, 3e-4, Tuning(trainable="last"))
    assert len({spec.program_key for spec in (one, free, last, trunk)}) == 4


OUT_OF_RANGE = {
    "steps": ("steps", 0, {"steps": 0}),
    "replay": ("tuning.replay", 1.5, {"tuning": Tuning(replay=1.5)}),
    "warmup": ("tuning.warmup", -1, {"tuning": Tuning(warmup=-1)}),
    "l2": ("tuning.l2_to_start", -0.1, {"tuning": Tuning(l2_to_start=-0.1)}),
    "step": ("parent.step", 7, {"step": 7}),
}


@pytest.mark.parametrize("why", OUT_OF_RANGE)
def test_a_fine_tuning_out_of_range_is_refused(trunk, why):
    field, value, changes = OUT_OF_RANGE[why]
    arguments = {"step": 60, "steps": 20, "task": TASK, "learning_rate": 1e-3, **changes}
    with pytest.raises(UserError) as raised:
        finetune(trunk, **arguments)
    assert_user_error(raised, field=field, value=value, remedy="use|nearest")


def test_no_branch_leaves_a_fine_tuning_that_holds_more(trunk):
    parent = finetune(trunk, 60, 20, TASK, 1e-3, Tuning(l2_to_start=0.1))
    child = dataclasses.replace(parent, name="b", parent=ParentSpec(parent.run_id, 20), steps=30)
    with pytest.raises(UserError) as raised:
        check_branch(child, parent)
    assert_user_error(raised, field="parent", value=parent.run_id, remedy="branch from the run")


def test_adapters_have_moments_of_their_own(trunk):
    child = finetune(trunk, 60, 20, TASK, 1e-3, Tuning(trainable="lora", rank=2, reset=("step",)))
    with pytest.raises(UserError) as raised:
        check_branch(child, trunk)
    assert_user_error(raised, field="optimizer.trainable", value="lora", remedy="add 'optimizer'")
