"""A hash of what was compiled: of the text of the program as it runs, without where it came from.

On a GPU the compiler tries several kernels and keeps the quickest, so one program may become
another on another card, or on another day. Its text holds what was chosen.
"""

import hashlib
import re

from jax.stages import Compiled

# Where it came from: of the source, not of what is computed.
_METADATA = re.compile(r", metadata=\{[^{}]*\}")
_TABLES = "FileNames", "FunctionNames", "FileLocations", "StackFrames"


def compiled_hash(executable: Compiled) -> str:
    """Twelve hexadecimal digits of the compiled program."""
    return text_hash(executable.as_text() or "")


def text_hash(text: str) -> str:
    """`compiled_hash` of the text of a compiled program."""
    computed, origin = [], False
    for line in text.splitlines()[1:]:  # the first names the module
        origin = (origin and bool(line)) or line in _TABLES
        if not origin:
            computed.append(_METADATA.sub("", line))
    return hashlib.sha256("\n".join(computed).encode()).hexdigest()[:12]
