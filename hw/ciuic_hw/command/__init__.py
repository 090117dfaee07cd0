"""The command processor: descriptors from the ring to their engines, completions back.

Three parts follow one another: `fetch` reads descriptors ahead, `dispatch` checks one and hands it
to its engine, `complete` takes the engine's answer and writes the record. An engine may be given
its next descriptor while it works; another engine is only started when the one before is idle.
"""
