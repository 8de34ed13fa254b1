"""Signs of the dense projection for sixteen coordinates and 128 columns at once, as LLVM vectors: see `rademacher_cpu`."""

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from traklens.engine.projection.philox import M0, M1, ROUNDS, W0, W1

LANES = 16
_WORD, _LONG = ir.IntType(32), ir.IntType(64)
_WORDS, _LONGS = ir.VectorType(_WORD, LANES), ir.VectorType(_LONG, LANES)


def _all(kind, value: int):
    return ir.Constant(kind, [ir.Constant(kind.element, value)] * LANES)


def _splat(builder, value):
    """A 64-bit number below 2³² in every lane; cut and widened, so that its upper half is known to be zero."""
    word = builder.trunc(value, _WORD)
    one = builder.insert_element(ir.Constant(_WORDS, ir.Undefined), word, ir.Constant(_WORD, 0))
    return builder.zext(builder.shuffle_vector(one, one, ir.Constant(_WORDS, None)), _LONGS)


def _philox(builder, counter, key):
    """Philox4x32-10 of sixteen counters (four vectors of 64-bit lanes below 2³²): four vectors of 32-bit words."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    half, low = _all(_LONGS, 32), _all(_LONGS, 0xFFFFFFFF)
    for step in range(ROUNDS):
        if step:
            k0, k1 = (builder.add(k, ir.Constant(_LONG, w)) for k, w in ((k0, W0), (k1, W1)))
        one, other = builder.mul(c0, _all(_LONGS, M0)), builder.mul(c2, _all(_LONGS, M1))
        c0 = builder.xor(builder.xor(builder.lshr(other, half), c1), _splat(builder, k0))
        c1 = builder.and_(other, low)
        c2 = builder.xor(builder.xor(builder.lshr(one, half), c3), _splat(builder, k1))
        c3 = builder.and_(one, low)
    return [builder.trunc(c, _WORDS) for c in (c0, c1, c2, c3)]


@intrinsic
def fill_signs(typing_context, codes, start, first, tensor, group, k0, k1):
    """codes[start + c], c < 128: bit i is the sign bit of coordinate first + i, i < 16, in column 128·group + c.

    codes is a C-contiguous uint16 array; start int64, the rest uint64 below 2³². No bounds check.
    """

    def generate(context, builder, signature, arguments):
        codes, start, first, tensor, group, k0, k1 = arguments
        array = context.make_array(signature.args[0])(context, builder, codes)
        lanes = ir.Constant(_LONGS, [ir.Constant(_LONG, lane) for lane in range(LANES)])
        coordinates = builder.and_(builder.add(_splat(builder, first), lanes), _all(_LONGS, 0xFFFFFFFF))
        counter = coordinates, _splat(builder, tensor), _splat(builder, group), _all(_LONGS, 0)
        for w, words in enumerate(_philox(builder, counter, (k0, k1))):
            for bit in range(32):
                signs = builder.shl(words, _all(_WORDS, 31 - bit))
                code = builder.bitcast(builder.icmp_signed("<", signs, _all(_WORDS, 0)), ir.IntType(16))
                place = builder.add(start, ir.Constant(start.type, 32 * w + bit))
                builder.store(code, builder.gep(array.data, [place]), align=2)
        return context.get_dummy_value()

    numbers = (types.uint64,) * 5
    return types.void(codes, types.int64, *numbers), generate
