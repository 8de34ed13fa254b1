"""Rows of sixteen float32 numbers for numba kernels, as one LLVM vector each: whatever width the machine has, no loop.

Numba's own loops over so few numbers spend more on checking for overlap than on the numbers.
"""

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

WIDTH = 16
_ROW = ir.VectorType(ir.FloatType(), WIDTH)


def _place(context, builder, kind, value, row):
    """Pointer to row `row` of a C-contiguous float32 array [n, 16]."""
    array = context.make_array(kind)(context, builder, value)
    first = builder.mul(row, ir.Constant(row.type, WIDTH))
    return builder.bitcast(builder.gep(array.data, [first]), _ROW.as_pointer())


@intrinsic
def add_scaled_row(typing_context, target, i, values, j, factor):
    """target[i] += factor · values[j], for C-contiguous float32 arrays [n, 16]; a product, then a sum. No bounds check."""

    def generate(context, builder, signature, arguments):
        target, i, values, j, factor = arguments
        into = _place(context, builder, signature.args[0], target, i)
        row = builder.load(_place(context, builder, signature.args[2], values, j), align=4)
        one = builder.insert_element(ir.Constant(_ROW, ir.Undefined), factor, ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), None)
        scaled = builder.fmul(builder.shuffle_vector(one, one, zeros), row)
        builder.store(builder.fadd(builder.load(into, align=4), scaled), into, align=4)
        return context.get_dummy_value()

    signature = types.void(target, types.int64, values, types.int64, types.float32)
    return signature, generate


def _of_two_rows(typing_context, target, a, b, *, add: bool):
    def generate(context, builder, signature, arguments):
        target, i, a, ja, b, jb = arguments
        into = _place(context, builder, signature.args[0], target, i)
        first = builder.load(_place(context, builder, signature.args[2], a, ja), align=4)
        second = builder.load(_place(context, builder, signature.args[4], b, jb), align=4)
        found = builder.fadd(first, second)
        if add:
            found = builder.fadd(builder.load(into, align=4), found)
        builder.store(found, into, align=4)
        return context.get_dummy_value()

    return types.void(target, types.int64, a, types.int64, b, types.int64), generate


@intrinsic
def put_two_rows(typing_context, target, i, a, ja, b, jb):
    """target[i] = a[ja] + b[jb], for C-contiguous float32 arrays [n, 16]. No bounds check."""
    return _of_two_rows(typing_context, target, a, b, add=False)


@intrinsic
def add_two_rows(typing_context, target, i, a, ja, b, jb):
    """target[i] += a[ja] + b[jb], for C-contiguous float32 arrays [n, 16]. No bounds check."""
    return _of_two_rows(typing_context, target, a, b, add=True)


@intrinsic
def turn_block(typing_context, turned, j, values, b, column):
    """turned[j + c, r] = values[b + r, column + c] for r, c < 16: a 16 × 16 transpose in registers. No bounds check.

    turned is a C-contiguous float32 array [n, 16], values a float32 array [rows, columns] with adjacent columns.
    """

    def generate(context, builder, signature, arguments):
        turned, j, values, b, column = arguments
        kind = signature.args[2]
        array = context.make_array(kind)(context, builder, values)
        pitch = builder.extract_value(array.strides, 0)
        start = builder.ptrtoint(array.data, pitch.type)
        rows = []
        for r in range(WIDTH):
            row = builder.add(b, ir.Constant(b.type, r))
            offset = builder.add(builder.mul(row, pitch), builder.mul(column, ir.Constant(column.type, 4)))
            place = builder.inttoptr(builder.add(start, offset), _ROW.as_pointer())
            rows.append(builder.load(place, align=4))
        for distance in (8, 4, 2, 1):  # Eklundh: swap the off-diagonal blocks, halving their size each time
            for r in (r for r in range(WIDTH) if not r & distance):
                a, c = rows[r], rows[r | distance]
                low = [x if not x & distance else WIDTH + (x ^ distance) for x in range(WIDTH)]
                high = [x | distance if not x & distance else WIDTH + x for x in range(WIDTH)]
                rows[r], rows[r | distance] = (builder.shuffle_vector(a, c, _mask(mask)) for mask in (low, high))
        for r, row in enumerate(rows):
            into = _place(context, builder, signature.args[0], turned, builder.add(j, ir.Constant(j.type, r)))
            builder.store(row, into, align=4)
        return context.get_dummy_value()

    return types.void(turned, types.int64, values, types.int64, types.int64), generate


def _mask(lanes):
    return ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), [ir.Constant(ir.IntType(32), lane) for lane in lanes])
