"""Which runs are packed with which: order, sizes, and where packs are not worth it."""

import dataclasses
from collections.abc import Sequence

import pytest

from stepladder.configs.core import counting
from stepladder.configs.core.branches.cooldown import cooldown, with_checkpoints
from stepladder.configs.core.errors import UserError
from stepladder.configs.core.spec import RunSpec
from stepladder.train.hardware.defaults import CPU
from stepladder.train.hardware.machine import Machine
from stepladder.train.ladder import packing
from tests.support import tiny

MAP = Machine(devices=2, tensorboard=False, pack_mode="map")
VMAP = Machine(devices=2, tensorboard=False, pack_mode="vmap")


def packs_of(specs: Sequence[RunSpec], machine: Machine) -> tuple[packing.Pack, ...]:
    found = packing.pack_ladder(specs, machine)
    assert not found.warnings
    return found.packs


def test_the_plan_keeps_parents_first_and_targets_last(rung8):
    specs, _ = rung8
    trunk = with_checkpoints(specs[0], 16)
    twin = dataclasses.replace(trunk, hyper=dataclasses.replace(trunk.hyper, seed=9))
    other = dataclasses.replace(specs[1], batch_size=4)
    target = dataclasses.replace(specs[3], tags=(("role", "target"),))
    late = dataclasses.replace(specs[4], tags=())
    ladder = [trunk, cooldown(trunk, 20, 0.2), twin, cooldown(twin, 20, 0.2), other, target, late]
    order = [
        [s.run_id for s in p.specs] for p in packs_of(ladder, dataclasses.replace(MAP, pack="8"))
    ]
    ids = [s.run_id for s in ladder]
    assert order == [[ids[0], ids[2]], [ids[1], ids[3]], [ids[4]], [ids[5]], [ids[6]]]
    studied = [
        dataclasses.replace(s, tags=(("role", "target"), ("study", "proxy_transfer")))
        for s in specs[:4]
    ]
    assert len(packs_of(studied, MAP)) == 1, "targets that nothing forecasts train together"


def test_packs_of_a_rung_have_one_size(rung8):
    """Packs of one rung have one size, so that a remainder runs in the same executable; off and a
    number are obeyed.
    """
    specs, _ = rung8
    five = packs_of(specs[:5], dataclasses.replace(MAP, pack="8"))
    assert {(len(p.specs), p.members) for p in five} == {(5, 6)}
    assert {(len(p.specs), p.members) for p in packs_of(specs[:6], MAP)} == {(6, 6)}
    alone = packs_of(specs[:5], dataclasses.replace(MAP, pack="off"))
    assert [p.members for p in alone] == [1] * 5
    pairs = packs_of(specs[:5], dataclasses.replace(VMAP, pack="2"))
    assert {p.members for p in pairs} == {2}
    assert [len(p.specs) for p in pairs] == [2, 2, 1]


def test_packs_of_a_program_share_their_executable(rung8):
    """Trunks and their branches are packs of one size, although there are fewer branches."""
    specs, _ = rung8
    trunks = [with_checkpoints(s, 16) for s in specs[:6]]
    found = packs_of([*trunks, *(cooldown(t, 20, 0.2) for t in trunks[:4])], MAP)
    assert [len(p.specs) for p in found] == [6, 4] and {p.members for p in found} == {6}
    assert {p.streams for p in found} == {
        max(len({packing.timeline(s) for s in p.specs}) for p in found)
    }


def test_what_a_pack_would_slow_down_is_trained_alone(rung8):
    """A long run beside a short one leaves a device idle; one run more, alone, costs another
    compilation, which short runs do not repay.
    """
    specs, _ = rung8
    long, short = dataclasses.replace(specs[0], steps=4000), specs[1]
    assert [p.members for p in packs_of([long, short], MAP)] == [1, 1]
    nearly = dataclasses.replace(short, steps=3900)
    assert [p.members for p in packs_of([long, nearly], MAP)] == [2]
    pair = [with_checkpoints(s, 16) for s in specs[:2]]
    leaf = cooldown(pair[0], 20, 0.2)
    assert [p.members for p in packs_of([*pair, leaf], MAP)] == [1, 1, 1]
    packed = packs_of([*pair, leaf], dataclasses.replace(MAP, pack="8"))
    assert [p.members for p in packed] == [2, 1]


def test_one_more_executable_is_counted_once(rung8):
    """Two groups of one run share the executable of a run alone: a pair that saves one and a half
    compilations is packed.
    """
    specs, _ = rung8
    step = (
        counting.count(specs[0].model, specs[0].data.seq_len).flops_per_token_train
        * specs[0].tokens_per_step
        / CPU.achieved
    )
    length = round(1.5 * packing.COMPILE_SECONDS / (2 * step * (1 - 1 / packing.MAP_GAIN)))
    pair = [dataclasses.replace(s, steps=length) for s in specs[:2]]
    assert packing.members_worth_it([pair, [specs[2]], [specs[3]]], MAP) > 1
    assert (
        packing.members_worth_it(
            [[dataclasses.replace(s, steps=length // 2) for s in pair], [specs[2]]], MAP
        )
        == 1
    )


@pytest.mark.parametrize(
    ("lengths", "devices", "rounds"),
    [([5, 5], 2, 5), ([9, 2, 2], 2, 11), ([4], 3, 4), ([6, 4, 4, 2], 2, 10), ([3, 3, 3], 1, 9)],
)
def test_rounds_are_the_steps_of_the_busiest_device(lengths, devices, rounds):
    assert packing.steps_of_busiest(lengths, devices) == rounds


def test_a_pack_that_does_not_fit_is_made_smaller_and_says_so(rung8):
    specs, _ = rung8
    small = dataclasses.replace(VMAP, pack="8", memory_gb=0.01)
    fitting = packing.members_that_fit(specs[0], small)
    assert 1 <= fitting < 8
    found = packing.pack_ladder(specs[:7], small)
    (warning,) = found.warnings
    assert warning.startswith("machine.pack=8: ") and f"{fitting} train at once" in warning
    assert all(p.members <= fitting for p in found.packs)
    assert packing.members_that_fit(specs[0], dataclasses.replace(small, memory_gb=1e-6)) <= 2, (
        "one a device is the least"
    )


def test_a_bad_pack_is_refused(tmp_path):
    config = tiny.config(tmp_path / "text", machine__pack="many")
    with pytest.raises(
        UserError,
        match="machine.pack='many': not a number of runs; use auto, off or a number of at least 1",
    ):
        Machine.from_config(config)
