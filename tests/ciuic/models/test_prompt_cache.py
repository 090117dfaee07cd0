"""Caches that outlive a text: reused by prefix, saved, loaded, and refused when they are broken."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from ciuic.errors import ModelFormatError, UsageError
from ciuic.models import cache_file, fingerprint
from ciuic.models.kv_cache import KvCache
from ciuic.models.loading import load_model
from ciuic.models.model import PREFILL_TOKENS, Model
from ciuic.models.names import DEFAULT_MODEL

from . import small_deepseek
from .conftest import Write


@pytest.fixture(params=["llama", "deepseek"])
def model(request: pytest.FixtureRequest, small_model: Write, tmp_path: Path) -> Iterator[Model]:
    path = small_model(60) if request.param == "llama" else small_deepseek.write_folder(tmp_path)
    with load_model(path, quantize="int8") as model:
        yield model


def write(model: Model, prompt: list[int], cache: KvCache | None = None, tokens: int = 8) -> list:
    generation = model.generate(prompt, tokens, cache=cache)
    "".join(generation)
    assert generation.cache.token_ids == (prompt + generation.ids)[: generation.cache.length]
    return [generation.ids, generation.reused_tokens]


def random_ids(model: Model, rng: random.Random, least: int, most: int) -> list[int]:
    return rng.choices(range(2, model.config.vocab_size), k=rng.randint(least, most))


def test_bytes_per_token_are_those_of_the_latents(tmp_path: Path) -> None:
    for path in (DEFAULT_MODEL, small_deepseek.write_folder(tmp_path)):
        with load_model(path) as model:
            config = model._source.config
            latent = config["kv_lora_rank"] + config["qk_rope_head_dim"]
            widths = config["qk_nope_head_dim"] + config["qk_rope_head_dim"] + config["v_head_dim"]
            layers = config["num_hidden_layers"]
            assert model.cache_bytes_per_token == latent * layers * 4  # float32
            expanded = config["num_attention_heads"] * widths * layers * 4
            assert model.expanded_cache_bytes_per_token == expanded
            cache = model.new_cache()
            assert cache.nbytes == 0
            model.prefill([5, 6], cache)
            slots = min(256, model.config.max_seq_len)
            assert cache.nbytes == slots * model.cache_bytes_per_token


def test_llama_keeps_keys_and_values_as_they_are(small_model: Write) -> None:
    with load_model(small_model()) as model:
        assert model.cache_bytes_per_token == 2 * 2 * (2 * 16) * 4  # layers, k and v, heads
        assert model.expanded_cache_bytes_per_token == model.cache_bytes_per_token


def test_a_common_prefix_is_reused_and_changes_nothing(model: Model) -> None:
    reused = 0
    for seed in range(12):
        rng = random.Random(seed)
        cache, prompt = model.new_cache(), random_ids(model, rng, 1, 20)
        for _ in range(4):
            want, _ = write(model, prompt)
            got, kept = write(model, prompt, cache)
            assert got == want, f"seed {seed}"
            reused += kept
            known = prompt + got
            prompt = known[: rng.randint(1, len(known))] + random_ids(model, rng, 0, 3)
            prompt = prompt[: model.config.max_seq_len - 10]
    assert reused > 100


def test_the_same_prompt_reads_its_last_token_only(model: Model) -> None:
    cache = model.new_cache()
    write(model, [5, 6, 7], cache)
    reports: list[tuple[str, int, int]] = []
    generation = model.generate([5, 6, 7], 1, cache=cache, report=lambda *r: reports.append(r))
    next(generation, None)
    assert generation.reused_tokens == 2
    assert reports == [("reading the prompt", 3, 3)]
    assert generation.speed is not None
    assert generation.speed.reused_tokens == 2


def test_cache_of_another_model_is_refused(model: Model, small_model: Write) -> None:
    with (
        load_model(small_model(61)) as other,
        pytest.raises(UsageError, match=r"^the cache must be of the model that is to write$"),
    ):
        model.generate([5], 1, cache=other.new_cache())


def test_saved_cache_gives_the_same_tokens(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "prompt.cache"
    prompt = [5, 6, 7, 8, 9]
    want, _ = write(model, [*prompt, 10])
    cache = model.new_cache()
    write(model, prompt, cache, 3)
    cache.save(path)
    for _ in range(2):  # reading it does not change it
        loaded = model.load_cache(path)
        assert loaded.token_ids == cache.token_ids
        assert write(model, [*prompt, 10], loaded) == [want, 5]
    assert [entry.name for entry in tmp_path.iterdir() if "cache" in entry.name] == [path.name]


def test_only_the_model_that_made_a_cache_takes_it(small_model: Write, tmp_path: Path) -> None:
    path, prompt = tmp_path / "prompt.cache", [5, 6, 7]

    def saved(model: Model) -> None:
        cache = model.new_cache()
        model.prefill(prompt, cache)
        cache.save(path)

    with load_model(small_model(62), quantize="int8") as model:
        saved(model)
    with load_model(small_model(62), quantize="int8") as same:
        assert same.load_cache(path).token_ids == prompt
        same.place({1: "fpga:emulated?config=tiny"})
        with pytest.raises(ModelFormatError, match="made by another model"):
            same.load_cache(path)
    for changes in ({"seed": 63}, {"seed": 62, "keys": {"llama.rope.freq_base": 9999.0}}):
        with (
            load_model(small_model(**changes), quantize="int8") as other,
            pytest.raises(ModelFormatError, match="made by another model"),
        ):
            other.load_cache(path)
    with (
        load_model(small_model(62), quantize=None) as other,
        pytest.raises(ModelFormatError, match="made by another model"),
    ):
        other.load_cache(path)


def test_every_cut_and_a_flipped_bit_of_every_byte_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "small.cache"
    rng = np.random.default_rng(64)
    layers = [(rng.random((3, 2), np.float32), rng.random((3, 1), np.float32)) for _ in range(2)]
    cache_file.write_cache(path, "ab" * 32, [5, 6, 7], layers)
    content = path.read_bytes()

    def read(changed: bytes) -> None:
        path.write_bytes(changed)
        read_ids, read_layers = cache_file.read_cache(
            path, "ab" * 32, n_layers=2, slot_shapes=((2,), (1,)), max_seq_len=8
        )
        assert read_ids == [5, 6, 7]
        for got, want in zip(read_layers, layers, strict=True):
            assert all(np.array_equal(g, w) for g, w in zip(got, want, strict=True))

    read(content)
    cases = [content[:size] for size in range(0, len(content), 3)]
    cases += [content + b"\0", content * 2, b"\0" * len(content)]
    for at in range(len(content)):
        changed = bytearray(content)
        changed[at] ^= 1 << at % 8
        cases.append(bytes(changed))
    assert len(cases) > 800
    for case in cases:
        with pytest.raises(ModelFormatError):
            read(case)


def test_a_broken_file_of_a_model_is_refused(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "prompt.cache"
    cache = model.new_cache()
    model.prefill([5, 6, 7], cache)
    cache.save(path)
    content = path.read_bytes()
    rng = random.Random(64)
    for _ in range(50):
        changed = bytearray(content)
        for at in rng.sample(range(len(content)), rng.randint(1, 20)):
            changed[at] ^= rng.randint(1, 255)
        path.write_bytes(changed[: rng.choice([len(content), rng.randrange(len(content))])])
        with pytest.raises(ModelFormatError):
            model.load_cache(path)


def test_a_right_checksum_does_not_make_up_for_wrong_contents(model: Model, tmp_path: Path) -> None:
    """What no accident writes is refused too: other tensors, shapes, types, and no tokens."""
    path = tmp_path / "prompt.cache"
    cache = model.new_cache()
    model.prefill([5, 6, 7], cache)
    cache.save(path)
    tensors = load_file(path)
    assert tensors["sha256"].tobytes() == path.read_bytes()[-32:]
    first = tensors["layers.0.0"]
    changes: list[dict[str, np.ndarray | None]] = [
        *({name: None} for name in tensors if name != "sha256"),
        {"layers.0.0": first[:2]},
        {"layers.0.0": first.astype(np.float16)},
        {"layers.0.0": first.reshape(-1)},
        {"token_ids": np.zeros(0, np.int32)},
        {"token_ids": np.array([5, 6, 7], np.int64)},
        {"token_ids": np.array([5, 6], np.int32)},
        {"fingerprint": tensors["fingerprint"][:-1]},
    ]
    for change in changes:
        changed = {**tensors, **change}
        content = save({name: array for name, array in changed.items() if array is not None})
        path.write_bytes(content[:-32] + hashlib.sha256(content[:-32]).digest())
        with pytest.raises(ModelFormatError):
            model.load_cache(path)
    body = b"no safetensors file at all"
    path.write_bytes(body + hashlib.sha256(body).digest())
    with pytest.raises(ModelFormatError, match="not a cache of tokens"):
        model.load_cache(path)


def test_a_file_far_too_large_is_not_read(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(ModelFormatError, match="must have at most"):
        model.load_cache(path)
    with pytest.raises(ModelFormatError, match="cannot be read"):
        model.load_cache(tmp_path)


def test_a_full_cache_is_within_the_limit(model: Model, tmp_path: Path) -> None:
    cache, path = model.new_cache(), tmp_path / "full"
    ids = [5] * model.config.max_seq_len
    model.prefill(ids, cache)
    cache.save(path)
    assert model.load_cache(path).token_ids == ids


def test_what_cannot_be_written_leaves_the_file_as_it_was(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "prompt.cache"
    path.write_bytes(b"before")
    cache = model.new_cache()
    with pytest.raises(UsageError, match=r"^a cache must hold at least one token to be read$"):
        cache.save(path)
    model.prefill([5], cache)
    monkeypatch.setattr(cache_file.hashlib, "sha256", lambda *_: pytest.fail("power cut"))
    with pytest.raises(pytest.fail.Exception):
        cache_file.write_cache(path, "00", [5], [])
    assert path.read_bytes() == b"before"
    assert not list(tmp_path.glob("*.part"))


def test_sampled_weights_differ_in_a_block_and_in_their_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprint, "BLOCK_NBYTES", 16)
    monkeypatch.setattr(fingerprint, "BLOCKS", 8)
    content = np.random.default_rng(65).bytes(5000)
    path = tmp_path / "model.safetensors"

    def digest(changed: bytes) -> bytes:
        path.write_bytes(changed)
        assert fingerprint.weights_digest(path) != fingerprint.weights_digest(tmp_path)
        return fingerprint.weights_digest(path)

    first = digest(content)
    assert digest(content) == first
    assert digest(content + b"\0") != first
    second_block = 5000 // 8
    assert digest(content[:second_block] + b"other" + content[second_block + 5 :]) != first


def test_cancelled_text_leaves_a_cache_that_can_be_used(model: Model) -> None:
    prompt, cache = [5, 6, 7], model.new_cache()
    want, _ = write(model, prompt)
    generation = model.generate(prompt, 8, cache=cache)
    next(generation)
    written = len(generation.ids)
    generation.cancel()
    "".join(generation)
    assert generation.stop_reason == "cancelled"
    assert generation.ids == want[:written]
    assert write(model, prompt, cache)[0] == want


def test_prompt_that_is_cancelled_is_read_on_from_there(
    small_model: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ciuic.models.model.PREFILL_TOKENS", 8)
    assert PREFILL_TOKENS > 8
    with load_model(small_model(66), quantize="int8") as model:
        prompt, cache = list(range(2, 40)), model.new_cache()
        want, _ = write(model, prompt)

        def report(_what: str, done: int, _total: int) -> None:
            if done == 16:
                generation.cancel()

        generation = model.generate(prompt, 8, cache=cache, report=report)
        assert list(generation) == []
        assert generation.stop_reason == "cancelled"
        assert generation.speed is None
        assert write(model, prompt, cache) == [want, 16]
