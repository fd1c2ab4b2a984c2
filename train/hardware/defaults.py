"""What each kind of device can do, and what it wants where the config leaves it open: one table.

A new accelerator is one row of DEVICES. Settings of the config's `machine` section override what a
row says (`mesh`, `accumulation`, `remat`, `layers`, `attention`, `pack_mode`). Where the numbers
come from: docs/benchmarks/hardware.md, "What a device wants".
"""

import math
import re
import sys
from dataclasses import dataclass, replace

from stepladder.configs.core.errors import UserError
from stepladder.model.parallel.device import JaxDevice, platform_name

GIB = 2.0**30


@dataclass(frozen=True)
class Chip:
    """Data sheet of one chip (TPU) or card (GPU).

    Where jax shows a chip as several devices, each has its share (`chips.device_sheet`).
    """

    flops: float  # dense bfloat16 FLOP/s
    memory: float  # bytes
    bandwidth: float  # bytes a second between memory and chip
    # Bytes a second to other chips of the slice or host (ICI, NVLink, PCIe), one way, all links
    # together.
    links: float
    # Bytes a second to other hosts, one way: of a whole HOST, its network cards together.
    network: float


@dataclass(frozen=True)
class DeviceKind:
    """One row: the choices for one kind of device, none of which changes a result beyond the order
    of its sums.
    """

    # How the model executes (model/execution.py).
    # Layers that run one after another in the program (unrolled), at most; a deeper stack is a loop
    # over its layers (scanned), which compiles in less time.
    unrolled: int
    attention: str  # key of attend.IMPLEMENTATIONS: the kernel to use where it can be
    # Shortest sequence worth that kernel: the scores of a shorter one are small beside a layer's
    # other activations.
    kernel_from: int
    embedding: str  # key of model.parallel.embedding.SUMS
    normaliser: str  # key of model.loss.cross_entropy.NORMALISERS
    loss_floats: int  # float32 logits that the loss holds at a time, at most; 0: all
    # Residual-stream values of the sequences that a device takes at a time, at most, so that they
    # stay in its cache; 0: no limit.
    micro_batch_floats: int

    arithmetics: tuple[str, ...]  # keys of model.arithmetic.ARITHMETICS that its products have

    # How a batch and the state are divided (mesh.py, micro_batch.py).
    # Tokens that a device should take at a time, at least, before activations are computed again;
    # 0: `micro_batch_floats` decides.
    micro_tokens: int
    # Share of a device's memory that the training state may take; a larger state is cut along as
    # few sides of the wiring as suffice.
    replicated: float
    tensor: int  # devices that share a layer unasked, at most, where a batch has too few parts
    remat: tuple[str, ...]  # keys of layer.REMAT; the first that fits the memory is taken
    # What autodiff keeps of a layer, over what memory_model.activations lists, where layers are a
    # loop and where they are not. A loop stores all that autodiff asks for, float32 copies in norms
    # and rotations too; of unrolled layers the compiler computes some of it again where that is
    # cheap, but not where fsdp says what is stored (model/layer.py).
    kept_scanned: float
    kept_unrolled: float

    # How a ladder is planned (train/ladder) and compiled (train/loop/ahead.py).
    compile_ahead: int  # executables that compile at once while others train; 0: none does
    pack_mode: str  # map | vmap: how runs that train together execute (step/packed_program.py)
    achieved: float  # FLOP/s of a whole machine for an estimate of time; `plan --rate` overrides it

    chip: Chip | None = None  # None: no data sheet is known

    def kept(self, layers: str, fsdp: int = 1) -> float:
        """That of layers that run as `layers` says (scan | unroll) on a mesh of that fsdp."""
        stored = layers == "scan" or fsdp > 1
        return self.kept_scanned if stored else self.kept_unrolled


