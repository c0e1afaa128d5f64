from typing import overload

import numpy as np
from numpy.typing import NDArray

@overload
def stdtr(df: float, t: float) -> float: ...
@overload
def stdtr(df: float, t: NDArray[np.float64]) -> NDArray[np.float64]: ...
