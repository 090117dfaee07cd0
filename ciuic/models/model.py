"""A model of any family: embedding, layers, head; what it computes and where.

A family gives the layers (`Layer`); this file puts them in a row and knows nothing of what
happens inside one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from ciuic.devices import Device, DeviceArray
from ciuic.errors import ModelFormatError, UsageError
from ciuic.runtime import Runtime
from ciuic.tensor import CiuicTensor

from .attend import Cache, PackedLayerCache, packs, positions_after
from .batch import BatchGeneration
from .chat import ChatTemplate, Message
from .config import ModelConfig
from .decoder import Decoder
from .fingerprint import weights_digest
from .generate import Generation
from .kv_cache import KvCache, slot_nbytes
from .placed import HOST, Placed, Value
from .progress import Report, silent
from .recovery import Recovered
from .sampling import SamplingOptions
from .tensor_source import TensorSource
from .tokenizer import Tokenizer
from .weights import LayerWeights

PREFILL_TOKENS = 256  # tokens at a time: bounds the memory that attention scores take

Hidden = TypeVar("Hidden", CiuicTensor, npt.NDArray[np.float32])


class Layer(Protocol):
    """What a family's layers offer."""

    device: Device | str
    as_fpga: bool
    attention: str | None

    @property
    def weights(self) -> LayerWeights:
        """Pairs of name and weight."""

    def forward(self, hidden: Hidden) -> Hidden:
        """Return the layer's output (t, dim) for tokens without a past."""

    def submit(
        self,
        hidden: Value,
        *,
        runtime: Runtime | None = None,
        device: Device | str | None = None,
        cache: Cache = None,
        positions: CiuicTensor | None = None,
    ) -> DeviceArray:
        """Submit the layer's operators and return the handle of its output (t, dim)."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """What a family makes of a file: all of a model but the text side.

    Attributes
    ----------
    config
        What it is built with.
    layers
        In order.
    embedding
        ``table`` (vocab, dim).
    head
        ``norm`` (dim,) and ``output`` (dim, vocab).
    """

    config: ModelConfig
    layers: Sequence[Layer]
    embedding: LayerWeights
    head: LayerWeights

    def embed(self, runtime: Runtime, ids: npt.NDArray[np.int32]) -> DeviceArray:
        """Submit the embedding of token ids (t,) and return the handle of its result (t, dim)."""
        return Placed(runtime, HOST).run("embedding", ids, self.embedding["table"])

    def logits(self, on: Placed, hidden: Value) -> DeviceArray:
        """Submit the head for the last layer's output (t, dim); the result is (t, vocab)."""
        normed = on.run("rms_norm", hidden, self.head["norm"], eps=self.config.norm_eps)
        return on.linear(normed, self.head["output"])


