"""What a host and a board without processors say to each other over a serial line (8N1).

A request is a byte `READ` or `WRITE`, an address, and behind `WRITE` a word; all of them 32 bits,
least significant byte first. The answer is a byte with the response of AXI (0 is OKAY; A3.4.4) and,
to `READ`, a word. Bytes that begin no request are skipped without an answer, so `REQUEST_BYTES`
zeros bring both sides together again after a byte was lost.
"""

from __future__ import annotations

READ, WRITE = 0x72, 0x77  # "r", "w"
WORD_BYTES = 4
REQUEST_BYTES = 1 + 2 * WORD_BYTES  # of the longest one
REGISTERS_BASE = 1 << 31  # `ciuic.abi.registers` from here on; memory from zero on
MEMORY_BYTES = 1 << 16  # block RAM, the board's whole memory
BAUD = 1_000_000
