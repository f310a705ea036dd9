"""Types of NumPy arrays that many files name."""

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]
