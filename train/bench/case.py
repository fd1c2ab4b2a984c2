"""What is timed: training steps of runs without a corpus, by the kind of device."""

import re
from dataclasses import dataclass

from stepladder.configs import base
from stepladder.configs.core.build import rung
from stepladder.configs.core.errors import UserError
from stepladder.configs.core.spec import RunSpec

FORM = re.compile(
    r"(?P<size>[^:]+):(?P<runs>\d+):(?P<batch>\d+):(?P<seq_len>\d+):(?P<tokenizer>.+)"
)


@dataclass(frozen=True)
class Case:
    """A step of `runs` runs of one size together, on one stream of random tokens."""

    size: str  # configs/core/sizes.py
    runs: int
    batch: int  # sequences of a run
    seq_len: int
    tokenizer: str  # decides the vocabulary: bytes | bpe:SIZE

    @classmethod
    def parse(cls, text: str) -> "Case":
        """From SIZE:RUNS:BATCH:LENGTH:TOKENIZER. Raises UserError for another form."""
        found = FORM.fullmatch(text)
        numbers = {name: int(found[name]) for name in ("runs", "batch", "seq_len")} if found else {}
        if not found or not all(numbers.values()):
            raise UserError(
                f"case={text!r}: not SIZE:RUNS:BATCH:LENGTH:TOKENIZER; use e.g. 1m:32:32:256:bytes"
            )
        return cls(size=found["size"], tokenizer=found["tokenizer"], **numbers)

    def __str__(self) -> str:
        return f"{self.size}:{self.runs}:{self.batch}:{self.seq_len}:{self.tokenizer}"

    def spec(self, compute_dtype: str) -> RunSpec:
        """The spec of its runs. Raises UserError for a size, tokenizer or arithmetic that is
        unknown.
        """
        config = base.get_config()
        config.name = "bench"
        config.model.size, config.model.compute_dtype = self.size, compute_dtype
        config.data.seq_len, config.data.tokenizer = self.seq_len, self.tokenizer
        config.run.duration, config.run.batch_size, config.run.evals = "100 steps", self.batch, ()
        return rung(config)


_ACCELERATOR = (
    Case("200k", 64, 32, 128, "bytes"),
    Case("1m", 1, 32, 256, "bytes"),
    Case("1m", 32, 32, 256, "bytes"),
    Case("57m", 1, 32, 2048, "bpe:8192"),
    Case("100m", 1, 64, 2048, "bpe:32768"),
)
# Platform -> what is timed unasked
CASES = {
    "cpu": (Case("25k", 1, 32, 128, "bytes"), Case("25k", 8, 32, 128, "bytes")),
    "gpu": _ACCELERATOR,
    "tpu": _ACCELERATOR,
}
LARGE = (Case("1b", 1, 32, 2048, "bpe:32768"),)
TINY = (Case("6k", 1, 4, 32, "bytes"), Case("6k", 2, 4, 32, "bytes"))
