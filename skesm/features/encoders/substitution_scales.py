"""Published scales of amino acids, and of their substitutions. Amino acids are in alphabetical order."""

from __future__ import annotations

import numpy as np

#: BLOSUM62, lower triangle (Henikoff and Henikoff, PNAS 89, 10915-10919, 1992).
_BLOSUM62_ROWS = """
4
0 9
-2 -3 6
-1 -4 2 5
-2 -2 -3 -3 6
0 -3 -1 -2 -3 6
-2 -3 -1 0 -1 -2 8
-1 -1 -3 -3 0 -4 -3 4
-1 -3 -1 1 -3 -2 -1 -3 5
-1 -1 -4 -3 0 -4 -3 2 -2 4
-1 -1 -3 -2 0 -3 -2 1 -1 2 5
-2 -3 1 0 -3 0 1 -3 0 -3 -2 6
-1 -3 -1 -1 -4 -2 -2 -3 -1 -3 -2 -2 7
-1 -3 0 2 -3 -2 0 -3 1 -2 0 0 -1 5
-1 -3 -2 0 -3 -2 0 -3 2 -2 -1 0 -2 1 5
1 -1 0 0 -2 0 -1 -2 0 -2 -1 1 -1 0 -1 4
0 -1 -1 -1 -2 -2 -2 -1 -1 -1 -1 0 -1 -1 -1 1 5
0 -1 -3 -2 -1 -3 -3 3 -2 1 1 -3 -2 -2 -3 -2 0 4
-3 -2 -4 -3 1 -2 -2 -3 -3 -2 -1 -4 -4 -2 -3 -3 -2 -3 11
-2 -2 -3 -2 3 -3 2 -1 -2 -1 -1 -2 -3 -1 -2 -2 -2 -1 2 7
"""

_TRIANGLE = [np.array(line.split(), dtype=np.float32) for line in _BLOSUM62_ROWS.split("\n") if line]
_LOWER = np.stack([np.pad(row, (0, len(_TRIANGLE) - len(row))) for row in _TRIANGLE])
BLOSUM62 = _LOWER + np.tril(_LOWER, -1).T

#: Columns A C D E F G H I K L M N P Q R S T V W Y.
#: Hydropathy: Kyte and Doolittle, J. Mol. Biol. 157, 105-132 (1982). Volume in cubic ångström: Zamyatnin, Prog.
#: Biophys. Mol. Biol. 24, 107-123 (1972), as IMGT's table of amino acids gives it (Pommié et al., J. Mol. Recognit. 17,
#: 17-32, 2004). Charge at pH 7, histidine neutral.
PROPERTIES = {
    "hydropathy": np.array(
        [
            1.8,
            2.5,
            -3.5,
            -3.5,
            2.8,
            -0.4,
            -3.2,
            4.5,
            -3.9,
            3.8,
            1.9,
            -3.5,
            -1.6,
            -3.5,
            -4.5,
            -0.8,
            -0.7,
            4.2,
            -0.9,
            -1.3,
        ],
        dtype=np.float32,
    ),
    "volume": np.array(
        [88.6, 108.5, 111.1, 138.4, 189.9, 60.1, 153.2, 166.7, 168.6, 166.7, 162.9, 114.1, 112.7, 143.8, 173.4, 89.0]
        + [116.1, 140.0, 227.8, 193.6],
        dtype=np.float32,
    ),
    "charge": np.array([0, 0, -1, -1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0], dtype=np.float32),
}
