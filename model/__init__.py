"""The model. Array names end in the letters of their dimensions:

B  batch (sequences)      L  sequence length (queries)   M  memory length (keys and values)
D  d_model                F  d_ff                        V  vocabulary
H  query heads            G  key/value heads             K  head size          N  layers
l  a part of L, handled at a time
R  query heads that share one key/value head: H = G * R, head h reads key/value head h // R
"""

if __name__ != "stepladder.model":
    fix = "run `pip install -e .` and leave the repository root off sys.path"
    raise ImportError(f"import this package as 'stepladder.model', not {__name__!r}: {fix}")
