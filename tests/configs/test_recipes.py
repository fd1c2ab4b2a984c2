"""Every recipe: its weights, its filters and its domains are real; identical ones are noticed,
impossible ones refused.
"""

import dataclasses

import pytest

from stepladder.configs import base, recipes, web_recipes
from stepladder.configs.core.build import data_spec
from stepladder.configs.core.errors import UserError
from stepladder.configs.recipes import RECIPES, Recipe
from stepladder.train.data.prepare import dedup, embedded, filters, quality

TABLES = {"embedded": RECIPES, "web": web_recipes.RECIPES}
EVERY = [(table, name) for table, found in TABLES.items() for name in found]


@pytest.mark.parametrize(("table", "name"), EVERY)
def test_recipe(table, name):
    recipe = TABLES[table][name]
    recipes.check(name, recipe, embedded.NAMES if table == "embedded" else web_recipes.DOMAINS)
    assert sum(recipe.weights.values()) == pytest.approx(1) and recipe.note
    filters.check([f for f in recipe.filters if f not in quality.RANKED])
    dedup.check(recipe.dedup or "none")


@pytest.mark.parametrize("table", TABLES)
def test_a_table_makes_one_corpus_and_as_many_different_data_specs(table, recwarn):
    config = base.get_config()
    config.unlock()
    found = recipes.chosen(TABLES[table], TABLES[table])
    assert not recwarn.list
    config.data.validation = ("docstrings",)
    if table == "web":
        config.data.sources, config.data.validation = (
            {d: f"/web/{d}/*.jsonl.zst" for d in web_recipes.DOMAINS},
            ("c4",),
        )
    recipes.prepare_config(config, found)
    specs = []
    for name, recipe in found.items():
        config.data.weights = recipes.weights(name, recipe)
        specs.append(data_spec(config))
    assert len({s.corpus for s in specs}) == 1 and len({s.weights for s in specs}) == len(specs)


def test_dimensions_are_covered():
    count = {d: sum(r.dimension == d for r in RECIPES.values()) for d in recipes.DIMENSIONS}
    assert len(RECIPES) >= 14 and all(n >= 3 for n in count.values()), count
    web = [
        sum(r.dimension == d for r in web_recipes.RECIPES.values()) for d in recipes.DIMENSIONS[:4]
    ]
    assert web == [10, 3, 6, 4]  # arXiv:2512.24503


def test_identical_recipes_are_noticed():
    table = {
        "a": Recipe("mixture", {"x": 0.5, "y": 0.5}, "a"),
        "b": Recipe("mixture", {"y": 0.5, "x": 0.5, "z": 0.0}, "b"),
    }
    with pytest.warns(UserWarning, match="recipes a and b are the same"):
        recipes.chosen(table, table)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"weights": {"docstrings": 0.5}}, "sum to 0.5, not 1; divide"),
        ({"weights": {"docstrings": 1.5, "tables": -0.5}}, r"weights.tables=-0.5: is negative"),
        ({"weights": {"docstring": 1.0}}, "no such domain; did you mean 'docstrings'"),
        ({"weights": {"docstrings": float("nan")}}, "is negative"),
        ({"dimension": "taste"}, "dimension='taste' is unknown"),
    ],
)
def test_impossible_recipes_are_refused(change, says):
    table = {"r": dataclasses.replace(RECIPES["natural"], **change)}
    with pytest.raises(UserError, match=says):
        recipes.chosen(table, table, embedded.NAMES)


@pytest.mark.parametrize(
    ("names", "says"),
    [(("naturel",), "did you mean 'natural'"), (("natural", "natural"), "named twice")],
)
def test_names_are_checked(names, says):
    with pytest.raises(UserError, match=says):
        recipes.chosen(names)
