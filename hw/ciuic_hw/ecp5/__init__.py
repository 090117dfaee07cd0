"""The overlay on an ECP5 without processors or DRAM: block RAM, and a serial line to a host.

serial line ─► uart ─► SerialBridge ─► registers
                            └────────► OnChipMemory ◄─ memory ports

`ciuic.abi.serial` says what the line carries. `system` puts the parts together, and its `Ecp5Top`
has the pins and the clock of a board.
"""
