"""From gateware to a board: synthesis, place and route, and what it takes.

boards ─► flow: Yosys, nextpnr (ECP5) ─────────────────────┐
   │  ──► openxc7: Yosys, nextpnr-xilinx, Project X-Ray ───┴─► report ─► command (`ciuic build`)
 zynq ──► hwh: what PYNQ reads of a design
      ──► vivado: constants and gateware for `hw/boards`
"""
