"""Branches of a trunk: runs that start from another run's checkpoint.

What a branch keeps of its parent, and what starts anew, is in its spec: `parent.reset`, `hyper` and
`data` are hashed and written into its lineage.
"""
