"""The model. Array names end in the letters of their dimensions (x_BLD), here and in train/:

B  batch: sequences, or windows, handled together
b  a part of B: a micro-batch
T  tokens of a sequence with the last target: L + 1
L  sequence length; of queries, where M is there too
l  a part of L, or of a list: a piece
M  memory length: keys and values
D  d_model, the width of the residual stream
E  both ends of every chunk: 2 * C
F  d_ff, the hidden units of the MLP
V  vocabulary
H  query heads, in a model
G  key/value heads
R  query heads that share one key/value head: H = G * R; head h reads key/value head h // R
K  head size, in a model; members of a pack, in train/step (k: those of one device)
N  layers
X  what several projections or heads are fused into, said where it is made
Y  tokens of all sequences of a batch: B * L
C  chunks of windows, or of a sorted list
W  windows
P  parameters, as one flat vector
S  steps of one dispatch
U  data streams of a pack
Q  draws of noise
J  variants of a draw: a strength, what it is relative to, which tensors
1  a dimension of size one
x  any number of leading dimensions
"""

if __name__ != "stepladder.model":
    fix = "run `pip install -e .` and leave the repository root off sys.path"
    raise ImportError(f"import this package as 'stepladder.model', not {__name__!r}: {fix}")
