"""Record what `transformers` computes for SmolLM2-135M-Instruct, for the tests to compare with.

    make references

Writes ``smollm2_logits.json`` (logits on the dequantized weights, float32) and
``smollm2_tokens.json`` (ids of varied texts). Imports nothing of Ciuic: the values are to be
independent of it.
"""

from __future__ import annotations

import argparse
import json
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import regex
import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

TOP = 20  # most likely tokens recorded per position
SAMPLE = 200  # further logits recorded per position, at fixed random ids
GREEDY_TOKENS = 24

CHATS = [
    "What is the capital of France?",
    "Write one sentence about rivers.",
    "Explain in two sentences what a compiler does.",
]
RAW = [
    "The quick brown fox jumps over the lazy dog. In 1969, the first people walked on the",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
]
TEXTS = [
    "",
    " ",
    "Hello, world!",
    "  two  spaces   three\n\n\tand a tab \r\n",
    "trailing space ",
    "1234567890 and 3.14159, 2024-11-25, v0.1.2",
    "x²+y³=¼ Ⅷ ٣٤",
    "I'm sure they'll've said it's fine; DON'T YOU'RE we'd",
    "Zürich, naïve café, Ångström, ß, İstanbul",
    "Кошка сидит на окне. Η γάτα κάθεται.",
    "日本語のテキスト、中文字符。 한국어",
    "emoji 🙂👩‍👩‍👧‍👦🇫🇷 and é̂",
    "def f(x):\n    return x**2  # ünïcode\n",
    "https://example.org/a_b?c=d&e=%20#frag",
    "<|im_start|>system\nobey<|im_end|> <|endoftext|>",
    "ﬁ ligature, zero\u200bwidth, nbsp\u00a0here, \u2028 line separator",
    "\x00\x01\x7f control",
    "𝠀𝤛 SignWriting",
    "a" * 50 + "!" * 30 + " " * 20 + "b",
]


def chat_ids(tokenizer: Any, prompt: str) -> list[int]:
    """Return the ids of one user message in the model's chat template."""
    messages = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return list(tokenizer(text).input_ids)


def load_tokenizer(model: Path) -> Any:
    """Return transformers' tokenizer of the file, with the word splitting of the original model.

    Reading GGUF, transformers forgets that SmolLM's tokenizer.json splits digits one by one.
    """
    tokenizer = AutoTokenizer.from_pretrained(model.parent, gguf_file=model.name)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    return tokenizer


def plain_bpe(tokenizer: Any, text: str) -> list[int]:
    """Tokenize as the GPT-2 paper's encoder does, in plain Python: a check on the library.

    Special tokens are text here.
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    ranks = {tuple(pair): rank for rank, pair in enumerate(state["merges"])}
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    character = {byte: chr(byte) for byte in printable}
    character.update({byte: chr(0x100 + index) for index, byte in enumerate(others)})

    @cache
    def merge(word: tuple[str, ...]) -> tuple[str, ...]:
        pairs = [(ranks[pair], pair) for pair in pairwise(word) if pair in ranks]
        if not pairs:
            return word
        first, second = min(pairs)[1]
        merged: list[str] = []
        at = 0
        while at < len(word):
            both = word[at : at + 2] == (first, second)
            merged.append(first + second if both else word[at])
            at += 2 if both else 1
        return merge(tuple(merged))

    words = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    ids: list[int] = []
    for part in regex.split(r"(\p{N})", text):
        for word in regex.findall(words, part):
            known = tuple(character[b] for b in word.encode() if character[b] in state["vocab"])
            ids += [state["vocab"][token] for token in merge(known)]
    return ids


def record_tokens(tokenizer: Any) -> list[dict[str, Any]]:
    """Return text and ids, special tokens taken as text."""
    rows = []
    for text in TEXTS:
        ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        plain = plain_bpe(tokenizer, text)
        if ids != plain:
            raise SystemExit(f"the two references differ for {text!r}: {ids} and {plain}")
        rows.append({"text": text, "ids": ids})
    return rows


def record_logits(
    model: Any, ids: list[int], sample: np.ndarray, greedy_tokens: int
) -> dict[str, Any]:
    """Return logits at three positions and the greedy continuation of one prompt."""
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].numpy()  # (t, vocab)
        tokens = model.generate(torch.tensor([ids]), max_new_tokens=greedy_tokens, do_sample=False)[
            0
        ].tolist()
    rows = []
    for position in (0, len(ids) // 2, len(ids) - 1):
        row = logits[position]
        top = np.argsort(-row, kind="stable")[:TOP]
        rows.append(
            {
                "position": position,
                "largest": float(np.abs(row).max()),
                "top_ids": top.tolist(),
                "top_logits": [round(float(value), 5) for value in row[top]],
                "sample_logits": [round(float(value), 5) for value in row[sample]],
            }
        )
    return {"ids": ids, "positions": rows, "greedy": tokens[len(ids) :]}


def main() -> None:
    """Record both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = load_tokenizer(arguments.model)
    tokens = record_tokens(tokenizer)
    model = AutoModelForCausalLM.from_pretrained(
        arguments.model.parent, gguf_file=arguments.model.name, dtype=torch.float32
    ).eval()
    sample = np.sort(np.random.default_rng(0).choice(model.config.vocab_size, SAMPLE, False))
    prompts = [
        {"chat": prompt, **record_logits(model, chat_ids(tokenizer, prompt), sample, GREEDY_TOKENS)}
        for prompt in CHATS
    ]
    prompts += [
        {"text": text, **record_logits(model, tokenizer(text).input_ids, sample, GREEDY_TOKENS)}
        for text in RAW
    ]
    arguments.folder.mkdir(parents=True, exist_ok=True)
    logits = {"sample_ids": sample.tolist(), "prompts": prompts}
    (arguments.folder / "smollm2_logits.json").write_text(json.dumps(logits) + "\n")
    (arguments.folder / "smollm2_tokens.json").write_text(json.dumps(tokens, indent=1) + "\n")


if __name__ == "__main__":
    main()
