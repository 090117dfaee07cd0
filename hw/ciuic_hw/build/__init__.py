"""From gateware to a board: synthesis, place and route, bitstreams, and what it takes.

boards ─► yowasp: Yosys, nextpnr-ecp5, refine, ecppack ─────┐
   │  ──► openxc7: Yosys, nextpnr-xilinx, Project X-Ray ────┴─► command (`ciuic build`) ─► publish
 zynq ──► hwh: what PYNQ reads of a design                              │
      ──► vivado: constants and gateware for `hw/boards`         `ciuic bitstreams`
"""
