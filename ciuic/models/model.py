"""A model of any family: embedding, layers, head; what it computes and where.

A family gives the layers (`Layer`); this file puts them in a row and knows nothing of what
happens inside one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from ciuic.devices import Device, DeviceArray
from ciuic.errors import ModelFormatError, UsageError
from ciuic.runtime import Runtime
from ciuic.tensor import CiuicTensor

from .chat import ChatTemplate, Message
from .config import ModelConfig
from .decoder import Decoder
from .generate import Generation
from .kv_cache import KvCache, LayerCache
from .placed import HOST, Placed, Value
from .progress import Report, silent
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
        cache: LayerCache | None = None,
        positions: CiuicTensor | None = None,
    ) -> DeviceArray:
        """Submit the layer's operators and return the handle of its output (t, dim)."""


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
    head_device
        Where the last norm and the output matrix run.
    """

    def __init__(
        self,
        *,
        source: TensorSource,
        config: ModelConfig,
        tokenizer: Tokenizer,
        template: str | None,
        layers: Sequence[Layer],
        embedding: LayerWeights,
        head: LayerWeights,
        runtime: Runtime,
    ) -> None:
        self.config = config
        self.layers = list(layers)
        self.runtime = runtime
        self.tokenizer = tokenizer
        self.head_device: Device | str = HOST
        self._source = source
        self._embedding = embedding  # table (vocab, dim)
        self._head = head  # norm (dim,), output (dim, vocab)
        self._decoder = Decoder(self)
        self._template = _chat_template(source, template, tokenizer)

    def __repr__(self) -> str:
        return f"<Model {self.config.name!r}: {len(self.layers)} layers of {self.hidden_size}>"

    @property
    def head_weights(self) -> LayerWeights:
        """The last norm's weight and the output matrix."""
        return self._head

    @property
    def hidden_size(self) -> int:
        """Width of the hidden state."""
        return self.config.dim

    def load(self, report: Report = silent) -> None:
        """Read all weights now, and bring them to their devices, not when they are first needed."""
        parts: list[tuple[LayerWeights, Device | str]] = [
            *((layer.weights, layer.device) for layer in self.layers),
            (self._head, self.head_device),
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
        return KvCache(self.runtime, len(self.layers), config.slot_shapes, config.max_seq_len)

    def embed(self, token_ids: Sequence[int]) -> DeviceArray:
        """Return the hidden state that goes into the first layer, float32 (t, dim)."""
        ids = np.asarray(token_ids, np.int32)  # (t,)
        return self.runtime.place(self._embedding.gather("table", ids))

    def logits(self, token_ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """Return the logits after each token of a sequence, float32 (t, vocab).

        Raises
        ------
        UsageError
            If there are no tokens, unknown ones, or more than the context holds.
        """
        cache = self.new_cache()
        parts = [
            self._logits_of(hidden).numpy()
            for hidden in self._prefill(self.checked_ids(token_ids), cache)
        ]
        return np.concatenate(parts)

    def prefill(
        self, token_ids: Sequence[int], cache: KvCache, report: Report = silent
    ) -> npt.NDArray[np.float32]:
        """Take tokens into the cache and return the logits after the last, float32 (vocab,)."""
        total = len(token_ids)
        for hidden in self._prefill(token_ids, cache):
            last = hidden
            self.runtime.synchronize()
            report("reading the prompt", cache.length, total)
        t = last.shape[0]
        row = Placed(self.runtime, self.head_device).run("slice_rows", last, start=t - 1, stop=t)
        logits: npt.NDArray[np.float32] = self._logits_of(row).numpy()[0]
        return logits

    def decode(self, token_id: int, cache: KvCache) -> npt.NDArray[np.float32]:
        """Take one token into the cache and return the logits after it, float32 (vocab,)."""
        hidden = self.embed([token_id])
        logits = self._decoder.submit(hidden, cache)
        if logits is None:
            logits = self._logits_of(self._through(hidden, cache))
        row: npt.NDArray[np.float32] = logits.numpy()[0]
        return row

    def generate(
        self,
        prompt: str | Sequence[int],
        max_tokens: int = 128,
        *,
        raw: bool = False,
        sampling: SamplingOptions | None = None,
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
        report
            Told how much of the prompt has been read.

        Raises
        ------
        UsageError
            If the prompt is empty or longer than the context, or ``max_tokens`` is below 1.
        """
        ids = self.encode(prompt, raw=raw) if isinstance(prompt, str) else prompt
        return Generation(self, ids, max_tokens, sampling or SamplingOptions(), report)

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
        if self._template is None:
            raise UsageError("the model has no chat template; use the prompt raw")
        return self._template.encode(messages)

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

    def _prefill(self, token_ids: Sequence[int], cache: KvCache) -> Iterator[DeviceArray]:
        for start in range(0, len(token_ids), PREFILL_TOKENS):
            yield self._step(token_ids[start : start + PREFILL_TOKENS], cache)

    def _step(self, token_ids: Sequence[int], cache: KvCache) -> DeviceArray:
        """Take t tokens into the cache and return the last layer's output (t, dim)."""
        return self._through(self.embed(token_ids), cache)

    def _through(self, hidden: DeviceArray, cache: KvCache) -> DeviceArray:
        positions = token_positions(cache.length, hidden.shape[0])
        for layer, layer_cache in zip(self.layers, cache.layers, strict=True):
            hidden = layer.submit(
                hidden, runtime=self.runtime, cache=layer_cache, positions=positions
            )
        return hidden

    def _logits_of(self, hidden: DeviceArray) -> DeviceArray:
        return self.head(Placed(self.runtime, self.head_device), hidden)

    def head(self, on: Placed, hidden: DeviceArray) -> DeviceArray:
        """Submit the last norm and the output matrix: (t, dim) -> logits (t, vocab)."""
        normed = on.run("rms_norm", hidden, self._head["norm"], eps=self.config.norm_eps)
        return on.linear(normed, self._head["output"])


def token_positions(start: int, count: int) -> CiuicTensor:
    """Return the positions of ``count`` tokens from ``start`` on, int32 (count,)."""
    return CiuicTensor.from_numpy(np.arange(start, start + count, dtype=np.int32))


def _chat_template(
    source: TensorSource, template: str | None, tokenizer: Tokenizer
) -> ChatTemplate | None:
    if template is None:
        return None
    try:
        return ChatTemplate(template, tokenizer)
    except ValueError as error:
        raise ModelFormatError(source.path, str(error)) from error