class Model:
    """A model that writes text.

    Attributes
    ----------
    config
        What it is built with.
    layers
        Its transformer layers, in order.
    tokenizer
        Text to ids and back.
    runtime
        Runs its operators.
    template
        Its chat template, or None.
    head_device
        Where the last norm and the output matrix run.
    failed
        URIs of devices that failed; it does not go back to them.
    recovered
        Failures that it went on after.
    shared
        (Layer, matrix or expert) -> who computes it and why, where that is not the layer's device.
    """

    def __init__(
        self,
        *,
        source: TensorSource,
        network: Network,
        tokenizer: Tokenizer,
        template: str | None,
        runtime: Runtime,
    ) -> None:
        self.config = network.config
        self.layers = list(network.layers)
        self.runtime = runtime
        self.tokenizer = tokenizer
        self.head_device: Device | str = HOST
        self._source = source
        self._network = network
        self._decoder = Decoder(self)
        self.template = _chat_template(source, template, tokenizer)
        self._weights_digest: bytes | None = None
        self.failed: set[str] = set()
        self.recovered: list[Recovered] = []
        self.shared: dict[tuple[int, str], str] = {}

    @property
    def source(self) -> TensorSource:
        """Where it was loaded from."""
        return self._source

    @property
    def network(self) -> Network:
        """What the family made of the file: configuration, layers, embedding and head."""
        return self._network

    def __repr__(self) -> str:
        return f"<Model {self.config.name!r}: {len(self.layers)} layers of {self.hidden_size}>"

    @property
    def hidden_size(self) -> int:
        """Width of the hidden state."""
        return self.config.dim

    def load(self, report: Report = silent) -> None:
        """Read all weights now, and bring them to their devices, not when they are first needed."""
        parts: list[tuple[LayerWeights, Device | str]] = [
            (self._network.embedding, HOST),
            *((layer.weights, layer.device) for layer in self.layers),
            (self._network.head, self.head_device),
        ]
        for done, (weights, device) in enumerate(parts):
            report("loading weights", done, len(parts))
            placed = Placed(self.runtime, device)
            for _, weight in weights.on(placed.device.kind):
                placed.hold(weight)
        self.runtime.synchronize()
        report("loading weights", len(parts), len(parts))

    def place(self, layers: Mapping[int, Device | str], head: Device | str = HOST) -> None:
        """Put layers, by their index, and the head on devices; others stay where they are.

        Raises
        ------
        UsageError
            If there is no such layer.
        """
        for index in layers:
            if not 0 <= index < len(self.layers):
                raise UsageError(f"layer must be from 0 to {len(self.layers) - 1}, not {index!r}")
        for index, device in layers.items():
            self.layers[index].device = device
        self.head_device = head

    def new_cache(self) -> KvCache:
        """Return an empty cache for one sequence."""
        config = self.config
        return KvCache(
            self.runtime,
            len(self.layers),
            config.slot_shapes,
            config.max_seq_len,
            self.fingerprint,
        )

    def load_cache(self, path: str | Path) -> KvCache:
        """Return the cache that `KvCache.save` wrote to a file.

        Raises
        ------
        ModelFormatError
            If the file is missing or broken, or was not made by this model with its weights, its
            quantization and the same layers on FPGAs.
        """
        cache = self.new_cache()
        cache.load(path)
        return cache

    @property
    def cache_bytes_per_token(self) -> int:
        """Bytes that a cache holds of one token, in all layers."""
        return len(self.layers) * slot_nbytes(self.config.slot_shapes)

    @property
    def expanded_cache_bytes_per_token(self) -> int:
        """Bytes that keys and values of one token would take if none were kept as a latent."""
        return len(self.layers) * slot_nbytes(self.config.expanded_slot_shapes)

    def fingerprint(self) -> str:
        """Return the SHA-256, in hexadecimal, of all that a cache's contents depend on.

        That is the configuration, the tensors and their weights (`weights_digest`), the
        quantization, and which layers compute in an FPGA's number formats and form of attention.
        """
        if self._weights_digest is None:
            self._weights_digest = weights_digest(Path(self._source.path))
        numerics = [
            (
                layer.weights.quantize,
                layer.as_fpga or on.kind == "FPGA",
                layer.attention or ("q16" if layer.as_fpga else on.attention),
            )
            for layer, on in ((one, self.runtime.device(one.device)) for one in self.layers)
        ]
        config = {name: value for name, value in vars(self.config).items() if name != "name"}
        shapes = sorted((name, tuple(t.shape)) for name, t in (self._source.tensors or {}).items())
        facts = repr((config, shapes, numerics)).encode()
        return hashlib.sha256(self._weights_digest + facts).hexdigest()

    def embed(self, token_ids: Sequence[int]) -> DeviceArray:
        """Return the hidden state that goes into the first layer, float32 (t, dim)."""
        return self._network.embed(self.runtime, np.asarray(token_ids, np.int32))

    def logits(self, token_ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """Return the logits after each token of a sequence, float32 (t, vocab).

        Raises
        ------
        UsageError
            If there are no tokens, unknown ones, or more than the context holds.
        """
        cache = self.new_cache()
        ids = self.checked_ids(token_ids)
        parts = [ids[at : at + PREFILL_TOKENS] for at in range(0, len(ids), PREFILL_TOKENS)]
        return np.concatenate([self._logits_of(self._step([(p, cache)])).numpy() for p in parts])

    def prefill(
        self, token_ids: Sequence[int], cache: KvCache, report: Report = silent
    ) -> npt.NDArray[np.float32]:
        """Take tokens into the cache and return the logits after the last, float32 (vocab,)."""
        logits: npt.NDArray[np.float32] = self.prefill_batch([token_ids], [cache], report)[0]
        return logits

    def decode(self, token_id: int, cache: KvCache) -> npt.NDArray[np.float32]:
        """Take one token into the cache and return the logits after it, float32 (vocab,)."""
        logits: npt.NDArray[np.float32] = self.decode_batch([token_id], [cache])[0]
        return logits

    def prefill_batch(
        self, prompts: Sequence[Sequence[int]], caches: Sequence[KvCache], report: Report = silent
    ) -> npt.NDArray[np.float32]:
        """Take tokens of several sequences into their caches, `PREFILL_TOKENS` of all at a time.

        Returns
        -------
        float32 array (sequences, vocab)
            The logits after the last token of each.
        """
        lengths = [len(ids) for ids in prompts]
        total = sum(lengths) + sum(cache.length for cache in caches)
        logits = np.empty((len(prompts), self.config.vocab_size), np.float32)
        for pack in packs(lengths, PREFILL_TOKENS):
            hidden = self._step([(prompts[i][start:stop], caches[i]) for i, start, stop in pack])
            self.runtime.synchronize()
            report("reading the prompt", sum(cache.length for cache in caches), total)
            last = np.cumsum([stop - start for _, start, stop in pack]) - 1  # row of each part
            rows = {i: r for (i, _, stop), r in zip(pack, last, strict=True) if stop == lengths[i]}
            if rows:
                ends = self._rows(hidden, list(rows.values()))
                logits[list(rows)] = self._logits_of(ends).numpy()
        return logits

    def decode_batch(
        self, token_ids: Sequence[int], caches: Sequence[KvCache]
    ) -> npt.NDArray[np.float32]:
        """Take one token of each sequence into its cache; return the logits (sequences, vocab)."""
        if len(caches) == 1 and (alone := self._decoder.submit(token_ids[0], caches[0])):
            return alone.numpy()
        parts = [([id_], cache) for id_, cache in zip(token_ids, caches, strict=True)]
        logits: npt.NDArray[np.float32] = self._logits_of(self._step(parts)).numpy()
        return logits

    def generate(
        self,
        prompt: str | Sequence[int],
        max_tokens: int = 128,
        *,
        raw: bool = False,
        sampling: SamplingOptions | None = None,
        stop: str | Sequence[str] = (),
        cache: KvCache | None = None,
        report: Report = silent,
    ) -> Generation:
        """Return an iterator over the pieces of text that the model writes.

        Parameters
        ----------
        prompt
            A user's message, which goes into the chat template; or token ids, taken as they are.
        max_tokens
            Most tokens to write.
        raw
            Continue the text of the prompt instead of answering it.
        sampling
            How to choose tokens; greedy by default.
        stop
            Texts at which to stop; the text ends before them.
        cache
            Holds tokens read before: the longest common prefix with the prompt is not read again.
            Afterwards it holds the prompt and the text. The tokens are those of an empty cache, as
            far as one token at a time and many at once give the same bits: with INT8 layers they
            do, with float32 ones BLAS may round otherwise.
        report
            Told how much of the prompt has been read.

        Raises
        ------
        UsageError
            If the prompt is empty or longer than the context, ``max_tokens`` is below 1, or a stop
            string is empty, or the cache is of another model.
        """
        ids = self.encode(prompt, raw=raw) if isinstance(prompt, str) else prompt
        options = sampling or SamplingOptions()
        return Generation(self, ids, max_tokens, options, stop=stop, cache=cache, report=report)

    def generate_batch(
        self,
        prompts: Sequence[str | Sequence[int]],
        max_tokens: int = 128,
        *,
        raw: bool = False,
        sampling: SamplingOptions | None = None,
        stop: str | Sequence[str] = (),
        report: Report = silent,
    ) -> BatchGeneration:
        """Return an iterator over pieces of the texts that the model writes after several prompts.

        The texts are written together, and are those that `generate` gives for each prompt alone.

        Parameters
        ----------
        prompts
            As ``prompt`` of `generate`; they may have different lengths.
        max_tokens, raw, sampling, stop, report
            As of `generate`, for each prompt.

        Raises
        ------
        UsageError
            If there is no prompt, or `generate` would refuse one of them.
        """
        ids = [self.encode(p, raw=raw) if isinstance(p, str) else p for p in prompts]
        options = sampling or SamplingOptions()
        return BatchGeneration(self, ids, max_tokens, options, stop=stop, report=report)

    def encode(self, prompt: str, *, raw: bool = False) -> list[int]:
        """Return the ids of a user's message in the chat template, or of the ``raw`` text."""
        if not raw:
            return self.encode_chat([{"role": "user", "content": prompt}])
        bos = [] if self.tokenizer.bos_id is None else [self.tokenizer.bos_id]
        return bos + self.tokenizer.encode(prompt)

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids of a conversation, up to where the answer begins.

        Raises
        ------
        UsageError
            If the model has no chat template or its template refuses the messages.
        """
        if self.template is None:
            raise UsageError("the model has no chat template; use the prompt raw")
        return self.template.encode(messages)

    def checked_ids(self, token_ids: Sequence[int]) -> list[int]:
        """Return token ids as plain integers.

        Raises
        ------
        UsageError
            If there are none, unknown ones, or more than the context holds.
        """
        ids = [int(id_) for id_ in token_ids]
        if not ids:
            raise UsageError("a prompt must have at least one token")
        if len(ids) > self.config.max_seq_len:
            raise UsageError(
                f"a prompt must be at most {self.config.max_seq_len} tokens, the context of "
                f"{self.config.name}, not {len(ids)}"
            )
        for id_ in ids:
            if not 0 <= id_ < self.config.vocab_size:
                raise UsageError(
                    f"token id must be from 0 to {self.config.vocab_size - 1}, not {id_}"
                )
        return ids

    def close(self) -> None:
        """Release the model's files; weights that were not read can no longer be."""
        self._source.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _step(self, parts: Sequence[tuple[Sequence[int], KvCache]]) -> DeviceArray:
        """Take tokens of each sequence into its cache; return the last layer's output (t, dim).

        The t rows are the tokens of the first sequence, then those of the second, and so on.
        """
        hidden = self.embed([id_ for ids, _ in parts for id_ in ids])
        counts = [len(ids) for ids, _ in parts]
        positions = None
        for index, layer in enumerate(self.layers):
            caches = [cache.layers[index] for _, cache in parts]
            cache = caches[0] if len(caches) == 1 else PackedLayerCache(caches, counts)
            if positions is None:
                positions = positions_after(cache, sum(counts))
            hidden = layer.submit(hidden, runtime=self.runtime, cache=cache, positions=positions)
        for ids, of_sequence in parts:
            of_sequence.token_ids += ids
        return hidden

    def _rows(self, hidden: DeviceArray, rows: Sequence[int]) -> DeviceArray:
        """Return some rows of the last layer's output."""
        if len(rows) == hidden.shape[0]:
            return hidden
        on = Placed(self.runtime, self.head_device)
        return on.run("embedding", np.asarray(rows, np.int32), hidden)

    def _logits_of(self, hidden: DeviceArray) -> DeviceArray:
        """Return the logits (t, vocab) of the last layer's output (t, dim)."""
        return self._network.logits(Placed(self.runtime, self.head_device), hidden)


def _chat_template(
    source: TensorSource, template: str | None, tokenizer: Tokenizer
) -> ChatTemplate | None:
    if template is None:
        return None
    try:
        return ChatTemplate(template, tokenizer)
    except ValueError as error:
        raise ModelFormatError(source.path, str(error)) from error
