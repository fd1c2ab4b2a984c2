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

    c.model = ConfigDict()
    c.model.size = "25k"  # a name in configs/core/sizes.py
    c.model.activation = "swiglu"  # swiglu | gelu
    c.model.tied = True  # unembedding shares the embedding
    c.model.kv_ratio = 1  # query heads a key/value head
    c.model.qk_norm = True  # RMSNorm on queries and keys
    c.model.rope_theta = 10_000.0  # base of the rotary frequencies
    c.model.norm_eps = 1e-6
    c.model.logit_cap = 0.0  # tanh soft-cap of the logits, 0 is off
    c.model.window = 0  # positions a token sees, itself included; 0 is all before it
    # a token sees its own document only, though documents share a window
    c.model.document_mask = False
    c.model.compute_dtype = "float32"  # float32 | bfloat16; parameters stay float32
    # standard | mup | completep: how learning rates and init change with width and depth
    c.model.parametrization = "standard"
    c.model.base_width = 0  # of mup and completep: the width the rates were tuned at
    c.model.base_depth = 0  # of completep: the number of layers they were tuned at

    c.data = ConfigDict()
    c.data.corpus = "embedded"  # the text every installation carries, or a label for `sources`
    c.data.sources = ConfigDict()  # domain -> path or glob of text, .jsonl(.gz|.zst) or .parquet
    c.data.domains = (
        "python_numeric",
        "python_jax",
        "c_cpp",
        "docstrings",
        "python_numeric_tests",
        "tables",
    )
    # domain -> weight; empty is equal weights over `domains` (or over `sources`)
    c.data.weights = ConfigDict()
    # name -> Variant (configs/core/spec.py), or on the command line 'domain|filter,filter|dedup':
    # training text made from a domain; `weights` may name it
    c.data.variants = ConfigDict()
    c.data.validation = ()  # domains to evaluate on; empty: those of `weights`
    c.data.tokenizer = "bytes"  # bytes | bpe:<vocabulary>
    c.data.max_mb_per_domain = 8.0  # cap on the text of a domain, 0 is none
    # of the bytes of a domain, whole documents (code: whole packages)
    c.data.validation_fraction = 0.06
    c.data.filters = ()  # names in train/data/prepare/filters.py, applied in order
    c.data.dedup = "minhash"  # none | exact | minhash, across the splits
    c.data.seed = 0  # of the split and of the cap's sample
    c.data.seq_len = 128
    # refuse to see any domain more often (arXiv:2305.16264: up to four epochs is close to fresh
    # data)
    c.data.max_epochs = 4.0

    c.optimizer = ConfigDict()
    c.optimizer.name = "adamw"
    # independent: a rate per step, times the schedule | coupled: times the learning rate
    c.optimizer.weight_decay_mode = "independent"
    c.optimizer.learning_rate = 0.0  # 0: from the rule in configs/core/hyperparameters.py
    # multiplies the rule's value: what a learning-rate sweep varies
    c.optimizer.learning_rate_factor = 1.0
    c.optimizer.weight_decay = -1.0  # negative: from the rule
    c.optimizer.beta1 = 0.9
    c.optimizer.beta2 = 0.95
    c.optimizer.epsilon = 1e-8
    c.optimizer.clip_norm = 1.0  # on the global norm of the gradient
    c.optimizer.z_loss = 1e-4  # weight of log(Z)^2 in the training loss

    c.schedule = ConfigDict()
    c.schedule.kind = "wsd"  # constant | linear | cosine | wsd (1-sqrt decay) | wsd_linear
    c.schedule.warmup = ""  # duration; empty: from the rule
    c.schedule.decay = "20%"  # length of the final decay of a wsd schedule
    c.schedule.end_factor = 0.0  # final learning rate over the peak

    c.run = ConfigDict()
    # '100 steps', '3M tokens' or '1 chinchilla' (20 tokens a parameter)
    c.run.duration = "1 chinchilla"
    c.run.batch_size = 0  # sequences a step; 0: from the rule
    c.run.log_every = 10  # steps between train rows
    c.run.evals = ("50%", "100%")  # when to evaluate, beside the end
    c.run.checkpoints = ()  # permanent checkpoints, beside the end
    c.run.eval_windows = 32  # validation windows a domain

    # Sections whose keys are the user's: an override may add any, with a value of this type.
    c.free_keys = (("data.weights", 0.0), ("data.sources", ""), ("data.variants", ""))

    # How to execute, not what: no part of a run's identity.
    c.machine = ConfigDict()
    c.machine.store = ""  # folder of token stores; empty: WORKDIR/data
    c.machine.devices = 0  # 0: all; on CPU one host-platform device a core
    c.machine.layers = "auto"  # auto (measured table in model/execution.py) | scan | unroll
    # auto (train/hardware/mesh.py) | sizes of run, data, fsdp, tensor like 'fsdp=4,tensor=2'; data
    # takes what is left
    c.machine.mesh = "auto"
    # auto (by backend and shape, model/execution.py) | xla | cudnn | splash
    c.machine.attention = "auto"
    # auto (what fits: train/hardware/micro_batch.py) | none | dots | full: what the backward pass
    # computes again
    c.machine.remat = "auto"
    # micro-batches a step; 0: what fits cache or memory (train/hardware/micro_batch.py)
    c.machine.accumulation = 0
    # seconds between temporary checkpoints, of which the last is kept
    c.machine.temporary_every = 300.0
    c.machine.compilation_cache = "auto"  # auto (user cache folder) | off | a folder
    c.machine.pack = "auto"  # runs of one program trained together: auto | off | how many at most
    # auto (by platform) | map (a device's members in turn) | vmap (all at once)
    c.machine.pack_mode = "auto"
    c.machine.memory_gb = 0.0  # memory of a device that packs may fill; 0: what the device says
    # START:COUNT: an XProf trace of COUNT dispatches after START others, in the run's folder; once
    # a workdir
    c.machine.profile = ""
    c.machine.tensorboard = True  # mirror the record's rows as event files
    if arg == "tiny":
        c.model.size, c.run.duration, c.data.max_mb_per_domain = "6k", "60 steps", 0.3
    elif arg:
        raise ValueError(f"config argument {arg!r}: unknown; use 'tiny' or none")
    return c


def ladder(config: ConfigDict) -> list[RunSpec]:
    """The run specs of this config, parents before branches: here, one run."""
    return [rung(config)]
