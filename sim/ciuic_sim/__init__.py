"""Simulation: the overlay's RTL as a device, and what cocotb benches are made of.

`build` makes programs from gateware, `transport` drives one as `fpga:rtl`, `launch` starts benches;
`bench`, `streams`, `engine_bench` and `overlay_bench` run inside the simulator.
"""
