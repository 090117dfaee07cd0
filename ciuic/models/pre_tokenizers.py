"""How text splits into words before BPE, for GGUF files: they hold the name of a way, not the way.

The patterns are those in the tokenizer.json files of the models that the names are of.
"""

from __future__ import annotations

from collections.abc import Callable

from tokenizers import Regex, pre_tokenizers


def _gpt2() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _smollm() -> pre_tokenizers.PreTokenizer:
    """Every digit is a word of its own, the rest splits as GPT-2's."""
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _gpt2()])


def _words(*patterns: str) -> Callable[[], pre_tokenizers.PreTokenizer]:
    """Return what splits text by each pattern in turn, as tokenizer.json files spell them."""

    def make() -> pre_tokenizers.PreTokenizer:
        splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
        as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return pre_tokenizers.Sequence([*splits, as_bytes])

    return make


SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"


def _modern(digits: str) -> Callable[[], pre_tokenizers.PreTokenizer]:
    """Return the splitting of GPT-4 and its kin, which differ in how many digits are a word."""
    contractions = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
    letters, others = r"[^\r\n\p{L}\p{N}]?\p{L}+", r" ?[^\s\p{L}\p{N}]+[\r\n]*"
    return _words("|".join((contractions, letters, digits, others, SPACES)))


_deepseek_v3 = _words(
    r"\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",  # Chinese characters, Japanese syllables
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
    r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|" + SPACES,
)

# All letters with case, but for these: Armenian small ones, Georgian, mathematical, rare and new.
_CASED = (
    r"[[\p{Lu}\p{Ll}\p{Lt}]&&[^"
    "\u0560-\u0588\u10c7-\u10ff\u1c80-\u1c8f\u2d00-\u2d2d\ua790-\ua7fa\uab30-\uab68"
    "\U00010570-\U000105bc\U00010d50-\U00010d85\U00016e40-\U00016e7f"
    "\U0001d400-\U0001d7cb\U0001df00-\U0001df2a]]"
)
_deepseek_llm = _words(
    r"[\r\n]",
    rf"\s?{_CASED}+",
    "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
    r"\s+$",
    "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+",
    r"\p{N}+",
)

PRE_TOKENIZERS: dict[str, Callable[[], pre_tokenizers.PreTokenizer]] = {
    "gpt-2": _gpt2,
    "smollm": _smollm,
    "llama-bpe": _modern(r"\p{N}{1,3}"),
    "qwen2": _modern(r"\p{N}"),
    "deepseek-r1-qwen": _modern(r"\p{N}"),
    "deepseek-llm": _deepseek_llm,
    "deepseek-v3": _deepseek_v3,
}
"""How text splits into words before BPE, by ``tokenizer.ggml.pre``."""
IGNORE_MERGES = {"llama-bpe"}
"""Those where a word that is a token is that token, whatever the merges would make of it."""
