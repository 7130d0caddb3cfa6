"""ESM-2 in NumPy: the default engine, without torch. `skesm.esm2.plain` has the same computation to read.

Sequences are laid end to end along the token axis. Linear layers run over all of them at once, attention over each
alone, and nothing is padded but the rows between and behind sequences that alignment asks for.

The features of a sequence are the same to the last bit whatever else is in the call. A matrix product in BLAS may
treat a row differently by its place among the others (OpenBLAS's AVX2 kernels do), by their number, and by the number
of threads. So every product runs on one thread (`skesm.esm2.machine.threads`), and a trial finds where sequences may
begin, and how many rows a pack may have, so that neither makes a difference (`skesm.esm2.numpy_engine.alignment`).
If there is no such alignment, each sequence has a pack of its own, whose shape is a function of its length. Wide
models compute products in parts of fixed shape, which a pack that has the machine for itself spreads over helping
threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any

import numpy as np

from skesm.esm2.attention import AttentionReader
from skesm.esm2.gelu import GELU_LOGIT
from skesm.esm2.machine.stopping import check_stop
from skesm.esm2.machine.threads import limit_own_thread, one_blas_thread
from skesm.esm2.numpy_engine.alignment import ALIGNMENTS, LEAST_ROWS, ROW_MULTIPLE, Alignment, find_alignment
from skesm.esm2.packing import MIN_PACK_TOKENS, lay_out, most_together, plan_packs, round_up, share_evenly
from skesm.esm2.plain import TRAINED_MASK_RATIO
from skesm.esm2.plain_attention import Read, distinct_rows, do_in_turn, mix, rotary_tables
from skesm.esm2.spec import ModelSpec
from skesm.esm2.tokenizer import AMINO_ACID_TOKENS, MASK, Tokens
from skesm.esm2.weights.parameters import Affine, Block, Parameters
from skesm.esm2.workspace import Workspace
from skesm.outputs.kinds import HEAD_KINDS, LAYER_KINDS
from skesm.outputs.pooling import pool
from skesm.outputs.spec import OutputSpec
from skesm.outputs.types import FloatArray

# GELU(x) = x/2 (1 + tanh(x p(x²))), where p has half the coefficients of `GELU_LOGIT`: 8e-7 off in float32, and several
# times as fast as an error function. As arrays they save each call a conversion.
_GELU = tuple(np.array(0.5 * coefficient, dtype=np.float32) for coefficient in GELU_LOGIT)
_ONE = np.array(1, dtype=np.float32)
_GELU_ELEMENTS = 1 << 17  # worked on at a time: about the second-level cache. With less, threads wait for each other

#: Models of this width or more compute products in so many parts. In smaller ones a part would not be worth a thread.
SPLIT_WIDTH, _PARTS = 1280, 4


def do(tasks: Iterable[Callable[[], object]], helpers: Executor | None) -> None:
    """Tasks that do not depend on each other, on the helping threads if there are any."""
    if helpers is None:
        do_in_turn(tasks)
    else:
        list(helpers.map(_help, tasks))


def _help(task: Callable[[], object]) -> None:
    limit_own_thread()
    with np.errstate(over="ignore", under="ignore"):  # a thread's own, see `NumpyEngine.forward`
        task()


class NumpyEngine:
    """Forward passes in float32 on the CPU.

    Several threads may call `forward` at once, inside `hold`.

    Parameters
    ----------
    spec : ModelSpec
    parameters : Parameters
    """

    #: Layouts of packs that are tried, in this order.
    alignments: Sequence[Alignment] = ALIGNMENTS

    def __init__(self, spec: ModelSpec, parameters: Parameters) -> None:
        self.spec = spec
        self.has_head = parameters.head is not None
        self.has_contact_head = parameters.contacts is not None
        self._parameters = parameters
        self._blocks = tuple(parameters.blocks)
        self._frequencies, self._rotary_of_layer = distinct_rows(parameters.inverse_frequencies)
        self._workspace = Workspace()

    @cached_property
    def alignment(self) -> Alignment | None:
        """The layout of packs on this machine. None if each sequence needs its own."""
        with one_blas_thread():
            most = most_together(self.spec.width)
            return find_alignment(self._products_of_equal_rows, most, self.alignments)

    def _products_of_equal_rows(self, rows: int, columns: int, turned: bool) -> Iterator[FloatArray]:
        """Results of products of all shapes in this model, of equal rows, as `alignment.Products` says."""
        d, f = self.spec.width, self.spec.ffn_width
        row = np.random.default_rng(0).standard_normal(f, dtype=np.float32)
        block, head = self._blocks[0], self._parameters.head
        narrow, wide = (np.repeat(part[None], rows, axis=0) for part in (row[:d], row))

        def multiply(x: FloatArray, weight: FloatArray, out: FloatArray) -> FloatArray:
            part = slice(min(columns, self._part_of(weight)))  # the other parts have the same shape
            return np.matmul(x, weight[part].T, out=out[:, part])

        if turned:
            yield multiply(narrow, block.query.weight, np.empty_like(narrow))
        else:
            yield multiply(narrow, block.query.weight, np.empty_like(narrow.T, order="C").T)
        yield multiply(np.asfortranarray(narrow), block.attention_output.weight, np.empty_like(narrow))
        yield multiply(narrow, block.ffn_in.weight, np.empty_like(wide))
        yield multiply(wide, block.ffn_out.weight, np.empty_like(narrow))
        if head is not None:
            for weight in (head.dense.weight, head.decoder.weight):
                yield np.matmul(narrow, weight[:columns].T)

    def plan(self, lengths: Sequence[int], workers: int) -> list[list[int]]:
        """Group sequences of so many tokens into packs for so many workers."""
        if self.alignment is None:
            return plan_packs(lengths, 0)
        taken = [round_up(length, self.alignment.starts) for length in lengths]
        return plan_packs(taken, share_evenly(sum(taken), workers, MIN_PACK_TOKENS, most_together(self.spec.width)))

    @contextmanager
    def hold(self, n_threads: int) -> Iterator[int]:
        """Keep BLAS on one thread. Packs are computed on `n_threads` threads."""
        with one_blas_thread():
            yield n_threads

    def forward(
        self, sequences: Sequence[Tokens], outputs: Sequence[OutputSpec], helpers: Executor | None = None
    ) -> list[dict[OutputSpec, FloatArray]]:
        """Compute a pack.

        Parameters
        ----------
        sequences : sequence of ndarray of shape (L + 2,), uint8
            Tokens with start and end.
        outputs : sequence of OutputSpec
            The pass stops after the last layer that is needed.
        helpers : Executor, optional
            Threads that have nothing else to do, other than those that call this. They change no bit.

        Returns
        -------
        records : list of dict
            One for each sequence.
        """
        limit_own_thread()
        if self.alignment is None and len(sequences) > 1:
            return [self.forward([sequence], outputs, helpers)[0] for sequence in sequences]
        n_layers = self.spec.n_layers
        needs_head = any(output.kind in HEAD_KINDS for output in outputs)
        last = max(n_layers if output.layer is None else output.layer for output in outputs)
        spans, rows = self._layout([len(s) for s in sequences])
        records: list[dict[OutputSpec, FloatArray]] = [{} for _ in sequences]
        reader = AttentionReader(
            outputs,
            [len(s) for s in sequences],
            n_layers,
            self.spec.n_heads,
            contacts=self._parameters.contacts,
            library=np,
            put=np.asarray,
            fetch=np.asarray,
        )

        def keep(layer: int, x: FloatArray) -> None:
            for output in outputs:
                if output.kind in LAYER_KINDS and output.layer == layer:
                    for record, own in zip(records, spans, strict=True):
                        record[output] = pool(x[own], output.kind)

        x = self._embed(sequences, spans, rows)
        tables = [self._rotary(frequencies, spans, rows) for frequencies in self._frequencies]
        with np.errstate(over="ignore", under="ignore"):  # tanh and exp2 saturate as they should
            for i, block in enumerate(self._blocks[:last]):
                check_stop()
                keep(i, x)
                read = partial(reader.read, i + 1) if reader.wants(i + 1) else None
                self._attention(block, x, spans, tables[self._rotary_of_layer[i]], read, helpers)
                self._feed_forward(block, x, helpers)
            if last == n_layers:
                h = self._workspace.get("h", *x.shape)
                x = self._norm(x, self._parameters.final_norm, h)
            keep(last, x)
            if needs_head:
                logits = self._logits(x)
                for record, own in zip(records, spans, strict=True):
                    residues = logits[own][1:-1]
                    for output in outputs:
                        if output.kind == "logits":
                            record[output] = residues[:, AMINO_ACID_TOKENS].copy()
                        elif output.kind == "logit_means":
                            record[output] = residues.mean(axis=1, dtype=np.float64).astype(np.float32)
        for place, record in enumerate(records):
            record.update(reader.finish(place))
        return records

    def _layout(self, lengths: Sequence[int]) -> tuple[list[slice], int]:
        """Rows of each sequence of a pack, and of the pack."""
        if self.alignment is None:
            (length,) = lengths
            return [slice(0, length)], round_up(length, ROW_MULTIPLE)
        spans = lay_out(lengths, self.alignment.starts)
        return spans, max(LEAST_ROWS, round_up(spans[-1].stop, self.alignment.rows))

    def _embed(self, sequences: Sequence[Tokens], spans: Sequence[slice], rows: int) -> FloatArray:
        x = self._workspace.get("x", rows, self.spec.width)
        x[:] = 0
        for tokens, own in zip(sequences, spans, strict=True):
            part = x[own]
            np.take(self._parameters.embedding, tokens, axis=0, out=part)
            if self.spec.token_dropout:
                masked = tokens == MASK
                part[masked] = 0
                part *= np.float32((1 - TRAINED_MASK_RATIO) / (1 - masked.mean()))
        return x

    def _rotary(self, frequencies: FloatArray, spans: Sequence[slice], rows: int) -> Any:
        """The rotary embedding of a pack, as the attention of this engine takes it."""
        return rotary_tables(frequencies, spans, rows)

    def _norm(self, x: FloatArray, affine: Affine, out: FloatArray) -> FloatArray:
        """LayerNorm of the rows of x into out."""
        share = np.float32(1 / self.spec.width)
        mean = np.add.reduce(x, axis=1, keepdims=True)
        mean *= share
        np.subtract(x, mean, out=out)
        variance = np.einsum("ij,ij->i", out, out)
        variance *= share
        variance += np.float32(self.spec.layer_norm_eps)
        np.sqrt(variance, out=variance)
        np.reciprocal(variance, out=variance)
        out *= variance[:, None]
        out *= affine.weight
        out += affine.bias
        return out

    def _part_of(self, weight: FloatArray) -> int:
        """Rows of a weight that are multiplied at a time."""
        return -(-len(weight) // _PARTS) if self.spec.width >= SPLIT_WIDTH else len(weight)

    def _project(
        self, h: FloatArray, weight: FloatArray, out: FloatArray, turned: bool, helpers: Executor | None
    ) -> None:
        """The product of a square weight W with hᵀ into out, (d, rows), as `Alignment.turned` says."""
        if turned:
            by_rows = self._workspace.get("wide", *h.shape)
            self._product(h, weight, by_rows, helpers)
            out[:] = by_rows.T
        else:
            self._product(h, weight, out.T, helpers)

    def _product(self, x: FloatArray, weight: FloatArray, out: FloatArray, helpers: Executor | None) -> None:
        """The product of x with Wᵀ into out, in parts of a shape that depends on the model and the rows of x alone."""
        step = self._part_of(weight)
        parts = [slice(begin, begin + step) for begin in range(0, len(weight), step)]
        do((partial(np.matmul, x, weight[part].T, out=out[:, part]) for part in parts), helpers)

    def _double_gelu(self, h: FloatArray, bias: FloatArray, helpers: Executor | None = None) -> None:
        """2 GELU(h + bias) in place. The caller folds the half into the next product."""
        step = max(1, _GELU_ELEMENTS // h.shape[1])
        parts = (h[begin : begin + step] for begin in range(0, len(h), step))
        do((partial(self._double_gelu_part, part, bias) for part in parts), helpers)

    def _head_gelu(self, h: FloatArray, bias: FloatArray) -> None:
        """GELU(h + bias) in place."""
        self._double_gelu(h, bias)
        h *= np.float32(0.5)

    def _double_gelu_part(self, part: FloatArray, bias: FloatArray) -> None:
        u, a = (self._workspace.get(name, *part.shape) for name in ("gelu_square", "gelu_inner"))
        np.add(part, bias, out=part)
        np.multiply(part, part, out=u)
        np.multiply(u, _GELU[-1], out=a)
        np.add(a, _GELU[-2], out=a)
        for coefficient in _GELU[-3::-1]:
            np.multiply(a, u, out=a)
            np.add(a, coefficient, out=a)
        np.multiply(a, part, out=a)
        np.tanh(a, out=a)
        np.add(a, _ONE, out=a)
        np.multiply(part, a, out=part)

    def _attention(
        self,
        block: Block,
        x: FloatArray,
        spans: Sequence[slice],
        rotary: Any,
        read: Read | None,
        helpers: Executor | None,
    ) -> None:
        """Add the attention of a block to the residual stream x. Hand its weights to `read`, if they are wanted."""
        rows, d = x.shape
        work = self._workspace
        h = self._norm(x, block.attention_norm, work.get("h", rows, d))
        products = work.get("qkv", 3, d, rows)
        layers = (block.query, block.key, block.value)
        turned = self.alignment is not None and self.alignment.turned
        for affine, part in zip(layers, products, strict=True):
            self._project(h, affine.weight, part, turned, helpers)
        biases = [affine.bias for affine in layers]
        mixed = mix(products, biases, rotary, spans, work, partial(do, helpers=helpers), read)
        self._product(mixed.T, block.attention_output.weight, h, helpers)
        h += block.attention_output.bias
        x += h

    def _feed_forward(self, block: Block, x: FloatArray, helpers: Executor | None) -> None:
        """Add the feed-forward network of a block to the residual stream x."""
        rows, d = x.shape
        h = self._norm(x, block.ffn_norm, self._workspace.get("h", rows, d))
        f = self._workspace.get("wide", rows, self.spec.ffn_width)
        self._product(h, block.ffn_in.weight, f, helpers)
        self._double_gelu(f, block.ffn_in.bias, helpers)
        self._product(f, block.ffn_out.weight, h, helpers)
        h *= np.float32(0.5)
        h += block.ffn_out.bias
        x += h

    def _logits(self, x: FloatArray) -> FloatArray:
        """Logits over the 33 tokens, (rows, 33)."""
        head = self._parameters.head
        assert head is not None, "the backend refuses logits of models without a head"
        h = np.matmul(x, head.dense.weight.T)
        self._head_gelu(h, head.dense.bias)
        h = self._norm(h, head.norm, h)
        logits: FloatArray = np.matmul(h, head.decoder.weight.T)
        logits += head.decoder.bias
        return logits
