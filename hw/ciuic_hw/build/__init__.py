"""From gateware to a board with open tools: synthesis, place and route, and what it takes.

boards ─► synthesis (Yosys) ─► route (nextpnr, ECP5) ─► report ─► command (`ciuic build`)
"""
