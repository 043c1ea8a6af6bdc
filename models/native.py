"""LightGBM's C calls: one row without overhead, and matrices. The only place that makes them.

Small trees are scored by tables instead (models/quickscorer.py), with the same bits.
"""

from __future__ import annotations

import ctypes
import struct
from typing import Any

import lightgbm
import numpy as np
from lightgbm.basic import _LIB

from models.errors import PackageError
from models.quickscorer import scorer_of
from models.types import Floats

NORMAL, RAW = 0, 1
FLOAT64 = 1
ROW_MAJOR = 1
ONE_THREAD = b"num_threads=1"


class TreePredictor:
    """A LightGBM text model; `one` answers a single row in a few microseconds.

    Not for use from two threads at a time: a single-row call writes to buffers of its own.
    """

    def __init__(self, text: str, columns: int, *, averaged: bool) -> None:
        """Load the text; `averaged` forests answer the mean of their trees, others raw scores."""
        try:
            self._booster = lightgbm.Booster(model_str=text)
        except lightgbm.basic.LightGBMError as error:
            raise PackageError("damaged_model", f"not a LightGBM model: {error}") from error
        self._handle = self._booster._handle  # noqa: SLF001 - LightGBM has no public accessor
        self._kind = NORMAL if averaged else RAW
        self.outputs = self._booster.num_model_per_iteration()
        self._columns = columns
        self._tables = scorer_of(text, columns, self.outputs, averaged=averaged)
        self._alone = self._tables if self._tables and self._tables.fewest == 1 else None
        self._row, self._pack = np.zeros((1, columns)), struct.Struct(f"{columns}d").pack_into  # in half the time of an assignment
        self._out = np.zeros(self.outputs)
        self._length = ctypes.c_int64(0)
        self._fast = ctypes.c_void_p()
        self._check(
            _LIB.LGBM_BoosterPredictForMatSingleRowFastInit(
                self._handle,
                ctypes.c_int(self._kind),
                ctypes.c_int(0),
                ctypes.c_int(-1),
                ctypes.c_int(FLOAT64),
                ctypes.c_int32(columns),
                ctypes.c_char_p(ONE_THREAD),
                ctypes.byref(self._fast),
            )
        )
        self._arguments = (
            self._fast,
            ctypes.c_void_p(self._row.ctypes.data),
            ctypes.byref(self._length),
            ctypes.c_void_p(self._out.ctypes.data),
        )

    @property
    def tabled(self) -> bool:
        """Whether rows are scored by tables."""
        return self._tables is not None

    def one(self, row: Any) -> Floats:
        """Scores (outputs,) of one row; the array is reused by the next call."""
        self._pack(self._row.data, 0, *row)
        if self._alone:
            self._alone.many(self._row, self._out)
        elif _LIB.LGBM_BoosterPredictForMatSingleRowFast(*self._arguments):
            self._check(-1)
        return self._out

    def many(self, matrix: Floats) -> Floats:
        """Scores (n, outputs) of a matrix."""
        if self._tables and len(matrix) >= self._tables.fewest:
            return self._tables.many(matrix)
        return self.walked(matrix)

    def walked(self, matrix: Floats) -> Floats:
        """Scores (n, outputs) of a matrix by LightGBM's own walk from the root to the leaf of each tree."""
        matrix = np.ascontiguousarray(matrix, dtype=np.float64)
        out = np.empty(len(matrix) * self.outputs)
        if len(matrix):
            self._check(
                _LIB.LGBM_BoosterPredictForMat(
                    self._handle,
                    ctypes.c_void_p(matrix.ctypes.data),
                    ctypes.c_int(FLOAT64),
                    ctypes.c_int32(len(matrix)),
                    ctypes.c_int32(self._columns),
                    ctypes.c_int(ROW_MAJOR),
                    ctypes.c_int(self._kind),
                    ctypes.c_int(0),
                    ctypes.c_int(-1),
                    ctypes.c_char_p(ONE_THREAD),
                    ctypes.byref(ctypes.c_int64(0)),
                    ctypes.c_void_p(out.ctypes.data),
                )
            )
        return out.reshape(len(matrix), self.outputs)

    def __del__(self) -> None:
        """Free the single-row configuration."""
        if getattr(self, "_fast", None):
            _LIB.LGBM_FastConfigFree(self._fast)

    @staticmethod
    def _check(code: int) -> None:
        if code:
            _LIB.LGBM_GetLastError.restype = ctypes.c_char_p
            raise PackageError("prediction_failed", str(_LIB.LGBM_GetLastError()))
