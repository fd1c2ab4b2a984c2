"""What every message to a user must hold, whatever its prose."""

import re

import pytest

from stepladder.configs.core.errors import UserError


def assert_user_error(
    raised: pytest.ExceptionInfo | str, *, field: str, value: object = None, remedy: str
) -> None:
    """Check "FIELD=VALUE: what is wrong; what to do".

    Args:
        raised: of `pytest.raises(UserError)`, or what a process printed.
        field: the setting at fault: the first word of the message.
        value: what it was set to, where the message can say so.
        remedy: a regular expression for what to do, found after the field.
    """
    if isinstance(raised, str):
        text = raised[raised.index(field) :]
    else:
        assert isinstance(raised.value, UserError)
        text = str(raised.value)
    assert re.match(rf"{re.escape(field)}\s?[=:]", text), text
    if value is not None:
        assert text.startswith((f"{field}={value}", f"{field}={value!r}")), text
    assert re.search(remedy, text[len(field) :]), f"no remedy: {text}"
