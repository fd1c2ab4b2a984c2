"""What the device at hand reaches: its ceilings, whole training steps, and whether they repeat bit
for bit. `stepladder bench` prints it; nothing of a ladder is read or written.
"""
