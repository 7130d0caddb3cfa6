"""A trial, not shipped code: would int8 products keep what distinguishes variants?

    python tests/perf/trial_int8.py [--json results.json]

Only the numbers are simulated, not the speed: inputs and weights are rounded to whole numbers and multiplied in
float32. Such products are exact while sums stay below 2^24, and off by parts in 10^7 beyond: a hundred-thousandth of
int8's own rounding. All else (LayerNorm, attention, GELU, residual stream, products that a scheme keeps) is left in
float32, so that a kernel could be worse than this, but not better.

- ``bfloat16``, to compare: inputs and weights rounded to bfloat16.
- ``int8``: weights symmetric with a scale for each output channel, inputs symmetric with a scale for each token.
- ``asymmetric``: inputs with a zero point for each token as well, which suits what GELU leaves of negative numbers.
- ``smooth``: int8 after moving outliers from inputs to weights (Xiao et al., "SmoothQuant", ICML 2023): channel j is
  divided by √(max|x_j| / max|w_j|) before the product, the maximum taken over a few random sequences.
- ``centred``: from the inputs a constant c is subtracted, their mean over those sequences, and W c is added to the
  bias. This is exact for any c, and leaves less to round: outliers hardly depend on the sequence.
- ``centred smooth``: all of it, asymmetric too.
- ``only …``: one kind of product in that scheme, the others in float32, on the first variants: what does harm.
- ``but …``: that scheme, with the kinds that do most harm left to bfloat16 (centred too).

The gate is on the fidelity of GFP variants (`bench_fidelity`): mean ≥ 0.998 and least ≥ 0.98 on all weights.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_fidelity import Features, compute, fidelity, gfp_variants, library_for, weight_sets
from common import random_sequences, write_results
from torch.nn import functional

from skesm.esm2.checkpoints.checkpoint import locate
from skesm.esm2.tokenizer import tokenize
from skesm.esm2.weights.files import WeightsFiles
from skesm.esm2.weights.parameters import read_parameters

GATE_MEAN, GATE_MIN = 0.998, 0.98
BATCH = 16
#: A block's products, and their share of its multiply-adds.
SHARES = {"qkv": 3 / 12, "out": 1 / 12, "fc1": 4 / 12, "fc2": 4 / 12}

TINY = 1e-30
#: Least divisor, as a share of their median: a channel that is silent in the calibration may not be so elsewhere.
LEAST_DIVISOR = 0.1

Tensor = torch.Tensor
#: (kind, block, input, weight, bias) → output
Product = Callable[[str, int, Tensor, Tensor, Tensor], Tensor]


class Model:
    """ESM-2 in float32, with the products of its blocks left to others."""

    def __init__(self, name: str) -> None:
        checkpoint = locate(name)
        parameters = read_parameters(checkpoint.spec, WeightsFiles(checkpoint.files))
        self.spec = checkpoint.spec
        self._embedding = torch.tensor(parameters.embedding) * (1 - 0.15 * 0.8)  # token dropout, no masks
        self._frequencies = torch.tensor(parameters.inverse_frequencies[0])
        self._final_norm = [torch.tensor(array) for array in parameters.final_norm]
        self._blocks = []
        for block in parameters.blocks:
            tensors: dict[str, Any] = {
                name: [torch.tensor(array) for array in affine] for name, affine in block._asdict().items()
            }
            qkv = zip(*(tensors.pop(name) for name in ("query", "key", "value")), strict=True)
            self._blocks.append(tensors | {"qkv": [torch.cat(parts) for parts in qkv]})

    @torch.inference_mode()
    def features(self, sequences: Sequence[str], product: Product) -> Features:
        """Mean of the last layer over the residues."""
        order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
        rows = np.empty((len(sequences), self.spec.width), np.float32)
        for _, group in groupby(order, key=lambda i: len(sequences[i])):
            equal = list(group)
            for start in range(0, len(equal), BATCH):
                chosen = equal[start : start + BATCH]
                tokens = np.stack([tokenize(sequences[i]) for i in chosen]).astype(np.int64)
                rows[chosen] = self._forward(torch.from_numpy(tokens), product)[:, 1:-1].mean(1).numpy()
        return rows

    def _forward(self, tokens: Tensor, product: Product) -> Tensor:
        x = self._embedding[tokens]
        angles = torch.arange(tokens.shape[1])[:, None] * self._frequencies
        cos, sin = angles.cos(), angles.sin()

        def norm(affine: list[Tensor]) -> Tensor:
            return functional.layer_norm(x, x.shape[-1:], *affine, self.spec.layer_norm_eps)

        def rotate(part: Tensor) -> Tensor:
            low, high = part.chunk(2, dim=-1)
            return torch.cat([low * cos - high * sin, high * cos + low * sin], dim=-1)

        for i, block in enumerate(self._blocks):
            z = product("qkv", i, norm(block["attention_norm"]), *block["qkv"])
            query, key, value = z.unflatten(-1, (3, self.spec.n_heads, -1)).permute(2, 0, 3, 1, 4)
            mixed = functional.scaled_dot_product_attention(rotate(query), rotate(key), value)
            x = x + product("out", i, mixed.transpose(1, 2).flatten(2), *block["attention_output"])
            h = functional.gelu(product("fc1", i, norm(block["ffn_norm"]), *block["ffn_in"]))
            x = x + product("fc2", i, h, *block["ffn_out"])
        return norm(self._final_norm)


def exact(kind: str, block: int, h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return functional.linear(h, weight, bias)


def bfloat16(kind: str, block: int, h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return functional.linear(h.bfloat16().float(), weight.bfloat16().float(), bias)


@dataclass
class Int8:
    """Products in int8 of the `kinds` that are named; `rest` computes the others."""

    kinds: Sequence[str] = tuple(SHARES)
    asymmetric: bool = False
    divisors: Mapping[tuple[str, int], Tensor] = field(default_factory=dict)
    rest: Product = exact

    def __call__(self, kind: str, block: int, h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if kind not in self.kinds:
            return self.rest(kind, block, h, weight, bias)
        if self.divisors:
            divisor = self.divisors[kind, block]
            h, weight = h / divisor, weight * divisor
        w_scale = weight.abs().amax(1).clamp_min(TINY) / 127
        w = (weight / w_scale[:, None]).round()
        if self.asymmetric:
            low, high = h.amin(-1, keepdim=True).clamp_max(0), h.amax(-1, keepdim=True).clamp_min(0)
            scale = (high - low).clamp_min(TINY) / 255
            zero = (-low / scale).round() - 128
            whole = ((h / scale).round() + zero).clamp(-128, 127) - zero
        else:
            scale = h.abs().amax(-1, keepdim=True).clamp_min(TINY) / 127
            whole = (h / scale).round()
        return functional.linear(whole, w) * scale * w_scale + bias


class Calibration:
    """Means and largest magnitudes of each product's input channels over a few random sequences."""

    def __init__(self, model: Model) -> None:
        self.means: dict[tuple[str, int], Tensor] = {}
        self.divisors: dict[tuple[str, int], Tensor] = {}
        self.centred_divisors: dict[tuple[str, int], Tensor] = {}
        model.features(random_sequences([250] * 4), self._record)

    def _record(self, kind: str, block: int, h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        flat, key = h.flatten(0, -2), (kind, block)
        mean, most = flat.mean(0), weight.abs().amax(0).clamp_min(TINY)
        self.means[key] = mean
        self.divisors[key] = self._divisors(flat, most)
        self.centred_divisors[key] = self._divisors(flat - mean, most)
        return exact(kind, block, h, weight, bias)

    @staticmethod
    def _divisors(h: Tensor, most: Tensor) -> Tensor:
        found = (h.abs().amax(0).clamp_min(TINY) / most).sqrt()
        return found.clamp_min(LEAST_DIVISOR * found.median())

    def centred(self, product: Product) -> Product:
        """`product` of inputs less their means, with its bias made up for that."""

        def shifted(kind: str, block: int, h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            mean = self.means[kind, block]
            return product(kind, block, h - mean, weight, bias + weight @ mean)

        return shifted


def trial(name: str, variants: Sequence[str], n_alone: int, threads: int) -> dict[str, dict[str, Any]]:
    """Fidelity of each scheme on one model's weights."""
    model = Model(name)
    reference = model.features(variants, exact)
    shipped = compute(variants[:4], "float32", threads, model=name)
    if np.abs(reference[:4] - shipped).max() > 1e-5 * max(1, np.abs(shipped).max()):
        raise AssertionError(f"{name}: the trial's own forward pass is not the model")
    results: dict[str, dict[str, Any]] = {}

    def measure(scheme: str, product: Product, share: float, n: int = len(variants)) -> float:
        figures = fidelity(reference[:n], model.features(variants[:n], product))
        passed = figures["mean"] >= GATE_MEAN and figures["min"] >= GATE_MIN
        results[scheme] = {**figures, "variants": n, "int8_share": round(share, 3), "passes": passed}
        print(f"{name[-36:]:36} {scheme:26} {figures['mean']:.5f} ({figures['min']:.4f}) {passed}", flush=True)
        return figures["mean"]

    calibration = Calibration(model)
    centred = calibration.centred
    best = {"asymmetric": True, "divisors": calibration.centred_divisors}
    measure("bfloat16", bfloat16, 0)
    measure("bfloat16 centred", centred(bfloat16), 0)
    measure("int8", Int8(), 1)
    measure("asymmetric", Int8(asymmetric=True), 1)
    measure("smooth", Int8(divisors=calibration.divisors), 1)
    measure("centred", centred(Int8()), 1)
    measure("centred smooth", centred(Int8(**best)), 1)
    alone = {kind: measure(f"only {kind}", centred(Int8([kind], **best)), SHARES[kind], n_alone) for kind in SHARES}
    by_harm = sorted(SHARES, key=alone.__getitem__)
    for n in (1, 2):
        kinds = by_harm[n:]
        scheme = centred(Int8(kinds, **best, rest=bfloat16))
        measure(f"but {'+'.join(by_harm[:n])}", scheme, sum(SHARES[kind] for kind in kinds))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variants", type=int, default=300)
    parser.add_argument("--deep", type=int, default=30, help="variants for models of more than 12 layers")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--data-home", type=Path, help="folder of fluorescence.valid.csv (default: fetched)")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    variants, _, _ = gfp_variants(args.data_home, args.variants)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, model in weight_sets(Path(folder)).items():
            library = library_for(model, variants, args.deep)
            results[name] = trial(model, library, args.deep, args.threads)
    write_results(args.json, {"variants": args.variants, "deep": args.deep, "trials": results})


if __name__ == "__main__":
    main()
