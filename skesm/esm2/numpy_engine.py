"""ESM-2 in NumPy: the default engine, without torch.

Sequences are laid end to end along the token axis; linear layers run over all of them at once, attention over each
alone, and nothing is padded but the last rows of a pack.

The features of a sequence are the same to the last bit whatever else is in the call. A matrix product in BLAS may
treat a row differently by its place among the others (OpenBLAS's AVX2 kernels do), by their number, and by the number
of threads. Therefore every product runs on one thread (`skesm.esm2.threads`), on rows of one sequence only, so that
its shape is a function of that sequence's length; wide models compute it in parts of fixed shape, which a pack that has
the machine for itself spreads over helping threads. Sequences share a product only where a trial on this machine shows
that it does not matter: short ones packs of one fixed size, if their place in it makes no difference
(`NumpyEngine.places_are_equal`); longer ones too, once an engine has work enough for a longer trial, if the number of
rows makes none either (`NumpyEngine.sharing`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from skesm.esm2.attention import AttentionReader
from skesm.esm2.batching import most_together, share_evenly
from skesm.esm2.plain_attention import Read, Rotary, distinct_rows, do_in_turn, mix, rotary_tables
from skesm.esm2.spec import ModelSpec
from skesm.esm2.stopping import check_stop
from skesm.esm2.threads import limit_own_thread, one_blas_thread
from skesm.esm2.tokenizer import AMINO_ACID_TOKENS, MASK
from skesm.esm2.weights.parameters import Affine, Block, Parameters
from skesm.esm2.workers import worker_pool
from skesm.esm2.workspace import Workspace
from skesm.outputs.kinds import HEAD_KINDS, LAYER_KINDS
from skesm.outputs.pooling import pool
from skesm.outputs.spec import OutputSpec
from skesm.outputs.types import FloatArray

Tokens = NDArray[np.uint8]

#: Rows of a pack that several short sequences share, and the most tokens of a sequence that shares.
SHARED_ROWS = 256
SHARED_LIMIT = 128
#: The most rows of a pack that longer sequences share, after a trial of all sizes of such packs; and the work of an
#: engine, in trials of these, after which one is worth it: the first saves 5 to 10 %, the second, of narrow models,
#: 2 to 3 %.
SIZE_TRIALS = ((512, 14), (1024, 40))
#: Rows of other packs are a multiple of this: whole vector registers.
ROW_MULTIPLE = 16


def _whole(rows: int) -> int:
    return -(-rows // ROW_MULTIPLE) * ROW_MULTIPLE


#: Fraction of tokens that ESM-2's training masked, by which its token dropout scales embeddings.
TRAINED_MASK_RATIO = 0.15 * 0.8

# GELU(x) = x Φ(x) with Φ the normal distribution function, written as x/2 (1 + tanh(x p(x²))), where p is a polynomial
# of degree 6 fitted to artanh(2Φ(x) - 1) / x on |x| < 7: 7e-8 off in exact arithmetic, 8e-7 in float32, and several
# times as fast as an error function.
_GELU = tuple(
    np.array(0.5 * c, dtype=np.float32)  # as arrays they save each call a conversion
    for c in (
        1.5957684516906738,
        0.07266856729984283,
        -6.625997048104182e-05,
        -0.0001104803232010454,
        7.93821982369991e-06,
        -2.6689286869441275e-07,
        3.6112339785177028e-09,
    )
)
_ONE = np.array(1, dtype=np.float32)
_GELU_ELEMENTS = 1 << 17  # worked on at a time: about the second-level cache; with less, threads wait for each other

#: Models of this width or more compute products in so many parts; in smaller ones a part would not be worth a thread.
SPLIT_WIDTH, _PARTS = 1280, 4


def _do(tasks: Iterable[Callable[[], object]], helpers: Executor | None) -> None:
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

    def __init__(self, spec: ModelSpec, parameters: Parameters) -> None:
        self.spec = spec
        self.has_head = parameters.head is not None
        self.has_contact_head = parameters.contacts is not None
        self._parameters = parameters
        self._blocks = tuple(parameters.blocks)
        self._frequencies, self._rotary_of_layer = distinct_rows(parameters.inverse_frequencies)
        self._workspace = Workspace()
        self._work = 0  # tokens, times layers, so far
        self._most_shared_rows = SHARED_LIMIT  # as far as tried
        self._trials = tuple(trial for trial in SIZE_TRIALS if trial[0] <= most_together(spec.width))

    @cached_property
    def places_are_equal(self) -> bool:
        """Whether, on this machine's BLAS, a row's result is independent of its place among `SHARED_ROWS` rows."""
        return self._rows_are_equal([SHARED_ROWS])

    def _rows_are_equal(self, sizes: Sequence[int], workers: int = 1) -> bool:
        """Try packs of so many rows, full of copies of one sequence, through one block and the head."""
        length = 13  # coprime to the tile sizes of matrix kernels: copies start at every place of a tile
        sequence = np.arange(length, dtype=np.uint8) % 20 + 4
        outputs = [OutputSpec("residues", 1)]
        if self._parameters.head is not None:
            outputs.append(OutputSpec("logits"))
        spec, parameters = self.spec, self._parameters
        shallow = NumpyEngine(replace(spec, n_layers=1), replace(parameters, blocks=self._blocks[:1]))

        def copies(rows: int) -> list[dict[OutputSpec, FloatArray]]:
            return shallow._forward([sequence] * (rows // length), outputs, rows)

        with one_blas_thread(), worker_pool(workers) as pool:
            first = copies(SHARED_ROWS)[0]
            return all(
                np.array_equal(copy[o], first[o]) for pack in pool.map(copies, sizes) for copy in pack for o in outputs
            )

    def sharing(self, n_tokens: int, workers: int) -> tuple[int, int]:
        """(most tokens in a shared pack, most tokens of a sequence that shares).

        They change with the work that an engine has done, but where they do no bit depends on them.
        """
        if not self.places_are_equal:
            return SHARED_ROWS, 0
        self._work += n_tokens * self.spec.n_layers
        for most, pays in self._trials:
            # of a pack that several sequences share, or of one sequence alone that might have shared it
            sizes = range(_whole(self._most_shared_rows + 1), most + 1, ROW_MULTIPLE)
            if self._work < pays * sum(sizes):
                break
            if not self._rows_are_equal(sizes, workers):
                self._trials = ()
                break
            self._most_shared_rows = most
            self._trials = tuple(trial for trial in self._trials if trial[0] > most)
        if self._most_shared_rows == SHARED_LIMIT:
            return SHARED_ROWS, SHARED_LIMIT
        return share_evenly(n_tokens, workers, SHARED_ROWS, self._most_shared_rows), self._most_shared_rows

    @contextmanager
    def hold(self, n_threads: int) -> Iterator[int]:
        """Keep BLAS on one thread; packs are computed on `n_threads` threads."""
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
            Threads that have nothing else to do; not those that call this. They change no bit.

        Returns
        -------
        records : list of dict
            One for each sequence.
        """
        used = sum(map(len, sequences))
        shared = len(sequences) > 1 or (used <= SHARED_LIMIT and self.places_are_equal)
        return self._forward(sequences, outputs, max(_whole(used), SHARED_ROWS if shared else 0), helpers)

    def _forward(
        self,
        sequences: Sequence[Tokens],
        outputs: Sequence[OutputSpec],
        rows: int,
        helpers: Executor | None = None,
    ) -> list[dict[OutputSpec, FloatArray]]:
        limit_own_thread()
        n_layers = self.spec.n_layers
        needs_head = any(output.kind in HEAD_KINDS for output in outputs)
        last = max(n_layers if output.layer is None else output.layer for output in outputs)
        bounds = np.concatenate([[0], np.cumsum([len(s) for s in sequences])]).tolist()
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
                    for record, (begin, end) in zip(records, pairwise(bounds), strict=True):
                        record[output] = pool(x[begin:end], output.kind)

        x = self._embed(sequences, rows)
        tables = [rotary_tables(frequencies, bounds, rows) for frequencies in self._frequencies]
        with np.errstate(over="ignore", under="ignore"):  # tanh and exp2 saturate as they should
            for i, block in enumerate(self._blocks[:last]):
                check_stop()
                keep(i, x)
                read = partial(reader.read, i + 1) if reader.wants(i + 1) else None
                self._attention(block, x, bounds, tables[self._rotary_of_layer[i]], read, helpers)
                self._feed_forward(block, x, helpers)
            if last == n_layers:
                h = self._workspace.get("h", *x.shape)
                x = self._norm(x, self._parameters.final_norm, h)
            keep(last, x)
            if needs_head:
                logits = self._logits(x)
                for record, (begin, end) in zip(records, pairwise(bounds), strict=True):
                    residues = logits[begin + 1 : end - 1]
                    for output in outputs:
                        if output.kind == "logits":
                            record[output] = residues[:, AMINO_ACID_TOKENS].copy()
                        elif output.kind == "logit_means":
                            record[output] = residues.mean(axis=1, dtype=np.float64).astype(np.float32)
        for place, record in enumerate(records):
            record.update(reader.finish(place))
        return records

    def _embed(self, sequences: Sequence[Tokens], rows: int) -> FloatArray:
        x = self._workspace.get("x", rows, self.spec.width)
        begin = 0
        for tokens in sequences:
            part = x[begin : begin + len(tokens)]
            np.take(self._parameters.embedding, tokens, axis=0, out=part)
            if self.spec.token_dropout:
                masked = tokens == MASK
                part[masked] = 0
                part *= np.float32((1 - TRAINED_MASK_RATIO) / (1 - masked.mean()))
            begin += len(tokens)
        x[begin:] = 0
        return x

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

    def _product(self, x: FloatArray, weight: FloatArray, out: FloatArray, helpers: Executor | None) -> None:
        """The product of x with Wᵀ into out, in parts of a shape that depends on the model and the rows of x alone."""
        step = -(-len(weight) // _PARTS) if self.spec.width >= SPLIT_WIDTH else len(weight)
        parts = [slice(begin, begin + step) for begin in range(0, len(weight), step)]
        _do((partial(np.matmul, x, weight[part].T, out=out[:, part]) for part in parts), helpers)

    def _double_gelu(self, h: FloatArray, bias: FloatArray, helpers: Executor | None = None) -> None:
        """2 GELU(h + bias) in place; the caller folds the half into what follows."""
        step = max(1, _GELU_ELEMENTS // h.shape[1])
        parts = (h[begin : begin + step] for begin in range(0, len(h), step))
        _do((partial(self._double_gelu_part, part, bias) for part in parts), helpers)

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
        bounds: Sequence[int],
        rotary: Rotary,
        read: Read | None,
        helpers: Executor | None,
    ) -> None:
        """Add the attention of a block to the residual stream x; hand its weights to `read`, if they are wanted."""
        rows, d = x.shape
        work = self._workspace
        h = self._norm(x, block.attention_norm, work.get("h", rows, d))
        products = work.get("qkv", 3, d, rows)
        layers = (block.query, block.key, block.value)
        for affine, part in zip(layers, products, strict=True):
            self._product(h, affine.weight, part.T, helpers)
        biases = [affine.bias for affine in layers]
        mixed = mix(products, biases, rotary, bounds, work, partial(_do, helpers=helpers), read)
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
        self._double_gelu(h, head.dense.bias)
        h *= np.float32(0.5)
        h = self._norm(h, head.norm, h)
        logits: FloatArray = np.matmul(h, head.decoder.weight.T)
        logits += head.decoder.bias
        return logits
