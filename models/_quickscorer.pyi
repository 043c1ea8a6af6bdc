import numpy as np

from models.types import Floats

def score(plan: np.ndarray[tuple[int], np.dtype[np.uint8]], matrix: Floats, out: Floats, /) -> None: ...
