"""Inner products of one query with float16 rows, read once: `products`.

FAISS scans its float16 rows once per query and thread, so that both ends of a ranking cost two scans. One pass that
keeps every product serves both ends, and the distribution too. The rows are widened to float32 in registers.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from traklens.stores.compiled import compiled

SMALL = 1 << 21  # numbers below which a second thread costs more than it saves


@intrinsic
def _widened(typing_context, code):
    """The finite float32 whose float16 pattern is the given uint16, exactly.

    In arithmetic, since LLVM widens by an instruction or a library function that not every processor has: the bits of
    the magnitude, moved to their place in a float32, are 2¹¹² times too small, subnormal ones included.
    """

    def generate(context, builder, signature, arguments):
        word, number = ir.IntType(32), ir.FloatType()
        code = builder.zext(arguments[0], word)
        magnitude = builder.shl(builder.and_(code, ir.Constant(word, 0x7FFF)), ir.Constant(word, 13))
        scaled = builder.fmul(builder.bitcast(magnitude, number), ir.Constant(number, 2.0**112))
        sign = builder.shl(builder.and_(code, ir.Constant(word, 0x8000)), ir.Constant(word, 16))
        return builder.bitcast(builder.or_(builder.bitcast(scaled, word), sign), number)

    return types.float32(types.uint16), generate


@compiled(fastmath={"reassoc", "contract"}, boundscheck=False)
def _products(codes, query, found):
    """codes uint16 [n, d], query float32 [d] → found float32 [n]."""
    for i in range(codes.shape[0]):
        row, total = codes[i], np.float32(0)
        for j in range(query.shape[0]):
            total += _widened(row[j]) * query[j]  # pyright: ignore[reportCallIssue]
        found[i] = total


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_workers(), thread_name_prefix="products")


def _workers() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def products(codes: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Inner products of float16 rows [n, d] (C order) with a float32 query [d]: float32 [n], summed in float32."""
    found = np.empty(len(codes), dtype=np.float32)
    bits, query = codes.view(np.uint16), np.ascontiguousarray(query, dtype=np.float32)
    parts = 1 if codes.size < SMALL else _workers()
    edges = np.linspace(0, len(codes), parts + 1).astype(int)
    if parts == 1:
        _products(bits, query, found)
    else:
        list(_threads().map(lambda a, b: _products(bits[a:b], query, found[a:b]), edges[:-1], edges[1:]))
    return found
