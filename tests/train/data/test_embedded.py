"""The embedded corpus: present, typed, deterministic, capped, without docstrings where it is
code.
"""

import ast
import itertools
import textwrap

import pytest

from stepladder.configs.core.errors import UserError
from stepladder.train.data import arithmetic
from stepladder.train.data.prepare import embedded, source_text

WHEELS = tuple(
    (
        "python_numeric python_numeric_tests python_jax c_cpp cython docstrings reference licences "
        "tables"
    ).split()
)


def take(name: str, cap: float = 0.2e6, seed: int = 0) -> list:
    total, found = 0.0, []
    for document in embedded.read(name, cap, seed):
        found.append(document)
        total += len(document.text)
        if total >= cap:
            break
    return found


def test_wheels_alone_carry_at_least_six_domains():
    assert len(set(WHEELS) & set(embedded.available())) >= 6
    assert "arithmetic" in embedded.available()


@pytest.mark.parametrize("name", embedded.available())
def test_a_domain_reads_the_same_twice_and_has_groups_to_split(name):
    first = take(name)
    assert first == take(name)
    assert len({d.group for d in first}) >= 2
    assert sum(len(d.text) for d in first) >= 0.2e6
    assert not any(d.name.startswith("/") or "site-packages" in d.name for d in first)


def test_another_seed_takes_another_sample():
    def names(seed):
        return {d.name for d in take("python_numeric", seed=seed)}

    assert names(0) != names(1)


def test_code_has_no_docstrings_and_still_parses():
    for document in itertools.islice(
        (d for d in take("python_numeric") if "#" not in d.name and len(d.text) < 60_000), 10
    ):
        for node in ast.walk(ast.parse(document.text)):
            if (
                isinstance(node, (ast.FunctionDef, ast.ClassDef))
                and node.lineno != node.body[0].lineno
            ):
                assert not ast.get_docstring(node)


def test_docstring_removal_and_extraction(tmp_path):
    path = tmp_path / "m.py"
    path.write_text(
        textwrap.dedent('''
        """The module's own description, long enough to be kept."""
        x = "not a docstring"
        def f():
            """Only a docstring in this function, forty characters."""
        class C:
            """About the class, also longer than forty characters."""
            y = 1
    ''')
    )
    (code,) = source_text.code("pkg/m.py", path)
    assert code.text.split() == [
        "x",
        "=",
        '"not',
        "a",
        'docstring"',
        "def",
        "f():",
        "...",
        "class",
        "C:",
        "y",
        "=",
        "1",
    ]
    (prose,) = source_text.docstrings("pkg/m.py", path)
    assert [line[:8] for line in prose.text.splitlines() if line] == [
        "The modu",
        "Only a d",
        "About th",
    ]


@pytest.mark.parametrize(
    "label, group",
    [
        ("numpy/linalg/_linalg.py", "numpy/linalg"),
        ("jax/_src/lax/x.py", "jax/_src/lax"),
        ("stdlib/ast.py", "stdlib/ast.py"),
    ],
)
def test_group_is_the_package(label, group):
    assert source_text.group_of(label) == group


def test_arithmetic_is_right_and_an_item_has_one_group():
    for document in take("arithmetic", 50_000):
        for line in document.text.splitlines():
            a, op, b, _, result = line.split()
            assert arithmetic.OPERATIONS[op](int(a), int(b)) == int(result)
            assert document.group == f"arithmetic/{arithmetic.group_of(int(a), op, int(b))}"


def test_unknown_domain_names_the_nearest():
    with pytest.raises(UserError, match=r"domains=docstring: .*'docstrings'"):
        embedded.available(("docstring",))


def test_versions_name_the_packages_read():
    assert set(embedded.versions(["python_numeric"])) == {"numpy", "scipy", "pandas", "matplotlib"}
    assert "python" in embedded.versions(["python_stdlib"])
