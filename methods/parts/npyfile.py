"""Arrays that are written to disk piece by piece, in numpy's own format.

`numpy.save` needs the whole array; here its header is written first with room for any length, as numpy lays it out for
this purpose, and filled in at the end. The file is byte for byte what `numpy.save` gives.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from numpy.typing import ArrayLike, DTypeLike

_PIECE = 2**20


class GrowingArray:
    """A one-dimensional `.npy` file that grows."""

    def __init__(self, path: Path, dtype: DTypeLike) -> None:
        """Create the file."""
        self.path, self.dtype, self.size = path, np.dtype(dtype), 0
        self._file = path.open("wb")
        self._write_header()

    def append(self, values: ArrayLike) -> None:
        """Write further values, (N,)."""
        array = np.ascontiguousarray(values, dtype=self.dtype)
        self._file.write(array.tobytes())
        self.size += len(array)

    def close(self) -> None:
        """Fill in the length."""
        self._file.seek(0)
        self._write_header()
        self._file.close()

    def _write_header(self) -> None:
        header = {"descr": npy.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (self.size,)}
        npy.write_array_header_1_0(self._file, header)


def digest_arrays(paths: Iterable[Path]) -> str:
    """Hash name, type and values of one-dimensional `.npy` files in alphabetical order, reading them piece by piece.

    Returns:
        32 hexadecimal digits, as `examples.digest` of name, type and bytes of each.
    """
    hasher = hashlib.sha256()
    for path in sorted(paths):
        with path.open("rb") as file:
            npy.read_magic(file)
            shape, _, dtype = npy.read_array_header_1_0(file)
            for part in (path.stem.encode(), str(dtype).encode()):
                hasher.update(len(part).to_bytes(8, "little") + part)
            hasher.update((shape[0] * dtype.itemsize).to_bytes(8, "little"))
            while piece := file.read(_PIECE):
                hasher.update(piece)
    return hasher.hexdigest()[:32]
