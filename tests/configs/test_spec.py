"""Specs: JSON and back, hashes, fields that came later, branches of a trunk."""

import dataclasses
import functools
import json

import pytest

from stepladder.configs import base
from stepladder.configs.core import spec as spec_module
from stepladder.configs.core.branches.cooldown import cooldown, with_checkpoints
from stepladder.configs.core.build import rung
from stepladder.configs.core.errors import UserError
from stepladder.configs.core.spec import (
    DataSpec,
    ModelSpec,
    ParentSpec,
    Variant,
    from_dict,
    to_dict,
)
from tests.support import tiny


def test_spec_survives_json_and_its_hash_ignores_labels(tmp_path):
    spec = rung(tiny.config(tmp_path), role="proxy")
    again = from_dict(json.loads(json.dumps(to_dict(spec))))
    assert again == spec and again.run_id == spec.run_id
    assert dataclasses.replace(spec, name="other", tags=()).hash == spec.hash
    for change in (
        {"steps": 41},
        {"batch_size": 16},
        {"hyper": dataclasses.replace(spec.hyper, learning_rate=0.5)},
    ):
        assert dataclasses.replace(spec, **change).hash != spec.hash


def test_what_a_sweep_varies_is_not_part_of_the_program(tmp_path):
    spec = rung(tiny.config(tmp_path))
    trunk = with_checkpoints(spec, 16)
    assert cooldown(trunk, 20, 0.2).program_key == spec.program_key
    assert (
        dataclasses.replace(
            spec, hyper=dataclasses.replace(spec.hyper, seed=3, learning_rate=1.0)
        ).program_key
        == spec.program_key
    )
    assert dataclasses.replace(spec, batch_size=16).program_key != spec.program_key


def test_a_cooldown_needs_an_undecayed_checkpoint(tmp_path):
    with pytest.raises(UserError, match="no undecayed checkpoint"):
        cooldown(rung(tiny.config(tmp_path)), 20, 0.2)


def test_fields_that_came_later_change_no_id_while_they_are_off():
    """A window and a document's end are written, hashed and compiled for only where they are used;
    either way a spec is read back whole.
    """
    off, on = base.get_config("tiny"), base.get_config("tiny")
    on.model.window, on.model.document_mask = 64, True
    plain, limited = rung(off), rung(on)
    assert not {"window", "document_end"} & to_dict(plain)["model"].keys()
    assert (limited.model.window, limited.model.document_end) == (64, 256)
    assert {k: to_dict(limited)["model"][k] for k in ("window", "document_end")} == {
        "window": 64,
        "document_end": 256,
    }
    assert plain.hash != limited.hash and plain.program_key != limited.program_key
    for spec in (plain, limited):
        assert from_dict(to_dict(spec)) == spec
    # 0 is a token, not "off"
    at_zero = dataclasses.replace(plain, model=dataclasses.replace(plain.model, document_end=0))
    assert to_dict(at_zero)["model"]["document_end"] == 0


def test_a_field_is_later_in_its_own_class_only(monkeypatch):
    """A field of that name in another spec is always written, and hashed."""
    plain = rung(base.get_config("tiny"))
    monkeypatch.setitem(spec_module.LATER, DataSpec, {"max_epochs": plain.data.max_epochs})
    body = to_dict(plain)
    assert "max_epochs" not in body["data"] and "max_mb_per_domain" in body["data"]["corpus"]
    monkeypatch.setitem(spec_module.LATER, ModelSpec, {"seq_len": plain.data.seq_len})
    assert to_dict(plain)["data"]["seq_len"] == plain.data.seq_len


@pytest.mark.parametrize("part", ["", "model", "data.corpus", "hyper"])
def test_a_spec_of_other_fields_is_not_read(part):
    body = to_dict(rung(base.get_config("tiny")))
    node = functools.reduce(dict.__getitem__, filter(None, part.split(".")), body)
    with pytest.raises(KeyError):
        node["colour"] = "blue"
        from_dict(body)
    del node["colour"]
    del node[{"": "steps", "model": "d_ff", "data.corpus": "seed", "hyper": "beta1"}[part]]
    with pytest.raises(TypeError):
        from_dict(body)


def test_every_part_of_a_spec_is_read_back_as_its_own_type():
    trunk = with_checkpoints(rung(base.get_config("tiny"), role="proxy"), 48)
    corpus = dataclasses.replace(
        trunk.data.corpus,
        sources=(("a", "a/*.txt"),),
        variants=(Variant("v", "a", ("lower_case",), "none"),),
    )
    data = dataclasses.replace(trunk.data, corpus=corpus, validation=("a",))
    spec = dataclasses.replace(cooldown(trunk, 60, 0.2), data=data)
    again = from_dict(json.loads(json.dumps(to_dict(spec))))
    assert again == spec and hash(again) == hash(spec)
    assert isinstance(again.parent, ParentSpec)
    assert isinstance(again.data.corpus.variants[0], Variant)
    assert to_dict(spec)["data"]["corpus"]["variants"] == [["v", "a", ["lower_case"], "none"]]
