"""ESM-2 in torch: GPUs, bfloat16, and an alternative on the CPU. Needs the extra ``torch``.

`skesm.esm2.plain` has the same computation to read.

Sequences are laid end to end along the token axis, sorted by length, and nothing is padded. Linear layers run over all
of them at once. Attention is NumPy's on CPUs. Elsewhere it is one call for each run of equal lengths or, where the
device can, for all. Features agree with those of the NumPy engine within 1e-5 of the layer's scale in float32. They may
differ in the last bits with what else is in the pack, as torch's products do.

In bfloat16 the weights and the inputs of products are rounded, less the part that all tokens share
(`skesm.esm2.torch_engine.centring`). The residual stream and the biases added to it, LayerNorms, rotary angles and
poolings stay float32.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from skesm.esm2.attention import AttentionReader, ContactHead
from skesm.esm2.kernels import find_kernels
from skesm.esm2.machine.stopping import check_stop
from skesm.esm2.machine.threads import limit_own_thread, one_blas_thread, one_torch_thread
from skesm.esm2.packing import MIN_PACK_TOKENS, most_together, plan_packs, share_evenly
from skesm.esm2.plain import TRAINED_MASK_RATIO
from skesm.esm2.spec import ModelSpec
from skesm.esm2.tokenizer import AMINO_ACID_TOKENS, MASK, Tokens, tokenize
from skesm.esm2.torch_engine.attention import Mix, Read, choose_attention, split_runs
from skesm.esm2.torch_engine.blocks import Pair, PlacedBlock, PlacedHead
from skesm.esm2.torch_engine.centring import CALIBRATION_SEQUENCE, centre
from skesm.esm2.torch_engine.linear import Linear, choose_linear
from skesm.esm2.torch_engine.memory import Limit, is_out_of_memory
from skesm.esm2.weights.parameters import Affine, Block, Parameters
from skesm.exceptions import BackendError
from skesm.outputs.kinds import HEAD_KINDS, LAYER_KINDS
from skesm.outputs.spec import OutputSpec
from skesm.outputs.types import FloatArray

#: Elements of the residual stream in a pack on a GPU, which needs more work at a time: 26,214 tokens of the 8M model,
#: 6,553 of 650M. All arrays of such a pack take about half a gigabyte.
GPU_PACK_ELEMENTS = 1 << 23


class TorchEngine:
    """Forward passes in torch.

    Several threads may call `forward` at once, inside `hold`.

    Parameters
    ----------
    spec : ModelSpec
    parameters : Parameters
        Copied once, to the device or into the layout that is fastest on this processor (`torch_engine.linear`).
        Where there is none, the engine computes in float32 on the CPU from these arrays themselves, but for the weights
        of queries, keys and values, which are put together.
    device : str, default="cpu"
        As `resolve_device` gives it.
    dtype : {"float32", "bfloat16"}, default="float32"
        Type of the matrix products.

    Raises
    ------
    BackendError
        If the weights do not fit on the device, or it cannot compute in `dtype`.
    """

    def __init__(self, spec: ModelSpec, parameters: Parameters, device: str = "cpu", dtype: str = "float32") -> None:
        self.spec = spec
        self.has_head = parameters.head is not None
        self.has_contact_head = parameters.contacts is not None
        self._device = torch.device(device)
        self._dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]
        self._limit = Limit()
        # MPS has one command queue, which is not made for several threads at once
        self._turn: AbstractContextManager[object] = threading.Lock() if self._device.type == "mps" else nullcontext()
        try:
            self._place_weights(parameters)
            self._refuse_rounded_products()
            if self._dtype != torch.float32:
                self._blocks = self._centred_blocks(parameters.blocks)
        except RuntimeError as error:
            if isinstance(error, BackendError):
                raise
            raise BackendError(f"{spec.name} cannot be used on device {device!r} in {dtype}: {error}") from error

    def _place_weights(self, parameters: Parameters) -> None:
        """The parameters' own places, with tensors on the device in them."""
        linear = choose_linear(self._device, self._dtype)

        def small(array: FloatArray) -> Tensor:
            return self._on_device(array.copy())  # a few views would keep the map open

        def norm(affine: Affine) -> Pair:
            return Pair(*map(small, affine))  # stays float32

        def layer(affine: Affine, bias_dtype: torch.dtype = self._dtype) -> Linear:
            return linear.of(self._on_device(affine.weight).to(self._dtype), small(affine.bias).to(bias_dtype))

        def placed(i: int, block: Block) -> PlacedBlock:
            weights, biases = zip(block.query, block.key, block.value, strict=True)
            weight, bias = self._on_device(np.concatenate(weights)), self._on_device(np.concatenate(biases))
            return PlacedBlock(
                norm(block.attention_norm),
                self._attention.projection(weight.to(self._dtype), bias),
                layer(block.attention_output, torch.float32),  # see _add
                norm(block.ffn_norm),
                layer(block.ffn_in),
                layer(block.ffn_out, torch.float32),
                i,
            )

        self._attention = choose_attention(
            self._device,
            self._dtype,
            self.spec.n_heads,
            small(parameters.inverse_frequencies),
            linear=linear,
            kernels=find_kernels(self.spec) if self._device.type == "cpu" else None,
            put=self._to_device,
        )
        self._embedding = small(parameters.embedding)
        self._blocks = [placed(i, block) for i, block in enumerate(map(self._attention.order, parameters.blocks))]
        self._final_norm = norm(parameters.final_norm)
        head, contacts = parameters.head, parameters.contacts
        self._head = PlacedHead(layer(head.dense), norm(head.norm), layer(head.decoder)) if head is not None else None
        self._contacts = ContactHead(*(self._attention.put(part.copy()) for part in contacts)) if contacts else None

    def _centred_blocks(self, exact: Iterable[Block]) -> list[PlacedBlock]:
        tokens = tokenize(CALIBRATION_SEQUENCE)
        with torch.inference_mode(), one_blas_thread():
            attention = partial(self._add_attention, mix=self._attention.of([(1, len(tokens))]))
            blocks = map(self._attention.order, exact)
            return centre(self._blocks, blocks, self._embed([tokens]), self._norm, attention, self._add_feed_forward)

    def _on_device(self, array: FloatArray) -> Tensor:
        return torch.from_numpy(np.asarray(_Shared(array))).to(self._device)

    def _refuse_rounded_products(self) -> None:
        """Raise if this process lets torch round the inputs of float32 products to TF32 or bfloat16.

        `torch.set_float32_matmul_precision` and its newer and older spellings do, for a whole process. A trial shows
        the effect, whichever spelling was used: 1 + 2⁻¹² is exact in float32 and needs more digits than TF32 has.
        """
        if self._dtype != torch.float32:
            return
        n, entry = 256, 1 + 2**-12  # torch rounds no smaller products
        with torch.inference_mode():
            product = torch.full((n, n), entry, device=self._device) @ torch.ones((n, n), device=self._device)
            if product[0, 0].item() != n * entry:
                raise BackendError(
                    "this process has told torch to round float32 matrix products (TF32 or bfloat16), which would move "
                    "features by far more than 1e-5: call torch.set_float32_matmul_precision('highest'), or choose "
                    "dtype='bfloat16'"
                )

    def plan(self, lengths: Sequence[int], workers: int) -> list[list[int]]:
        """Group sequences of so many tokens into packs for so many workers."""
        if self._device.type == "cpu":
            budget = share_evenly(sum(lengths), workers, MIN_PACK_TOKENS, most_together(self.spec.width))
        else:
            budget = min(max(1, GPU_PACK_ELEMENTS // self.spec.width), self._limit.tokens or sys.maxsize)
        return plan_packs(lengths, budget)

    @contextmanager
    def hold(self, n_threads: int) -> Iterator[int]:
        """Keep torch, and NumPy's BLAS, on one CPU thread for each pack. Yields the number of packs to run at once.

        Two on CUDA: the kernels of one are queued while the results of the other are fetched.
        """
        self._refuse_rounded_products()
        if self._device.type == "cpu":
            with one_torch_thread(), one_blas_thread():
                yield n_threads
        else:
            yield 2 if self._device.type == "cuda" else 1

    def forward(
        self, sequences: Sequence[Tokens], outputs: Sequence[OutputSpec], helpers: object = None
    ) -> list[dict[OutputSpec, FloatArray]]:
        """Compute a pack.

        Parameters
        ----------
        sequences : sequence of ndarray of shape (L + 2,), uint8
            Tokens with start and end.
        outputs : sequence of OutputSpec
            The pass stops after the last layer that is needed.
        helpers : ignored

        Returns
        -------
        records : list of dict
            One for each sequence.

        Raises
        ------
        BackendError
            If the device fails, or a single sequence does not fit into its memory. A pack that does not is computed in
            halves, and so are those after it.
        """
        limit_own_thread()
        parts = self._limit.split(sequences)
        if len(parts) > 1:
            return [record for part in parts for record in self.forward(part, outputs)]
        tokens = sum(map(len, sequences))
        try:
            return self._forward(sequences, outputs)
        except (RuntimeError, MemoryError) as error:  # the base of torch's errors
            short = is_out_of_memory(error)
            if len(sequences) == 1 or not short:
                remedy = ". Use long_sequences='window', a smaller model, or device='cpu'" if short else ""
                raise BackendError(
                    f"{self.spec.name} failed on {self._device} with {tokens} tokens: {error}{remedy}"
                ) from error
        # behind the handler: the error holds the frames that hold the pack's memory
        self._limit.lower(tokens, self._device)
        return self.forward(sequences, outputs)

    def _forward(
        self, sequences: Sequence[Tokens], outputs: Sequence[OutputSpec]
    ) -> list[dict[OutputSpec, FloatArray]]:
        order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
        runs = [list(run) for _, run in groupby(order, key=lambda i: len(sequences[i]))]
        shapes = [(len(run), len(sequences[run[0]])) for run in runs]
        with torch.inference_mode(), self._turn:
            reader = AttentionReader(
                outputs,
                [len(sequences[i]) for i in order],
                self.spec.n_layers,
                self.spec.n_heads,
                contacts=self._contacts,
                library=self._attention.library,
                put=self._attention.put,
                fetch=self._attention.fetch,
            )
            results = self._compute([sequences[i] for i in order], shapes, outputs, reader)
            arrays = self._to_host([tensor for _, tensors in results for tensor in tensors])
            of_attention = [reader.finish(place) for place in range(len(order))]
        records: list[dict[OutputSpec, FloatArray]] = [{} for _ in sequences]
        taken = iter(arrays)
        for output, _ in results:
            for run in runs:
                for i, value in zip(run, next(taken), strict=True):
                    records[i][output] = value.copy()  # a view would keep the whole pack's results alive
        for i, more in zip(order, of_attention, strict=True):
            records[i].update(more)
        return records

    def _compute(
        self,
        sequences: Sequence[Tokens],
        shapes: Sequence[tuple[int, int]],
        outputs: Sequence[OutputSpec],
        reader: AttentionReader,
    ) -> list[tuple[OutputSpec, list[Tensor]]]:
        """For each output one float32 tensor a run of equal lengths, (count, …). `shapes` holds (count, tokens)."""
        n_layers = self.spec.n_layers
        needs_head = any(output.kind in HEAD_KINDS for output in outputs)
        last = max(n_layers if output.layer is None else output.layer for output in outputs)
        results: list[tuple[OutputSpec, list[Tensor]]] = []

        def keep(layer: int | None, x: Tensor, kinds: Sequence[str] = LAYER_KINDS) -> None:
            for output in outputs:
                if output.kind in kinds and output.layer == layer:
                    results.append((output, [_reduce(run, output.kind) for run in split_runs(x, shapes)]))

        x = self._embed(sequences)
        mix = self._attention.of(shapes)
        for i, block in enumerate(self._blocks[:last]):
            check_stop()
            keep(i, x)
            self._add_attention(block, x, mix, partial(reader.read, i + 1) if reader.wants(i + 1) else None)
            self._add_feed_forward(block, x)
        if last == n_layers:
            x = self._norm(x, self._final_norm)
        keep(last, x)
        if needs_head:
            keep(None, self._logits(x), HEAD_KINDS)
        return results

    def _embed(self, sequences: Sequence[Tokens]) -> Tensor:
        """The residual stream at its start, (tokens, d)."""
        tokens = np.concatenate(sequences)
        x = self._embedding[self._to_device(tokens.astype(np.int64))]
        if self.spec.token_dropout:
            kept = (tokens != MASK).astype(np.float32)
            begin = 0
            for sequence in sequences:
                part = kept[begin : begin + len(sequence)]
                part *= np.float32((1 - TRAINED_MASK_RATIO) / part.mean())
                begin += len(sequence)
            x *= self._to_device(kept)[:, None]
        return x

    def _norm(self, x: Tensor, affine: Pair) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], affine.weight, affine.bias, self.spec.layer_norm_eps)

    def _add_attention(self, block: PlacedBlock, x: Tensor, mix: Mix, read: Read | None = None) -> None:
        """Add the attention of a block to the residual stream x."""
        h = self._norm(x, block.attention_norm).to(self._dtype)
        _add(x, mix(block.projection, h, read, block.layer), block.attention_output)

    def _add_feed_forward(self, block: PlacedBlock, x: Tensor) -> None:
        """Add the feed-forward network of a block to the residual stream x."""
        h = self._norm(x, block.ffn_norm).to(self._dtype)
        _add(x, block.ffn_in.gelu(h), block.ffn_out)

    def _logits(self, x: Tensor) -> Tensor:
        """Logits over the 33 tokens, (tokens, 33), float32."""
        assert self._head is not None, "the backend refuses logits of models without a head"
        h = self._head.dense.gelu(x.to(self._dtype)).float()
        return self._head.decoder(self._norm(h, self._head.norm).to(self._dtype)).float()

    def _to_device(self, array: NDArray[np.generic]) -> Tensor:
        tensor = torch.from_numpy(array)
        if self._device.type == "cuda":
            tensor = tensor.pin_memory()  # else the copy would wait for the kernels that are queued
        return tensor.to(self._device, non_blocking=True)

    def _to_host(self, tensors: Sequence[Tensor]) -> list[FloatArray]:
        """Fetch tensors in one transfer."""
        if not tensors:
            return []
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        if self._device.type == "cuda":
            host = torch.empty(flat.shape, dtype=flat.dtype, pin_memory=True)
            host.copy_(flat, non_blocking=True)
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record(torch.cuda.current_stream(self._device))
            done.synchronize()  # this pack only, not the work that other threads have queued since
        else:
            host = flat.cpu()
        parts = np.split(host.numpy(), np.cumsum([tensor.numel() for tensor in tensors])[:-1])
        return [part.reshape(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def _add(x: Tensor, h: Tensor, linear: Linear) -> None:
    """Add a product to the residual stream x. Large biases would be lost in products that are rounded."""
    if h.dtype == linear.bias.dtype:
        x += linear(h)
    else:
        x += linear.product(h)
        x += linear.bias


def _reduce(run: Tensor, kind: str) -> Tensor:
    """One output of a run of equal lengths, in memory of its own: later layers overwrite the residual stream."""
    residues = run[:, 1:-1]
    if kind == "mean":
        return residues.mean(dim=1)
    if kind == "max":
        return residues.amax(dim=1)
    if kind == "logits":
        return residues[..., AMINO_ACID_TOKENS].clone()
    if kind == "logit_means":
        return residues.mean(dim=-1)
    return {"cls": run[:, 0], "eos": run[:, -1], "residues": residues}[kind].clone()


class _Shared:
    """Hands an array's memory to torch, which has no read-only tensors and warns of them, as if it were writable.

    Nothing writes to weights. Memory-mapped ones are protected by the operating system.
    """

    def __init__(self, array: FloatArray) -> None:
        self._owner = array  # NumPy keeps this object, and with it the memory, for as long as the new array lives
        self.__array_interface__ = {**array.__array_interface__, "data": (array.ctypes.data, False)}