CPU = DeviceKind(
    unrolled=sys.maxsize,
    attention="xla",
    kernel_from=0,
    embedding="scatter",
    normaliser="two_passes",
    loss_floats=0,
    arithmetics=("float32", "bfloat16", "float64"),
    micro_batch_floats=2**15,
    micro_tokens=0,
    replicated=math.inf,
    tensor=1,
    remat=("none",),
    kept_scanned=2.0,
    kept_unrolled=2.0,
    compile_ahead=0,
    pack_mode="map",
    achieved=70e9,
)
GPU = DeviceKind(
    unrolled=20,
    attention="cudnn",
    kernel_from=64,
    embedding="sorted",
    normaliser="one_pass",
    loss_floats=2**27,
    arithmetics=("float32", "tensorfloat32", "bfloat16"),
    micro_batch_floats=0,
    micro_tokens=8192,
    replicated=0.25,
    tensor=8,
    remat=("none", "dots", "full"),
    kept_scanned=1.25,
    kept_unrolled=0.6,
    compile_ahead=4,
    pack_mode="vmap",
    achieved=400e12,
)
TPU = replace(
    GPU,
    attention="splash",
    unrolled=8,
    kernel_from=512,
    embedding="scatter",
    normaliser="two_passes",
    loss_floats=2**26,
    arithmetics=("float32", "bfloat16"),
    micro_tokens=4096,
    kept_scanned=2.0,
    kept_unrolled=0.9,
    achieved=110e12,
)
# Cards before the A100 multiply neither bfloat16 nor TF32, and cuDNN's attention takes neither.
BEFORE_A100 = replace(GPU, attention="xla", arithmetics=("float32",))
A100 = replace(GPU, micro_tokens=4096)
V5E = replace(TPU, chip=Chip(197e12, 16 * GIB, 819e9, 200e9, 12.5e9))
V5P = replace(TPU, chip=Chip(459e12, 95 * GIB, 2765e9, 600e9, 25e9))
V6E = replace(TPU, micro_tokens=8192, chip=Chip(918e12, 32 * GIB, 1640e9, 400e9, 50e9))

# By part of jax's device_kind; the longest name that is found in it as whole words decides. A kind
# that is not here has the row of its platform. jax calls a v5p "TPU v5".
# Data sheets. TPU: docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x}; links are half of the
# two-way figure there, network is the figure of a chip times the 4 chips of a host (the page of v4
# has none: taken as v5p's). GPU: nvidia.com, A100, L4, H100, H200 SXM and B200 (HGX); FLOP/s are
# half of the figure "with sparsity", links half of the two-way figure of NVLink (L4: PCIe 4 x16),
# network is that of the cards of a DGX or a g2-standard-96.
DEVICES = {
    "cpu": CPU,
    "gpu": GPU,
    "tpu": TPU,
    "TPU v4": replace(TPU, chip=Chip(275e12, 32 * GIB, 1200e9, 300e9, 25e9)),
    "TPU v5 lite": V5E,
    "TPU v5e": V5E,
    "TPU v5": V5P,
    "TPU v5p": V5P,
    "TPU v6 lite": V6E,
    "TPU v6e": V6E,
    "TPU7x": replace(TPU, micro_tokens=16384, chip=Chip(2307e12, 192 * GIB, 7380e9, 600e9, 50e9)),
    "V100": BEFORE_A100,
    "T4": BEFORE_A100,
    "A100": replace(A100, chip=Chip(312e12, 80e9, 2039e9, 300e9, 200e9)),
    "A100-SXM4-40GB": replace(A100, chip=Chip(312e12, 40e9, 1555e9, 300e9, 200e9)),
    "A100-PCIE-40GB": replace(A100, chip=Chip(312e12, 40e9, 1555e9, 32e9, 12.5e9)),
    "A100 80GB PCIe": replace(A100, chip=Chip(312e12, 80e9, 1935e9, 32e9, 12.5e9)),
    "L4": replace(GPU, chip=Chip(121e12, 24e9, 300e9, 32e9, 12.5e9)),
    "H100": replace(GPU, chip=Chip(989e12, 80e9, 3350e9, 450e9, 400e9)),
    "H100 PCIe": replace(GPU, chip=Chip(756e12, 80e9, 2000e9, 64e9, 50e9)),
    "H200": replace(GPU, chip=Chip(989e12, 141e9, 4800e9, 450e9, 400e9)),
    "B200": replace(GPU, chip=Chip(2250e12, 180e9, 7700e9, 900e9, 400e9)),
}


def row_of(device: JaxDevice) -> DeviceKind:
    """The row of a device: by its kind, else by its platform.

    Raises UserError for a platform without a row.
    """
    platform = platform_name(device)
    if platform not in DEVICES:
        raise UserError(
            f"device {device.device_kind!r}: platform {platform!r} is none of cpu, gpu and tpu; "
            "set JAX_PLATFORMS to one of them, or add a row to train/hardware/defaults.py"
        )
    # Whole words: an L40S is no L4, a GH200 no H200.
    named = [name for name in DEVICES if re.search(rf"\b{name}\b", device.device_kind)]
    if platform == "cpu" or not named:
        return DEVICES[platform]
    return DEVICES[max(named, key=len)]
