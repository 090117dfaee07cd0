"""Pieces: a matrix streams by columns; together they are the matrix, and give its bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ciuic.devices import Weight
from ciuic.memory.division import divide
from ciuic.memory.pieces import Piece, pieces_of
from ciuic.quantize import FileExtent, QuantizedMatrix, quantize_columns
from ciuic.tensor import CiuicTensor

from ..standin import StandIn


class Piecewise(StandIn):
    """A stand-in that weights stream to by pieces."""

    piece_nbytes = 4096


def matrix(k: int, n: int) -> QuantizedMatrix:
    rng = np.random.default_rng(k * n)
    return quantize_columns(rng.standard_normal((k, n), np.float32))


@pytest.mark.parametrize(
    ("k", "n"), [(1, 1), (7, 3), (64, 60), (64, 61), (100, 333), (4092, 5), (9000, 4)]
)
def test_pieces_are_all_columns_and_no_larger_than_wished(k: int, n: int) -> None:
    with Piecewise() as device:
        weight = matrix(k, n)
        pieces = pieces_of("w", weight, device)
        assert [piece.start for piece in pieces] == [0, *(piece.stop for piece in pieces[:-1])]
        assert pieces[-1].stop == n
        assert len({piece.name for piece in pieces}) == len(pieces)
        division = divide(weight, [(device, piece.stop - piece.start) for piece in pieces])
        for part in division:
            nbytes = device.weight_bytes(weight if part.weight is None else part.weight)
            column = device.weight_bytes(weight) // n
            assert nbytes <= Piecewise.piece_nbytes + column  # as equal as they can be
        widths = {piece.stop - piece.start for piece in pieces}
        assert max(widths) - min(widths) <= 1


def test_others_are_whole() -> None:
    vector: Weight = CiuicTensor.from_numpy(np.zeros(5000, np.float32))
    with Piecewise() as device, StandIn("whole") as whole:
        assert pieces_of("v", vector, device) == [Piece("v", 0, 5000)]
        assert pieces_of("w", matrix(100, 100), whole) == [Piece("w", 0, 100)]


def test_a_piece_of_a_matrix_in_a_file_is_in_that_file(tmp_path: Path) -> None:
    weight = matrix(40, 12)
    path = tmp_path / "w"
    path.write_bytes(bytes(100) + weight.values.T.tobytes())
    weight = QuantizedMatrix(weight.values, weight.scales, extent=FileExtent(path, 100))
    with StandIn() as device:
        for part in divide(weight, [(device, 5), (device, 4), (device, 3)]):
            one = part.weight
            assert isinstance(one, QuantizedMatrix)
            assert one.extent is not None
            stored = path.read_bytes()[one.extent.start :][: one.values.size]
            assert stored == one.values.T.tobytes()
            np.testing.assert_array_equal(one.scales, weight.scales[part.start : part.stop])
