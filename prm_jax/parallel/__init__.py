"""Meshes, shardings by axis letters, the memory plan, and two ways to map a step."""
