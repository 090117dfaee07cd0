"""What joins the overlay to the processing system of a Zynq-7000, whose ports are AXI3.

memory ports ─► Axi3Bridge ─► S_AXI_HP0 ...        bursts of 16 beats at most, identifiers
M_AXI_GP0 ─► ControlBridge ─► registers            one access at a time, identifiers
interrupt ─► InterruptController ─► IRQ_F2P

`system` puts the parts together; `ps7` is the processing system itself.
"""
