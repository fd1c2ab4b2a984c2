"""The same model and training step in PyTorch: eager on a CPU, in the form that was fastest here,
for step_vs_torch.py; by torch.compile on a card, for gpu.py.
"""

import contextlib
import multiprocessing
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from stepladder.configs.core.spec import ModelSpec


class Layer(nn.Module):
    """Pre-norm layer: fused qkv, fused scaled_dot_product_attention, fused gate and up."""

    def __init__(self, spec: ModelSpec):
        super().__init__()
        D, H, G, K, N = spec.d_model, spec.n_heads, spec.n_kv_heads, spec.head_dim, spec.norm_eps
        self.spec = spec
        self.attention_norm, self.mlp_norm = nn.RMSNorm(D, eps=N), nn.RMSNorm(D, eps=N)
        self.qkv, self.out = (
            nn.Linear(D, (H + 2 * G) * K, bias=False),
            nn.Linear(H * K, D, bias=False),
        )
        self.up = nn.Linear(D, spec.d_ff * (2 if spec.activation == "swiglu" else 1), bias=False)
        self.down = nn.Linear(spec.d_ff, D, bias=False)
        self.q_norm, self.k_norm = (
            nn.RMSNorm(K, eps=N) if spec.qk_norm else nn.Identity() for _ in range(2)
        )

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        spec, (B, L, _) = self.spec, x.shape
        H, G, K = spec.n_heads, spec.n_kv_heads, spec.head_dim

        def rotate(t: torch.Tensor) -> torch.Tensor:
            first, second = t.chunk(2, -1)
            return t * cos + torch.cat([-second, first], -1) * sin

        q, k, v = (
            self.qkv(self.attention_norm(x))
            .view(B, L, -1, K)
            .transpose(1, 2)
            .split([H, G, G], dim=1)
        )
        q, k = rotate(self.q_norm(q)), rotate(self.k_norm(k))
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=H != G)
        x = x + self.out(o.transpose(1, 2).reshape(B, L, H * K))
        hidden = self.up(self.mlp_norm(x))
        if spec.activation == "swiglu":
            gate, up = hidden.chunk(2, -1)
            hidden = F.silu(gate) * up
        else:
            hidden = F.gelu(hidden, approximate="tanh")
        return x + self.down(hidden)


class Model(nn.Module):
    """Decoder-only Transformer with the parameters of `spec`, at one context length."""

    def __init__(self, spec: ModelSpec, seq_len: int):
        super().__init__()
        self.embed = nn.Embedding(spec.vocab_size, spec.d_model)
        nn.init.normal_(self.embed.weight, std=0.02)
        self.layers = nn.ModuleList(Layer(spec) for _ in range(spec.n_layers))
        self.final_norm = nn.RMSNorm(spec.d_model, eps=spec.norm_eps)
        self.unembed = None if spec.tied else nn.Linear(spec.d_model, spec.vocab_size, bias=False)
        frequency = spec.rope_theta ** (-torch.arange(0, spec.head_dim, 2) / spec.head_dim)
        angle = torch.arange(seq_len)[:, None] * torch.cat([frequency, frequency])
        self.cos, self.sin = angle.cos(), angle.sin()
        self.cap = spec.logit_cap

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x, self.cos, self.sin)
        logits = F.linear(
            self.final_norm(x), self.embed.weight if self.unembed is None else self.unembed.weight
        )
        return self.cap * torch.tanh(logits / self.cap) if self.cap else logits


def build(
    spec: ModelSpec,
    batch: int,
    seq_len: int,
    optimizer: str,
    *,
    device: str = "cpu",
    compiled: bool = False,
    micro_batches: int = 1,
) -> Callable[[int], float]:
    """A function that takes n steps (forward, backward, clip, AdamW) and returns the last loss.

    optimizer: fused | foreach. compiled: forward, loss and backward by torch.compile, in bfloat16
    by autocast where the model's compute_dtype is bfloat16.
    """
    torch.manual_seed(0)
    model = Model(spec, seq_len).to(device)
    model.cos, model.sin = model.cos.to(device), model.sin.to(device)
    adamw = torch.optim.AdamW(
        model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, **{optimizer: True}
    )
    tokens = torch.randint(0, spec.vocab_size, (batch, seq_len + 1), device=device)
    wide = spec.compute_dtype != "bfloat16"

    def loss_of(tokens: torch.Tensor) -> torch.Tensor:
        half = torch.autocast(device, dtype=torch.bfloat16)
        with contextlib.nullcontext() if wide else half:
            logits = model(tokens[:, :-1])
            return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())

    loss_of = torch.compile(loss_of) if compiled else loss_of

    def steps(n: int) -> float:
        for _ in range(n):
            adamw.zero_grad(set_to_none=True)
            for piece in tokens.chunk(micro_batches):
                loss = loss_of(piece) / micro_batches
                loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
            adamw.step()
        return loss.item()

    return steps


def _serve(pipe, threads: int, arguments: tuple, options: dict) -> None:
    torch.set_num_threads(threads)
    steps = build(*arguments, **options)
    while n := pipe.recv():
        pipe.send(steps(n))


class TorchProcess:
    """`build` in a process of its own, idle until called: torch's and jax's thread pools do not
    meet.
    """

    def __init__(
        self, spec: ModelSpec, batch: int, seq_len: int, optimizer: str, threads: int, **options
    ):
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        arguments = (other, threads, (spec, batch, seq_len, optimizer), options)
        # a daemon may have no children, and torch.compile has some
        daemon = not options.get("compiled", False)
        self._process = context.Process(target=_serve, args=arguments, daemon=daemon)
        self._process.start()

    def __call__(self, n: int) -> float:
        self._pipe.send(n)
        return self._pipe.recv()

    def close(self) -> None:
        self._pipe.send(0)
        self._process.join()
