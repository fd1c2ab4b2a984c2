"""The hash of a compiled program: of what is computed, not of where its source lies."""

import jax
import jax.numpy as jnp

from stepladder.train.checks.compiled_hash import compiled_hash, text_hash

X = jnp.ones((4, 4))


def test_equal_programs_have_equal_hashes():
    def first(x):
        return jnp.tanh(x @ x)

    def second(x):  # elsewhere in this file, under another name
        return jnp.tanh(x @ x)

    def other(x):
        return jnp.sin(x @ x)

    a, b, c = (compiled_hash(jax.jit(f).lower(X).compile()) for f in (first, second, other))
    assert a == b != c and len(a) == 12


def test_a_choice_of_kernel_is_in_the_hash():
    line = '%c = f32[4]{0} custom-call(%a), backend_config={"selected_algorithm":"%d"}'
    text = 'HloModule jit_f\n\nFileNames\n1 "%s"\n\n\nENTRY %%main {\n  %s\n}\n'
    one = text_hash(text % ("a.py", line.replace("%d", "3")))
    assert one == text_hash(text % ("b.py", line.replace("%d", "3")))
    assert one != text_hash(text % ("a.py", line.replace("%d", "7")))
