"""The base config: every knob stands here once, with its meaning.

Other configs start from `get_config()` and change what they study.

    stepladder run --config=configs/base.py --workdir=W --config.run.duration='2M tokens'
"""

from ml_collections import ConfigDict

from stepladder.configs.core.build import rung
from stepladder.configs.core.spec import RunSpec


def get_config(arg: str = "") -> ConfigDict:
    """One run.

    `arg` may be empty or "tiny", which shrinks everything to a few seconds on a laptop.
    """
    c = ConfigDict()
    c.name = "run"  # slug of the run's id
    c.seed = 0  # of the initialisation
    c.data_seed = 0  # of the order of examples
    c.model = _model()
    c.data = _data()
    c.optimizer = _optimizer()
    c.schedule = _schedule()
    c.run = _run()
    c.machine = _machine()
    # Sections whose keys are the user's: an override may add any, with a value of this type.
    c.free_keys = (("data.weights", 0.0), ("data.sources", ""), ("data.variants", ""))
    if arg == "tiny":
        c.model.size, c.run.duration, c.data.max_mb_per_domain = "6k", "60 steps", 0.3
    elif arg:
        raise ValueError(f"config argument {arg!r}: unknown; use 'tiny' or none")
    return c


def ladder(config: ConfigDict) -> list[RunSpec]:
    """The run specs of this config, parents before branches: here, one run."""
    return [rung(config)]


def _model() -> ConfigDict:
    """Shape and arithmetic of the Transformer."""
    c = ConfigDict()
    c.size = "25k"  # a name in configs/core/sizes.py
    c.activation = "swiglu"  # swiglu | gelu
    c.tied = True  # unembedding shares the embedding
    c.kv_ratio = 1  # query heads a key/value head
    c.qk_norm = True  # RMSNorm on queries and keys
    c.rope_theta = 10_000.0  # base of the rotary frequencies
    c.norm_eps = 1e-6
    c.logit_cap = 0.0  # tanh soft-cap of the logits, 0 is off
    c.window = 0  # positions a token sees, itself included; 0 is all before it
    # a token sees its own document only, though documents share a window
    c.document_mask = False
    # float32 | bfloat16 | tensorfloat32 (GPUs from the A100 on); parameters stay float32
    c.compute_dtype = "float32"
    # standard | mup | completep: how learning rates and init change with width and depth
    c.parametrization = "standard"
    c.base_width = 0  # of mup and completep: the width the rates were tuned at
    c.base_depth = 0  # of completep: the number of layers they were tuned at
    return c


def _data() -> ConfigDict:
    """The text, its preparation, and the weights of its domains."""
    c = ConfigDict()
    c.corpus = "embedded"  # the text every installation carries, or a label for `sources`
    c.sources = ConfigDict()  # domain -> path or glob of text, .jsonl(.gz|.zst) or .parquet
    c.domains = (
        "python_numeric",
        "python_jax",
        "c_cpp",
        "docstrings",
        "python_numeric_tests",
        "tables",
    )
    # domain -> weight; empty is equal weights over `domains` (or over `sources`)
    c.weights = ConfigDict()
    # name -> Variant (configs/core/spec.py), or on the command line 'domain|filter,filter|dedup':
    # training text made from a domain; `weights` may name it
    c.variants = ConfigDict()
    c.validation = ()  # domains to evaluate on; empty: those of `weights`
    c.tokenizer = "bytes"  # bytes | bpe:<vocabulary>
    c.max_mb_per_domain = 8.0  # cap on the text of a domain, 0 is none
    # of the bytes of a domain, whole documents (code: whole packages)
    c.validation_fraction = 0.06
    c.filters = ()  # names in train/data/prepare/filters.py, applied in order
    c.dedup = "minhash"  # none | exact | minhash, across the splits
    c.seed = 0  # of the split and of the cap's sample
    c.seq_len = 128
    # refuse to see any domain more often (arXiv:2305.16264: up to four epochs is close to fresh
    # data)
    c.max_epochs = 4.0
    return c


def _optimizer() -> ConfigDict:
    """The optimizer; what is open comes from the rule in configs/core/hyperparameters.py."""
    c = ConfigDict()
    c.name = "adamw"
    # independent: a rate per step, times the schedule | coupled: times the learning rate
    c.weight_decay_mode = "independent"
    c.learning_rate = 0.0  # 0: from the rule in configs/core/hyperparameters.py
    # multiplies the rule's value: what a learning-rate sweep varies
    c.learning_rate_factor = 1.0
    c.weight_decay = -1.0  # negative: from the rule
    c.beta1 = 0.9
    c.beta2 = 0.95
    c.epsilon = 1e-8
    c.clip_norm = 1.0  # on the global norm of the gradient
    c.z_loss = 1e-4  # weight of log(Z)^2 in the training loss
    return c


def _schedule() -> ConfigDict:
    """The learning rate over a run, as a factor on its peak."""
    c = ConfigDict()
    c.kind = "wsd"  # constant | linear | cosine | wsd (1-sqrt decay) | wsd_linear
    c.warmup = ""  # duration; empty: from the rule
    c.decay = "20%"  # length of the final decay of a wsd schedule
    c.end_factor = 0.0  # final learning rate over the peak
    return c


def _run() -> ConfigDict:
    """How long, how large the batch, when to evaluate and save."""
    c = ConfigDict()
    # '100 steps', '3M tokens' or '1 chinchilla' (20 tokens a parameter)
    c.duration = "1 chinchilla"
    c.batch_size = 0  # sequences a step; 0: from the rule
    c.log_every = 10  # steps between train rows
    c.evals = ("50%", "100%")  # when to evaluate, beside the end
    c.checkpoints = ()  # permanent checkpoints, beside the end
    c.eval_windows = 32  # validation windows a domain
    return c


def _machine() -> ConfigDict:
    """How to execute, not what: no part of a run's identity."""
    c = ConfigDict()
    c.store = ""  # folder of token stores; empty: WORKDIR/data
    c.devices = 0  # 0: all; on CPU one host-platform device a core
    c.layers = "auto"  # auto (train/hardware/defaults.py) | scan | unroll
    # auto (train/hardware/mesh.py) | sizes of run, data, fsdp, tensor like 'fsdp=4,tensor=2'; data
    # takes what is left
    c.mesh = "auto"
    # auto (by device and shape, model/execution.py) | xla | cudnn | splash
    c.attention = "auto"
    # auto (what fits: train/hardware/micro_batch.py) | none | dots | full: what the backward pass
    # computes again
    c.remat = "auto"
    # micro-batches a step; 0: what fits cache or memory (train/hardware/micro_batch.py)
    c.accumulation = 0
    # seconds between temporary checkpoints, of which the last is kept
    c.temporary_every = 300.0
    c.compilation_cache = "auto"  # auto (user cache folder) | off | a folder
    c.pack = "auto"  # runs of one program trained together: auto | off | how many at most
    # auto (by platform) | map (a device's members in turn) | vmap (all at once)
    c.pack_mode = "auto"
    c.memory_gb = 0.0  # memory of a device that packs may fill; 0: what the device says
    # START:COUNT: an XProf trace of COUNT dispatches after START others, in the run's folder; once
    # a workdir
    c.profile = ""
    c.tensorboard = True  # mirror the record's rows as event files
    return c
