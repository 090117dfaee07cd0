"""Operands and results in one buffer."""

from __future__ import annotations

import numpy as np
from ciuic_host.emulated import EmulatedTransport
from ciuic_host.staging import LINE_BYTES, Staging

from ciuic.abi import CONFIGS


def staging() -> tuple[EmulatedTransport, Staging]:
    transport = EmulatedTransport("fpga:test", CONFIGS["tiny"])
    return transport, Staging(transport, CONFIGS["tiny"].alignment)


def test_matrices_do_not_share_cache_lines_and_rows_are_aligned() -> None:
    _, stage = staging()
    shapes = [(3, 5), (1, 1), (7, 129)]
    matrices = stage.matrices(*shapes)
    end = 0
    for matrix, (rows, row_bytes) in zip(matrices, shapes, strict=True):
        assert matrix.offset % LINE_BYTES == 0
        assert matrix.offset >= end
        assert matrix.stride % CONFIGS["tiny"].alignment == 0
        assert matrix.stride >= row_bytes
        end = matrix.offset + rows * matrix.stride


def test_what_was_put_is_what_the_device_sees_and_back() -> None:
    transport, stage = staging()
    numbers = np.arange(15, dtype=">i4").reshape(3, 5)  # of the other byte order
    first, second = stage.matrices((3, 20), (3, 20))
    first.put(numbers)
    device = transport._memory.view(first.address, 3 * first.stride)
    assert device.reshape(3, first.stride)[1, :20].view("<i4").tolist() == [5, 6, 7, 8, 9]
    transport._memory.view(second.address, 3 * second.stride)[:] = device
    assert second.get(np.int32).tolist() == numbers.tolist()


def test_the_buffer_is_used_again_and_grows() -> None:
    transport, stage = staging()
    small = stage.matrices((1, 8))[0]
    assert stage.matrices((2, 8))[0].buffer is small.buffer
    big = stage.matrices((1, 1 << 20))[0]
    assert big.buffer is not small.buffer
    used = transport._memory.used
    assert used == big.buffer.nbytes
    stage.close()
    assert transport._memory.used == 0


def test_what_was_got_survives_the_next_call() -> None:
    _, stage = staging()
    first = stage.matrices((2, 8))[0]  # whole rows: contiguous in the buffer
    first.put(np.full((2, 2), 7, np.int32))
    got = first.get(np.int32)
    stage.matrices((2, 8))[0].put(np.full((2, 2), 9, np.int32))
    assert got.tolist() == [[7, 7], [7, 7]]
