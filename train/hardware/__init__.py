"""The machine at hand: chips, meshes, memory, and what each kind of device wants."""
